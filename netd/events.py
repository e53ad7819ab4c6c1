"""What went wrong of late: the last warnings and errors, and the last clients turned away.

For the status page and `netctl status`. Equal events become one that counts, so that a flood of
them does not wash out the others; and refusals do not wash out errors, since each kind has a list
of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from threading import RLock
from time import time

# Of each kind.
LAST = 50
# Characters of a text.
TEXT_LIMIT = 300


@dataclass(slots=True)
class Event:
    """Something that happened, once or several times."""

    kind: str
    """`refused`, or the level of the log: `warning`, `error`, `critical`."""
    service: str
    text: str
    """What the log says; of a refusal the reason word."""
    peer: str = ""
    """The last client that it happened to, as the log names it in full."""
    time: float = 0.0
    """When it happened last, in seconds since 1970."""
    times: int = 0


class Events(logging.Handler):
    """The last events, from all threads. As a log handler it takes warnings and errors in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._recent = RLock()  # as a signal handler that logs may interrupt its holder
        self._problems: dict[Hashable, Event] = {}
        self._refusals: dict[Hashable, Event] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record of the log; of a traceback its last line."""
        try:
            text = record.getMessage()
        except Exception:  # a faulty log call; what is wrong with it is told in the log
            text = str(record.msg)
        same = text
        if record.exc_info and (error := record.exc_info[1]) is not None:
            fault = f": {type(error).__name__}: {error}"
            # Equal but for the client that it happened to, whose port is never the same.
            text, same = text[:TEXT_LIMIT] + fault, f"{record.msg}{fault}"
        if len(text) > TEXT_LIMIT:
            text = text[:TEXT_LIMIT] + "…"
        level, service = record.levelname.lower(), record.name.removeprefix("netd.")
        self._add(self._problems, (level, service, same[:TEXT_LIMIT]), Event(level, service, text))

    def refused(self, service: str, peer: str, reason: str) -> None:
        """Keeps that a client was turned away. Those from one address are one event."""
        event = Event("refused", service, reason, peer)
        self._add(self._refusals, (service, reason, peer.rpartition(":")[0]), event)

    def _add(self, kept: dict[Hashable, Event], key: Hashable, event: Event) -> None:
        with self._recent:
            if (earlier := kept.pop(key, None)) is not None:
                event.times = earlier.times
            elif len(kept) >= LAST:
                del kept[next(iter(kept))]
            event.time, event.times = time(), event.times + 1
            kept[key] = event

    def last(self) -> list[Event]:
        """All that are kept, the latest first."""
        with self._recent:
            events = [*self._problems.values(), *self._refusals.values()]
        return sorted(events, key=lambda event: event.time, reverse=True)
