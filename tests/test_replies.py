"""Who may be answered over UDP, and how much."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

from netd.admission import Admission
from netd.gate import REMEMBERED_SOURCES, Gate
from netd.replies import FIRST_USER_PORT, OwnPorts, ReplyGuard, reply_limit

FAR = "192.0.2.7"
# A rate at which a source has one answer, and within a test no other.
SLOW = "1/h"


def guard(own_ports: Iterable[int] = (), **rules: Any) -> ReplyGuard:
    return ReplyGuard(Gate(Admission.model_validate(rules)), OwnPorts(own_ports))


def source(number: int) -> str:
    """One of 2**32 sources."""
    return f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"


# -- to whom


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", FAR, "2001:db8::1", "::ffff:192.0.2.7"])
def test_no_answer_goes_to_a_service_port(host: str) -> None:
    """Every port below 1024, 0 included: what listens there would answer the answer."""
    watch = guard()
    for port in range(FIRST_USER_PORT):
        assert watch.correspondent((host, port)).silent == "service_port"
        assert watch.refusal((host, port), 0, 64) == "service_port"
    assert watch.correspondent((host, FIRST_USER_PORT)).silent is None
    assert watch.correspondent((host, 65_535)).silent is None


def test_no_answer_goes_to_an_own_port() -> None:
    """Not to one that is opened later, either."""
    watch = guard([9000])
    assert watch.correspondent(("127.0.0.1", 9000)).silent == "service_port"
    assert watch.correspondent(("127.0.0.1", 9007)).silent is None
    watch.own_ports.add(9007)
    assert watch.correspondent(("127.0.0.1", 9007)).silent == "service_port"
    assert watch.correspondent((FAR, 9007)).silent == "service_port"


@pytest.mark.parametrize(
    "host",
    ["224.0.0.1", "239.255.255.250", "::ffff:224.0.0.1", "ff02::1", "ff0e::1", "0.0.0.0", "::",
     "::ffff:0.0.0.0", "255.255.255.255", "::ffff:255.255.255.255"],
)  # fmt: skip
def test_no_answer_goes_to_a_group(host: str) -> None:
    """No host has such an address, so it was forged to reach many."""
    assert guard().correspondent((host, 5000)).silent == "broadcast"
    assert guard().refusal((host, 5000), 0, 64) == "broadcast"


def test_a_refused_sender_is_known_as_such() -> None:
    """The rules of admission hold for datagrams too."""
    watch = guard(only_from=["192.0.2.0/24"])
    assert watch.correspondent((FAR, 5000)).refused is None
    assert watch.correspondent(("198.51.100.1", 5000)).refused == "address"


# -- how much


@pytest.mark.parametrize(("request_size", "limit"), [(0, 64), (64, 64), (65, 65), (65_507, 65_507)])
def test_an_answer_is_no_longer_than_its_request_or_64_bytes(request_size: int, limit: int) -> None:
    """Nobody gains by having netd send in his place."""
    assert reply_limit(request_size) == limit
    for host in ("127.0.0.1", "::1", FAR):
        assert guard().refusal((host, 5000), limit, limit) is None
        assert guard().refusal((host, 5000), limit + 1, limit) == "amplification"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_has_no_rate(host: str) -> None:
    """Its addresses cannot be forged from outside."""
    watch = guard(reply_rate=SLOW)
    assert watch.correspondent((host, 5000)).bucket is None
    assert {watch.refusal((host, 5000), 64, 64) for _ in range(1000)} == {None}


def test_a_source_is_answered_at_its_rate() -> None:
    """Half a second's worth at once, whichever of its ports and addresses it uses."""
    watch = guard(reply_rate="100/s")
    begin = monotonic()
    found = [watch.refusal((f"2001:db8::{n:x}", 5000 + n), 10, 64) for n in range(1, 500)]
    most = 50 + 100 * (monotonic() - begin)
    assert found[:50] == [None] * 50
    assert 50 <= found.count(None) <= most
    assert set(found) == {None, "rate"}
    assert watch.refusal(("2001:db8:0:1::1", 5000), 10, 64) is None


def test_what_is_refused_costs_no_share() -> None:
    """Too long an answer does not use up the one that would be short enough."""
    watch = guard(reply_rate=SLOW)
    assert watch.refusal((FAR, 5000), 65, 64) == "amplification"
    assert watch.refusal((FAR, 7), 64, 64) == "service_port"
    assert watch.refusal((FAR, 5000), 64, 64) is None
    assert watch.refusal((FAR, 5000), 64, 64) == "rate"


def test_another_rate_of_the_gate_is_obeyed() -> None:
    """As after a reload, under which the gate is the same."""
    free, slow = (Admission.model_validate({"reply_rate": rate}) for rate in ("none", SLOW))
    gate, peer = Gate(free), (FAR, 5000)
    watch = ReplyGuard(gate, OwnPorts())
    assert [watch.refusal(peer, 1, 64) for _ in range(3)] == [None] * 3
    gate.obey(slow, [])
    assert [watch.refusal(peer, 1, 64) for _ in range(2)] == [None, "rate"]
    gate.obey(free, [])
    assert watch.refusal(peer, 1, 64) is None


def test_without_a_rate_a_source_is_always_answered() -> None:
    """none is no limit."""
    watch = guard(reply_rate="none")
    assert watch.correspondent((FAR, 5000)).bucket is None


def test_all_that_is_known_of_a_source_is_one_bucket() -> None:
    """Its ports share it."""
    watch = guard()
    one, other = watch.correspondent((FAR, 5000)), watch.correspondent((FAR, 5001))
    assert one.bucket is other.bucket
    assert one.bucket is not watch.correspondent(("192.0.2.8", 5000)).bucket


# -- many


@pytest.mark.parametrize("rate", [SLOW, "1000/s", "100000/s"])
def test_a_flood_from_everywhere_takes_bounded_memory(rate: str) -> None:
    """Thirty thousand sources take no more than eight thousand do."""
    watch = guard(reply_rate=rate)
    for number in range(2 * REMEMBERED_SOURCES):
        watch.refusal((source(number), 5000), 10, 64)
    before = sys.getallocatedblocks()
    for number in range(2 * REMEMBERED_SOURCES, 30_000):
        watch.refusal((source(number), 5000), 10, 64)
    assert sys.getallocatedblocks() - before < 5000


def test_a_flood_does_not_give_a_source_a_new_share() -> None:
    """However many others come between, who has used up his share has none."""
    watch = guard(reply_rate=SLOW)
    answered = [
        watch.refusal((source(number), 5000), 10, 64) is None
        for number in range(REMEMBERED_SOURCES + 5000)
    ]
    # Those for whom there is no room share one bucket.
    assert sum(answered[:REMEMBERED_SOURCES]) == REMEMBERED_SOURCES
    assert sum(answered[REMEMBERED_SOURCES:]) == 1
    assert watch.refusal((source(0), 5000), 10, 64) == "rate"


def test_sources_that_have_recovered_make_room_for_others() -> None:
    """A service that has been asked by many, one after the other, goes on answering in full."""
    watch = guard(reply_rate="999999999/s")
    for number in range(3 * REMEMBERED_SOURCES):
        assert watch.refusal((source(number), 5000), 10, 64) is None
    buckets = {id(watch.correspondent((source(number), 5000)).bucket) for number in range(100)}
    assert len(buckets) == 100


def test_a_source_that_has_not_recovered_does_not_keep_others_in() -> None:
    """It goes to the end of the queue; the next at the head makes room."""
    watch = guard(reply_rate=SLOW)
    assert watch.refusal((source(0), 5000), 10, 64) is None
    for number in range(1, REMEMBERED_SOURCES):
        watch.correspondent((source(number), 5000))
    newcomers = [
        watch.refusal((source(REMEMBERED_SOURCES + number), 5000), 10, 64) for number in range(100)
    ]
    assert newcomers == [None] * 100
    assert watch.refusal((source(0), 5000), 10, 64) == "rate"


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run_in_threads(work: Callable[[int], None]) -> None:
    """Runs it on eight threads at once; an error of one is raised here."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.usefixtures("restless")
def test_threads_share_a_source_exactly() -> None:
    """Of many that answer one source at once, as many succeed as it has answers."""
    watch = guard(reply_rate=SLOW)
    answered: list[int] = []

    def answer(_: int) -> None:
        found = [watch.refusal((FAR, 5000), 10, 64) for _ in range(1000)]
        answered.append(found.count(None))

    run_in_threads(answer)
    assert sorted(answered) == [0] * 7 + [1]


@pytest.mark.usefixtures("restless")
def test_threads_share_the_table_of_sources() -> None:
    """While one makes room in it, another may come in."""
    watch = guard(reply_rate="999999999/s")
    for number in range(REMEMBERED_SOURCES):
        watch.correspondent((source(number), 5000))

    def answer(thread: int) -> None:
        for number in range(2000):
            assert watch.refusal((source(thread + 1 << 16 | number), 5000), 10, 64) is None

    run_in_threads(answer)
