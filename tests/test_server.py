"""The four servers: the hooks of the standard library, threads, counts."""

from __future__ import annotations

import os
import resource
import socket
import socketserver
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import (
    DATAGRAMS,
    PATIENCE,
    STREAMS,
    TRANSPORTS,
    ask,
    read_all,
    read_exactly,
    serve,
    wait_until,
)
from kinds import (
    ANY_PORT,
    CLASSES,
    EVERY_WAY,
    Steps,
    Stock,
    Talk,
    descriptors,
    echoes,
    ended,
    faults,
)

from netd.admission import Admission
from netd.errors import ProtocolError
from netd.gate import Gate
from netd.handler import RequestHandler
from netd.listener import SocketOptions
from netd.pool import Pool
from netd.server import TCPServer
from netd.service import Service
from netd.shortage import _reserve

# -- hooks

HOOKS = (
    "get_request", "verify_request", "process_request", "finish_request", "shutdown_request",
    "close_request",
)  # fmt: skip


def counted(base: Any, calls: list[str], *hooks: str) -> Any:
    """A server class that notes each call of these hooks."""

    def noting(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any) -> Any:
            calls.append(name)
            return getattr(super(made, self), name)(*args)

        return method

    made = type("Noting", (base,), {name: noting(name) for name in hooks})
    return made


@pytest.mark.parametrize(("transport", "handler"), EVERY_WAY)
def test_every_hook_is_called_for_every_request(transport: str, handler: Any) -> None:
    """In the order of the standard library, by each server, for each kind of handler."""
    calls: list[str] = []
    with serve(handler, transport, server_class=counted(CLASSES[transport], calls, *HOOKS)) as it:
        client = it.connect()
        assert echoes(client)
        client.close()
        wait_until(lambda: "close_request" in calls and not it.server.sessions)
    expected = [*HOOKS]
    if handler is Steps and transport in STREAMS:
        expected.remove("shutdown_request")  # the loop has shut it down, or the peer has
    # The server tries to get one more, and finds none.
    rest = iter([*calls])
    assert all(name in rest for name in expected), calls
    assert [calls.count(name) for name in expected[1:]] == [1] * (len(expected) - 1)


@pytest.mark.parametrize("transport", DATAGRAMS)
@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_alone_is_told_of_datagrams(transport: str, hook: str) -> None:
    """Whoever overrides one wants to see each of them, although none would be called without."""
    calls: list[str] = []
    with serve(Steps, transport, server_class=counted(CLASSES[transport], calls, hook)) as served:
        client = served.connect()
        assert echoes(client)
        assert echoes(client)
        wait_until(lambda: calls.count(hook) >= 2)


@pytest.mark.parametrize(("transport", "handler"), EVERY_WAY)
def test_verify_request_can_refuse(transport: str, handler: Any) -> None:
    """A refused connection is closed, a refused datagram forgotten; neither is admitted."""
    refusing = threading.Event()
    refusing.set()

    class Picky(CLASSES[transport]):  # type: ignore[misc]
        def verify_request(self, *_args: Any) -> bool:
            return not refusing.is_set() or seen.append(1)  # type: ignore[func-returns-value]

    seen: list[int] = []
    with serve(handler, transport, server_class=Picky) as served:
        client = served.connect()
        with suppress(ConnectionError):
            client.send(b"abc")
            wait_until(lambda: seen)
            assert transport in DATAGRAMS or read_all(client) == b""
        assert served.service.gate.admitted == 0
        refusing.clear()
        assert echoes(served.connect())


def fail(*_args: Any) -> None:
    """A method with a fault of ours."""
    raise ValueError("a fault of ours")


class FailingSteps(RequestHandler):
    data_received = datagram_received = fail


class FailingTalk(RequestHandler):
    may_block = True
    handle = datagram_received = fail


class FailingStock(socketserver.BaseRequestHandler):
    handle = fail


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("handler", [FailingSteps, FailingTalk, FailingStock])
def test_handle_error_is_told_of_a_fault(transport: str, handler: Any) -> None:
    """Once, with the address of the client; it may fail itself."""

    class Told(CLASSES[transport]):  # type: ignore[misc]
        def handle_error(self, _request: Any, client_address: Any) -> None:
            told.append(client_address)
            raise OSError("the error log is full")

    told: list[Any] = []
    with serve(handler, transport, server_class=Told) as served:
        client = served.connect()
        with suppress(BrokenPipeError):  # a handler that fails at once may have ended it already
            client.send(b"abc")
        wait_until(lambda: told and not served.server.sessions)
        name = client.getsockname()
        assert served.service.counters.errors == 1
    # In place, an IPv6 address is its host and port.
    assert [address[:2] for address in told] == [name[:2]]


@pytest.mark.parametrize("hook", ["verify_request", "process_request", "finish_request"])
@pytest.mark.parametrize(("transport", "handler"), EVERY_WAY)
def test_a_hook_that_fails_costs_one_request(
    transport: str, handler: Any, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported; the server goes on, and keeps nothing of it."""
    base = CLASSES[transport]
    failures = [1]

    def method(self: Any, *args: Any) -> Any:
        if failures:
            raise ValueError(f"a fault of ours, number {failures.pop()}")
        return getattr(base, hook)(self, *args)

    with serve(handler, transport, server_class=type("Failing", (base,), {hook: method})) as it:
        first = it.connect()
        with suppress(ConnectionError):
            first.send(b"abc")
            assert transport in DATAGRAMS or read_all(first) == b""
        wait_until(lambda: it.service.counters.errors == 1)
        assert echoes(it.connect())
        wait_until(lambda: it.service.gate.open <= 1)
    assert len(faults(caplog)) == 1
    assert it.service.gate.admitted == sum(it.service.counters.ended.values())


@pytest.mark.parametrize("hook", ["shutdown_request", "close_request"])
@pytest.mark.parametrize("handler", [Steps, Talk, Stock])
def test_a_hook_that_fails_at_the_end_is_survived_too(
    handler: Any, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported, and the client after it is served."""

    def method(self: Any, *args: Any) -> Any:
        getattr(TCPServer, hook)(self, *args)
        raise ValueError("a fault of ours")

    with serve(handler, server_class=type("Failing", (TCPServer,), {hook: method})) as served:
        for _ in range(2):
            assert ask(served.connect(), b"abc") == b"ABC"
        wait_until(lambda: not served.server.sessions)
    is_called = (handler, hook) != (Steps, "shutdown_request")
    assert bool(faults(caplog)) is is_called
    assert served.service.gate.open == 0


def test_a_pool_of_ones_own_can_serve() -> None:
    """The well-known recipe: process_request hands process_request_thread to an executor."""

    class Pooled(TCPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            executor.submit(self.process_request_thread, request, client_address)

    with ThreadPoolExecutor(2) as executor:
        for handler in (Talk, Stock):
            with serve(handler, server_class=Pooled) as served:
                assert ask(served.connect(), b"abc") == b"ABC"
                ended(served, eof=1)


def test_requests_can_be_served_in_place() -> None:
    """As by the servers without threads: process_request itself finishes each request."""

    class InPlace(TCPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            self.finish_request(request, client_address)
            self.shutdown_request(request)

    for handler in (Talk, Stock):
        with serve(handler, server_class=InPlace) as served:
            for _ in range(2):
                assert ask(served.connect(), b"abc") == b"ABC"
            ended(served, eof=2)


def test_service_actions_is_called_each_round() -> None:
    """And at each poll interval, as the standard library has it."""

    class Acting(TCPServer):
        rounds = 0

        def service_actions(self) -> None:
            self.rounds += 1

    with Acting(ANY_PORT, Steps) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        wait_until(lambda: server.rounds > 3)
        server.shutdown()
        thread.join(PATIENCE)


def test_handle_timeout_is_called_when_nothing_comes() -> None:
    """After `timeout` seconds of handle_request."""

    class Timing(TCPServer):
        timeout = 0.05
        timeouts = 0

        def handle_timeout(self) -> None:
            self.timeouts += 1

    with Timing(ANY_PORT, Steps) as server:
        server.handle_request()
        assert server.timeouts == 1


@pytest.mark.parametrize("handler", [Steps, Talk, Stock])
def test_handle_request_handles_one(handler: Any) -> None:
    """And no second one; steps to the end of their session, others on a thread."""
    with TCPServer(ANY_PORT, handler) as server:
        for _ in range(3):
            with socket.create_connection(server.server_address, PATIENCE) as client:
                client.sendall(b"abc")
                client.shutdown(socket.SHUT_WR)
                server.handle_request()
                assert read_all(client) == b"ABC"
        wait_until(lambda: not server.sessions)
        assert server.service.counters.ended == {"eof": 3}


def test_handle_request_tells_a_client_why_it_is_refused() -> None:
    """It goes on until the client has read it."""
    gate = Gate(Admission(no_access=["127.0.0.0/8"]))
    service = Service(gate=gate, banner_fail="no: {reason}")
    with TCPServer(ANY_PORT, Stock, service=service) as server:
        before = descriptors()
        for _ in range(2):
            with socket.create_connection(server.server_address, PATIENCE) as client:
                client.shutdown(socket.SHUT_WR)
                server.handle_request()
                assert read_all(client) == b"no: address"
        assert descriptors() == before + 2  # those of the loop that was needed


def test_class_variables_are_honoured() -> None:
    """Those of socketserver, unless there are options, which stand above them."""

    class Small(TCPServer):
        request_queue_size = 3
        allow_reuse_port = True
        address_family = socket.AF_INET6

    with Small(("::1", 0), Steps) as one, Small(one.server_address, Steps) as other:
        assert one.server_address == other.server_address
        assert one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        assert one.request_queue_size == 3
    with Small(("::1", 0), Steps, options=SocketOptions(backlog=7)) as server:
        assert server.request_queue_size == 7
    with TCPServer(ANY_PORT, Steps) as server:
        assert server.request_queue_size == SocketOptions().backlog


def test_a_class_that_is_no_handler_is_refused() -> None:
    """Before anything is bound, by its name."""
    with pytest.raises(TypeError, match="int is not a request handler class"):
        TCPServer(ANY_PORT, int)


# -- threads


def test_servers_can_share_a_pool() -> None:
    """Its limit is for all of them together, and none of them closes it."""
    release, pool = threading.Event(), Pool(limit=1)

    class Wait(RequestHandler):
        def handle(self) -> None:
            self.send(b"in")
            release.wait(PATIENCE)

    with serve(Wait, pool=pool) as one:
        with serve(Wait, pool=pool, banner_fail="{reason}") as other:
            client = one.connect()
            assert read_exactly(client, 2) == b"in"
            assert read_all(other.connect()) == b"threads"
        release.set()
        assert read_all(client) == b""
        wait_until(lambda: not one.server.sessions)
    done = threading.Event()
    pool.submit(done.set, "still open")
    assert done.wait(PATIENCE)
    assert pool.close(PATIENCE)


# -- all at once


def test_a_mixture_of_sessions_is_counted_exactly() -> None:
    """What came in is what has ended, and every one is released once."""

    class Mixture(RequestHandler):
        def handle(self) -> None:
            order = self.read(4)
            if order == b"fail":
                raise ValueError("a fault of ours")
            if order == b"err!":
                raise ProtocolError("a fault of yours")
            self.send(order)

    orders = [b"fail", b"err!", b"done", b""]
    with serve(Mixture, rules=Admission(max_connections_per_source=1000)) as served:

        def come(number: int) -> None:
            client = served.connect()
            with suppress(ConnectionError):
                ask(client, orders[number % 4])
            client.close()

        with ThreadPoolExecutor(8) as executor:
            list(executor.map(come, range(200)))
        ended(served, error=50, protocol_error=50, done=50, eof=50)
        assert served.service.gate.admitted == 200
        assert not served.service.gate._per_source
        assert served.service.counters.errors == 50


def test_a_flood_of_clients_keeps_nobody_from_being_served() -> None:
    """Connections have their turn between the turns of the listener."""
    end = threading.Event()

    def come_and_go(address: Any) -> None:
        while not end.is_set():
            with suppress(OSError), socket.create_connection(address, PATIENCE) as client:
                client.sendall(b"x")

    with serve(Steps) as served:
        client = served.connect()
        floods = [threading.Thread(target=come_and_go, args=(served.address,)) for _ in range(3)]
        for flood in floods:
            flood.start()
        try:
            wait_until(lambda: served.service.gate.admitted > 100)
            for _ in range(100):
                assert echoes(client)
        finally:
            end.set()
            for flood in floods:
                flood.join(PATIENCE)


def test_a_reserve_that_was_lost_is_taken_again_when_there_are_descriptors() -> None:
    """A handler that opens files may be faster than the server, which gives its reserve back for a
    moment to tell a client that there is no room."""

    def to_nowhere() -> int:
        paths = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return sum(os.path.realpath(path) == os.devnull for path in paths)

    limits, taken = resource.getrlimit(resource.RLIMIT_NOFILE), []
    with serve(Steps) as served, socket.socket() as client:
        wait_until(lambda: served.server.interest > 0)
        before = to_nowhere()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 2, limits[1]))
            _reserve.close()
            with suppress(OSError):
                while True:
                    taken.append(os.dup(client.fileno()))
            client.settimeout(PATIENCE)
            client.connect(served.address)
            wait_until(lambda: served.server.interest == 0)  # it waits for better times
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in taken:
                os.close(descriptor)
        wait_until(lambda: to_nowhere() == before)
        client.sendall(b"abc")
        assert read_exactly(client, 3) == b"ABC"
