"""A listener's life: bound, served, drained, closed, and served again."""

from __future__ import annotations

import errno
import gc
import socket
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from harness import PATIENCE, STREAMS, read_all, serve, wait_until
from kinds import ANY_PORT, EVERY_STREAM, EVERY_WAY, Steps, descriptors, echoes, ended, faults

from netd.deadline import Timeouts
from netd.intake import TAKEN_PER_TURN
from netd.loop import Loop
from netd.server import TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer
from netd.service import Service


def test_a_get_request_that_always_fails_does_not_spin(caplog: pytest.LogCaptureFixture) -> None:
    """The listener is left alone for a while after each turn, and the log is not flooded."""

    class Failing(TCPServer):
        calls = 0
        works = False

        def get_request(self) -> Any:
            if self.works:
                return super().get_request()
            self.calls += 1
            raise (ValueError, OSError)[self.calls % 2]("nothing comes of it")

    with serve(Steps, server_class=Failing) as served:
        server: Any = served.server
        client = served.connect()
        began = monotonic()
        wait_until(lambda: server.calls >= 3 * TAKEN_PER_TURN)
        assert monotonic() - began >= 0.2  # two pauses at least
        server.works = True
        assert echoes(client)
    assert served.service.counters.errors == server.calls // 2
    assert len(faults(caplog)) == 1


# -- life and end


@contextmanager
def attached(*servers: Any) -> Iterator[Loop]:
    """Servers on one loop, which runs for the time of a `with`."""
    loop = Loop()
    for server in servers:
        server.attach(loop)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join(PATIENCE)
        for server in servers:
            server.server_close()
        loop.close()


def run_in(loop: Loop, call: Callable[[], object]) -> None:
    """Has a loop call something, and waits until it has."""
    done = threading.Event()
    loop.call_soon(call)
    loop.call_soon(done.set)
    assert done.wait(PATIENCE)


def test_listeners_can_share_a_loop() -> None:
    """All listeners of a service are served by one thread."""
    service = Service()
    tcp, udp = TCPServer(ANY_PORT, Steps, service=service), UDPServer(ANY_PORT, Steps)
    before = threading.active_count()
    with attached(tcp, udp), socket.create_connection(tcp.server_address, PATIENCE) as client:
        assert threading.active_count() == before + 1
        assert echoes(client)
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(PATIENCE)
            datagrams.connect(udp.server_address)
            assert echoes(datagrams)


@pytest.mark.parametrize(("transport", "handler"), EVERY_STREAM)
def test_a_drain_serves_who_has_come_and_nobody_else(transport: str, handler: Any) -> None:
    """Clients in the backlog are let in, and all sessions go on."""
    with serve(handler, transport) as served:
        server = served.server
        inside = served.connect()
        assert echoes(inside)
        held = threading.Event()
        server._get_own_loop().call_soon(lambda: held.wait(PATIENCE))  # so that some wait
        waiting = [served.connect() for _ in range(3 * TAKEN_PER_TURN)]
        server.drain()
        held.set()
        wait_until(lambda: server.fileno() < 0)
        with pytest.raises((ConnectionError, FileNotFoundError)):
            served.connect()
        for client in [inside, *waiting]:
            assert echoes(client)
            client.close()
        ended(served, eof=1 + len(waiting))


def test_a_server_can_be_drained_twice_and_closed_after() -> None:
    """Each of these does what is left to do."""
    server = TCPServer(ANY_PORT, Steps)
    with attached(server):
        server.drain()
        server.drain()
        wait_until(lambda: server.fileno() < 0)
        assert server.interest == 0
        assert "closed" in repr(server)
    server.drain()
    server.server_close()


def test_a_server_can_serve_again() -> None:
    """After a shutdown its listener is still there, and clients wait in the backlog."""
    with TCPServer(ANY_PORT, Steps) as server:
        for _ in range(3):
            thread = threading.Thread(target=server.serve_forever)
            with socket.create_connection(server.server_address, PATIENCE) as client:
                thread.start()
                assert echoes(client)
                server.shutdown()
                thread.join(PATIENCE)
        one = threading.Thread(target=server.handle_request)
        one.start()
        one.join(0.1)
        assert one.is_alive()  # it waits, as before it had served
        with socket.create_connection(server.server_address, PATIENCE) as client:
            client.sendall(b"abc")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"ABC"
        one.join(PATIENCE)


@pytest.mark.parametrize(("transport", "handler"), EVERY_WAY)
def test_nothing_is_left_of_a_server(transport: str, handler: Any) -> None:
    """No descriptor, no thread, no file, whatever was going on."""
    with serve(handler, transport) as served:  # what the process keeps is kept from now on
        echoes(served.connect())
    before = descriptors(), threading.active_count()
    for end_first in (True, False):
        with serve(handler, transport, timeouts=Timeouts(idle_timeout="10s")) as served:
            clients = [served.connect() for _ in range(10)]
            assert all(echoes(client) for client in clients)
            if end_first:
                for client in clients:
                    client.close()
                wait_until(lambda served=served: not served.server.sessions)
            else:
                served.server.shutdown()
                served.server.server_close()
        wait_until(lambda: (descriptors(), threading.active_count()) == before)
        gate, counters = served.service.gate, served.service.counters
        assert gate.open == 0
        if transport in STREAMS:
            assert gate.admitted == 10
            assert counters.ended == {"eof" if end_first else "shutdown": 10}
            assert (counters.bytes_in, counters.bytes_out) == (30, 30)


def test_server_close_takes_a_listener_off_a_loop_that_others_use() -> None:
    """Also one that somebody else has open too, as systemd has the sockets that it passes."""
    with socket.create_server(ANY_PORT) as passed:

        class Woken(TCPServer):
            def ready(self, events: int) -> None:
                woken.append(events)
                super().ready(events)

        woken: list[int] = []
        server = Woken(passed.getsockname(), Steps, bound=passed.dup())
        other = UDPServer(ANY_PORT, Steps)
        with attached(other) as loop:
            run_in(loop, partial(server.attach, loop))
            with socket.create_connection(passed.getsockname(), PATIENCE) as client:
                assert echoes(client)
            assert len(woken) == 1
            run_in(loop, server.server_close)
            datagrams = socket.socket(type=socket.SOCK_DGRAM)
            with socket.create_connection(passed.getsockname(), PATIENCE), datagrams:
                datagrams.settimeout(PATIENCE)
                datagrams.connect(other.server_address)
                assert echoes(datagrams)
            assert len(woken) == 1
            forgotten = weakref.ref(server)
            del server
            gc.collect()
            assert forgotten() is None


# -- UNIX sockets

UNIX = [(UnixStreamServer, Steps), (UnixDatagramServer, Steps)]


@pytest.mark.parametrize(("make", "handler"), UNIX)
def test_a_socket_file_is_removed_at_the_end(make: Any, handler: Any, tmp_path: Path) -> None:
    """As long as it is still the server's own."""
    path = tmp_path / "socket"
    make(str(path), handler).server_close()
    assert not path.exists()
    server = make(str(path), handler)
    path.unlink()
    with make(str(path), handler):
        server.server_close()
        assert stat.S_ISSOCK(path.stat().st_mode)  # that of the other
    assert not path.exists()
    make(str(path), handler).server_close()
    server.server_close()
    assert not path.exists()


@pytest.mark.parametrize(("make", "handler"), UNIX)
def test_a_stale_socket_file_is_taken_over(make: Any, handler: Any, tmp_path: Path) -> None:
    """One of a server that was killed, which nobody listens on."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, make.socket_type) as killed:
        killed.bind(path)
    with make(path, handler) as server:
        assert server.server_address == path
        with socket.socket(socket.AF_UNIX, make.socket_type) as client:
            client.connect(path)


@pytest.mark.parametrize(("make", "handler"), UNIX)
def test_a_socket_in_use_is_not_taken(make: Any, handler: Any, tmp_path: Path) -> None:
    """Nor is its file removed by the server that could not have it."""
    path = str(tmp_path / "socket")
    with make(path, handler):
        with pytest.raises(OSError, match=r"in use|listens|socket") as caught:
            make(path, handler)
        assert caught.value.errno == errno.EADDRINUSE
        with socket.socket(socket.AF_UNIX, make.socket_type) as client:
            client.connect(path)


def test_a_server_that_cannot_bind_leaves_nothing() -> None:
    """A thousand of them use up no descriptors."""
    with TCPServer(ANY_PORT, Steps) as taken:
        before = descriptors()
        for make, address in [(TCPServer, taken.server_address), (UDPServer, ("192.0.2.1", 9))]:
            for _ in range(1000):
                with pytest.raises(OSError, match=r"in use|assign"):
                    make(address, Steps)
        assert descriptors() == before
