"""Datagrams taken ahead: never more than the rates allow, and none is lost."""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd import lease
from netd.admission import Admission
from netd.bans import Bans
from netd.conditions import Surroundings
from netd.gate import Gate, Total
from netd.lease import AHEAD, LEASE, MANY, Leases
from netd.networks import parse_network

A, B = "192.0.2.1", "198.51.100.1"
# Where nothing comes back while the test runs.
SLOW = {"rate": "1/h"}


def gate(bans: Bans | None = None, **rules: Any) -> Gate:
    """A gate with these rules."""
    around = Surroundings() if bans is None else Surroundings(bans=bans)
    return Gate(Admission.model_validate(rules), Total(surroundings=around))


def rest(tried: Gate, source: str) -> int:
    """Tokens that a source finds."""
    return tried.judge_datagrams(source, 10**6)[1]


@given(
    st.integers(1, 5000), st.integers(1, 9000),
    st.lists(st.tuples(st.sampled_from([A, B]), st.integers(1, 128)), max_size=60),
)  # fmt: skip
def test_as_many_are_taken_as_without(
    each: int, together: int, turns: list[tuple[str, int]]
) -> None:
    """Of each source, and of both: what was granted and not used is there for others in the end."""
    rules: Any = {
        "rate_per_source": {**SLOW, "burst": each}, "rate": {**SLOW, "burst": together},
    }  # fmt: skip
    tried = gate(**rules)
    leases, taken = Leases(tried), dict.fromkeys([A, B], 0)
    for source, number in turns:
        reason, found = leases.take(source, number)
        assert (reason is None) == (found == number)
        taken[source] += found
    assert max(taken.values()) <= each
    assert sum(taken.values()) <= together
    leases.give_back()
    left = min(each - taken[A], together - sum(taken.values()))
    assert rest(tried, A) == left


def test_who_sends_many_is_not_asked_about_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And others are."""
    monkeypatch.setattr(lease, "LEASE", 3600.0)
    tried = gate(rate_per_source={**SLOW, "burst": 10**6})
    leases = Leases(tried)
    assert leases.take(A, MANY) == (None, MANY)
    assert leases.take(B, MANY - 1) == (None, MANY - 1)
    assert rest(tried, A) == 10**6 - MANY - AHEAD
    assert rest(tried, B) == 10**6 - (MANY - 1)
    # Out of what was granted; when that is used up there are no more.
    assert leases.take(A, AHEAD) == (None, AHEAD)
    assert leases.take(A, 1) == ("rate", 0)


@pytest.mark.parametrize("number", [1, MANY])
def test_a_ban_is_late_by_a_moment(number: int) -> None:
    """At most; a source of few datagrams notices it at once."""
    bans = Bans()
    tried = gate(bans, rate_per_source={"rate": "1000000/s", "burst": 10**6})
    leases = Leases(tried)
    assert leases.take(A, number) == (None, number)
    bans.ban(parse_network("192.0.2.0/24"), None)
    if number >= MANY:
        sleep(LEASE)
    assert leases.take(A, number) == ("banned", 0)


def test_other_rules_hold_in_a_moment() -> None:
    """What was granted by the old ones is not given back to the new ones."""
    tried = gate(rate_per_source={**SLOW, "burst": 100_000})
    leases = Leases(tried)
    leases.take(A, MANY)
    tried.obey(Admission.model_validate({"rate_per_source": {**SLOW, "burst": 20}}), [])
    sleep(LEASE)
    assert leases.take(A, 15) == (None, 15)
    assert leases.take(A, 15) == ("rate", 5)


def test_without_a_rate_nothing_is_counted() -> None:
    """Hours, or somebody's ban, are reason enough to ask."""
    tried = gate(access_times=["mon-sun 00:00-24:00"])
    leases, end = Leases(tried), monotonic() + 2 * LEASE
    while monotonic() < end:
        assert leases.take(A, 128) == (None, 128)
