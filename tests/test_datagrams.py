"""Datagrams on real sockets: whatever way a handler is run, its answers obey the same rules."""

from __future__ import annotations

import array
import logging
import os
import select
import socket
import socketserver
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from harness import wait_until
from hypothesis import given
from hypothesis import strategies as st

from netd import arena, lease
from netd.admission import Admission
from netd.errors import ProtocolError
from netd.gate import REMEMBERED_SOURCES, Gate
from netd.handler import RequestHandler
from netd.listener import SocketOptions
from netd.loop import Loop
from netd.pool import Pool
from netd.server import UDPServer, UnixDatagramServer
from netd.service import Service

Answers = Callable[[bytes], list[bytes]]

IN_PLACE = ("arena", "plain")
WAYS = (*IN_PLACE, "blocking", "stock")
# A loopback address that no other run of these tests uses at the same time.
NEIGHBOUR = f"127.9.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
LONGEST = {"127.0.0.1": 65_507, "::1": 65_527}


def echo(data: bytes) -> list[bytes]:
    return [data]


def handler_for(way: str, answers: Answers) -> type[socketserver.BaseRequestHandler]:
    """A handler that gives these answers: one of ours, one that may block, or a stock one."""

    class Ours(RequestHandler):
        may_block: ClassVar[bool] = way == "blocking"

        def datagram_received(self, data: bytes) -> None:
            for answer in answers(data):
                self.reply(answer)

    class Stock(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            for answer in answers(data):
                sock.sendto(answer, self.client_address)

    return Stock if way == "stock" else Ours


class Post:
    """A server of datagrams that takes in what has come when it is told to, and its clients."""

    def __init__(self, server: Any, closing: ExitStack) -> None:
        self.server = server
        self.service: Service = server.service
        self._closing = closing

    @property
    def counters(self) -> dict[str, Any]:
        found = self.service.counters.snapshot()
        return {key: value for key, value in found.items() if not key.startswith("duration")}

    @property
    def port(self) -> int:
        port: int = self.server.server_address[1]
        return port

    def client(self, name: Any = None, *, connect: bool = True) -> socket.socket:
        """A client at this address, that never waits."""
        sock = socket.socket(self.server.address_family, socket.SOCK_DGRAM)
        self._closing.enter_context(sock)
        sock.setblocking(False)
        if name is not None:
            sock.bind(name)
        if connect:
            sock.connect(self.server.server_address)
        return sock

    def settle(self, received: int) -> None:
        """Takes in all that has come: so many datagrams since the beginning."""
        while self.server.take_in():
            pass
        counters = self.service.counters
        wait_until(lambda: counters.datagrams_in == received and not self.server.sessions)


@contextmanager
def post(
    handler: type[socketserver.BaseRequestHandler],
    address: Any = ("127.0.0.1", 0),
    socket_options: SocketOptions | None = None,
    pool: Pool | None = None,
    bound: socket.socket | None = None,
    **rules: Any,
) -> Iterator[Post]:
    kind = UDPServer if isinstance(address, tuple) else UnixDatagramServer
    service = Service(gate=Gate(Admission.model_validate(rules)))
    with ExitStack() as closing:
        server = kind(
            address, handler,
            service=service, options=socket_options, pool=pool, bound=bound, close_timeout=1,
        )  # fmt: skip
        loop = Loop()
        closing.callback(loop.close)
        closing.callback(server.server_close)
        server.attach(loop)
        yield Post(server, closing)


def read_all(client: socket.socket) -> list[bytes]:
    """What has come to a client."""
    found = []
    while True:
        try:
            found.append(client.recv(70_000))
        except BlockingIOError:
            return found


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a handler is run: in place, on either carrier, or on a thread."""
    return _prepare(request.param, monkeypatch)


@pytest.fixture(params=IN_PLACE)
def in_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either carrier."""
    return _prepare(request.param, monkeypatch)


def _prepare(way: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if way == "plain":
        monkeypatch.setattr(arena, "_libc", None)  # as where it has no recvmmsg
    elif way == "arena" and not arena.Arena.is_available():
        pytest.skip("this system has no recvmmsg")
    return way


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a short name: the path of a socket has 107 bytes."""
    with TemporaryDirectory(prefix="netd-") as name:
        yield Path(name)


# -- what comes goes back


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_of_every_size_come_back_whole(way: str, host: str) -> None:
    """From an empty one to the longest that there is."""
    sizes = [0, 1, 63, 64, 65, 1472, 8192, 8193, 65_506, LONGEST[host]]
    with post(handler_for(way, echo), (host, 0)) as tried:
        client = tried.client()
        for number, size in enumerate(sizes, 1):
            data = os.urandom(size)
            client.send(data)
            tried.settle(number)
            assert read_all(client) == [data]
        assert tried.counters == {
            "bytes_in": sum(sizes), "bytes_out": sum(sizes), "datagrams_in": len(sizes),
            "datagrams_out": len(sizes), "datagrams_dropped": {}, "errors": 0,
            "ended": {} if way in IN_PLACE else {"done": len(sizes)},
        }  # fmt: skip
        assert tried.service.gate.open == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_arbitrary_datagrams_come_back(in_place: str, host: str) -> None:
    """A batch of any sizes, empty and large ones side by side, from several clients."""
    with post(handler_for(in_place, echo), (host, 0)) as tried:
        clients = [tried.client() for _ in range(3)]
        total = 0

        @given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=100),
                                  st.sampled_from([1, 1, 1, 20])), max_size=30))  # fmt: skip
        def check(sent: list[tuple[int, bytes, int]]) -> None:
            nonlocal total
            for number, data, times in sent:
                clients[number].send(data * times)
            total += len(sent)
            tried.settle(total)
            for number, client in enumerate(clients):
                assert read_all(client) == [data * n for which, data, n in sent if which == number]

        check()
        assert tried.counters["datagrams_out"] == total > 0


def test_many_datagrams_are_answered_in_their_order(in_place: str) -> None:
    """More than a batch, and more than a turn of the loop takes."""
    with post(handler_for(in_place, echo)) as tried:
        clients = [tried.client() for _ in range(3)]
        for number in range(300):
            clients[number % 3].send(b"%d" % number)
        assert tried.server.take_in()  # there is more
        tried.settle(300)
        for which, client in enumerate(clients):
            assert read_all(client) == [b"%d" % number for number in range(which, 300, 3)]


@pytest.mark.parametrize("number", [63, 64, 65, 127, 128, 129])
def test_batches_of_every_length_are_taken_in(in_place: str, number: int) -> None:
    """Just as many as there is room for, one less and one more."""
    with post(handler_for(in_place, echo)) as tried:
        client = tried.client()
        sent = [b"%d" % n for n in range(number)]
        for data in sent:
            client.send(data)
        tried.settle(number)
        assert read_all(client) == sent


# -- from where the answer comes


@pytest.mark.parametrize(
    ("wildcard", "only", "asked"),
    [("0.0.0.0", True, "127.0.0.2"), ("0.0.0.0", True, "127.8.9.10"), ("::", True, "::1"),
     ("::", False, "::1"), ("::", False, "::ffff:127.0.0.2")],
)  # fmt: skip
def test_an_answer_comes_from_the_address_that_was_asked(
    way: str, wildcard: str, only: bool, asked: str
) -> None:
    """Also where that is not the address that the system would choose."""
    options = SocketOptions(ipv6_only=only)
    with post(handler_for(way, echo), (wildcard, 0), options) as tried:
        client = tried.client(connect=False)
        client.sendto(b"hello", (asked, tried.port))
        tried.settle(1)
        data, (host, port, *_) = client.recvfrom(100)
        assert (data, host, port) == (b"hello", asked, tried.port)


def test_several_answers_come_from_the_address_that_was_asked(way: str) -> None:
    """Not only the first of them."""
    answers = handler_for(way, lambda data: [data[:4], data[4:8]])
    with post(answers, ("0.0.0.0", 0)) as tried:
        client = tried.client(connect=False)
        client.sendto(bytes(64), ("127.0.0.2", tried.port))
        tried.settle(1)
        found = [client.recvfrom(100)[1] for _ in range(2)]
        assert found == [("127.0.0.2", tried.port)] * 2


# -- to whom no answer goes


def assert_silent(tried: Post, received: int, reason: str) -> None:
    """All that was received was read, and what would have answered it was counted."""
    tried.settle(received)
    counters = tried.counters
    assert counters["datagrams_dropped"] == {reason: received}
    assert (counters["datagrams_out"], counters["bytes_out"]) == (0, 0)


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_broadcast_is_not_answered(way: str, wildcard: str) -> None:
    """Each host of a network would."""
    options = SocketOptions(ipv6_only=False)
    server = post(handler_for(way, echo), (wildcard, 0), options)
    with server as tried, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"anybody?", ("127.255.255.255", tried.port))
        assert_silent(tried, 1, "broadcast")
        assert not read_all(client)


@pytest.mark.parametrize("bound_to", ["0.0.0.0", "224.0.0.251"])
def test_a_multicast_is_not_answered(way: str, bound_to: str) -> None:
    """Neither by a wildcard socket nor by one that is bound to the group."""
    with post(handler_for(way, echo), (bound_to, 0)) as tried:
        group, lo = socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1")
        client = tried.client(connect=False)
        try:
            tried.server.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + lo)
            client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, lo)
            client.sendto(b"anybody?", ("224.0.0.251", tried.port))
        except OSError as error:
            pytest.skip(f"no multicast on the loopback interface: {error}")
        assert_silent(tried, 1, "broadcast")
        assert not read_all(client)


def test_an_ipv6_multicast_is_not_answered(way: str) -> None:
    """ff01::1 is all that listen on this machine (RFC 4291, 2.7.1)."""
    with post(handler_for(way, echo), ("::", 0)) as tried:
        client = tried.client(connect=False)
        for index, _name in socket.if_nameindex():
            with suppress(OSError):  # as on the loopback interface, where multicast is off
                client.sendto(b"anybody?", ("ff01::1", tried.port, 0, index))
            if select.select([tried.server.socket], [], [], 0.1)[0]:
                break
        else:
            pytest.skip("no interface has IPv6 multicast")
        assert_silent(tried, 1, "broadcast")
        assert not read_all(client)


def test_a_socket_bound_to_a_broadcast_address_answers_nothing(way: str) -> None:
    """All that it hears was meant for many."""
    with post(handler_for(way, echo), ("127.255.255.255", 0)) as tried:
        client = tried.client(connect=False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"anybody?", tried.server.server_address)
        assert_silent(tried, 1, "broadcast")
        assert not read_all(client)


def test_what_came_before_its_destination_was_asked_for_is_not_answered(in_place: str) -> None:
    """An inherited socket has heard something before netd began: nobody knows for whom."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound, ExitStack() as closing:
        bound.bind(("0.0.0.0", 0))
        client = closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setblocking(False)
        client.connect(("127.0.0.1", bound.getsockname()[1]))
        client.send(b"early")
        tried = closing.enter_context(post(handler_for(in_place, echo), bound=bound.dup()))
        client.send(b"late")
        tried.settle(2)
        assert read_all(client) == [b"late"]
        assert tried.counters["datagrams_dropped"] == {"broadcast": 1}


@pytest.mark.parametrize("port", [7, 13, 17, 19, 37, 1023])
def test_a_sender_at_a_service_port_is_not_answered(way: str, port: int) -> None:
    """It would answer the answer (CVE-1999-0103)."""
    with post(handler_for(way, echo)) as tried:
        try:
            client = tried.client((NEIGHBOUR, port))
        except PermissionError:
            pytest.skip("binding a system port needs CAP_NET_BIND_SERVICE")
        client.send(b"hello")
        client.send(b"")
        assert_silent(tried, 2, "service_port")
        assert not read_all(client)


def test_a_sender_at_an_own_port_is_not_answered(way: str) -> None:
    """Two services of netd do not answer each other, on whatever hosts they are."""
    with post(handler_for(way, echo)) as tried:
        client = tried.client((NEIGHBOUR, tried.port))
        client.send(b"hello")
        assert_silent(tried, 1, "service_port")
        assert not read_all(client)


def test_a_sender_whose_port_becomes_an_own_one_is_answered_no_more(way: str) -> None:
    """A service that starts later counts for those that are known already."""
    with post(handler_for(way, echo)) as tried:
        client = tried.client((NEIGHBOUR, 0))
        client.send(b"hello")
        tried.settle(1)
        assert read_all(client) == [b"hello"]
        tried.service.own_ports.add(client.getsockname()[1])
        client.send(b"hello")
        tried.settle(2)
        assert not read_all(client)
        assert tried.counters["datagrams_dropped"] == {"service_port": 1}


def test_every_listener_adds_its_port_to_the_own_ones() -> None:
    """On both families."""
    service, handler = Service(), handler_for("arena", echo)
    one = UDPServer(("127.0.0.1", 0), handler, service=service)
    other = UDPServer(("::1", 0), handler, service=service)
    with one, other:
        assert service.own_ports.numbers == {one.server_address[1], other.server_address[1]}


# -- how much is answered


@pytest.mark.parametrize(
    ("request_size", "answer_size", "goes"),
    [(0, 64, True), (0, 65, False), (1, 64, True), (63, 65, False), (64, 64, True),
     (65, 65, True), (65, 66, False), (1000, 1000, True), (1000, 1001, False)],
)  # fmt: skip
def test_an_answer_is_no_longer_than_its_request_or_64_bytes(
    way: str, request_size: int, answer_size: int, goes: bool
) -> None:
    """A longer one is dropped whole, and counted."""
    with post(handler_for(way, lambda _: [b"x" * answer_size])) as tried:
        client = tried.client()
        client.send(bytes(request_size))
        tried.settle(1)
        assert read_all(client) == ([b"x" * answer_size] if goes else [])
        assert tried.counters["datagrams_dropped"] == ({} if goes else {"amplification": 1})
        assert tried.counters["bytes_out"] == (answer_size if goes else 0)


@pytest.mark.parametrize(
    ("sizes", "sent"),
    [
        ([10, 20], [10, 20]),
        ([36, 0], [36, 0]),
        ([37, 0], [37]),
        ([0, 36], [0, 36]),
        ([0, 37], [0]),
        ([65, 10], [10]),
        ([10, 65, 26], [10, 26]),
        ([0] * 64, [0] * 3),
        ([1] * 64, [1] * 3),
    ],
)
def test_several_answers_share_the_limit(way: str, sizes: list[int], sent: list[int]) -> None:
    """The headers of each further one count too: else an empty datagram would bring many."""
    answers = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    with post(handler_for(way, lambda _: answers)) as tried:
        client = tried.client()
        client.send(b"")
        tried.settle(1)
        found = read_all(client)
        assert [len(answer) for answer in found] == sent
        assert all(answer in answers for answer in found)
        assert tried.counters["datagrams_out"] == len(sent)
        assert tried.counters["bytes_out"] == sum(sent)
        lost = len(sizes) - len(sent)
        assert tried.counters["datagrams_dropped"] == ({"amplification": lost} if lost else {})
        assert sum(sent) + 28 * (len(sent) - 1) <= 64


def test_a_handler_is_told_how_much_it_may_answer(way: str) -> None:
    """Before each answer; on UDP no sender is proven."""
    told: list[tuple[int, bool]] = []

    class Teller(RequestHandler):
        may_block: ClassVar[bool] = way in ("blocking", "stock")

        def datagram_received(self, data: bytes) -> None:
            for answer in (data, b"", b""):
                told.append((self.reply_limit, self.connection.proven))
                self.reply(answer)

    with post(Teller) as tried:
        client = tried.client()
        client.send(bytes(30))
        tried.settle(1)
        assert told == [(64, False), (6, False), (0, False)]
        assert [len(data) for data in read_all(client)] == [30, 0]


def own_address() -> str:
    """An address of this machine that is not a loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))
        except OSError:
            pytest.skip("this machine has no address but that of loopback")
        host: str = probe.getsockname()[0]
    return host


def test_a_source_is_answered_at_its_rate(way: str) -> None:
    """What exceeds it is dropped, whichever port asks."""
    host = own_address()
    with post(handler_for(way, echo), (host, 0), reply_rate="1/h") as tried:
        clients = [tried.client() for _ in range(3)]
        for number, client in enumerate(clients, 1):
            client.send(b"hello")
            tried.settle(number)
        assert [read_all(client) for client in clients] == [[b"hello"], [], []]
        assert tried.counters["datagrams_dropped"] == {"rate": 2}


def test_loopback_has_no_rate(way: str) -> None:
    """It cannot be forged from outside."""
    with post(handler_for(way, echo), reply_rate="1/h") as tried:
        client = tried.client()
        for number in range(1, 101):
            client.send(b"hello")
            tried.settle(number)
        assert read_all(client) == [b"hello"] * 100


def test_a_batch_is_taken_as_far_as_its_source_may(way: str) -> None:
    """Those that came first; another source is not concerned, nor is the next port's own turn."""
    rate = {"rate": "1/h", "burst": 4}
    with post(handler_for(way, echo), rate_per_source=rate) as tried:
        first, second = tried.client(), tried.client()
        other = tried.client(("127.0.0.2", 0))
        for number in range(3):
            for client in (first, second, other):
                client.send(b"%d" % number)
        tried.settle(9)
        # Threads answer in any order.
        assert [sorted(read_all(client)) for client in (first, second, other)] == [
            [b"0", b"1"], [b"0", b"1"], [b"0", b"1", b"2"],
        ]  # fmt: skip
        assert tried.counters["datagrams_dropped"] == {"rate": 2}
        assert dict(tried.service.gate.refused) == {"rate": 2}


@pytest.mark.parametrize("burst", [100, 700])
def test_a_flood_is_answered_as_far_as_its_sources_may(way: str, burst: int) -> None:
    """To the last datagram, though the gate is not asked about each batch of many."""
    rate = {"rate": "1/h", "burst": burst}
    with post(handler_for(way, echo), rate_per_source=rate) as tried:
        clients = [tried.client((f"127.0.0.{host}", 0)) for host in (2, 2, 3)]
        asked, answers = 0, [0, 0, 0]
        for turn in range(30):
            for client in clients:
                for _ in range(32):
                    client.send(b"%d" % turn)
            asked += 32 * len(clients)
            tried.settle(asked)
            for which, client in enumerate(clients):
                answers[which] += len(read_all(client))
        assert (answers[0] + answers[1], answers[2]) == (burst, burst)
        assert tried.service.gate.refused == {"rate": asked - 2 * burst}


def test_the_ports_of_a_source_share_what_it_was_granted(
    in_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate is asked about a batch of many from one of them, then not about each datagram of
    the others; and what all of them used is counted."""
    monkeypatch.setattr(lease, "LEASE", 3600.0)
    rate = {"rate": "1/h", "burst": 10_000}
    with post(handler_for(in_place, echo), rate_per_source=rate) as tried:
        gate, asked = tried.service.gate, []
        judge = gate.judge_datagrams
        monkeypatch.setattr(
            gate, "judge_datagrams", lambda *args: asked.append(args) or judge(*args)
        )
        many, others = tried.client(), [tried.client() for _ in range(5)]
        other_source = tried.client(("127.0.0.2", 0))
        for _ in range(32):
            many.send(b"many")
        tried.settle(32)
        for client in (*others, *others, other_source):
            client.send(b"one")
        tried.settle(43)
        assert asked == [("127.0.0.1", 32), ("127.0.0.2", 1)]
        assert [len(read_all(client)) for client in (many, *others, other_source)] == [
            32, 2, 2, 2, 2, 2, 1,
        ]  # fmt: skip
        tried.server._exchange._settle()
        assert judge("127.0.0.1", 10_000)[1] == 10_000 - 42
        assert judge("127.0.0.2", 10_000)[1] == 10_000 - 1


# -- who is heard


def test_a_refused_source_is_not_heard(way: str) -> None:
    """Its datagrams are counted, and reach no handler."""
    heard: list[bytes] = []

    def hear(data: bytes) -> list[bytes]:
        heard.append(data)
        return [data]

    with post(handler_for(way, hear), only_from=["127.0.0.2"]) as tried:
        friend, stranger = tried.client(("127.0.0.2", 0)), tried.client(("127.0.0.3", 0))
        for client in (stranger, friend, stranger):
            client.send(b"hello")
        tried.settle(3)
        assert heard == [b"hello"]
        assert read_all(friend) == [b"hello"]
        assert not read_all(stranger)
        assert tried.service.gate.refused == {"address": 2}
        counters = tried.counters
        assert counters["datagrams_dropped"] == {"address": 2}
        assert (counters["bytes_in"], counters["bytes_out"]) == (15, 5)


@pytest.mark.parametrize("way", ["blocking", "stock"])
def test_without_a_thread_a_datagram_is_refused(way: str) -> None:
    """And counted so; what comes later is served."""
    with post(handler_for(way, echo), pool=Pool(limit=0)) as tried:
        client = tried.client()
        client.send(b"hello")
        tried.settle(1)
        assert not read_all(client)
        assert tried.counters["datagrams_dropped"] == {"threads": 1}
        assert tried.service.gate.refused == {"threads": 1}
        assert (tried.service.gate.open, tried.service.gate.admitted) == (0, 0)


# -- when a handler fails


def failing(data: bytes) -> list[bytes]:
    if data.startswith(b"bug"):
        raise RuntimeError("a bug of ours")
    if data.startswith(b"bad"):
        raise ProtocolError("a fault of the peer")
    return [data]


def test_an_error_over_one_datagram_hurts_no_other(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The others of its batch are answered; ours is logged with its traceback, theirs is not."""
    with post(handler_for(way, failing)) as tried, caplog.at_level(logging.WARNING, "netd"):
        client = tried.client()
        sent = [b"one", b"bug", b"two", b"bad", b"three", b"bad", b"four"]
        for data in sent:
            client.send(data)
        tried.settle(len(sent))
        assert sorted(read_all(client)) == sorted([b"one", b"two", b"three", b"four"])
        counters = tried.counters
        assert counters["errors"] == 1
        assert counters["datagrams_dropped"] == {"error": 1, "protocol_error": 2}
        assert (counters["datagrams_in"], counters["datagrams_out"]) == (7, 4)
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert record.exc_info is not None
        assert "while serving" in record.getMessage()


@pytest.mark.usefixtures("in_place")
def test_what_was_answered_before_an_error_is_not_sent() -> None:
    """Neither the first answer nor a further one."""

    class Late(RequestHandler):
        def datagram_received(self, data: bytes) -> None:
            self.reply(b"1" + data)
            self.reply(b"2" + data)
            if data == b"bad":
                raise ProtocolError("too late")

    with post(Late) as tried:
        client = tried.client()
        for data in (b"a", b"bad", b"b"):
            client.send(data)
        tried.settle(3)
        assert sorted(read_all(client)) == [b"1a", b"1b", b"2a", b"2b"]
        assert tried.counters["datagrams_dropped"] == {"protocol_error": 1}
        assert (tried.counters["datagrams_out"], tried.counters["bytes_out"]) == (4, 8)


# -- all together


def test_counters_are_exact(in_place: str) -> None:
    """A mixture of everything, in one batch: each datagram stands in the right place."""

    def mixed(data: bytes) -> list[bytes]:
        if data == b"much":
            return [bytes(65)]
        if data == b"twice":
            return [b"1", b"22"]
        return [] if data == b"sink" else failing(data)

    with post(handler_for(in_place, mixed), no_access=["127.0.0.3"]) as tried:
        client, stranger = tried.client(), tried.client(("127.0.0.3", 0))
        own = tried.client((NEIGHBOUR, tried.port))
        for data in (b"echo", b"much", b"", b"twice", b"sink", b"bad", bytes(5000)):
            client.send(data)
        stranger.send(b"stranger")
        own.send(b"own")
        tried.settle(9)
        assert sorted(read_all(client)) == sorted([b"echo", b"", bytes(5000), b"1", b"22"])
        assert tried.counters == {
            "datagrams_in": 9, "bytes_in": 4 + 4 + 0 + 5 + 4 + 3 + 5000 + 8 + 3,
            "datagrams_out": 5, "bytes_out": 4 + 0 + 1 + 2 + 5000,
            "datagrams_dropped": {
                "amplification": 1, "protocol_error": 1, "address": 1, "service_port": 1,
            },
            "ended": {}, "errors": 0,
        }  # fmt: skip


def test_a_flood_of_senders_takes_bounded_memory(in_place: str) -> None:
    """What is known of senders is forgotten again."""
    with post(handler_for(in_place, echo)) as tried:
        target = tried.server.server_address

        def visit(first: int, number: int) -> None:
            for n in range(first, first + number):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.bind((f"127.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", 0))
                    client.sendto(b"x", target)
                if n % 50 == 49:
                    tried.settle(n + 1)

        # The table of the gate is full then, and that of the exchange has just been emptied.
        first = REMEMBERED_SOURCES + 104
        visit(0, first)
        before = sys.getallocatedblocks()
        visit(first, 2 * REMEMBERED_SOURCES)
        assert sys.getallocatedblocks() - before < 2000
        counters = tried.counters
        # The system may have given one of them the number of an own port.
        own = counters["datagrams_dropped"].get("service_port", 0)
        assert counters["datagrams_out"] + own == counters["datagrams_in"]
        assert own < 10


# -- UNIX sockets


@pytest.mark.parametrize("abstract", [False, True])
def test_a_named_unix_peer_is_answered_without_a_limit(
    way: str, folder: Path, abstract: bool
) -> None:
    """Its name cannot be forged."""
    with post(handler_for(way, lambda data: [data, b"y" * 5000]), str(folder / "s")) as tried:
        client = tried.client(b"\0" + os.fsencode(folder) if abstract else str(folder / "c"))
        client.send(b"hello")
        tried.settle(1)
        assert read_all(client) == [b"hello", b"y" * 5000]
        counters = tried.counters
        assert (counters["datagrams_out"], counters["bytes_out"]) == (2, 5005)
        assert not counters["datagrams_dropped"]
        assert counters["errors"] == 0


def test_an_unnamed_unix_peer_is_heard_and_not_answered(way: str, folder: Path) -> None:
    """There is no way to it."""
    heard: list[bytes] = []

    def hear(data: bytes) -> list[bytes]:
        heard.append(data)
        return [data]

    with post(handler_for(way, hear), str(folder / "s")) as tried:
        client = tried.client()
        client.send(b"hello")
        assert_silent(tried, 1, "unnamed")
        assert heard == [b"hello"]
        assert tried.counters["errors"] == 0


def test_a_unix_peer_that_does_not_read_stops_nobody(way: str, folder: Path) -> None:
    """What its full queue does not take is dropped and counted."""
    with post(handler_for(way, echo), str(folder / "s")) as tried:
        # The system bounds the queue of a peer that is not connected (net.unix.max_dgram_qlen).
        deaf = tried.client(str(folder / "deaf"), connect=False)
        other = tried.client(str(folder / "other"))
        for number in range(1, 41):
            deaf.sendto(b"hello", tried.server.server_address)
            tried.settle(number)
        other.send(b"still there?")
        tried.settle(41)
        assert read_all(other) == [b"still there?"]
        taken = len(read_all(deaf))
        assert 0 < taken < 40
        counters = tried.counters
        assert counters["datagrams_dropped"] == {"unsent": 40 - taken}
        assert counters["datagrams_out"] == taken + 1
        assert counters["bytes_out"] == 5 * taken + 12


def test_a_connected_unix_peer_that_does_not_read_does_not_block(way: str, folder: Path) -> None:
    """It can hold what the send buffer of the listener holds; when it goes, that is free again."""
    with post(handler_for(way, echo), str(folder / "s")) as tried:
        other = tried.client(str(folder / "other"))
        number = 0
        with tried.client(str(folder / "deaf")) as deaf:
            while not tried.counters["datagrams_dropped"]:
                deaf.send(bytes(10_000))
                tried.settle(number := number + 1)
                assert number < 1000
        assert tried.counters["datagrams_dropped"] == {"unsent": 1}
        assert tried.counters["datagrams_out"] == number - 1
        other.send(b"hello")
        tried.settle(number + 1)
        assert read_all(other) == [b"hello"]


def test_a_unix_peer_that_has_gone_is_counted(way: str, folder: Path) -> None:
    """Its answer finds nobody."""
    with post(handler_for(way, echo), str(folder / "s")) as tried:
        with tried.client(str(folder / "c")) as client:
            client.send(b"hello")
        assert_silent(tried, 1, "unsent")


def test_a_datagram_longer_than_a_slot_is_dropped(way: str, folder: Path) -> None:
    """A part of it would be something else; those around it are answered."""
    with post(handler_for(way, echo), str(folder / "s")) as tried:
        client = tried.client(str(folder / "c"))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
        for data in (b"before", bytes(65_537), b"after"):
            client.send(data)
        tried.settle(2)
        assert sorted(read_all(client)) == [b"after", b"before"]
        counters = tried.counters
        assert counters["datagrams_dropped"] == {"cut": 1}
        assert counters["bytes_in"] == 11


def test_a_datagram_as_long_as_a_slot_comes_back(way: str, folder: Path) -> None:
    """The longest that is taken."""
    with post(handler_for(way, echo), str(folder / "s")) as tried:
        # The answer has to fit into what the server's own socket may have under way.
        tried.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
        client = tried.client(str(folder / "c"))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
        client.send(bytes(65_536))
        tried.settle(1)
        assert read_all(client) == [bytes(65_536)]


def test_descriptors_that_a_unix_peer_sends_are_not_kept(way: str, folder: Path) -> None:
    """Else any client could use up all that netd may have."""
    with post(handler_for(way, echo), str(folder / "s")) as tried:
        client = tried.client(str(folder / "c"))
        client.send(b"hello")
        tried.settle(1)  # a thread, and what it opens, is there from now on
        before = set(os.listdir("/proc/self/fd"))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
        for number in range(2, 6):
            client.sendmsg([b"take this"], [rights])
            tried.settle(number)
        assert set(os.listdir("/proc/self/fd")) == before
        assert read_all(client) == [b"hello"] + [b"take this"] * 4


# -- stock handlers


class StockUpper(socketserver.DatagramRequestHandler):
    """As in the tutorials."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


class StockSink(socketserver.DatagramRequestHandler):
    """RFC 863, as it is written with the standard library."""

    def handle(self) -> None:
        self.rfile.read()


class StockCurious(socketserver.BaseRequestHandler):
    """Wants to know where it is, and tries what it should not."""

    found: ClassVar[list[object]] = []

    def handle(self) -> None:
        sock = self.request[1]
        self.found.append((sock.family, sock.type, sock.getsockname(), sock.fileno()))
        for name in ("sendmsg", "send", "recv", "close", "connect", "settimeout", "setsockopt"):
            self.found.append(hasattr(sock, name))


def test_a_stock_handler_answers_by_its_file() -> None:
    """Unchanged; an empty request may have an empty answer."""
    with post(StockUpper) as tried:
        client = tried.client()
        for number, data in enumerate((b"hello", b""), 1):
            client.send(data)
            tried.settle(number)
        assert read_all(client) == [b"HELLO", b""]


def test_a_stock_sink_sends_nothing() -> None:
    """The standard library would answer each datagram with an empty one."""
    with post(StockSink) as tried:
        client = tried.client()
        client.send(b"hello")
        tried.settle(1)
        assert not read_all(client)
        assert tried.counters["datagrams_out"] == 0
        assert not tried.counters["datagrams_dropped"]


def test_a_stock_handler_cannot_go_around_the_rules() -> None:
    """It may ask about its socket; it can neither change the listener nor send by other ways."""
    StockCurious.found.clear()
    with post(StockCurious) as tried:
        tried.client().send(b"hello")
        tried.settle(1)
        sock = tried.server.socket
        about = (sock.family, sock.type, sock.getsockname(), sock.fileno())
        assert StockCurious.found == [about] + [False] * 7


def test_a_stock_handler_may_send_elsewhere_by_the_same_rules() -> None:
    """To another client, with flags or without; not to a service port, nor more in all."""
    with post(handler_for("arena", echo)) as fellow:

        class Forward(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                for address in (elsewhere, ("127.0.0.1", 7), fellow.server.server_address):
                    sock.sendto(memoryview(data), 0, address)

        with post(Forward) as tried:
            tried.service.own_ports.add(fellow.port)
            other = tried.client(connect=False)
            other.bind(("127.0.0.1", 0))
            elsewhere = other.getsockname()
            tried.client().send(b"hello")
            tried.settle(1)
            assert read_all(other) == [b"hello"]
            assert tried.counters["datagrams_dropped"] == {"service_port": 2}
            assert not fellow.server.take_in()
            assert fellow.counters["datagrams_in"] == 0


@pytest.mark.parametrize(
    ("address", "client_name", "peer"),
    [
        (("127.0.0.1", 0), ("127.0.0.1", 0), "127.0.0.1:{port}"),
        (("::1", 0), ("::1", 0), "[::1]:{port}"),
        ("{folder}/s", "{folder}/c", "unix:{folder}/c"),
        ("{folder}/s", "\0{folder}", "unix:@{folder}"),
        ("{folder}/s", None, "unix:unnamed"),
    ],
)
def test_a_datagram_on_a_thread_is_named_in_the_log(
    folder: Path, address: Any, client_name: Any, peer: str
) -> None:
    """By its address or its path, not by how Python writes them."""
    peers: list[str] = []

    class Named(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            peers.append(self.request[1].session.peer)

    if isinstance(address, str):
        address = address.format(folder=folder)
        client_name = client_name and client_name.format(folder=folder)
    with post(Named, address) as tried:
        client = tried.client(client_name)
        client.send(b"hello")
        tried.settle(1)
        port = client.getsockname()[1] if isinstance(address, tuple) else 0
    assert peers == [peer.format(folder=folder, port=port)]
