"""What became of the reloads: told to the log, and remembered for whoever asks."""

from __future__ import annotations

import logging
from time import time
from typing import Any

from netd.difference import Difference
from netd.errors import NetdError

logger = logging.getLogger("netd")


class Reloads:
    """The reloads of one daemon."""

    def __init__(self) -> None:
        self._loaded = time()
        self._done = self._failed = 0
        self._error = ""

    def done(self, difference: Difference, took: float) -> None:
        """Takes note of one that was carried out, in `took` seconds."""
        self._loaded = time()
        self._done += 1
        self._error = ""
        logger.info("reloaded in %.3f s: %s", took, difference)
        if keys := difference.restart_needed:
            logger.warning("restart netd for what has changed in %s", ", ".join(keys))

    def failed(self, error: NetdError) -> None:
        """Takes note of one that came to nothing."""
        self._failed += 1
        self._error = str(error)
        for line in self._error.splitlines():
            logger.error("not reloaded: %s", line)
        logger.error("not reloaded: all goes on as before")

    def state(self) -> dict[str, Any]:
        """The same as plain data; `error` is why the latest reload failed, if it did."""
        return {
            "loaded": round(self._loaded, 3),
            "reloads": self._done,
            "failed_reloads": self._failed,
            "error": self._error,
        }
