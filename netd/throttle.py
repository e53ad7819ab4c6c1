"""One log line for many equal events: a flood of clients must not become a flood of lines."""

from __future__ import annotations

from threading import Lock
from time import monotonic


class Throttle:
    """Lets one of many equal events through in each interval, in seconds, and counts the others."""

    def __init__(self, interval: float = 1.0) -> None:
        self._interval, self._next = interval, 0.0
        self._events, self._lock = 0, Lock()

    def due(self) -> int:
        """Count an event; 0 to be silent, else the events that a line stands for, this included."""
        with self._lock:
            self._events += 1
            if (now := monotonic()) < self._next:
                return 0
            events, self._events, self._next = self._events, 0, now + self._interval
            return events
