"""Counters: what a service has done since it started.

They cost the hot path nothing: a connection counts for itself, and its figures are added here
when it ends; a batch of datagrams is added as one. Whoever reads them adds nothing to a lock's
wait that matters: each holds it for a few additions.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from time import time
from typing import Any

# Seconds: the upper bounds by which the durations of sessions are sorted. What is longer than the
# last falls beyond.
DURATIONS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0, 7200.0)


class Counters:
    """Totals of one service. Public fields may be read at any time; `add_…` alone write them."""

    __slots__ = (
        "_lock",
        "bytes_in",
        "bytes_out",
        "datagrams_dropped",
        "datagrams_in",
        "datagrams_out",
        "duration_sum",
        "durations",
        "ended",
        "errors",
        "since",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.since = time()
        """When they began, in seconds since 1970."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.datagrams_in = 0
        self.datagrams_out = 0
        self.errors = 0
        """Faults of our own: each has an error line with a traceback in the log."""
        self.datagrams_dropped: Counter[str] = Counter()
        """Datagrams not answered or not read, by reason."""
        self.ended: defaultdict[str, int] = defaultdict(int)  # half as dear as a Counter
        """Sessions that ended, by reason."""
        self.durations = [0] * (len(DURATIONS) + 1)
        """Sessions that ended, by how long they took: up to the bound in DURATIONS, or longer."""
        self.duration_sum = 0.0
        """Seconds that they took, all together."""

    def add_session(self, bytes_in: int, bytes_out: int, reason: str, duration: float) -> None:
        """Counts a session that has ended after `duration` seconds."""
        with self._lock:
            self.bytes_in += bytes_in
            self.bytes_out += bytes_out
            self.ended[reason] += 1
            self.durations[bisect_left(DURATIONS, duration)] += 1
            self.duration_sum += duration

    def add_datagrams(self, received: int, bytes_in: int, sent: int, bytes_out: int) -> None:
        """Counts a batch of datagrams."""
        with self._lock:
            self.datagrams_in += received
            self.bytes_in += bytes_in
            self.datagrams_out += sent
            self.bytes_out += bytes_out

    def add_dropped(self, reason: str, number: int = 1) -> None:
        """Counts datagrams that were not read whole, or that got no answer."""
        with self._lock:
            self.datagrams_dropped[reason] += number

    def add_error(self) -> None:
        """Counts a fault of our own."""
        with self._lock:
            self.errors += 1

    def snapshot(self) -> dict[str, Any]:
        """All totals at one instant, as plain data."""
        with self._lock:
            return {
                "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out,
                "datagrams_in": self.datagrams_in,
                "datagrams_out": self.datagrams_out,
                "datagrams_dropped": dict(self.datagrams_dropped),
                "ended": dict(self.ended),
                "durations": list(self.durations),
                "duration_sum": round(self.duration_sum, 6),
                "errors": self.errors,
            }
