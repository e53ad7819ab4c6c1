"""Datagrams taken ahead: never more than the rates allow, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from time import sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd import lease
from netd.admission import Admission
from netd.gate import Gate
from netd.lease import AHEAD, LEASE, Lease
from netd.rates import PART

A, B = "192.0.2.1", "198.51.100.1"
# Where nothing comes back while the test runs.
SLOW = {"rate": "1/h"}


def gate(**rules: Any) -> Gate:
    """A gate with these rules."""
    return Gate(Admission.model_validate(rules))


def rest(tried: Gate, source: str) -> int:
    """Tokens that a source finds."""
    return tried.judge_datagrams(source, 10**6)[1]


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases hold for as long as a test takes."""
    monkeypatch.setattr(lease, "LEASE", 3600.0)


@given(
    st.integers(1, 200_000), st.integers(1, 300_000),
    st.lists(st.tuples(st.sampled_from([A, B]), st.integers(1, 128)), max_size=60),
)  # fmt: skip
def test_what_is_not_used_is_there_for_others(
    each: int, together: int, turns: list[tuple[str, int]]
) -> None:
    """Exactly; and what a lease covers has been granted, whoever sends it."""
    rules: Any = {
        "rate_per_source": {**SLOW, "burst": each}, "rate": {**SLOW, "burst": together},
    }  # fmt: skip
    tried, used = gate(**rules), Counter[str]()
    tried_lease = Lease(tried)
    tried_lease.grant([A, B])
    for source, number in turns:
        if tried_lease.covers(number):
            used[source] += number
    assert used.total() <= min(AHEAD, each // PART, together // PART)
    tried_lease.settle(used)
    assert rest(tried, A) == min(each - used[A], together - used.total())
    assert not tried_lease.covers(1)


@pytest.mark.usefixtures("long")
def test_a_small_part_of_what_there_is_is_granted() -> None:
    """To each source; then the gate is to be asked again."""
    tried = gate(rate_per_source={**SLOW, "burst": 10**6})
    tried_lease = Lease(tried)
    assert not tried_lease.covers(1)
    tried_lease.grant([A, B])
    assert tried_lease.covers(AHEAD)
    assert not tried_lease.covers(1)
    assert [rest(tried, source) for source in (A, B)] == [10**6 - AHEAD] * 2


def test_a_lease_holds_for_a_moment() -> None:
    """By which a ban comes late at most."""
    tried_lease = Lease(gate(rate_per_source={"rate": "1000000/s"}))
    tried_lease.grant([A])
    sleep(LEASE)
    assert not tried_lease.covers(1)


@pytest.mark.usefixtures("long")
def test_what_was_granted_by_other_rules_is_not_given_back() -> None:
    """It would be more than these allow."""
    tried = gate(rate_per_source={**SLOW, "burst": 100_000})
    tried_lease = Lease(tried)
    tried_lease.grant([A])
    tried.obey(Admission.model_validate({"rate_per_source": {**SLOW, "burst": 20}}), [])
    assert tried.judge_datagrams(A, 15) == (None, 15)
    tried_lease.settle({})
    assert rest(tried, A) == 5


@pytest.mark.usefixtures("long")
def test_without_a_rate_there_is_enough() -> None:
    """Hours, or somebody's ban, are reason enough to ask."""
    tried_lease = Lease(gate(access_times=["mon-sun 00:00-24:00"]))
    tried_lease.grant([A])
    assert tried_lease.covers(AHEAD)
    tried_lease.settle({A: AHEAD})
