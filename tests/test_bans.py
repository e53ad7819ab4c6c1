"""Bans: networks that an administrator keeps out for a time."""

from __future__ import annotations

import ipaddress
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.bans import MAX_BANS, Ban, BanError, Bans
from netd.networks import parse_network


def net(text: str) -> Any:
    return parse_network(text)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_network_is_banned_until_its_time() -> None:
    """To the second; then it is forgotten."""
    clock = Clock()
    bans = Bans(clock)
    assert not bans.any
    ban = bans.ban(net("192.0.2.0/24"), 1060.0, "scans")
    assert ban == Ban(net("192.0.2.0/24"), 1060.0, "scans")
    assert bans.find("192.0.2.7") == bans.find("::ffff:192.0.2.7") == ban
    assert bans.find("192.0.3.7") is None
    clock.now = 1059.9
    assert bans.find("192.0.2.7") == ban
    clock.now = 1060.0
    assert bans.find("192.0.2.7") is None
    assert (bans.any, len(bans), bans.listed()) == (False, 0, [])


def test_a_ban_without_an_end_lasts_until_it_is_lifted() -> None:
    """Of exactly this network; a smaller one stays."""
    bans = Bans(Clock())
    bans.ban(net("2001:db8::/32"))
    bans.ban(net("2001:db8::1"))
    assert not bans.unban(net("2001:db8::/33"))
    assert bans.unban(net("2001:db8::/32"))
    assert not bans.unban(net("2001:db8::/32"))
    assert bans.find("2001:db8::2") is None
    assert bans.find("2001:db8::1%eth0") is not None
    assert bans.unban(net("2001:db8::1"))
    assert not bans.any


def test_the_most_specific_ban_is_told() -> None:
    """And when that has ended, the next one."""
    clock = Clock()
    bans = Bans(clock)
    bans.ban(net("192.0.2.0/24"), None, "wide")
    bans.ban(net("192.0.2.7"), 1010.0, "one")
    bans.ban(net("192.0.2.0/28"), 1020.0, "narrow")
    told = []
    for now in (1000.0, 1010.0, 1020.0):
        clock.now = now
        found = bans.find("192.0.2.7")
        told.append(found and found.why)
    assert told == ["one", "narrow", "wide"]


def test_it_can_be_asked_about_a_later_time() -> None:
    """As explain does; nothing is forgotten by it."""
    bans = Bans(Clock())
    bans.ban(net("192.0.2.0/24"), 1060.0)
    assert bans.find("192.0.2.7", 1060.0) is None
    assert bans.find("192.0.2.7", 1059.0) is not None
    assert len(bans) == 1


def test_a_second_ban_of_a_network_takes_the_place_of_the_first() -> None:
    """Its end counts, whether it is later or sooner."""
    clock = Clock()
    bans = Bans(clock)
    bans.ban(net("192.0.2.7"), 1010.0)
    bans.ban(net("192.0.2.7"), 1100.0)
    assert len(bans) == 1
    clock.now = 1010.0
    assert bans.find("192.0.2.7") is not None
    bans.ban(net("192.0.2.7"), 1020.0)
    clock.now = 1020.0
    assert bans.find("192.0.2.7") is None
    clock.now = 1100.0
    assert len(bans) == 0


@pytest.mark.parametrize("wide", ["0.0.0.0/0", "0.0.0.0/1", "64.0.0.0/7", "::/0", "2000::/15"])
def test_a_wide_network_has_to_be_forced(wide: str) -> None:
    """It would keep out the administrator too."""
    bans = Bans(Clock())
    with pytest.raises(BanError, match=r"is wider than a /\d+: .* \(repeat it with --force, or "):
        bans.ban(net(wide))
    assert not bans.any
    bans.ban(net(wide), force=True)
    assert bans.any


@pytest.mark.parametrize("narrow", ["10.0.0.0/8", "2001::/16"])
def test_a_network_of_one_registry_has_not(narrow: str) -> None:
    """The limit itself is allowed."""
    bans = Bans(Clock())
    bans.ban(net(narrow))
    assert len(bans) == 1


def test_a_ban_that_has_ended_already_is_told() -> None:
    """It is a slip of whoever asks for it."""
    with pytest.raises(BanError, match=r"would have ended already \(name a later time\)"):
        Bans(Clock()).ban(net("192.0.2.7"), 1000.0)


def test_there_is_a_limit_to_bans() -> None:
    """One that has ended makes room."""
    clock = Clock()
    bans = Bans(clock)
    bans.ban(net("192.0.2.1"), 1010.0)
    for number in range(MAX_BANS - 1):
        bans.ban(ipaddress.IPv4Network((0x0A000000 + number, 32)))
    with pytest.raises(BanError, match=f"there are {MAX_BANS} bans already"):
        bans.ban(net("192.0.2.2"))
    assert bans.find("10.0.1.2") is not None
    clock.now = 1010.0
    bans.ban(net("192.0.2.2"))
    assert len(bans) == MAX_BANS


def test_they_are_listed_in_order() -> None:
    """IPv4 first."""
    bans = Bans(Clock())
    texts = ["192.0.2.0/24", "192.0.2.0/28", "198.51.100.1/32", "2001:db8::/32"]
    for text in reversed(texts):
        bans.ban(net(text))
    assert [str(ban.network) for ban in bans.listed()] == texts


@pytest.mark.parametrize("peer", ["uid=0", "unix", ""])
def test_who_has_no_address_is_not_banned(peer: str) -> None:
    """The users of UNIX sockets are no network."""
    bans = Bans(Clock())
    bans.ban(net("0.0.0.0/0"), force=True)
    assert bans.find(peer) is None


STEPS = st.one_of(
    st.tuples(
        st.just("ban"), st.integers(0, 15), st.integers(26, 32), st.none() | st.integers(1, 9)
    ),
    st.tuples(st.just("unban"), st.integers(0, 15), st.integers(26, 32), st.none()),
    st.tuples(st.just("wait"), st.integers(0, 3), st.just(0), st.none()),
)


@given(st.lists(STEPS, max_size=40))
def test_it_is_as_if_all_were_looked_through(steps: list[tuple[str, int, int, Any]]) -> None:
    """Whatever is banned, lifted and waited for: a plain list of bans says the same."""
    clock = Clock()
    bans, plain = Bans(clock), dict[Any, float]()
    for kind, number, bits, lasts in steps:
        if kind == "wait":
            clock.now += number
        else:
            network = ipaddress.ip_network((0xC0000200 + number, bits), strict=False)
            plain.pop(network, None)
            if kind == "ban":
                until = None if lasts is None else clock.now + lasts
                bans.ban(network, until)
                plain[network] = float("inf") if until is None else until
            else:
                bans.unban(network)
        in_force = {network for network, until in plain.items() if clock.now < until}
        assert {ban.network for ban in bans.listed()} == in_force
        assert len(bans) == len(in_force)
        for host in range(0, 16, 5):
            address = ipaddress.IPv4Address(0xC0000200 + host)
            found = bans.find(str(address))
            holding = [network for network in in_force if address in network]
            assert (found and found.network) == max(
                holding, key=lambda network: network.prefixlen, default=None
            )


def test_threads_may_look_while_others_ban() -> None:
    """A serving thread never sees a table in the making."""
    bans = Bans(Clock())
    done = threading.Event()
    failures: list[BaseException] = []
    bans.ban(net("203.0.113.0/24"))

    def look() -> None:
        try:
            while not done.is_set():
                assert bans.find("203.0.113.9") is not None
                assert bans.find("198.51.100.9") is None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        network = ipaddress.ip_network((0xC0000200, 8 + number % 25), strict=False)
        if number % 50 < 25 and not bans.unban(network):
            bans.ban(ipaddress.ip_network((0x0A000000, 8 + number % 25), strict=False))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
