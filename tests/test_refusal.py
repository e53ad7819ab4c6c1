"""Clients that may not come in: they are told why, at a bounded price."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import Any

import pytest
from harness import PATIENCE, ask, read_all, read_exactly, serve, wait_until
from kinds import EVERY_STREAM, Steps, descriptors, echoes

from netd.admission import Admission
from netd.listener import SocketOptions
from netd.pool import Pool
from netd.refusal import MAX_LEAVING


@pytest.mark.parametrize(("transport", "handler"), EVERY_STREAM)
def test_who_is_refused_is_told_why(transport: str, handler: Any) -> None:
    """With the reason word, and the end of the stream; the client that is in stays in."""
    rules = Admission(max_connections=1)
    with serve(handler, transport, rules=rules, banner_fail="no: {reason}\n") as served:
        inside = served.connect()
        assert echoes(inside)
        for _ in range(3):
            assert ask(served.connect(), b"x" * 100_000) == b"no: service_limit\n"
        assert echoes(inside)
        inside.close()
        wait_until(lambda: served.service.gate.open == 0)
        assert echoes(served.connect())
        assert served.service.gate.refused == {"service_limit": 3}
        assert served.service.gate.admitted == 2


def test_a_stock_handler_without_a_thread_is_refused_by_the_loop() -> None:
    """Which must not wait as the handler might: other clients are served meanwhile."""
    release = threading.Event()

    class Wait(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"in")
            release.wait(PATIENCE)

    with serve(Wait, pool=Pool(limit=1), banner_fail="no: {reason}\n") as served:
        first = served.connect()
        assert read_exactly(first, 2) == b"in"
        refused = [served.connect() for _ in range(3)]  # and none of them speaks or closes
        for client in refused:
            assert read_all(client) == b"no: threads\n"
        release.set()
        assert read_all(first) == b""
        assert served.service.gate.refused == {"threads": 3}
        assert served.service.gate.admitted == 1


def test_only_so_many_who_were_refused_are_waited_for() -> None:
    """Whoever comes beyond is closed at once: refusing costs a bounded number of descriptors."""
    rules, before = Admission(no_access=["0.0.0.0/0"]), descriptors()
    with serve(Steps, rules=rules, banner_fail="no\n") as served:
        clients = [served.connect() for _ in range(MAX_LEAVING + 50)]
        wait_until(lambda: served.service.gate.refused["address"] == len(clients))
        ours = descriptors() - before - len(clients)
        assert MAX_LEAVING <= ours <= MAX_LEAVING + 10
        assert sum(client.recv(10) == b"no\n" for client in clients) >= MAX_LEAVING
        for client in clients:
            client.close()


def test_a_client_that_does_not_read_why_it_is_refused_stalls_nobody() -> None:
    """Although its handler would have been one that blocks."""
    release = threading.Event()

    class Wait(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            release.wait(PATIENCE)

    settings = {"pool": Pool(limit=1), "banner_fail": "x" * 60_000}
    with serve(Wait, socket_options=SocketOptions(send_buffer=4096), **settings) as served:
        served.connect()
        wait_until(lambda: served.server.sessions)
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(served.address)
            assert read_all(served.connect()) == b"x" * 60_000
        release.set()


def test_those_who_were_refused_are_gone_with_the_server() -> None:
    """Whether they have read why or not."""
    rules, before = Admission(no_access=["0.0.0.0/0"]), descriptors()
    with serve(Steps, rules=rules, banner_fail="no\n") as served:
        clients = [served.connect() for _ in range(10)]
        assert all(client.recv(10) == b"no\n" for client in clients)
        served.server.shutdown()
        served.server.server_close()
        assert descriptors() == before + len(clients)
