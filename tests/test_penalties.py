"""Penalties: they grow, they end, they are forgotten, and they concern nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.penalties import PENALISED_SOURCES, Penalties, PenaltyRules


def penalties(**keys: Any) -> Penalties:
    return Penalties(PenaltyRules.model_validate({"protocol_error": "5s", **keys}))


def offend(tried: Penalties, now: float, source: str = "a") -> float:
    """How long the source stays out for an offence."""
    tried.add(source, "protocol_error", now)
    found = tried.find(source, now)
    assert found is not None
    return found.until - now


def test_each_offence_doubles_the_penalty_up_to_the_longest() -> None:
    """Committed each time as soon as it can be."""
    tried, now = penalties(max="1m"), 0.0
    lengths = []
    for _ in range(7):
        lengths.append(offend(tried, now))
        now += lengths[-1]
    assert lengths == [5, 10, 20, 40, 60, 60, 60]


def test_a_penalty_ends_to_the_second() -> None:
    """Then the source may come again."""
    tried = penalties()
    offend(tried, 100.0)
    assert tried.keeps_out("a", 100.0)
    assert tried.keeps_out("a", 104.999)
    assert not tried.keeps_out("a", 105.0)
    assert not tried.keeps_out("b", 100.0)


def test_good_conduct_is_rewarded() -> None:
    """As long as the latest penalty without an offence makes up for one of them."""
    tried = penalties()
    assert [offend(tried, 0.0), offend(tried, 5.0), offend(tried, 15.0)] == [5, 10, 20]
    assert offend(tried, 35.0 + 19.5) == 40
    tried = penalties()
    assert [offend(tried, 0.0), offend(tried, 5.0), offend(tried, 15.0)] == [5, 10, 20]
    assert offend(tried, 35.0 + 20.0) == 20
    tried = penalties()
    assert [offend(tried, 0.0), offend(tried, 5.0)] == [5, 10]
    assert tried.find("a", 34.5) is not None
    assert tried.find("a", 35.0) is None
    assert offend(tried, 35.0) == 5


def test_offences_during_a_penalty_add_nothing() -> None:
    """They were committed in sessions that had begun before."""
    tried = penalties()
    assert offend(tried, 0.0) == 5
    assert offend(tried, 1.0) == 4
    assert offend(tried, 5.0) == 10


@given(st.lists(st.tuples(st.floats(0, 1000), st.sampled_from("ab")), max_size=60))
def test_no_penalty_is_longer_than_the_longest(offences: list[tuple[float, str]]) -> None:
    """However the offences fall, each source is let in again, and its table entry is its own."""
    tried, now = penalties(max="90s"), 0.0
    for pause, source in offences:
        now += pause
        assert 0 < offend(tried, now, source) <= 90
        assert not tried.keeps_out(source, now + 90)
    assert len(tried) == len({source for _, source in offences})


@pytest.mark.parametrize("reason", ["done", "eof", "reset", "idle_timeout", "error", "max"])
def test_only_what_is_set_is_an_offence(reason: str) -> None:
    """Everything else that ends a session is forgiven, our own faults first of all."""
    tried = penalties()
    tried.add("a", reason, 0.0)
    assert len(tried) == 0
    assert not tried.keeps_out("a", 0.0)


def test_by_default_only_who_cannot_show_who_it_is_is_penalised() -> None:
    """For a second: whoever mistypes a key hardly notices. The rest is to be switched on."""
    tried = Penalties(PenaltyRules())
    assert tried.offences == {"auth"}
    tried.add("a", "protocol_error", 0.0)
    assert not tried.any
    tried.add("a", "auth", 0.0)
    assert tried.any
    assert tried.keeps_out("a", 0.999)
    assert not tried.keeps_out("a", 1.0)


def test_without_a_longest_penalty_it_stays_a_number() -> None:
    """However often a source offends."""
    tried, now = penalties(max="none"), 0.0
    for _ in range(100):
        now += offend(tried, now)
    assert now < 1e13


def test_a_million_sources_take_bounded_memory() -> None:
    """The oldest are forgiven, nobody else is kept out, and the latest are."""
    tried = penalties()
    for number in range(1_000_000):
        tried.add(str(number), "protocol_error", number * 1e-6)
    assert len(tried) == PENALISED_SOURCES
    assert tried.keeps_out("999999", 1.0)
    assert not tried.keeps_out("0", 1.0)
    assert not tried.keeps_out("a bystander", 1.0)
