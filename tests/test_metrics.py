"""Counters: totals that add up, whoever adds."""

from __future__ import annotations

from threading import Thread

from hypothesis import given
from hypothesis import strategies as st

from netd.metrics import DURATIONS, Counters


@given(st.lists(st.floats(0, 1e6)))
def test_each_session_is_in_the_bucket_of_its_duration(durations: list[float]) -> None:
    """The first whose bound is not lower, as Prometheus wants it; what is longer than all bounds
    is in the last."""
    counters = Counters()
    for duration in durations:
        counters.add_session(1, 2, "eof", duration)
    found = counters.snapshot()
    for index, bound in enumerate(DURATIONS):
        assert sum(found["durations"][: index + 1]) == sum(d <= bound for d in durations)
    assert sum(found["durations"]) == len(durations)
    assert abs(found["duration_sum"] - sum(durations)) <= 1e-5 * (1 + len(durations))
    assert found["bytes_out"] == 2 * found["bytes_in"] == 2 * len(durations)


def test_no_addition_is_lost_between_threads() -> None:
    """Of those that add at once."""
    counters = Counters()

    def add() -> None:
        for _ in range(5000):
            counters.add_session(1, 1, "eof", 0.01)

    threads = [Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.snapshot()["ended"] == {"eof": 20_000}
    assert sum(counters.durations) == counters.bytes_in == 20_000
