"""The keyring in force, which follows the file that it was read from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import Lock, Thread
from time import monotonic

from netd.auth.keyring import Keyring
from netd.auth.source import Source, State
from netd.errors import ConfigError

LOOK = 1.0
"""Seconds for which a file is taken to be unchanged."""


class Keys:
    """The keys of one service.

    A change of the file holds a second after it was made, so that whoever is taken out stays out.
    It is read on a thread of its own, since that may take longer than a serving loop can wait, and
    whoever comes meanwhile waits for it: nobody comes in by a key that may be one no more."""

    def __init__(self, service: str, source: Source, load: Callable[[Source], Keyring]) -> None:
        """Raises ConfigError when there are no keys to begin with."""
        self._source = source
        self._load = load
        self._logger = logging.getLogger(f"netd.{service}")
        self._state = source.state()
        self._keyring = load(source)
        self._looked = monotonic()
        self._lock = Lock()
        self._waiting: list[Callable[[], None]] | None = None
        """Whom to call when the change has been read that is being read now."""

    def current(self) -> Keyring | None:
        """The keys in force; None while a change is being read."""
        now = monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            self._look()
        return self._keyring if self._waiting is None else None

    def warnings(self) -> Iterator[str]:
        """That changes will not be seen, as when root has started netd, and owns the file."""
        if not self._source.is_readable():
            yield (
                f"{self._source} cannot be read by the user that netd runs as: who is taken out of"
                " it can still come in (chown it to that user)"
            )

    def call_after(self, call: Callable[[], None]) -> None:
        """Calls it when the change that is being read has been read, on another thread; at once
        if that is so already."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append(call)
                return
        call()

    def _look(self) -> None:
        state = self._source.state()
        with self._lock:
            if state == self._state or self._waiting is not None:
                return
            self._waiting = []
        try:
            Thread(target=self._renew, args=(state,), name="users", daemon=True).start()
        except RuntimeError:  # no thread is to be had; in a second, perhaps
            self._waiting = None

    def _renew(self, state: State) -> None:
        try:
            self._keyring = self._load(self._source)
            self._logger.info("the users have changed: %r", self._keyring)
        except ConfigError as error:
            for problem in error.problems:
                self._logger.error("%s; the users known so far stay", problem)
        finally:
            with self._lock:
                waiting, self._waiting = self._waiting or [], None
                self._state = state
            for call in waiting:
                call()
