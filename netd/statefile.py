"""What is kept over restarts: bans, and services that were enabled or disabled while netd ran.

A JSON file, beside the control socket or where systemd keeps the state of services. It is there
only while there is something to keep, and replaced as a whole: a crash leaves the old or the new.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from netd.bans import Ban, BanError, Bans
from netd.networks import parse_network
from netd.stanza import Stanza

logger = logging.getLogger("netd")

NAME = "state.json"


class KeptBan(Stanza):
    """A ban as it is kept."""

    network: str
    until: float | None
    why: str


class Kept(Stanza):
    """What the file holds."""

    version: int = 1
    bans: list[KeptBan] = []
    enabled: dict[str, bool] = {}


def path_of(control: Path) -> Path:
    """Where the state is kept: in the folder that systemd makes for StateDirectory=, or else beside
    the control socket."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return (Path(given) if given else control.parent) / NAME


class StateFile:
    """The file; for any thread."""

    def __init__(self, path: Path, bans: Bans) -> None:
        self._path = path
        self._bans = bans
        self._lock = threading.Lock()
        self.enabled: Mapping[str, bool] = {}
        """The services that were enabled (True) or disabled."""

    def load(self) -> None:
        """Has what was kept in force again. A file that cannot be understood is put aside."""
        try:
            kept = Kept.model_validate_json(self._path.read_bytes())
            bans = [_ban(kept_ban) for kept_ban in kept.bans]
        except FileNotFoundError:
            return
        except (OSError, ValidationError, ValueError) as error:
            self._put_aside(error)
            return
        self.enabled = kept.enabled
        for ban in bans:
            with suppress(BanError):  # it has ended since
                self._bans.ban(ban.network, ban.until, ban.why, force=True)

    def _put_aside(self, error: Exception) -> None:
        aside = self._path.with_name(self._path.name + ".broken")
        why = str(error).splitlines()[0]
        try:
            self._path.rename(aside)
        except OSError as failure:
            logger.error("%s cannot be read (%s), nor put aside: %s", self._path, why, failure)
        else:
            logger.error("%s cannot be read, so it is %s now: %s", self._path, aside.name, why)

    def keep(self, enabled: Mapping[str, bool] | None = None) -> None:
        """Writes what is to be kept; `enabled` are the services, if there are others. A fault is
        logged: what was done is in force all the same."""
        with self._lock:
            self.enabled = self.enabled if enabled is None else dict(enabled)
            kept = {
                "version": 1,
                "bans": [
                    {"network": str(ban.network), "until": ban.until, "why": ban.why}
                    for ban in self._bans.listed()
                ],
                "enabled": dict(self.enabled),
            }
            try:
                self._write(kept)
            except OSError as error:
                logger.error(
                    "%s cannot be written: %s (bans and disabled services are forgotten when netd"
                    " ends; let its user write to that folder)",
                    self._path, error.strerror,
                )  # fmt: skip

    def _write(self, kept: Mapping[str, Any]) -> None:
        if not kept["bans"] and not kept["enabled"]:
            self._path.unlink(missing_ok=True)
            return
        new = self._path.with_name(f".{self._path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(kept, file, indent=1)
            file.flush()
            os.fsync(descriptor)
        new.rename(self._path)


def _ban(kept: KeptBan) -> Ban:
    """Raises ValueError."""
    return Ban(parse_network(kept.network), kept.until, kept.why)
