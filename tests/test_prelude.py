"""What comes before the handler: stages, their deadline, and how they end."""

from __future__ import annotations

import socket
import socketserver
import struct
from time import monotonic
from typing import Any

import pytest
from harness import (
    PATIENCE,
    SOON,
    STREAMS,
    Served,
    read_all,
    read_exactly,
    serve,
    slowness,
    wait_until,
)

from netd.control.sessions import state_of
from netd.deadline import Timeouts
from netd.entrance import MAX_UNANNOUNCED
from netd.errors import Unauthenticated
from netd.gate import Admission
from netd.handler import RequestHandler
from netd.penalties import PenaltyRules
from netd.prelude import Prelude, Steps
from netd.server import TCPServer
from netd.service import Service


class Echo(RequestHandler):
    """Steps: tells who the client is, then echoes."""

    def connection_made(self) -> None:
        self.send(f"{self.user}:".encode())

    def data_received(self, data: bytes) -> None:
        self.send(data)


class Talk(RequestHandler):
    """A conversation: the same, a line at a time."""

    def handle(self) -> None:
        self.send(f"{self.user}:".encode())
        while (line := self.read_line()) is not None:
            self.send(line + b"\n")


class Stock(socketserver.StreamRequestHandler):
    """A handler of the standard library: the same."""

    def handle(self) -> None:
        self.wfile.write(f"{self.request.user}:".encode())
        for line in self.rfile:
            self.wfile.write(line)


HANDLERS = [Echo, Talk, Stock]
CHALLENGE = bytes(200_000)


def password(prelude: Prelude) -> Steps:
    """Asks, and reads exactly six bytes."""
    yield from prelude.write(b"?")
    answer = yield from prelude.receive(6)
    if answer != b"sesame":
        raise Unauthenticated("no such word")
    prelude.user = "Ali"


def confirm(prelude: Prelude) -> Steps:
    """A second stage, which looks before it reads."""
    if (yield from prelude.peek(10, least=2)).startswith(b"ok"):
        yield from prelude.receive(2)


def broken(prelude: Prelude) -> Steps:
    """A stage with a fault of its own."""
    yield from prelude.receive(1)
    raise ZeroDivisionError("as asked for")


def announced(prelude: Prelude) -> Steps:
    """Before admission: the client says from which network of 127/8 it comes."""
    number = (yield from prelude.receive(1))[0]
    prelude.client_address = (f"127.0.{number}.1", 1)


def only_session(served: Served) -> Any:
    """The session that is open."""
    return wait_until(lambda: next(iter(served.server.sessions.values()), None))


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("transport", STREAMS)
def test_what_follows_an_answer_at_once_is_left_for_the_handler(
    handler: Any, transport: str
) -> None:
    """Each stage takes its own bytes alone, though all come in one piece."""
    with serve(handler, transport, stages=(password, confirm)) as served:
        client = served.connect()
        client.sendall(b"sesameokhello\n")
        assert read_exactly(client, 11) == b"?Ali:hello\n"
        client.sendall(b"more\n")
        assert read_exactly(client, 5) == b"more\n"


@pytest.mark.parametrize("handler", HANDLERS)
def test_an_answer_may_come_byte_by_byte(handler: Any) -> None:
    """A stage waits for as much as it needs, and what was looked at does not wake it for ever."""
    with serve(handler, stages=(password, confirm)) as served:
        client = served.connect()
        for byte in b"sesameok":
            client.sendall(bytes([byte]))
            only_session(served)
        client.sendall(b"hello\n")
        assert read_exactly(client, 11) == b"?Ali:hello\n"


def test_a_client_that_answers_wrong_is_turned_away() -> None:
    """It is told why, counted as refused, and the next one is served."""
    rules = Admission(penalties=PenaltyRules(auth=None))
    with serve(Echo, stages=(password,), banner_fail="no: {reason}\n", rules=rules) as served:
        client = served.connect()
        client.sendall(b"simsim")
        assert read_all(client) == b"?no: auth\n"
        gate = served.service.gate
        assert (gate.admitted, dict(gate.refused)) == (1, {"auth": 1})
        assert not served.service.counters.ended
        client = served.connect()
        client.sendall(b"sesame")
        assert read_exactly(client, 5) == b"?Ali:"


@pytest.mark.parametrize("said", [b"", b"ses"])
def test_a_client_that_leaves_is_a_session_that_is_over(said: bytes) -> None:
    """A port scanner or a health check has done nothing that it may not do."""
    with serve(Echo, stages=(password,)) as served:
        client = served.connect()
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"?"
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"eof": 1}


def test_a_client_that_leaves_what_was_looked_at_is_noticed() -> None:
    """The end of the stream is seen behind bytes that nobody has read."""
    with serve(Echo, stages=(confirm,)) as served:
        client = served.connect()
        client.sendall(b"o")
        only_session(served)
        client.shutdown(socket.SHUT_WR)
        assert read_all_or_reset(client) == b""
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"eof": 1}


def read_all_or_reset(client: socket.socket) -> bytes:
    """All that comes; what it sent was not read, which makes the end a reset."""
    try:
        return read_all(client)
    except ConnectionResetError:
        return b""


def test_a_client_that_resets_is_a_session_that_is_over() -> None:
    """As one that leaves."""
    with serve(Echo, stages=(password,)) as served:
        client = served.connect()
        assert read_exactly(client, 1) == b"?"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"reset": 1}


def test_one_deadline_holds_for_all_stages() -> None:
    """A byte now and then buys no time, and the time-outs of sessions do not count yet."""
    timeouts = Timeouts(handshake_timeout="1s", idle_timeout="100ms")
    with serve(Echo, stages=(password, password), timeouts=timeouts) as served:
        client, began = served.connect(), monotonic()
        client.sendall(b"sesame" + b"sesam")
        assert read_all(client) == b"??"
        assert 1.0 <= monotonic() - began <= SOON * slowness()
        assert dict(served.service.counters.ended) == {"handshake_timeout": 1}
        wait_until(lambda: served.service.gate.open == 0)


def test_a_client_that_does_not_read_holds_up_nobody() -> None:
    """What a stage sends waits for its client, and the others are served meanwhile."""

    def much(prelude: Prelude) -> Steps:
        for _ in range(100):
            yield from prelude.write(CHALLENGE)

    with serve(Echo, stages=(much,)) as served:
        deaf, client = served.connect(), served.connect()
        assert len(read_exactly(client, 100 * len(CHALLENGE) + 5)) > len(CHALLENGE)
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
        assert len(read_exactly(deaf, 100 * len(CHALLENGE) + 5)) > len(CHALLENGE)


def test_a_stage_that_fails_ends_the_session_and_no_more(caplog: Any) -> None:
    """The fault is ours: an error with its traceback, and the next client is served."""
    with serve(Echo, stages=(broken,)) as served:
        for _ in range(2):
            client = served.connect()
            client.sendall(b"x")
            assert read_all(client) == b""
        wait_until(lambda: served.service.counters.ended["error"] == 2)
        assert served.service.counters.errors == 2
    assert "ZeroDivisionError" in caplog.text


def test_a_stage_that_fails_and_closes_ends_the_session_and_no_more(caplog: Any) -> None:
    """What the loop watched is gone, and the others go on being served."""

    def closing(prelude: Prelude) -> Steps:
        if (yield from prelude.receive(1)) == b"x":
            prelude.request.close()
            raise ZeroDivisionError("as asked for")

    with serve(Echo, stages=(closing,)) as served:
        client = served.connect()
        only_session(served)
        client.sendall(b"x")
        assert read_all(client) == b""
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"error": 1}
        assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
        client = served.connect()
        client.sendall(b"y")
        assert read_exactly(client, 5) == b"None:"
        assert served.service.gate.open == 1


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_session_keeps_its_number_and_its_beginning(handler: Any) -> None:
    """It is one session from its admission on, whoever serves it."""
    with serve(handler, stages=(password,)) as served:
        client = served.connect()
        assert read_exactly(client, 1) == b"?"
        prelude = only_session(served)
        assert state_of(prelude, monotonic()) == "handshake"
        client.sendall(b"sesame")
        assert read_exactly(client, 4) == b"Ali:"
        session = only_session(served)
        assert state_of(session, monotonic()) == "open"
        assert (session.id, session.began) == (prelude.id, prelude.began)
        assert session.identity.user == "Ali"


@pytest.mark.parametrize("base", [Echo, Talk])
def test_a_handler_that_cannot_be_made_ends_the_session_and_no_more(base: Any, caplog: Any) -> None:
    """The loop watches nothing for it any more, and the next client is served."""

    class Picky(base):  # type: ignore[misc]
        def __init__(self, request: Any, client_address: Any, server: Any) -> None:
            if not server.service.counters.ended:
                raise ZeroDivisionError("the first one")
            super().__init__(request, client_address, server)

    with serve(Picky, stages=(password,)) as served:
        wait_until(lambda: served.server.interest > 0)
        watched = len(served.server._loop._watched)
        client = served.connect()
        wait_until(lambda: only_session(served).interest > 0)
        client.sendall(b"sesame")
        assert read_all(client) == b"?"
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"error": 1}
        assert "the first one" in caplog.text
        wait_until(lambda: served.service.gate.open == 0)
        assert len(served.server._loop._watched) == watched
        client = served.connect()
        client.sendall(b"sesame")
        assert read_exactly(client, 5) == b"?Ali:"


def test_the_gate_judges_by_what_is_announced() -> None:
    """Rules, the handler and the log see the client whom the announcement names."""
    rules = Admission(no_access=["127.0.9.0/24"])
    with serve(Echo, rules=rules, announcement=announced, banner_fail="{reason}\n") as served:
        good, bad = served.connect(), served.connect()
        bad.sendall(b"\x09")
        assert read_all(bad) == b"address\n"
        good.sendall(b"\x08x")
        assert read_exactly(good, 6) == b"None:x"
        session = only_session(served)
        assert (session.client_address, session.origin) == (("127.0.8.1", 1), "127.0.8.1")
        assert session.peer == "127.0.8.1:1"
        assert dict(served.service.gate.refused) == {"address": 1}


def test_whoever_is_not_announced_yet_takes_no_place() -> None:
    """They are bounded by a limit of their own, and a late one is turned away by it."""
    rules = Admission(max_connections=1)
    with serve(Echo, rules=rules, announcement=announced) as served:
        waiting = [served.connect() for _ in range(MAX_UNANNOUNCED)]
        wait_until(lambda: len(served.server.sessions) == MAX_UNANNOUNCED)
        assert read_all(served.connect()) == b""
        assert dict(served.service.gate.refused) == {"proxy": 1}
        waiting[0].sendall(b"\x01")
        assert read_exactly(waiting[0], 5) == b"None:"
        for client in waiting:
            client.close()
        wait_until(lambda: not served.server.sessions)
        client = served.connect()
        client.sendall(b"\x01")
        assert read_exactly(client, 5) == b"None:"


def test_a_connection_that_has_to_wait_its_turn_is_asked_after_it() -> None:
    """A rate that delays comes before the stages, and their deadline is not spent by it."""
    rules = Admission(rate_per_source={"rate": "2/s", "burst": 1, "action": "delay"})
    timeouts = Timeouts(handshake_timeout="300ms")
    with serve(Echo, stages=(password,), rules=rules, timeouts=timeouts) as served:
        first, second = served.connect(), served.connect()
        for client in (first, second):
            client.sendall(b"sesame")
            assert read_exactly(client, 5) == b"?Ali:"


def test_closing_the_server_ends_those_on_their_way() -> None:
    """Nobody is left between the door and the handler."""
    with serve(Echo, stages=(password,)) as served:
        client = served.connect()
        assert read_exactly(client, 1) == b"?"
        served.server.shutdown()
        served.server.server_close()
        assert read_all(client) == b""
        assert dict(served.service.counters.ended) == {"shutdown": 1}


def test_one_request_is_handled_with_its_stages() -> None:
    """`handle_request` goes on until the session that has come of it is over."""
    server = TCPServer(("127.0.0.1", 0), Echo, service=Service(stages=(password,)))
    with server, socket.create_connection(server.server_address, PATIENCE) as client:
        client.sendall(b"sesame")
        client.shutdown(socket.SHUT_WR)
        server.handle_request()
        assert read_all(client) == b"?Ali:"
