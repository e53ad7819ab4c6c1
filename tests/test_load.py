"""The load average: read now and then, wherever it can be had."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
from harness import wait_until

from netd.load import INTERVAL, LoadAverage, kernel_load, read_load


def test_it_is_read_at_most_once_a_second() -> None:
    """However often it is asked for."""
    now, readings = [100.0], iter([1.0, 2.0, 3.0])
    load = LoadAverage(lambda: next(readings), lambda: now[0])
    assert [load() for _ in range(1000)] == [1.0] * 1000
    now[0] += INTERVAL - 0.001
    assert load() == 1.0
    now[0] += 0.001
    assert [load() for _ in range(1000)] == [2.0] * 1000
    now[0] += 3600
    assert load() == 3.0


def test_threads_do_not_wait_for_one_that_reads() -> None:
    """They are told the latest figure meanwhile."""
    reading, go_on = threading.Event(), threading.Event()

    def read() -> float:
        reading.set()
        assert go_on.wait(5)
        return 7.0

    load = LoadAverage(read)
    thread = threading.Thread(target=load)
    thread.start()
    assert reading.wait(5)
    assert load() == 0.0
    go_on.set()
    thread.join()
    assert load() == 7.0


@pytest.mark.parametrize("read", [read_load, kernel_load])
def test_it_is_that_of_the_machine(read: Callable[[], float]) -> None:
    """As `uptime` shows it, whichever way it is asked for."""
    wait_until(lambda: abs(read() - os.getloadavg()[0]) < 0.02)


def test_without_the_file_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """netd.service hides /proc/loadavg (ProcSubset=pid)."""

    def hidden() -> tuple[float, float, float]:
        raise OSError("Load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", hidden)
    assert read_load() == pytest.approx(kernel_load(), abs=0.5)
