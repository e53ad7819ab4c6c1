"""One line for many equal events."""

from __future__ import annotations

import threading
import time

from harness import PATIENCE

from netd.throttle import Throttle


def test_throttle_lets_one_through_and_counts_the_rest() -> None:
    """Within the interval there is one line; the next one stands for all that were left out."""
    throttle = Throttle(interval=0.05)
    due = [throttle.due()]
    calls = 1
    deadline = time.monotonic() + PATIENCE
    while sum(map(bool, due)) < 3 and time.monotonic() < deadline:
        due.append(throttle.due())
        calls += 1
    lines = [events for events in due if events]
    assert lines[0] == 1
    assert len(lines) == 3
    assert sum(lines) == calls


def test_throttle_is_silent_within_the_interval() -> None:
    """A long interval lets the first event through alone."""
    throttle = Throttle(interval=3600)
    assert [throttle.due() for _ in range(5)] == [1, 0, 0, 0, 0]


def test_throttle_counts_over_threads() -> None:
    """No event of any thread gets lost from the count."""
    throttle = Throttle(interval=0)
    counted: list[int] = []
    threads = [
        threading.Thread(target=lambda: counted.extend([throttle.due() for _ in range(2000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(counted) == 8000
