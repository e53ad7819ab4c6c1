"""Token buckets: for one source, for a million of them, for all together."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.rates import BUSY_SOURCES, SHARED_BUCKETS, Bucket, Rates, ServiceRate, SourceRate


def rates(per_source: dict[str, Any] | None = None, overall: dict[str, Any] | None = None) -> Rates:
    """Rates as they are written in a configuration."""
    return Rates(
        None if per_source is None else SourceRate.model_validate(per_source),
        None if overall is None else ServiceRate.model_validate(overall),
        0.0,
    )


# -- the bucket


@given(
    st.floats(0.01, 10_000),
    st.floats(1, 1000),
    st.lists(st.floats(0, 3) | st.sampled_from([0.0]), min_size=1, max_size=300),
)
def test_a_bucket_never_gives_more_than_burst_and_rate(
    rate: float, burst: float, pauses: list[float]
) -> None:
    """In no stretch of time, however the takes fall, is it more than burst + rate × time."""
    now = 100.0
    bucket = Bucket(rate, burst, now)
    taken: list[float] = []
    for pause in pauses:
        now += pause
        if bucket.take(now):
            taken.append(now)
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            most = burst + rate * (taken[last] - start)
            assert last - first + 1 <= most * (1 + 1e-9) + 1e-6


@given(st.floats(0.5, 1000), st.floats(1, 500), st.floats(0, 100))
def test_a_rested_bucket_gives_its_whole_burst(rate: float, burst: float, used: float) -> None:
    """What was used is saved up again, and no more than that."""
    bucket = Bucket(rate, burst, 0.0)
    for _ in range(int(used)):
        bucket.take(0.0)
    later = burst / rate + 1.0
    assert bucket.is_full(later)
    assert [bucket.take(later) for _ in range(int(burst) + 1)] == [True] * int(burst) + [False]


def test_a_bucket_that_was_used_is_not_full_at_once() -> None:
    """It is again when the rate has brought back what was taken."""
    bucket = Bucket(2.0, 10.0, 0.0)
    assert bucket.is_full(0.0)
    bucket.take(0.0)
    assert not bucket.is_full(0.25)
    assert bucket.is_full(0.5)


def test_a_bucket_gives_at_its_rate() -> None:
    """Eight a second is one each eighth of a second."""
    bucket = Bucket(8.0, 1.0, 0.0)
    assert [bucket.take(eighth / 8) for eighth in range(50)] == [True] * 50
    assert sum(bucket.take(49 / 8 + n / 1024) for n in range(1, 1025)) == 8


@given(
    st.floats(0.01, 1000),
    st.floats(1, 100),
    st.floats(0, 20),
    st.lists(st.floats(0, 2) | st.just(0.0), min_size=1, max_size=100),
)
def test_turns_that_are_promised_keep_to_the_rate(
    rate: float, burst: float, longest: float, pauses: list[float]
) -> None:
    """Those who wait are served in the order in which they came, never more often than the rate
    and the burst allow, and nobody waits for longer than he may."""
    now = 100.0
    bucket = Bucket(rate, burst, now)
    turns: list[float] = []
    for pause in pauses:
        now += pause
        before = bucket.level(now)
        wait = bucket.reserve(now, longest)
        if wait is None:
            assert bucket.wait(now) > longest
            assert bucket.level(now) == before
        else:
            assert 0 <= wait <= longest
            turns.append(now + wait)
    assert all(later - turn > -1e-6 for turn, later in itertools.pairwise(turns))
    for first, start in enumerate(turns):
        for last in range(first, len(turns)):
            most = burst + rate * (turns[last] - start)
            assert last - first + 1 <= most * (1 + 1e-9) + 1e-6


@given(st.floats(0.01, 1000), st.floats(1, 100), st.integers(0, 150))
def test_after_its_wait_there_is_a_token(rate: float, burst: float, used: int) -> None:
    """The time that is told is neither too short nor too long."""
    bucket = Bucket(rate, burst, 0.0)
    for _ in range(used):
        bucket.reserve(0.0, 1e9)
    wait = bucket.wait(0.0)
    assert bucket.level(wait) >= 1 - 1e-6
    assert wait < 1e-9 or bucket.level(wait * 0.999) < 1


# -- all sources


def test_each_source_has_its_own_burst() -> None:
    """One that comes too often takes nothing from another."""
    table = rates({"rate": "1/s", "burst": 2})
    assert [table.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, None]
    assert [table.take("b", 0.0) for _ in range(3)] == [0.0, 0.0, None]
    assert [table.take("a", 1.0), table.take("a", 1.0)] == [0.0, None]


@pytest.mark.parametrize(
    ("written", "burst"),
    [({"rate": "10/s"}, 10), ({"rate": "10/m"}, 1), ({"rate": "10/s", "burst": 3}, 3)],
)
def test_without_a_burst_it_is_that_of_a_second(written: dict[str, Any], burst: int) -> None:
    """At least 1, else nobody would ever come in."""
    for table in (rates(written), rates(None, written)):
        assert [table.take("a", 0.0) for _ in range(burst + 1)] == [0.0] * burst + [None]


def test_a_busy_source_does_not_use_up_what_is_there_for_all() -> None:
    """Its refusals cost the others nothing."""
    table = rates({"rate": "1/h", "burst": 1}, {"rate": "1/h", "burst": 2})
    assert [table.take("a", 0.0) for _ in range(100)] == [0.0] + [None] * 99
    assert table.take("b", 0.0) == 0.0
    assert table.take("c", 0.0) is None


def test_a_busy_service_does_not_use_up_what_is_there_for_one() -> None:
    """Who was refused for the sake of all has his own tokens still."""
    table = rates({"rate": "1/h", "burst": 1}, {"rate": "1/s", "burst": 1})
    assert [table.take("a", 0.0), table.take("b", 0.0)] == [0.0, None]
    assert table.take("b", 1.0) == 0.0


def test_one_who_waits_has_his_turn_promised() -> None:
    """The next comes after him; nobody waits for longer than is allowed."""
    table = rates({"rate": "2/s", "burst": 1})
    assert [table.take("a", 0.0, 1.0) for _ in range(4)] == [0.0, 0.5, 1.0, None]
    assert table.take("a", 1.0, 1.0) == 0.5


@given(
    st.tuples(*[st.none() | st.tuples(st.integers(1, 9), st.integers(1, 20))] * 2),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.sampled_from([0, 0.25, 2]))),
)
def test_some_at_once_are_as_many_as_one_by_one(
    written: tuple[tuple[int, int] | None, ...], turns: list[tuple[str, int, float]]
) -> None:
    """For a source, and for all: a batch neither gains anything nor loses it."""
    found = [
        None if each is None else {"rate": f"{each[0]}/s", "burst": each[1]} for each in written
    ]
    together, singly, now = rates(*found), rates(*found), 0.0
    for name, number, pause in turns:
        now += pause
        taken = [singly.take(name, now) for _ in range(number)]
        assert together.take_some(name, now, number) == number - taken.count(None)


@pytest.mark.parametrize("rate", ["none", None])
def test_without_a_rate_there_is_no_limit(rate: str | None) -> None:
    """And nothing is remembered of anybody."""
    table = rates({"rate": rate}, {"rate": rate})
    assert not table
    assert {table.take(str(number), 0.0) for number in range(1000)} == {0.0}
    assert len(table) == 0


def test_a_million_sources_take_bounded_memory() -> None:
    """They come as fast as they can, each once; those who were there before stay limited."""
    table = rates({"rate": "1/h", "burst": 1})
    assert table.take("first", 0.0) == 0.0
    taken = sum(table.take(str(n), n * 1e-6) == 0.0 for n in range(1_000_000))
    assert len(table) <= BUSY_SOURCES + SHARED_BUCKETS
    assert taken <= BUSY_SOURCES + SHARED_BUCKETS
    assert table.take("first", 1.0) is None
    # When the flood is over, each is a source of its own again.
    assert {table.take(f"later {n}", 7200.0) for n in range(1000)} == {0.0}


def test_looking_at_a_level_takes_and_remembers_nothing() -> None:
    """An administrator who asks about a source changes nothing."""
    table = rates({"rate": "1/s", "burst": 2, "action": "delay"}, {"rate": "5/s"})
    for _ in range(3):
        source, service = table.steps("a", 0.0, 10.0)
        assert source["detail"] == {"tokens": 2.0, "burst": 2.0, "rate": "1/s", "wait": 0.0}
        assert service["detail"] == {"tokens": 5.0, "burst": 5.0, "rate": "5/s", "wait": 0.0}
    assert len(table) == 1
    for _ in range(3):
        table.take("a", 0.0, 10.0)
    source, _ = table.steps("a", 0.0, 10.0)
    assert (source["verdict"], source["reason"]) == ("delay", None)
    assert source["detail"] == {"tokens": -1.0, "burst": 2.0, "rate": "1/s", "wait": 2.0}
    source, _ = table.steps("a", 0.0, 0.0)
    assert (source["verdict"], source["reason"]) == ("refuse", "rate")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({}, "rate"), ({"rate": "fast"}, "is not a rate"), ({"rate": "1/s", "burst": 0}, "burst"),
        ({"rate": "1/s", "action": "drop"}, "'refuse' or 'delay'"),
    ],
)  # fmt: skip
def test_a_wrong_rate_is_told(wrong: dict[str, Any], text: str) -> None:
    """With what may stand there."""
    with pytest.raises(ValidationError, match=text):
        SourceRate.model_validate(wrong)
