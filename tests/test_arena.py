"""The two carriers of datagrams: the same contract, with two system calls a batch or two each."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from harness import wait_until
from hypothesis import example, given
from hypothesis import strategies as st

from netd.arena import (
    BATCH,
    CONTROL_SPACE,
    IP_PKTINFO,
    SLOT,
    Arena,
    answering,
    control_space,
    route_of,
    to_many,
    untied,
)
from netd.carrier import Carrier, Plain, ask_for_destinations, is_wild
from netd.segments import LONGEST_RUN, LONGEST_SEGMENT

IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IPV6_PKTINFO = socket.IPV6_PKTINFO
CARRIERS = [Arena, Plain] if Arena.is_available() else [Plain]
SO_RCVBUFFORCE, SO_TIMESTAMP = 33, 29  # socket(7)
IP_RECVERR = 11  # ip(7)
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFMTU, SIOCDIFADDR = 0x8914, 0x8916, 0x8922, 0x8936  # netdevice(7)
CLONE_NEWNET = 0x40000000
HOSTS = ["127.0.0.1", "0.0.0.0", "::1", "::"]
# Of any size, or of few sizes, as those are that go together.
ANSWERS = st.binary(max_size=200) | st.builds(
    bytes.__mul__, st.binary(min_size=1, max_size=1), st.sampled_from([0, 1, 64, 65])
)


class Line:
    """A bound socket, its carrier, and clients."""

    def __init__(
        self, carrier: type[Arena | Plain], host: str, closing: ExitStack, dual: bool = False
    ) -> None:
        self._closing = closing
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = closing.enter_context(socket.socket(self.family, socket.SOCK_DGRAM))
        self.sock.setblocking(False)
        if dual and self.family == socket.AF_INET6:
            self.sock.setsockopt(IPV6, socket.IPV6_V6ONLY, 0)
        self.sock.bind((host, 0))
        ask_for_destinations(self.sock)
        self.carrier: Carrier = carrier(self.sock, is_wild(self.sock))

    def client(self) -> socket.socket:
        client = self._closing.enter_context(socket.socket(self.family, socket.SOCK_DGRAM))
        client.setblocking(False)
        loopback = "::1" if self.family == socket.AF_INET6 else "127.0.0.1"
        client.connect((loopback, self.sock.getsockname()[1]))
        return client

    def receive(self) -> list[bytes]:
        """What a batch holds; each place of it has been asked for its destination, as it must."""
        batch = [data for data, _ in self.carrier.receive()]
        if self.carrier.wild:
            many = [self.carrier.to_many(place) for place in range(len(batch))]
            assert many == [False] * len(batch)
        return batch


def read_all(client: socket.socket) -> list[bytes]:
    """What has come to a client."""
    found = []
    while True:
        try:
            found.append(client.recv(70_000))
        except BlockingIOError:
            return found


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> type[Arena | Plain]:
    kind: type[Arena | Plain] = request.param
    return kind


@pytest.fixture(params=HOSTS)
def line(request: pytest.FixtureRequest, carrier: type[Arena | Plain]) -> Iterator[Line]:
    with ExitStack() as closing:
        yield Line(carrier, request.param, closing)


# -- the contract


def test_nothing_waits(line: Line) -> None:
    """An empty socket gives an empty batch, at once."""
    assert line.carrier.receive() == []


def test_a_batch_is_bounded(line: Line) -> None:
    """What is beyond it waits for the next."""
    client = line.client()
    for number in range(BATCH + 6):
        client.send(b"%d" % number)
    assert line.receive() == [b"%d" % number for number in range(BATCH)]
    assert line.receive() == [b"%d" % number for number in range(BATCH, BATCH + 6)]
    assert line.receive() == []


def test_each_sender_is_named_and_answered(line: Line) -> None:
    """At its place in the batch, by its address as the socket module gives it."""
    clients = [line.client() for _ in range(5)]
    for client in clients:
        client.send(b"hello")
    batch = line.carrier.receive()
    names = [line.carrier.address(sender) for _, sender in batch]
    assert names == [client.getsockname()[:2] for client in clients]
    assert len({sender for _, sender in batch}) == 5
    assert line.carrier.send([b"%d" % number for number in range(5)]) == []
    assert [read_all(client) for client in clients] == [[b"%d" % number] for number in range(5)]


def test_what_else_comes_with_a_datagram_keeps_no_answer_back(line: Line) -> None:
    """Such as its time of arrival, which systemd asks for by `Timestamping=`."""
    line.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    clients = [line.client() for _ in range(3)]
    for client in clients:
        client.send(b"one")
        client.send(b"two")
    assert len(line.receive()) == 6
    assert line.carrier.send([b"%d" % number for number in range(6)]) == []
    assert [read_all(client) for client in clients] == [[b"0", b"1"], [b"2", b"3"], [b"4", b"5"]]


def test_places_without_an_answer_are_passed_over(line: Line) -> None:
    """At the beginning, in the middle and at the end."""
    client = line.client()
    for _ in range(6):
        client.send(b"hello")
    assert len(line.receive()) == 6
    assert line.carrier.send([None, b"1", b"2", None, b"4", None]) == []
    assert line.carrier.send([None] * 6) == []
    assert read_all(client) == [b"1", b"2", b"4"]


def test_further_answers_go_to_the_same_sender(line: Line) -> None:
    """One by one, after the first or without it."""
    clients = [line.client() for _ in range(2)]
    for client in clients:
        client.send(b"hello")
    assert len(line.receive()) == 2
    assert line.carrier.send([None, b"first"]) == []
    assert line.carrier.send_one(1, b"a longer second one")
    assert line.carrier.send_one(1, b"")
    assert line.carrier.send_one(0, b"only")
    assert read_all(clients[1]) == [b"first", b"a longer second one", b""]
    assert read_all(clients[0]) == [b"only"]


def test_an_answer_that_cannot_go_is_told(line: Line) -> None:
    """By its place; those around it go."""
    client = line.client()
    for _ in range(4):
        client.send(b"hello")
    assert len(line.receive()) == 4
    too_long = bytes(SLOT)  # no datagram has so many bytes
    assert line.carrier.send([b"1", too_long, b"2", too_long]) == [1, 3]
    assert not line.carrier.send_one(2, too_long)
    assert read_all(client) == [b"1", b"2"]


def test_a_batch_leaves_nothing_for_the_next(line: Line) -> None:
    """An answer is written over its request: what was longer before is not seen again."""
    client = line.client()
    for sizes in ([5000, 0, 10], [10, 5000, 0], [0, 10, 5000]):
        sent = [os.urandom(size) for size in sizes]
        for data in sent:
            client.send(data)
        assert line.receive() == sent
        assert line.carrier.send([b"x" * 7000, b"", b"yy"]) == []
        assert read_all(client) == [b"x" * 7000, b"", b"yy"]


def test_the_longest_datagrams_fill_a_whole_batch(line: Line) -> None:
    """No place reaches into its neighbour's."""
    longest = 65_507 if line.family == socket.AF_INET else 65_527
    client = line.client()
    try:
        line.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 2**24)
    except PermissionError:
        pytest.skip("so long a queue needs CAP_NET_ADMIN")
    sent = [os.urandom(longest) for _ in range(BATCH)]
    for data in sent:
        client.send(data)
    assert line.receive() == sent
    assert line.carrier.cut == 0


@pytest.mark.parametrize("host", HOSTS)
def test_arbitrary_batches_come_back(carrier: type[Arena | Plain], host: str) -> None:
    """Each datagram whole, and each answer, of any size, to its own sender."""
    with ExitStack() as closing:
        line = Line(carrier, host, closing)
        clients = [line.client() for _ in range(2)]

        @given(
            st.lists(
                st.tuples(st.integers(0, 1), st.binary(max_size=200), st.none() | ANSWERS),
                max_size=BATCH,
            )
        )
        def check(batch: list[tuple[int, bytes, bytes | None]]) -> None:
            for which, data, _ in batch:
                clients[which].send(data)
            assert line.receive() == [data for _, data, _ in batch]
            assert line.carrier.send([answer for _, _, answer in batch]) == []
            for number, client in enumerate(clients):
                assert read_all(client) == [
                    answer for which, _, answer in batch if which == number and answer is not None
                ]

        check()


# -- answers that go together


@pytest.mark.parametrize(
    "size", [0, 1, 64, 1452, 1453, 9000, LONGEST_SEGMENT, LONGEST_SEGMENT + 1, LONGEST_RUN]
)
def test_answers_to_one_sender_arrive_one_by_one(line: Line, size: int) -> None:
    """Each whole, in order, and between them those to another."""
    one, other = line.client(), line.client()
    # As many as a client's receive buffer holds.
    number = max(3, min(BATCH // 2, 100_000 // (size + 800)))
    for _ in range(number):
        one.send(b"hello")
        other.send(b"hello")
    assert len(line.receive()) == 2 * number
    answers = [os.urandom(size) for _ in range(number)]
    others = [b"%d" % i for i in range(number)]
    both = [answer for pair in zip(answers, others, strict=True) for answer in pair]
    assert line.carrier.send([*both]) == []
    assert read_all(one) == answers
    assert read_all(other) == others


def test_only_the_last_of_a_run_is_shorter(line: Line) -> None:
    """What comes after it is whole again, and an empty one is not lost."""
    client = line.client()
    sizes = [64, 64, 10, 64, 64, 0, 64, 65, 65, 64, 0, 0, 1, 1]
    for _ in sizes:
        client.send(b"hello")
    assert len(line.receive()) == len(sizes)
    answers = [os.urandom(size) for size in sizes]
    assert line.carrier.send([*answers]) == []
    assert read_all(client) == answers


def test_a_batch_may_be_answered_again(line: Line) -> None:
    """Together, one by one, together: nothing of the one is left for the other."""
    client = line.client()
    for _ in range(4):
        client.send(b"hello")
    assert len(line.receive()) == 4
    for answers in ([b"ab"] * 4, [b"a", b"ab", b"abc", b""], [b"x" * 5000] * 4):
        assert line.carrier.send([*answers]) == []
        assert line.carrier.send_one(0, b"and this")
        assert read_all(client) == [*answers, b"and this"]


@pytest.mark.parametrize("mapped", ["", "::ffff:"])
@pytest.mark.parametrize("known", [True, False])
def test_each_answer_leaves_from_the_address_that_was_asked(
    carrier: type[Arena | Plain], mapped: str, known: bool
) -> None:
    """One sender may ask several, in turn; whether anybody wanted to know them or not."""
    with ExitStack() as closing:
        line = Line(carrier, "::" if mapped else "0.0.0.0", closing, dual=True)
        client = closing.enter_context(socket.socket(line.family, socket.SOCK_DGRAM))
        client.setblocking(False)
        port = line.sock.getsockname()[1]
        asked = [f"{mapped}127.0.0.{i % 3 + 1}" for i in range(30)]
        for number, host in enumerate(asked):
            client.sendto(b"%02d" % number, (host, port))
        batch = line.receive() if known else [data for data, _ in line.carrier.receive()]
        assert line.carrier.send([*batch]) == []
        found = [client.recvfrom(100) for _ in asked]
        assert {data: sender[0] for data, sender in found} == dict(zip(batch, asked, strict=True))


@pytest.mark.skipif(not Arena.is_available(), reason="this system has no recvmmsg")
def test_a_fault_of_another_sender_costs_no_answer(loopback: Loopback) -> None:
    """One that is gone has the next message refused on a socket that asks for such news (ip(7)).
    That is no fault of the message, and those after it go together as before."""
    loopback.set_mtu(65_536)
    with ExitStack() as closing:
        line = Line(Arena, "127.0.0.1", closing)
        line.sock.setsockopt(IP, IP_RECVERR, 1)
        gone, client = line.client(), line.client()
        for _ in range(3):
            gone.send(b"hello")
            client.send(b"hello")
        gone.close()
        assert len(line.receive()) == 6
        assert line.carrier.send([b"%d" % number for number in range(6)]) == []
        assert read_all(client) == [b"1", b"3", b"5"]
        before = messages_sent(line.family)
        assert line.carrier.send([None, b"1", None, b"3", None, b"5"]) == []
        assert messages_sent(line.family) - before == 1


def is_local(family: int, host: str) -> bool:
    """Whether a socket can have this address."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.bind((host, 0))
        return True
    return False


class Loopback:
    """The loopback interface of a network in which nothing is set up (netdevice(7))."""

    def set_mtu(self, mtu: int) -> None:
        """Brings it up with packets of so many bytes at most."""
        self._request(SIOCSIFMTU, struct.pack("i", mtu))
        self._request(SIOCSIFFLAGS, struct.pack("h", 1))

    def remove(self, host: str) -> None:
        """Takes its address away, and the way to it."""
        if ":" in host:
            self._request(SIOCDIFADDR, self._address(host), socket.AF_INET6)
        else:
            self._request(SIOCSIFADDR, self._address("0.0.0.0"))

    def add(self, host: str) -> None:
        """Gives it back. An IPv6 one may be used somewhat later (RFC 4862, 5.4)."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._request(SIOCSIFADDR, self._address(host), family)
        wait_until(lambda: is_local(family, host))

    @staticmethod
    def _address(host: str) -> bytes:
        if ":" in host:
            index = socket.if_nametoindex("lo")
            return struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, host), 128, index)
        return struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(host))

    @staticmethod
    def _request(number: int, value: bytes, family: int = socket.AF_INET) -> None:
        if family == socket.AF_INET:
            value = struct.pack("16s24s", b"lo", value)
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, number, value)


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    """What the test opens lies in a network of its own."""
    libc = ctypes.CDLL(None)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip("a network of its own takes CAP_SYS_ADMIN")
        yield Loopback()
        assert libc.setns(before.fileno(), CLONE_NEWNET) == 0


def messages_sent(family: int) -> int:
    """How many messages UDP has sent in this network."""
    six = family == socket.AF_INET6
    text = Path(f"/proc/thread-self/net/snmp{'6' if six else ''}").read_text()
    if six:
        return int(dict(line.split() for line in text.splitlines())["Udp6OutDatagrams"])
    names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["OutDatagrams"])


@pytest.mark.skipif(not Arena.is_available(), reason="this system has no recvmmsg")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_answers_go_by_one_message_where_the_path_takes_it(loopback: Loopback, host: str) -> None:
    """Those that are too long for it go one by one, in fragments."""
    loopback.set_mtu(1280)
    with ExitStack() as closing:
        line = Line(Arena, host, closing)
        assert isinstance(line.carrier, Arena)
        header = 48 if line.family == socket.AF_INET6 else 28
        client = line.client()
        assert line.carrier.longest > 1280
        for size, messages in [(1280 - header, 1), (1280, 10), (1281 - header, 10), (64, 1)]:
            for _ in range(10):
                client.send(b"hello")
            assert len(line.receive()) == 10
            answers = [os.urandom(size) for _ in range(10)]
            before = messages_sent(line.family)
            assert line.carrier.send([*answers]) == []
            assert messages_sent(line.family) - before == messages
            assert read_all(client) == answers
        assert line.carrier.longest == 1280 - header


@pytest.mark.skipif(not Arena.is_available(), reason="this system has no recvmmsg")
@pytest.mark.parametrize("host", HOSTS)
def test_answers_that_find_no_way_are_told(loopback: Loopback, host: str) -> None:
    """Each of them, though they were to go together; when there is a way again, they do."""
    loopback.set_mtu(65_536)
    with ExitStack() as closing:
        line = Line(Arena, host, closing)
        clients = [line.client() for _ in range(3)]
        for client in clients * 4:
            client.send(b"hello")
        assert len(line.receive()) == 12
        loopback.remove(address := clients[0].getpeername()[0])
        assert sorted(line.carrier.send([b"x"] * 11 + [None])) == list(range(11))
        loopback.add(address)
        before = messages_sent(line.family)
        assert line.carrier.send([b"y"] * 12) == []
        assert messages_sent(line.family) - before == 3
        assert [read_all(client) for client in clients] == [[b"y"] * 4] * 3


# -- destinations


@pytest.mark.parametrize(
    ("host", "wild"),
    [("127.0.0.1", False), ("127.0.0.2", False), ("0.0.0.0", True), ("::1", False), ("::", True),
     ("127.255.255.255", True), ("255.255.255.255", True), ("224.0.0.1", True)],
)  # fmt: skip
def test_a_socket_that_hears_more_than_its_own_is_known(host: str, wild: bool) -> None:
    """One bound to no address, or to that of a group."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        assert is_wild(sock) == wild
        ask_for_destinations(sock)
        assert sock.getsockopt(IP, IP_PKTINFO) == wild


def test_an_address_to_come_is_not_wild() -> None:
    """One that was bound by IP_FREEBIND has no route yet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(IP, 15, 1)
        sock.bind(("203.0.113.77", 0))
        assert not is_wild(sock)


def test_a_unix_socket_has_no_destinations() -> None:
    """And takes no control data, which could bring descriptors."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        assert not is_wild(sock)
        assert control_space(sock) == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert control_space(sock) == CONTROL_SPACE


@pytest.mark.skipif(not Arena.is_available(), reason="this system has no recvmmsg")
@pytest.mark.parametrize("ipv6", [False, True])
def test_a_broadcast_is_known_at_its_place(ipv6: bool) -> None:
    """Among others of the batch, on either kind of socket."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    with ExitStack() as closing:
        sock = closing.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        if ipv6:
            sock.setsockopt(IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::" if ipv6 else "0.0.0.0", 0))
        ask_for_destinations(sock)
        client = closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        hosts = ["127.0.0.1", "127.255.255.255", "127.0.0.2", "127.255.255.255", "127.0.0.1"]
        carriers: list[Carrier] = [Arena(sock, True), Plain(sock, True)]
        for tried in carriers:
            sock.setblocking(False)
            for host in hosts:
                client.sendto(b"hello", (host, sock.getsockname()[1]))
            assert len(tried.receive()) == 5
            assert [tried.to_many(place) for place in range(5)] == [
                host == "127.255.255.255" for host in hosts
            ]


# -- control data


def pktinfo(interface: int, ours: str, asked: str) -> bytes:
    return struct.pack("=i", interface) + socket.inet_aton(ours) + socket.inet_aton(asked)


def pktinfo6(asked: str, interface: int) -> bytes:
    return socket.inet_pton(socket.AF_INET6, asked) + struct.pack("=i", interface)


def message(level: int, kind: int, info: bytes, pad: bool = True) -> bytes:
    """A cmsghdr and its data (cmsg(3))."""
    header = struct.pack("=Qii", 16 + len(info), level, kind)
    return header + info + bytes(-len(info) % 8 if pad else 0)


CONTROL_MESSAGES = st.builds(
    message,
    st.sampled_from([IP, IPV6, socket.SOL_SOCKET]) | st.integers(-(2**31), 2**31 - 1),
    st.sampled_from([IP_PKTINFO, IPV6_PKTINFO]) | st.integers(-(2**31), 2**31 - 1),
    st.binary(max_size=40),
)
HEADERS = st.builds(
    lambda length, level, kind: struct.pack("=Qii", length, level, kind),
    st.integers(0, 100) | st.integers(0, 2**64 - 1),
    st.sampled_from([IP, IPV6]),
    st.sampled_from([IP_PKTINFO, IPV6_PKTINFO]),
)
CONTROL = st.lists(st.binary(max_size=40) | CONTROL_MESSAGES | HEADERS, max_size=5).map(b"".join)


@pytest.mark.parametrize(
    ("level", "kind", "info", "many"),
    [
        (IP, IP_PKTINFO, pktinfo(1, "127.0.0.2", "127.0.0.2"), False),
        (IP, IP_PKTINFO, pktinfo(2, "192.0.2.1", "192.0.2.255"), True),
        (IP, IP_PKTINFO, pktinfo(2, "192.0.2.1", "255.255.255.255"), True),
        (IP, IP_PKTINFO, pktinfo(2, "192.0.2.1", "224.0.0.1"), True),
        (IP, IP_PKTINFO, pktinfo(0, "0.0.0.0", "192.0.2.1"), True),
        (IPV6, IPV6_PKTINFO, pktinfo6("::1", 1), False),
        (IPV6, IPV6_PKTINFO, pktinfo6("fe80::1", 2), False),
        (IPV6, IPV6_PKTINFO, pktinfo6("ff02::1", 2), True),
        (IPV6, IPV6_PKTINFO, pktinfo6("ff0e::1", 2), True),
        (IP, IPV6_PKTINFO, pktinfo6("ff02::1", 2), False),
        (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\xff\0\0\0", False),
    ],
)  # fmt: skip
def test_a_datagram_to_many_is_told_by_its_destination(
    level: int, kind: int, info: bytes, many: bool
) -> None:
    """What is not known to be for this host alone is for many."""
    assert to_many(level, kind, info) == many
    other = message(socket.SOL_SOCKET, 29, bytes(16))
    whole = message(level, kind, info)
    for control in (whole, other + whole, whole + other, message(level, kind, info, pad=False)):
        assert answering(control)[0] == many


@pytest.mark.parametrize(
    ("level", "kind", "info", "route"),
    [
        (IP, IP_PKTINFO, pktinfo(7, "192.0.2.1", "192.0.2.1"),
         pktinfo(0, "192.0.2.1", "192.0.2.1")),
        (IPV6, IPV6_PKTINFO, pktinfo6("2001:db8::1", 7), pktinfo6("2001:db8::1", 0)),
        (IPV6, IPV6_PKTINFO, pktinfo6("::ffff:192.0.2.1", 7), pktinfo6("::ffff:192.0.2.1", 0)),
        (IPV6, IPV6_PKTINFO, pktinfo6("fe80::1", 7), pktinfo6("fe80::1", 7)),
    ],
)  # fmt: skip
def test_an_answer_leaves_by_any_interface(
    level: int, kind: int, info: bytes, route: bytes
) -> None:
    """As the routes say, not by the one that the question came in by; a link-local one does."""
    assert untied(level, kind, info) == route
    before, after = message(socket.SOL_SOCKET, 29, bytes(16)), message(IP, 2, b"\1\0\0\0")
    control = before + message(level, kind, info) + after
    assert answering(control)[1] == message(level, kind, route)
    assert route_of([(socket.SOL_SOCKET, 29, b""), (level, kind, info)]) == [(level, kind, route)]


@given(st.integers(), st.integers(), st.binary(max_size=40))
def test_the_route_of_an_answer_is_as_long_as_what_came(level: int, kind: int, info: bytes) -> None:
    """It is written in its place."""
    for place in ((level, kind), (IP, IP_PKTINFO), (IPV6, IPV6_PKTINFO)):
        assert len(untied(*place, info)) == len(info)
        assert untied(*place, untied(*place, info)) == untied(*place, info)
        assert isinstance(to_many(*place, info), bool)


@given(CONTROL)
@example(struct.pack("=Qii", 0, IP, IP_PKTINFO) * 3)
@example(struct.pack("=Qii", 2**64 - 1, IP, IP_PKTINFO) + bytes(12))
@example(message(IP, IP_PKTINFO, pktinfo(1, "127.0.0.1", "127.0.0.1"))[:-6])
def test_arbitrary_control_data_does_no_harm(control: bytes) -> None:
    """It comes to an end, is no longer than what came, and what it cannot read is left out."""
    many, answer = answering(control)
    assert isinstance(many, bool)
    assert len(answer) <= len(control) + 7  # the last one may come without its padding
    assert answering(answer)[1] == answer


@given(st.lists(st.tuples(st.sampled_from([(IP, IP_PKTINFO), (IPV6, IPV6_PKTINFO)]),
                          st.binary(min_size=20, max_size=20)), max_size=4))  # fmt: skip
def test_whole_control_data_is_read_message_by_message(
    messages: list[tuple[tuple[int, int], bytes]],
) -> None:
    """Both carriers decide alike: one reads the bytes, the other what Python made of them."""
    control = b"".join(message(*place, info) for place, info in messages)
    assert answering(control) == (
        any(to_many(*place, info) for place, info in messages),
        b"".join(message(*place, untied(*place, info)) for place, info in messages),
    )


def test_the_figures_fit_what_the_kernel_sends() -> None:
    """Both pktinfos, with their headers; a slot holds the longest datagram."""
    assert socket.CMSG_SPACE(12) + socket.CMSG_SPACE(20) <= CONTROL_SPACE
    assert CONTROL_SPACE % 8 == 0
    assert SLOT > 65_527


@pytest.mark.skipif(not Arena.is_available(), reason="this system has no recvmmsg")
def test_a_carrier_gives_its_memory_back() -> None:
    """Services come and go."""

    def mapped() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        before = mapped()
        for _ in range(20):
            Arena(sock, False)
        assert mapped() - before < 10 * BATCH * SLOT
