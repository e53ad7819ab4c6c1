"""Admission: access rules, limits, and counters that are exact."""

from __future__ import annotations

import ipaddress
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.admission import Admission
from netd.bans import Bans
from netd.conditions import Surroundings
from netd.gate import Gate, Total
from netd.networks import parse_network

# Few addresses and blocks, so that they meet: all of one /28, and blocks around it.
NEAR = st.integers(0, 15).map(lambda n: f"192.0.2.{n}")
BLOCKS = st.one_of(
    st.builds(
        lambda host, bits: str(ipaddress.ip_network((host, bits), strict=False)),
        NEAR, st.integers(0, 32),
    ),
    st.sampled_from(["::/0", "2001:db8::/32", "192.0.0.0/16", "198.51.100.0/24"]),
)  # fmt: skip
PEERS = st.one_of(
    NEAR,
    NEAR.map(lambda host: f"::ffff:{host}"),
    st.ip_addresses().map(str),
    st.sampled_from(["2001:db8::1", "2001:db8::1%eth0", "fe80::1%1", "198.51.100.7"]),
)


def gate(total: Total | None = None, **rules: Any) -> Gate:
    return Gate(Admission.model_validate(rules), total)


def may_enter(peer: str, only_from: Iterable[str], no_access: Iterable[str]) -> bool:
    """The rule as it is written in the reference: from the most specific block to the least."""
    address = ipaddress.ip_address(peer.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    for bits in range(address.max_prefixlen, -1, -1):
        block = str(ipaddress.ip_network((address, bits), strict=False))
        if block in no_access:
            return False
        if block in only_from:
            return True
    return not only_from


# -- access rules


@given(PEERS, st.lists(BLOCKS, max_size=5), st.lists(BLOCKS, max_size=5))
def test_the_most_specific_block_wins_and_a_tie_refuses(
    peer: str, only_from: list[str], no_access: list[str]
) -> None:
    """Whatever the blocks, the decision is that of trying them one by one."""
    # An address alone is the same as its block of one.
    only_from = [str(parse_network(block)) for block in only_from]
    found = gate(only_from=only_from, no_access=no_access).admit(peer)
    assert found == (None if may_enter(peer, only_from, no_access) else "address")


@pytest.mark.parametrize(
    ("only_from", "no_access", "peer", "reason"),
    [
        ([], [], "203.0.113.9", None),
        (["192.0.2.0/24"], [], "192.0.2.7", None),
        (["192.0.2.0/24"], [], "203.0.113.9", "address"),
        ([], ["192.0.2.0/24"], "192.0.2.7", "address"),
        ([], ["192.0.2.0/24"], "203.0.113.9", None),
        (["192.0.2.0/24"], ["192.0.2.128/25"], "192.0.2.200", "address"),
        (["192.0.2.200"], ["192.0.2.128/25"], "192.0.2.200", None),
        (["192.0.2.200"], ["192.0.2.200/32"], "192.0.2.200", "address"),
        ([], ["0.0.0.0/0"], "192.0.2.7", "address"),
        ([], ["0.0.0.0/0"], "2001:db8::1", None),
        (["0.0.0.0/0"], [], "2001:db8::1", "address"),
        (["192.0.2.0/24"], [], "::ffff:192.0.2.7", None),
        ([], ["192.0.2.0/24"], "::ffff:192.0.2.7", "address"),
        (["::/0"], [], "::ffff:192.0.2.7", "address"),
        (["fe80::/10"], [], "fe80::1%eth0", None),
        ([], ["fe80::/10"], "fe80::1%eth0", "address"),
        (["192.0.2.0/24"], [], "uid=1000", None),
    ],
)
def test_each_peer_is_judged_by_the_address_that_it_has(
    only_from: list[str], no_access: list[str], peer: str, reason: str | None
) -> None:
    """IPv4 behind a dual-stack socket is IPv4, a scope does not count, a UNIX peer has none."""
    tried = gate(only_from=only_from, no_access=no_access)
    assert tried.admit(peer) == reason
    assert (tried.admitted, tried.open) == ((1, 1) if reason is None else (0, 0))
    assert tried.refused == ({} if reason is None else {reason: 1})


@given(st.ip_addresses(), st.integers(0, 128))
def test_a_rule_survives_being_dumped(address: Any, bits: int) -> None:
    """What a dump of the configuration shows can be used as a configuration."""
    block = ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    if getattr(block.network_address, "ipv4_mapped", None) is not None and block.prefixlen >= 96:
        return
    rules = Admission.model_validate({"only_from": [str(block)], "reply_rate": "90/m"})
    assert Admission.model_validate(rules.model_dump(mode="json")) == rules


# -- limits


def test_no_more_come_in_than_max_connections() -> None:
    """The next is refused until one has gone."""
    tried = gate(max_connections=2)
    assert [tried.admit(peer) for peer in ("192.0.2.1", "192.0.2.2", "::1")] == [
        None, None, "service_limit",
    ]  # fmt: skip
    tried.release("192.0.2.1")
    assert tried.admit("::1") is None
    assert (tried.open, tried.admitted, tried.refused) == (2, 3, {"service_limit": 1})


def test_no_more_come_in_from_one_source_than_it_may() -> None:
    """Others still do, and the source does when one of its own has gone."""
    tried = gate(max_connections_per_source=1)
    assert tried.admit("192.0.2.1") is None
    assert tried.admit("192.0.2.1") == "per_source_limit"
    assert tried.admit("::ffff:192.0.2.1") == "per_source_limit"
    assert tried.admit("192.0.2.2") is None
    tried.release("::ffff:192.0.2.1")
    assert tried.admit("192.0.2.1") is None
    assert tried.refused == {"per_source_limit": 2}


def test_users_of_a_unix_socket_are_sources() -> None:
    """One user cannot take the places of another."""
    tried = gate(max_connections_per_source=1)
    assert tried.admit("uid=0") is None
    assert tried.admit("uid=1000") is None
    assert tried.admit("uid=0") == "per_source_limit"


@pytest.mark.parametrize(
    ("prefix", "peers", "reason"),
    [
        ({}, ("2001:db8::1", "2001:db8::ffff:1"), "per_source_limit"),
        ({}, ("2001:db8::1", "2001:db8:0:1::1"), None),
        ({}, ("192.0.2.1", "192.0.2.2"), None),
        ({"ipv4": 24}, ("192.0.2.1", "192.0.2.2"), "per_source_limit"),
        ({"ipv4": 24}, ("192.0.2.1", "::ffff:192.0.2.2"), "per_source_limit"),
        ({"ipv4": 24}, ("192.0.2.1", "192.0.3.1"), None),
        ({"ipv6": 128}, ("2001:db8::1", "2001:db8::2"), None),
        ({"ipv6": 0}, ("2001:db8::1", "fe80::1%eth0"), "per_source_limit"),
        ({"ipv4": 0, "ipv6": 0}, ("192.0.2.1", "::1"), None),
    ],
)
def test_a_source_is_a_prefix(
    prefix: dict[str, int], peers: tuple[str, str], reason: str | None
) -> None:
    """A host that owns a /64 is one source, whichever of its addresses it uses."""
    tried = gate(max_connections_per_source=1, source_prefix=prefix)
    assert tried.admit(peers[0]) is None
    assert tried.admit(peers[1]) == reason


def test_the_total_holds_for_all_services_together() -> None:
    """One service that is full of clients leaves no room for another, and says which limit."""
    total = Total(limit=3)
    one, other = gate(total), gate(total)
    assert [one.admit("::1"), one.admit("::1"), other.admit("::1")] == [None] * 3
    assert other.admit("::1") == one.admit("::1") == "service_limit"
    one.release("::1")
    assert other.admit("::1") is None
    assert (one.open, other.open, total.open) == (1, 2, 3)


def test_without_limits_everybody_comes_in() -> None:
    """null is no limit, not zero."""
    tried = gate(max_connections=None)
    assert {tried.admit("192.0.2.1") for _ in range(20_000)} == {None}
    assert tried.open == 20_000


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_source"])
@pytest.mark.parametrize("wrong", [0, -1, True, "5", 1.5, 10**9])
def test_a_limit_is_a_positive_number(limit: str, wrong: object) -> None:
    """What would shut a service, or mean nothing, is refused."""
    with pytest.raises(ValidationError, match=limit):
        Admission.model_validate({limit: wrong})


# -- counters


def test_an_admission_that_came_to_nothing_leaves_no_trace_but_its_reason() -> None:
    """A client for whom there is no thread has not been in."""
    tried = gate(max_connections=1, max_connections_per_source=1)
    assert tried.admit("192.0.2.1") is None
    tried.revoke("192.0.2.1", "threads")
    assert (tried.open, tried.admitted, tried.refused) == (0, 0, {"threads": 1})
    assert tried.admit("192.0.2.1") is None


def test_refusals_decided_elsewhere_are_counted() -> None:
    """One at a time, or by the number."""
    tried = gate()
    tried.count_refused("address")
    tried.count_refused("descriptors", 64)
    assert tried.refused == {"address": 1, "descriptors": 64}


def test_judging_counts_nothing() -> None:
    """A datagram opens nothing."""
    tried = gate(only_from=["192.0.2.0/24"])
    assert tried.judge("192.0.2.1") == (None, "192.0.2.1/32")
    assert tried.judge("::1")[0] == "address"
    assert (tried.open, tried.admitted, tried.refused) == (0, 0, {})


def test_counters_are_exact_under_many_threads() -> None:
    """Whatever the threads do at once: no limit is passed, and every attempt is counted once."""
    total = Total(limit=12)
    limits: dict[str, Any] = {"max_connections": 8, "max_connections_per_source": 3}
    # The second one goes the way of those that have more rules; its rate keeps nobody out.
    slow = {"rate_per_source": {"rate": "999999999/s", "burst": 1_000_000}, "max_load": 1e5}
    gates = [gate(total, **limits), gate(total, **limits, **slow)]
    threads, rounds = 16, 1500
    results: list[Counter[str | None]] = []
    most = [0]

    def client(number: int) -> None:
        tried, peer = gates[number % 2], f"192.0.2.{number % 8}"
        found: Counter[str | None] = Counter()
        held = 0
        for turn in range(rounds):
            found[reason := tried.admit(peer)] += 1
            held += reason is None
            most[0] = max(most[0], total.open)
            if held and (turn % 3 or turn == rounds - 1):
                tried.release(peer)
                held -= 1
        for _ in range(held):
            tried.release(peer)
        results.append(found)

    running = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    found = sum(results, Counter())
    admitted = found.pop(None)
    refused = sum((Counter(tried.refused) for tried in gates), Counter())
    assert admitted + refused.total() == threads * rounds
    assert sum(tried.admitted for tried in gates) == admitted
    assert refused == found
    assert (gates[0].open, gates[1].open, total.open) == (0, 0, 0)
    assert 0 < most[0] <= 12
    # Nobody is remembered: each source has all its places again.
    for tried in gates:
        assert [tried.admit("192.0.2.1") for _ in range(4)] == [None] * 3 + ["per_source_limit"]


def test_sources_that_have_gone_take_no_memory() -> None:
    """A hundred thousand of them leave nothing behind but the few that are remembered."""
    tried = gate(max_connections_per_source=2)

    def visit(first: int, number: int) -> None:
        for n in range(first, first + number):
            peer = f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::1"
            assert tried.admit(peer) is None
            tried.release(peer)

    visit(0, 10_000)
    before = sys.getallocatedblocks()
    visit(10_000, 100_000)
    assert sys.getallocatedblocks() - before < 1000
    assert (tried.open, tried.admitted) == (0, 110_000)


def test_many_sources_at_once_are_forgotten_when_they_go() -> None:
    """The table of those that are in empties itself."""
    tried = gate(max_connections_per_source=1, max_connections=None)
    peers = [f"192.0.{n >> 8}.{n & 255}" for n in range(20_000)]
    assert {tried.admit(peer) for peer in peers} == {None}
    assert {tried.admit(peer) for peer in peers} == {"per_source_limit"}
    for peer in peers:
        tried.release(peer)
    assert {tried.admit(peer) for peer in peers} == {None}
    assert tried.refused == {"per_source_limit": 20_000}


# -- rates, hours, bans


class Clock:
    """Both clocks, which a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def timed(**rules: Any) -> tuple[Gate, Clock, Bans]:
    """A gate, its clock, and its bans."""
    clock = Clock()
    around = Surroundings(Bans(clock), lambda: 1.0, clock, clock)
    return gate(Total(surroundings=around), **rules), clock, around.bans


def test_a_source_comes_as_often_as_it_may() -> None:
    """Others do not suffer; who is refused takes no place and spends nothing."""
    tried, clock, _ = timed(rate_per_source={"rate": "1/s", "burst": 2})
    assert [tried.admit("192.0.2.1") for _ in range(4)] == [None, None, "rate", "rate"]
    assert tried.admit("192.0.2.2") is None
    clock.now += 1
    assert [tried.admit("192.0.2.1") for _ in range(2)] == [None, "rate"]
    assert (tried.open, tried.admitted, tried.refused) == (4, 4, {"rate": 3})


def test_a_source_of_a_rate_is_a_prefix_or_a_user() -> None:
    """As for the limits."""
    tried, _, _ = timed(rate_per_source={"rate": "1/s", "burst": 1})
    peers = ["2001:db8::1", "2001:db8::2", "uid=0", "uid=0", "uid=1", "::ffff:192.0.2.1",
             "192.0.2.1"]  # fmt: skip
    assert [tried.admit(peer) for peer in peers] == [
        None, "rate", None, "rate", None, None, "rate",
    ]  # fmt: skip


def test_who_finds_no_place_spends_no_token() -> None:
    """When one is free he comes in at once."""
    tried, _, _ = timed(rate_per_source={"rate": "1/h", "burst": 2}, max_connections=1)
    assert [tried.admit("192.0.2.1") for _ in range(3)] == [None, "service_limit", "service_limit"]
    tried.release("192.0.2.1")
    assert tried.admit("192.0.2.1") is None


def test_a_place_that_a_rate_refuses_is_free_again() -> None:
    """Of all limits."""
    total = Total(limit=2)
    tried = gate(
        total, max_connections=2, max_connections_per_source=2,
        rate_per_source={"rate": "1/h", "burst": 1},
    )  # fmt: skip
    assert [tried.admit("192.0.2.1") for _ in range(9)] == [None] + ["rate"] * 8
    assert (tried.open, total.open) == (1, 1)
    assert tried.admit("192.0.2.2") is None


def test_a_connection_that_waits_is_in() -> None:
    """It has its place, and its turn after those before it; nobody waits too long."""
    tried, clock, _ = timed(rate_per_source={"rate": "2/s", "burst": 1, "action": "delay"})
    assert tried.delays
    assert [tried.admit_within("::1", 1.0) for _ in range(4)] == [
        (None, 0.0), (None, 0.5), (None, 1.0), ("rate", 0.0),
    ]  # fmt: skip
    assert (tried.open, tried.refused) == (3, {"rate": 1})
    clock.now += 0.5
    assert tried.admit_within("::1", 1.0) == (None, 1.0)


def test_datagrams_do_not_spend_the_tokens_of_connections() -> None:
    """Their senders may be forged, to keep somebody else out."""
    tried, _, _ = timed(rate_per_source={"rate": "1/h", "burst": 2}, rate={"rate": "5/h"})
    assert tried.judge_datagrams("192.0.2.1", 9) == ("rate", 1)
    assert tried.judge_datagrams("192.0.2.1", 9) == ("rate", 0)
    assert tried.admit_datagram("192.0.2.1") == "rate"
    assert [tried.admit("192.0.2.1") for _ in range(2)] == [None, "rate"]
    assert (tried.open, tried.admitted, tried.refused) == (1, 1, {"rate": 2})


def test_a_ban_holds_while_it_lasts() -> None:
    """For connections and datagrams, however often they were let in before."""
    tried, clock, bans = timed()
    assert tried.is_plain
    assert tried.admit("192.0.2.1") is None
    bans.ban(parse_network("192.0.2.0/24"), clock.now + 60)
    assert not tried.is_plain
    assert tried.admit("192.0.2.1") == "banned"
    assert tried.judge_datagrams("192.0.2.1", 5) == ("banned", 0)
    assert tried.admit("198.51.100.1") is None
    assert tried.judge_datagrams("198.51.100.1", 5) == (None, 5)
    clock.now += 60
    assert tried.admit("192.0.2.1") is None
    assert tried.judge_datagrams("192.0.2.1", 5) == (None, 5)
    assert tried.refused == {"banned": 1}


def test_a_penalty_concerns_the_source_alone() -> None:
    """With all addresses of its prefix, and no other source."""
    tried, clock, _ = timed(penalties={"protocol_error": "5s"})
    assert tried.admit("2001:db8::1") is None
    tried.penalise("2001:db8::1", "done")
    assert tried.admit("2001:db8::1") is None
    tried.penalise("2001:db8::1", "protocol_error")
    assert tried.admit("2001:db8::2") == "banned"
    assert tried.admit("2001:db8:0:1::1") is None
    clock.now += 5
    assert tried.admit("2001:db8::2") is None


def test_whoever_waits_for_room_is_called_once() -> None:
    """When somebody has gone; not when the service has room."""
    tried = gate(max_connections=2, over_limit="queue")
    calls: list[str] = []
    assert tried.queues
    assert tried.admit("::1") is None
    assert not tried.wait_for_room(lambda: calls.append("none"))
    assert tried.admit("::1") is None
    step = next(step for step in tried.explain("::1") if step["rule"] == "max_connections")
    assert (step["verdict"], step["reason"]) == ("delay", None)
    call = lambda: calls.append("room")  # noqa: E731
    assert tried.wait_for_room(call)
    assert tried.wait_for_room(call)
    tried.release("::1")
    tried.release("::1")
    assert calls == ["room"]


RULES = st.fixed_dictionaries(
    {},
    optional={
        "only_from": st.just(["192.0.2.0/28"]),
        "no_access": st.lists(BLOCKS, max_size=2),
        "access_times": st.sampled_from([["00:00-24:00"], ["01:00-02:00"], ["thu 00:00-01:00"]]),
        "time_zone": st.just("UTC"),
        "max_load": st.sampled_from([0.5, 1.0, 1.5]),
        "max_connections": st.integers(1, 4),
        "max_connections_per_source": st.integers(1, 2),
        "rate_per_source": st.fixed_dictionaries(
            {"rate": st.just("1/s"), "burst": st.integers(1, 3)}
        ),
        "rate": st.fixed_dictionaries({"rate": st.just("1/s"), "burst": st.integers(1, 6)}),
        "penalties": st.just({"protocol_error": "5s"}),
    },
)


@given(
    RULES,
    st.lists(
        st.tuples(NEAR, st.sampled_from(["come", "come", "go", "offend", "wait", "ban"])),
        max_size=30,
    ),
)
def test_what_is_explained_is_what_happens(
    rules: dict[str, Any], events: list[tuple[str, str]]
) -> None:
    """Whatever the rules and whoever came before: the first step that refuses gives the reason,
    and to ask changes nothing."""
    tried, clock, bans = timed(**rules)
    inside: list[str] = []
    for peer, event in events:
        if event == "go" and inside:
            tried.release(inside.pop())
        elif event == "offend":
            tried.penalise(peer, "protocol_error")
        elif event == "wait":
            clock.now += 1.5
        elif event == "ban":
            bans.ban(parse_network(peer), clock.now + 2)
        else:
            steps = tried.explain(peer)
            assert tried.explain(peer) == steps
            told = next((step["reason"] for step in steps if step["reason"]), None)
            assert tried.admit(peer) == told
            inside += [peer] * (told is None)


def test_every_rule_is_explained_in_order() -> None:
    """Also those that are not set; what asks changes no counter."""
    tried, clock, _ = timed(max_connections_per_source=3)
    assert tried.admit("192.0.2.1") is None
    steps = tried.explain("192.0.2.1", clock.now + 3600)
    assert [(step["rule"], step["verdict"]) for step in steps] == [
        ("only_from, no_access", "off"), ("bans", "pass"), ("penalties", "pass"),
        ("access_times", "off"), ("max_load", "off"), ("max_connections", "pass"),
        ("max_connections of all services", "off"), ("max_connections_per_source", "pass"),
        ("rate_per_source", "off"), ("rate", "off"),
    ]  # fmt: skip
    assert steps[5]["detail"] == {"open": 1, "limit": 16_384}
    assert steps[7]["detail"] == {"open": 1, "limit": 3}
    assert (tried.open, tried.admitted, tried.refused) == (1, 1, {})
    assert json.loads(json.dumps(steps)) == steps


def test_the_level_of_a_bucket_is_explained_for_a_later_time() -> None:
    """By then it has filled up again; a connection that may wait is not refused."""
    tried, clock, _ = timed(rate_per_source={"rate": "1/s", "burst": 2, "action": "delay"})
    for _ in range(3):
        assert tried.admit_within("192.0.2.1", 10.0)[0] is None
    levels = [
        (step["verdict"], step["detail"]["tokens"], step["detail"]["wait"])
        for after in (0, 1, 2, 60)
        for step in tried.explain("192.0.2.1", clock.now + after)
        if step["rule"] == "rate_per_source"
    ]
    assert levels == [("delay", -1.0, 2.0), ("delay", 0.0, 1.0), ("pass", 1.0, 0.0),
                      ("pass", 2.0, 0.0)]  # fmt: skip
    for datagram, verdict in ((False, "delay"), (True, "pass")):
        assert tried.explain("192.0.2.1", datagram=datagram)[8]["verdict"] == verdict
