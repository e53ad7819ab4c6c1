"""Whether a serving loop comes round, for all who ask beside the watchdog."""

from __future__ import annotations

import threading
from time import monotonic

from netd.loop import Loop

# Seconds in which a serving loop has to come round to be healthy.
PATIENCE = 2.0


class Pulse:
    """Asks a loop, one question at a time: one that is stuck is not heaped with more."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._asked = 0.0
        self._answered = threading.Event()
        self._answered.set()

    def silence(self) -> float:
        """Seconds for which a question has been open; 0.0 if none was, and now one is."""
        with self._lock:
            if not self._answered.is_set():
                return monotonic() - self._asked
            self._answered.clear()
            self._asked = monotonic()
            self._loop.call_soon(self._answered.set)
            return 0.0

    def beats(self, patience: float) -> bool:
        """Whether the loop comes round within `patience` seconds of a question; waits for it."""
        return self._answered.wait(max(0.0, patience - self.silence()))
