"""What the servers of the standard library do wrong, and netd's do not.

Each test runs one scenario against both, and asserts the defect of the one and its cure in the
other. What a scenario observes in order to tell them apart is far apart: it takes no luck and no
tight time.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import certificates
import pytest
from harness import PATIENCE, environment, read_all, read_exactly, wait_until

from netd.deadline import Timeouts
from netd.handler import RequestHandler
from netd.handshake import Handshake
from netd.listener import SocketOptions
from netd.server import TCPServer, UDPServer
from netd.service import Service
from netd.stock import LINE_LIMIT
from netd.tls import Tls, TlsStanza

STOCK, CURED = "stock", "netd"
CLASSES: dict[tuple[str, str], Any] = {
    (STOCK, "tcp"): socketserver.ThreadingTCPServer, (CURED, "tcp"): TCPServer,
    (STOCK, "udp"): socketserver.ThreadingUDPServer, (CURED, "udp"): UDPServer,
}  # fmt: skip
ANY_PORT = ("127.0.0.1", 0)
AT_ONCE = 0.5
"""Seconds after which a wait that would last for ever is taken for one."""


class Echo(socketserver.StreamRequestHandler):
    """Answers each line with the same."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class AtWork:
    """A server and the thread that serves, with what ended it if it failed."""

    def __init__(self, server: Any, poll_interval: float) -> None:
        self.server = server
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._serve, args=(poll_interval,), daemon=True)
        self.thread.start()

    def _serve(self, poll_interval: float) -> None:
        try:
            self.server.serve_forever(poll_interval)
        except Exception as failure:
            self.failure = failure


@contextmanager
def at_work(
    base: Any, handler: Any, address: Any = ANY_PORT, poll_interval: float = 0.01, **netd: Any
) -> Iterator[AtWork]:
    """A server that serves for the time of a `with`; further keywords are for netd's alone."""
    settings = netd if issubclass(base, TCPServer | UDPServer) else {}
    # Else the stock class waits for its threads, which is a defect and a test of its own.
    server = type("Server", (base,), {"daemon_threads": True})(address, handler, **settings)
    work = AtWork(server, poll_interval)
    try:
        yield work
    finally:
        server.shutdown()
        work.thread.join(PATIENCE)
        server.server_close()


def connect(server: Any) -> socket.socket:
    """A client of a server of streams."""
    return socket.create_connection(server.server_address, PATIENCE)


def on_thread(call: Callable[[], object]) -> threading.Thread:
    """A call that may never return."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


# -- listening


def connected_without_accept(base: Any) -> int:
    """How many of 20 clients are connected while nobody accepts."""
    with base(ANY_PORT, Echo) as server, ExitStack() as closing:
        waiting = []
        for _ in range(20):
            client = closing.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.server_address)
            waiting.append(client)
        end = time.monotonic() + AT_ONCE
        while waiting and time.monotonic() < end:
            _, connected, _ = select.select([], waiting, [], 0.01)
            waiting = [client for client in waiting if client not in connected]
        return 20 - len(waiting)


def test_more_than_five_clients_can_wait() -> None:
    """A burst of clients need not wait for the second try of their kernel, a second later."""
    assert connected_without_accept(CLASSES[STOCK, "tcp"]) < 10
    assert connected_without_accept(CLASSES[CURED, "tcp"]) == 20


def restarts(base: Any) -> bool:
    """Whether a server can be started anew after it has closed a connection."""

    class Leave(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"bye")

    with at_work(base, Leave) as work:
        address = work.server.server_address
        with connect(work.server) as client:
            assert read_all(client) == b"bye"  # the server closes first: TIME_WAIT is on its side
        wait_until(lambda: is_in_time_wait(address[1]))
    try:
        base(address, Leave).server_close()
    except OSError:
        return False
    return True


def is_in_time_wait(port: int) -> bool:
    """Whether a connection from a port is in TIME_WAIT, state 6 of the kernel's table."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "06" for row in rows)


def test_a_restart_finds_the_address_free() -> None:
    """The last connections of a server, in TIME_WAIT for a minute, do not hold the address."""
    assert not restarts(CLASSES[STOCK, "tcp"])
    assert restarts(CLASSES[CURED, "tcp"])


# -- accepting

CROWDED = """
import json, logging, resource, socketserver, sys, threading
from netd.server import TCPServer
from netd.service import Service

class Server({"stock": socketserver.ThreadingTCPServer, "netd": TCPServer}[sys.argv[1]]):
    daemon_threads = True
    request_queue_size = 128
    calls = 0

    def get_request(self):
        self.calls += 1
        return super().get_request()

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)

class Lines(logging.Handler):
    count = 0

    def emit(self, record):
        self.count += 1

lines = Lines()
logging.getLogger("netd").addHandler(lines)
server = Server(("127.0.0.1", 0), Echo)
if sys.argv[1] == "netd":
    server.service.banner_fail = "full: {reason}"
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
for _ in sys.stdin:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([server.calls, used.ru_utime + used.ru_stime, lines.count]), flush=True)
"""


class Child:
    """A script in a process of its own, that is asked line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self) -> Any:
        """The next line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the script has ended"
        return json.loads(line)

    def ask(self) -> Any:
        """What it prints when it is given a line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.read()


@contextmanager
def child(script: str, kind: str, folder: Path) -> Iterator[Child]:
    """A script at work; its one argument says which kind of server it is to run."""
    with subprocess.Popen(
        [sys.executable, "-c", script, kind], cwd=folder, env=environment(folder), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield Child(process)
        finally:
            process.kill()


def crowd(kind: str, folder: Path) -> tuple[int, float, float]:
    """What a second with a full descriptor table costs, under clients who come again: calls of
    accept, and CPU seconds; with the log lines a second from the first client on. Whoever comes
    when the others have gone is served."""
    with child(CROWDED, kind, folder) as server, ExitStack() as closing:
        address = ("127.0.0.1", server.read())
        first = time.monotonic()

        def come() -> socket.socket:
            return closing.enter_context(socket.create_connection(address, PATIENCE))

        clients = [come() for _ in range(40)]
        wait_until(lambda: server.ask()[0] > 24 - 10)
        calls, cpu, _ = server.ask()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            left, _, _ = select.select(clients, [], [], 0.01)
            for client in left:
                client.close()
                clients[clients.index(client)] = come()
        calls_after, cpu_after, lines = server.ask()
        seconds = time.monotonic() - first
        for client in clients:
            client.close()
        wait_until(lambda: is_served(come))
        return calls_after - calls, cpu_after - cpu, lines / seconds


def is_served(come: Callable[[], socket.socket]) -> bool:
    """Whether a new client is answered."""
    with come() as client:
        try:
            client.sendall(b"hello\n")
            return client.recv(6) == b"hello\n"
        except ConnectionError:
            return False


def test_a_full_descriptor_table_costs_next_to_nothing(tmp_path: Path) -> None:
    """Clients are refused at a bounded rate, which the log tells once a second, and not more."""
    calls, _, lines = crowd(STOCK, tmp_path)
    assert calls > 2000
    assert lines == 0
    calls, cpu, lines = crowd(CURED, tmp_path)
    assert calls < 1000
    assert cpu < 0.5
    assert 0 < lines < 2


def survives(base: Any, **hooks: Any) -> bool:
    """Whether a server with these methods, of which one fails, serves the next client."""
    with at_work(type("Hooked", (base,), hooks), Echo) as work:
        with connect(work.server) as first:
            first.sendall(b"first\n")
            read_until_gone(first)
        with connect(work.server) as second:
            second.settimeout(AT_ONCE if work.failure else PATIENCE)
            second.sendall(b"second\n")
            try:
                served = read_exactly(second, 7) == b"second\n"
            except TimeoutError:
                served = False
        assert served is work.thread.is_alive()
        return served


def read_until_gone(client: socket.socket) -> None:
    """Waits until the server has given a client up."""
    try:
        client.settimeout(AT_ONCE)
        read_all(client)
    except (ConnectionError, TimeoutError):
        return


def fails_once(failing: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """A method that fails at first."""
    failures = [failing]

    def method(*args: Any) -> Any:
        return (failures.pop() if failures else call)(*args)

    return method


def test_any_error_in_get_request_is_survived() -> None:
    """An error that is no OSError, such as in a greeting that was parsed, costs one client."""

    def drop(server: Any) -> Any:
        server.socket.accept()[0].close()
        raise ValueError("not what it should be")

    for kind, expected in ((STOCK, False), (CURED, True)):
        base = CLASSES[kind, "tcp"]
        get_request = fails_once(drop, base.get_request)
        assert survives(base, get_request=get_request) is expected


def serves_beside_a_silent_client(kind: str) -> bool:
    """Whether a client of TLS is served while another says nothing."""
    pair = certificates.make("server")
    stage = Handshake(Tls(TlsStanza.model_validate(pair.stanza)))
    context = ssl.create_default_context(cafile=certificates.root().certificate)
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.load_cert_chain(pair.certificate, pair.key)

    class Wrapping(socketserver.ThreadingTCPServer):
        def get_request(self) -> Any:
            """What the documentation of ssl has for a server."""
            sock, address = self.socket.accept()
            return of_server.wrap_socket(sock, server_side=True), address

    base: Any = {STOCK: Wrapping, CURED: TCPServer}[kind]
    with at_work(base, Echo, service=Service(stages=(stage,))) as work, connect(work.server):
        client = connect(work.server)
        client.settimeout(AT_ONCE)
        try:
            with context.wrap_socket(client, server_hostname="localhost") as secured:
                secured.sendall(b"abc\n")
                return read_exactly(secured, 4) == b"abc\n"
        except TimeoutError:
            return False
        finally:
            client.close()


@pytest.mark.skipif(bool(certificates.MISSING), reason=certificates.MISSING)
def test_a_handshake_waits_for_nobody_else() -> None:
    """A client of TLS that says nothing holds up itself alone, and not the next to be accepted."""
    assert not serves_beside_a_silent_client(STOCK)
    assert serves_beside_a_silent_client(CURED)


def test_an_error_in_handle_error_is_survived() -> None:
    """Whoever gets the handling of errors wrong loses no more than the one client."""

    def refuse(_server: Any, request: Any, _client_address: Any) -> None:
        request.close()  # which the stock class fails to do
        raise RuntimeError("can't start new thread")

    def handle_error(*_args: Any) -> None:
        raise OSError("the error log is full")

    for kind, expected in ((STOCK, False), (CURED, True)):
        base = CLASSES[kind, "tcp"]
        process_request = fails_once(refuse, base.process_request)
        hooks = {"process_request": process_request, "handle_error": handle_error}
        assert survives(base, **hooks) is expected


# Address space for less than another stack, which binds root too.
WITHOUT_THREADS = """
import json, resource, socketserver, sys, threading
from netd.server import TCPServer

class Wait(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()

server = {"stock": socketserver.ThreadingTCPServer, "netd": TCPServer}[sys.argv[1]](
    ("127.0.0.1", 0), Wait
)
if sys.argv[1] == "netd":
    server.service.banner_fail = "no {reason} left"
thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
thread.start()
threading.stack_size(64 * 2**20)
pages = int(open("/proc/self/statm").read().split()[0])
space = pages * resource.getpagesize() + 6 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (space, resource.RLIM_INFINITY))
print(server.server_address[1], flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
server.shutdown()
thread.join()
try:
    server.server_close()
except RuntimeError as error:
    print(json.dumps(str(error)))
else:
    print(json.dumps(dict(server.service.gate.refused) if sys.argv[1] == "netd" else {}))
"""


def test_a_thread_that_cannot_start_costs_one_client(tmp_path: Path) -> None:
    """The client is told, and the server can still be closed."""
    told, ended = {}, {}
    for kind in (STOCK, CURED):
        with child(WITHOUT_THREADS, kind, tmp_path) as server:
            with socket.create_connection(("127.0.0.1", server.read()), PATIENCE) as client:
                told[kind] = read_all(client)
            ended[kind] = server.ask()
    assert (told[STOCK], ended[STOCK]) == (b"", "cannot join thread before it is started")
    assert (told[CURED], ended[CURED]) == (b"no threads left", {"threads": 1})


# -- datagrams


class Discard(socketserver.DatagramRequestHandler):
    """Says nothing to anything."""

    seen: Queue[bytes]

    def handle(self) -> None:
        return

    def finish(self) -> None:
        super().finish()
        self.seen.put(self.packet)


def discarded(base: Any, datagram: bytes) -> tuple[bytes, bytes | None]:
    """(what a handler saw of a datagram, what came back although it said nothing)."""
    handler = type("Handler", (Discard,), {"seen": Queue()})
    with at_work(base, handler) as work, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        client.sendto(datagram, work.server.server_address)
        seen = handler.seen.get(timeout=PATIENCE)
        # Loopback delivers before sendto() returns, and the handler has returned.
        client.setblocking(False)
        try:
            return seen, client.recv(100)
        except BlockingIOError:
            return seen, None


def test_a_handler_that_says_nothing_answers_nothing() -> None:
    """A sink does not turn into a reflector of empty datagrams."""
    assert discarded(CLASSES[STOCK, "udp"], b"x") == (b"x", b"")
    assert discarded(CLASSES[CURED, "udp"], b"x") == (b"x", None)


def test_a_datagram_comes_whole() -> None:
    """From the first byte to the 65,507th, the last that IPv4 can carry."""
    datagram = bytes(range(256)) * 256
    assert discarded(CLASSES[STOCK, "udp"], datagram[:65_507])[0] == datagram[:8192]
    assert discarded(CLASSES[CURED, "udp"], datagram[:65_507])[0] == datagram[:65_507]


class StockUpper(socketserver.DatagramRequestHandler):
    """As in the tutorials."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


class StepUpper(RequestHandler):
    """Answers in place, batch by batch."""

    def datagram_received(self, data: bytes) -> None:
        self.reply(data.upper())


class ThreadUpper(StepUpper):
    """Answers from a thread."""

    may_block = True


@contextmanager
def asked(base: Any, handler: Any, host: str, target: str, **netd: Any) -> Iterator[socket.socket]:
    """A client that has asked a server bound to `host` a question, at the address `target`."""
    closing = socket.socket(type=socket.SOCK_DGRAM)
    with at_work(base, handler, (host, 0), **netd) as work, closing as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.settimeout(PATIENCE)
        client.sendto(b"question", (target, work.server.server_address[1]))
        yield client


def answer_from(*args: Any, **netd: Any) -> str:
    """The address that the answer comes from."""
    with asked(*args, **netd) as client:
        answer, address = client.recvfrom(100)
        assert answer == b"QUESTION"
        return str(address[0])


def dual_stack(base: type[Any]) -> type[Any]:
    """A server of both families; a stock one needs code for that."""

    def server_bind(server: Any) -> None:
        server.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        base.server_bind(server)

    return type("Dual", (base,), {"address_family": socket.AF_INET6, "server_bind": server_bind})


@pytest.mark.parametrize("handler", [StockUpper, StepUpper, ThreadUpper])
def test_an_answer_leaves_from_the_address_that_was_asked(handler: type[Any]) -> None:
    """Else a client that asked a machine's second address takes the answer for a stranger's."""
    assert answer_from(CLASSES[STOCK, "udp"], StockUpper, "0.0.0.0", "127.0.0.2") == "127.0.0.1"
    assert answer_from(CLASSES[CURED, "udp"], handler, "0.0.0.0", "127.0.0.2") == "127.0.0.2"


@pytest.mark.parametrize("handler", [StockUpper, StepUpper, ThreadUpper])
def test_so_does_the_answer_of_a_listener_for_both_families(handler: type[Any]) -> None:
    """An IPv4 client of `[::]` is no exception."""
    stock, both = dual_stack(CLASSES[STOCK, "udp"]), SocketOptions(ipv6_only=False)
    assert answer_from(stock, StockUpper, "::", "127.0.0.2") == "127.0.0.1"
    cured = CLASSES[CURED, "udp"]
    assert answer_from(cured, handler, "::", "127.0.0.2", options=both) == "127.0.0.2"


@pytest.mark.parametrize("handler", [StockUpper, StepUpper, ThreadUpper])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_broadcast_is_not_answered(handler: type[Any], host: str) -> None:
    """One forged datagram would have every host of a network answer its victim."""
    stock, target = CLASSES[STOCK, "udp"], "127.255.255.255"
    base = dual_stack(stock) if host == "::" else stock
    assert answer_from(base, StockUpper, host, target)
    service, options = Service(), SocketOptions(ipv6_only=False)
    cured = CLASSES[CURED, "udp"]
    with asked(cured, handler, host, target, service=service, options=options) as client:
        wait_until(lambda: service.counters.datagrams_dropped == {"broadcast": 1})
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)


# -- time


def outlasts(server: Any, limit: float) -> bool:
    """Whether a client that sends a byte now and then is still served at four times the limit, in
    seconds; a try in which this process itself was too slow for that is repeated."""
    for _ in range(10):
        with connect(server) as client:
            client.settimeout(limit / 10)
            began = last = time.monotonic()
            punctual = True
            while punctual and time.monotonic() - began < 4 * limit:
                client.sendall(b"x")
                now, last = time.monotonic(), time.monotonic()
                punctual = now - last < limit / 2
                if is_gone(client):
                    return False
                punctual = time.monotonic() - now < limit / 2
            if punctual:
                return True
    pytest.fail("this machine is too busy")


def is_gone(client: socket.socket) -> bool:
    """Whether the server gives a client up, in the time that this has."""
    try:
        while client.recv(100):
            continue
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


LIMIT = 0.5


class OneLine(socketserver.StreamRequestHandler):
    """Waits for a line, with a time-out of its own."""

    timeout = LIMIT

    def handle(self) -> None:
        self.rfile.readline()


class AnyBytes(socketserver.StreamRequestHandler):
    """Takes bytes as they come, with a time-out of its own."""

    timeout = LIMIT

    def handle(self) -> None:
        while self.request.recv(1):
            continue


class OneLineConversation(RequestHandler):
    """Waits for a line, for as long as the service allows."""

    def handle(self) -> None:
        self.read_line()


class AnyBytesConversation(RequestHandler):
    """Takes bytes as they come."""

    def handle(self) -> None:
        while self.read(1):
            continue


@pytest.mark.parametrize(
    ("handler", "timeouts"),
    [
        (OneLine, Timeouts()),
        (OneLineConversation, Timeouts(idle_timeout="500ms")),
        (AnyBytes, Timeouts(session_timeout="500ms")),
        (AnyBytesConversation, Timeouts(session_timeout="500ms")),
    ],
)
def test_a_byte_now_and_then_buys_no_time(handler: type[Any], timeouts: Timeouts) -> None:
    """A deadline is for the whole of a line, or of a session, and not for each byte."""
    stock = AnyBytes if handler in (AnyBytes, AnyBytesConversation) else OneLine
    with at_work(CLASSES[STOCK, "tcp"], stock) as work:
        assert outlasts(work.server, LIMIT)
    service = Service(timeouts=timeouts)
    with at_work(CLASSES[CURED, "tcp"], handler, service=service) as work:
        assert not outlasts(work.server, LIMIT)
        wait_until(lambda: not work.server.sessions)
        assert set(service.counters.ended) <= {"idle_timeout", "session_timeout"}


def longest_line(base: Any, service: Service) -> int:
    """How much of a line without an end a handler is made to hold."""
    lengths: Queue[int] = Queue()

    class Measure(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                lengths.put(len(self.rfile.readline()))
            except Exception:
                lengths.put(LINE_LIMIT)
                raise

    with at_work(base, Measure, service=service) as work, connect(work.server) as client:
        try:
            client.sendall(b"x" * 2**20)
            client.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN, when the reset came between the two
            assert base is not CLASSES[STOCK, "tcp"]
        return lengths.get(timeout=PATIENCE)


def test_a_line_has_a_longest_length() -> None:
    """A client cannot have netd hold whatever it sends, by never ending its line."""
    service = Service()
    assert longest_line(CLASSES[STOCK, "tcp"], service) == 2**20
    assert longest_line(CLASSES[CURED, "tcp"], service) == LINE_LIMIT
    assert service.counters.ended == {"protocol_error": 1}


# -- ending


def time_to_shut_down(base: Any, poll_interval: float) -> float:
    """Seconds that `shutdown` takes when a round of the serving loop has just begun, or is just
    about to begin."""
    server = base(ANY_PORT, Echo)
    thread = on_thread(lambda: server.serve_forever(poll_interval))
    with connect(server) as client:
        client.sendall(b"a\n")
        assert read_exactly(client, 2) == b"a\n"
    began = time.monotonic()
    server.shutdown()
    taken = time.monotonic() - began
    thread.join(PATIENCE)
    server.server_close()
    return taken


def test_shutdown_takes_no_time() -> None:
    """It wakes the serving loop, and does not wait for it to come round."""
    assert any(time_to_shut_down(CLASSES[STOCK, "tcp"], 2.0) > 1.0 for _ in range(5))
    assert all(time_to_shut_down(CLASSES[CURED, "tcp"], 2.0) < 1.0 for _ in range(5))


def test_shutdown_before_serving_returns() -> None:
    """A server that is ended before its thread has come to serve never serves."""
    for kind in (STOCK, CURED):
        server = CLASSES[kind, "tcp"](ANY_PORT, Echo)
        ending = on_thread(server.shutdown)
        ending.join(AT_ONCE if kind == STOCK else PATIENCE)
        assert ending.is_alive() is (kind == STOCK)
        serving = on_thread(server.serve_forever)  # also lets the stock one go
        serving.join(PATIENCE)
        ending.join(PATIENCE)
        assert not serving.is_alive()
        server.server_close()


def test_server_close_does_not_wait_for_an_idle_client() -> None:
    """The client is let go: the stock class waits until it goes by itself."""
    for kind in (STOCK, CURED):
        server = CLASSES[kind, "tcp"](ANY_PORT, Echo)
        serving = on_thread(server.serve_forever)
        with connect(server) as client:
            client.sendall(b"a\n")
            assert read_exactly(client, 2) == b"a\n"
            server.shutdown()
            closing = on_thread(server.server_close)
            closing.join(AT_ONCE if kind == STOCK else PATIENCE)
            assert closing.is_alive() is (kind == STOCK)
            if kind == CURED:
                assert read_all(client) == b""
        closing.join(PATIENCE)
        serving.join(PATIENCE)
        assert not closing.is_alive()


# -- stacks

DEEP = """
import json, socketserver, sys, threading
from netd import frames
from netd.errors import ProtocolError
from netd.pool import Pool

threading.stack_size(128 * 1024)
deep = b"[" * 60_000
done = threading.Event()

def work():
    if sys.argv[1] == "stock":
        json.loads(deep)
        return
    for depth in (60_000, 100_000):
        text = b'{"a":' + b"[" * depth
        try:
            frames.decode(len(text).to_bytes(4, "little") + text, body_limit=0)
        except ProtocolError as error:
            print(error)
    try:
        json.loads(deep)
    except RecursionError:
        print("survived")
    done.set()

if sys.argv[1] == "stock":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    Pool().submit(work, "deep")
    assert done.wait(10)
"""


def test_deep_json_does_not_end_the_process(tmp_path: Path) -> None:
    """A thread of the pool has a stack that suffices, and frames bound the depth before."""
    done = {
        kind: subprocess.run(
            [sys.executable, "-c", DEEP, kind], cwd=tmp_path, env=environment(tmp_path),
            timeout=60, text=True, capture_output=True,
        )
        for kind in (STOCK, CURED)
    }  # fmt: skip
    assert done[STOCK].returncode == -signal.SIGSEGV
    assert done[CURED].returncode == 0, done[CURED].stderr
    deep, long, alive = done[CURED].stdout.splitlines()
    assert "deep" in deep
    assert long.startswith("header length")
    assert alive == "survived"
