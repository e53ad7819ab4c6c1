"""Steps: handlers that never block, run by the serving loop for all their connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pytest
from harness import PATIENCE, STREAMS, ask, read_all, read_exactly, serve, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import MUCH, ended, faults, reset

from netd.connection import CHUNK, MORSEL
from netd.deadline import Timeouts
from netd.errors import ProtocolError, RemoteError
from netd.handler import RequestHandler
from netd.listener import SocketOptions
from netd.steps import OUT_LIMIT


def rows() -> Iterator[bytes]:
    """An answer without an end."""
    return repeat(b"x" * 1024)


class Talker(RequestHandler):
    """Does what it is told; each instance is kept in `made`."""

    made: list[Talker] = []

    def connection_made(self) -> None:
        self.lost: list[str] = []
        self.ended = 0
        Talker.made.append(self)

    def data_received(self, data: bytes) -> None:
        for word in data.split():
            if getattr(self, word[:20].decode(), lambda word=word: self.send(word + b"\n"))():
                return

    def eof_received(self) -> None:
        self.ended += 1

    def connection_lost(self, reason: str) -> None:
        self.lost.append(reason)

    def leave(self) -> bool:
        self.send(b"bye\n")
        self.close()
        return True

    def fail(self) -> None:
        raise ValueError("a fault of ours")

    def exit(self) -> None:
        raise SystemExit(3)

    def err(self) -> None:
        raise ProtocolError("a fault of yours")

    def overflow(self) -> None:
        self.send(b"x" * MUCH)

    def forever(self) -> None:
        self.send_from(rows())

    def fail_later(self) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"a\n"
            raise ValueError("a fault of ours")

        self.send_from(chunks())

    def err_later(self) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"a\n"
            raise ProtocolError("a fault of yours")

        self.send_from(chunks())


@pytest.fixture(autouse=True)
def _none_made() -> None:
    Talker.made = []


# -- the end of a session


# When megabytes come at once to a client that does not read yet, the kernel may drop a segment
# (TcpExtTCPRcvQDrop) and send it again seconds later, long after the session's end.
SHORT_OF_BUFFER = SocketOptions(send_buffer=2**17)
ENDS: dict[str, tuple[str, Callable[[socket.socket], object], str]] = {
    "the client closes": ("", lambda client: client.close(), "eof"),
    "the client half-closes": ("", lambda client: client.shutdown(socket.SHUT_WR), "eof"),
    "the client resets": ("", reset, "reset"),
    "the client resets while it is sent to": ("forever", reset, "reset"),
    "the handler closes": ("leave", lambda client: client.close(), "done"),
    "the client resets what is closing": ("leave", reset, "done"),
    "the handler fails": ("fail", read_all, "error"),
    "the handler exits": ("exit", read_all, "error"),
    "the handler sends too much": ("overflow", read_all, "error"),
    "the answer fails half-way": ("fail_later", read_all, "error"),
    "the client errs": ("err", lambda client: client.close(), "protocol_error"),
    "the answer errs half-way": ("err_later", lambda client: client.close(), "protocol_error"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_session_ends_once(end: str, caplog: pytest.LogCaptureFixture) -> None:
    """However it ends: one call of connection_lost, one count, one release, one report at most."""
    order, act, reason = ENDS[end]
    with serve(Talker, socket_options=SHORT_OF_BUFFER) as served:
        client = served.connect()
        client.sendall(b"hello ")
        assert read_exactly(client, 6) == b"hello\n"
        client.sendall(order.encode())
        if order in ("leave", "forever"):
            assert client.recv(1)
        act(client)
        ended(served, **{reason: 1})
        assert [talker.lost for talker in Talker.made] == [[reason]]
        assert len(faults(caplog)) == served.service.counters.errors == (reason == "error")
    assert [talker.lost for talker in Talker.made] == [[reason]]


def test_server_close_ends_all_sessions_once() -> None:
    """In whatever state they are, with the reason `shutdown`."""
    with serve(Talker, close_timeout=0.1) as served:
        clients = [served.connect() for _ in range(4)]
        for client, order in zip(clients, (b"a", b"forever", b"leave", b"b"), strict=True):
            client.sendall(order)
            assert client.recv(1)
        served.server.shutdown()
        served.server.server_close()
        assert not served.server.sessions
    assert [talker.lost for talker in Talker.made] == [["shutdown"]] * 4
    assert served.service.counters.ended == {"shutdown": 4}


@pytest.mark.parametrize("method", ["connection_made", "eof_received", "error_reply"])
@pytest.mark.parametrize("fault", [ValueError, BufferError, SystemExit])
def test_a_fault_in_any_step_ends_that_session_alone(
    method: str, fault: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported once, and the other clients notice nothing."""
    failing = threading.Event()

    def fail(*_args: Any) -> bytes:
        if failing.is_set():
            raise fault("a fault of ours")
        return b""

    class Failing(RequestHandler):
        def data_received(self, data: bytes) -> None:
            if data == b"err":
                raise ProtocolError("a fault of yours")
            self.send(data)

    with serve(type("Failing", (Failing,), {method: fail})) as served:
        other = served.connect()
        other.sendall(b"a")
        assert read_exactly(other, 1) == b"a"
        failing.set()
        client = served.connect()
        if method != "connection_made":
            client.sendall(b"b")  # so that it is not the first step that fails
            assert read_exactly(client, 1) == b"b"
        assert ask(client, b"err" if method == "error_reply" else b"") == b""
        other.sendall(b"b")
        assert read_exactly(other, 1) == b"b"
        wait_until(lambda: len(served.server.sessions) == 1)
        assert served.service.counters.ended == {"error": 1}
        assert served.service.counters.errors == len(faults(caplog)) == 1


def test_a_fault_in_connection_lost_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The session has ended all the same."""

    class Sore(RequestHandler):
        def data_received(self, data: bytes) -> None:
            self.send(data)

        def connection_lost(self, _reason: str) -> None:
            raise ValueError("a fault of ours")

    with serve(Sore) as served:
        assert ask(served.connect(), b"abc") == b"abc"
        ended(served, error=1)
    assert len(faults(caplog)) == served.service.counters.errors == 1


def test_last_words_that_come_too_late_are_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    """Whether the peer is there no more is not for the handler to know."""

    class Polite(RequestHandler):
        def data_received(self, data: bytes) -> None:
            self.send(data)

        def connection_lost(self, _reason: str) -> None:
            for _ in range(3):
                self.send(b"good bye")

    with serve(Polite) as served:
        client = served.connect()
        client.sendall(b"a")
        assert read_exactly(client, 1) == b"a"
        reset(client)
        ended(served, reset=1)
    assert not faults(caplog)


def test_a_constructor_that_fails_costs_its_own_session(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and reported as any other fault."""

    class Stillborn(Talker):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            raise ValueError("a fault of ours")

    with serve(Stillborn) as served:
        for _ in range(3):
            assert read_all(served.connect()) == b""
        ended(served, error=3)
        assert served.service.gate.admitted == 3
    assert len(faults(caplog)) == served.service.counters.errors == 3


# -- what is held for a peer


def test_what_a_step_sends_beyond_the_buffer_is_a_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is reported with its remedy; what netd holds for one peer stays bounded."""
    with serve(Talker, socket_options=SHORT_OF_BUFFER) as served:
        client = served.connect()
        client.sendall(b"overflow")
        assert len(read_all(client)) < MUCH
        ended(served, error=1)
    assert "send_from" in caplog.text
    assert caplog.text.count("Traceback") == 1


def test_the_buffer_holds_what_the_kernel_does_not_take() -> None:
    """Up to its limit nothing is lost, and the next step waits until it has gone out."""
    filler = 2**20

    class Fill(RequestHandler):
        def data_received(self, data: bytes) -> None:
            connection = self.connection
            if data == b"fill":
                while connection.out is None:
                    self.send(b"x" * 1000)
                self.send(b"y" * (OUT_LIMIT - len(connection.out)))
                assert len(connection.out) == OUT_LIMIT
                sizes.append(connection.bytes_out + OUT_LIMIT)
            else:
                self.send(data)

    sizes: list[int] = []
    with serve(Fill) as served:
        client = served.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, filler)
        client.sendall(b"fill")
        wait_until(lambda: sizes)
        client.sendall(b"next")
        answer = read_exactly(client, sizes[0] + 4)
        assert answer.strip(b"x") == b"y" * answer.count(b"y") + b"next"
        assert answer.endswith(b"ynext")


def test_a_client_that_does_not_read_is_cut_and_stalls_nobody() -> None:
    """It is given `write_timeout`; meanwhile the others are answered at once."""
    with serve(Talker, timeouts=Timeouts(write_timeout="1s")) as served:
        deaf, other = served.connect(), served.connect()
        deaf.sendall(b"forever")
        while not served.service.counters.ended:
            other.sendall(b"a")
            assert read_exactly(other, 2) == b"a\n"
        assert served.service.counters.ended == {"write_timeout": 1}
        assert Talker.made[0].lost == ["write_timeout"]


def test_a_fast_reader_of_an_endless_answer_does_not_keep_the_others_waiting() -> None:
    """Each turn sends one chunk, so that all readers, and all other clients, have theirs."""
    end = threading.Event()

    def read(client: socket.socket, taken: list[int]) -> None:
        while not end.is_set():
            taken[0] += len(client.recv(CHUNK))

    with serve(Talker) as served:
        amounts: list[list[int]] = [[0], [0]]
        readers = []
        for taken in amounts:
            client = served.connect()
            client.sendall(b"forever")
            readers.append(threading.Thread(target=read, args=(client, taken)))
            readers[-1].start()
        other = served.connect()
        try:
            wait_until(lambda: all(taken[0] > 2**20 for taken in amounts))
            for _ in range(100):
                other.sendall(b"a")
                assert read_exactly(other, 2) == b"a\n"
        finally:
            end.set()
            for reader in readers:
                reader.join(PATIENCE)
        assert max(amounts)[0] < 100 * min(amounts)[0]


@pytest.mark.parametrize("transport", STREAMS)
def test_a_half_closed_client_gets_the_whole_answer(transport: str) -> None:
    """What was sent, and what eof_received sends after it, before the end."""

    class Summer(RequestHandler):
        def connection_made(self) -> None:
            self.sum = 0

        def data_received(self, data: bytes) -> None:
            self.sum += len(data)
            self.send(data)

        def eof_received(self) -> None:
            self.send_from(iter([b"sum:", b"%d" % self.sum]))

    with serve(Summer, transport) as served:
        assert ask(served.connect(), b"x" * MUCH) == b"x" * MUCH + b"sum:%d" % MUCH
        ended(served, eof=1)
        counters = served.service.counters
        assert (counters.bytes_in, counters.bytes_out) == (MUCH, MUCH + 12)


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("size", [1, MORSEL - 1, MORSEL, MORSEL + 1, 2 * MORSEL, 10_000])
def test_what_has_come_at_once_is_one_step(size: int, transport: str) -> None:
    """However much is read at once, the first time and later."""

    class Scale(RequestHandler):
        def data_received(self, data: bytes) -> None:
            self.send(b"%5d" % len(data))

    with serve(Scale, transport) as served:
        client = served.connect()
        for _ in range(3):
            client.sendall(bytes(size))
            assert read_exactly(client, 5) == b"%5d" % size
        client.sendall(bytes(MORSEL))
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"%5d" % MORSEL
        ended(served, eof=1)
        assert served.service.counters.bytes_in == 3 * size + MORSEL


@given(st.lists(st.binary(min_size=1, max_size=3 * MORSEL), min_size=1, max_size=8))
@settings(max_examples=50)
def test_every_byte_arrives_once_and_in_order(pieces: list[bytes]) -> None:
    """By whatever pieces it is sent."""

    class Echo(RequestHandler):
        def data_received(self, data: bytes) -> None:
            self.send(data)

    with serve(Echo) as served:
        client = served.connect()
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"".join(pieces)


def test_what_came_before_a_reset_is_a_step_still() -> None:
    """Also where one read more was tried, to see whether that was all."""
    held, go_on, got = threading.Event(), threading.Event(), []

    class Holder(RequestHandler):
        def data_received(self, data: bytes) -> None:
            got.append(data)
            if data == b"hold":
                held.set()
                go_on.wait(PATIENCE)

    with serve(Holder) as served:
        client, other = served.connect(), served.connect()
        other.sendall(b"hold")
        assert held.wait(PATIENCE)
        client.sendall(bytes(MORSEL))
        reset(client)
        go_on.set()
        wait_until(lambda: served.service.counters.ended == {"reset": 1})
        assert got == [b"hold", bytes(MORSEL)]
        assert served.service.counters.bytes_in == MORSEL


# -- last words


def flood(client: socket.socket, size: int) -> None:
    """Sends as much, whether the other end reads it or has closed."""
    try:
        client.sendall(b"x" * size)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize(
    ("order", "words"), [(b"err", b"error: a fault of yours\r\n"), (b"leave", b"bye\n")]
)
def test_last_words_arrive_although_the_client_sends_on(
    transport: str, order: bytes, words: bytes
) -> None:
    """To close at once would be a reset, which destroys what the client has not read yet."""
    with serve(Talker, transport) as served:
        client = served.connect()
        client.sendall(order + b" ")
        flood(client, 10_000_000)
        assert read_all(client) == words


def test_a_client_that_never_goes_is_let_go() -> None:
    """Last words are no way to hold a connection: two seconds, and a little."""
    with serve(Talker) as served:
        client = served.connect()
        client.sendall(b"leave")
        assert read_all(client) == b"bye\n"
        ended(served, done=1)


def test_a_client_that_floods_after_the_last_words_stalls_nobody() -> None:
    """What it sends is discarded chunk by chunk, in turn with the others."""
    with serve(Talker) as served:
        client, other = served.connect(), served.connect()
        client.sendall(b"leave")
        flooding = threading.Thread(target=flood, args=(client, 2**28), daemon=True)
        flooding.start()
        while flooding.is_alive():
            other.sendall(b"a")
            assert read_exactly(other, 2) == b"a\n"
        flooding.join(PATIENCE)


def test_an_error_reply_may_be_empty() -> None:
    """Then the client is just let go."""

    class Silent(Talker):
        def error_reply(self, _error: RemoteError) -> bytes:
            return b""

    with serve(Silent) as served:
        client = served.connect()
        client.sendall(b"err")
        assert read_all(client) == b""


# -- deadlines and the rest


def is_answered(client: socket.socket) -> bool:
    """Whether a client is still served."""
    try:
        client.sendall(b"a ")
        return client.recv(2) == b"a\n"
    except ConnectionError:
        return False


@pytest.mark.parametrize("name", ["idle_timeout", "session_timeout"])
def test_a_session_ends_at_its_deadline(name: str) -> None:
    """Whether it is silent for too long, or busy for too long."""
    with serve(Talker, timeouts=Timeouts(**{name: "500ms"})) as served:
        client = served.connect()
        if name == "idle_timeout":
            assert read_all(client) == b""
        else:
            while is_answered(client):
                continue
        ended(served, **{name: 1})
        assert Talker.made[0].lost == [name]


def test_the_banner_comes_first() -> None:
    """Before anything that connection_made says."""

    class Host(Talker):
        def connection_made(self) -> None:
            self.send(b"who are you?\n")

    with serve(Host, banner=b"welcome\n") as served:
        client = served.connect()
        assert read_exactly(client, 21) == b"welcome\nwho are you?\n"


def test_bytes_are_counted_to_the_last_one() -> None:
    """In both directions, banner and discarded bytes included."""
    with serve(Talker, banner=b"welcome\n") as served:
        client = served.connect()
        client.sendall(b"a leave")
        assert read_all(client) == b"welcome\na\nbye\n"
        client.sendall(b"z" * 100)
        client.close()
        ended(served, done=1)
        counters = served.service.counters
        assert (counters.bytes_in, counters.bytes_out) == (107, 14)


def test_hundreds_of_sessions_leave_nothing_behind() -> None:
    """Whatever each of them did."""
    with serve(Talker) as served:
        for order in (b"a", b"err", b"leave", b"fail") * 50:
            ask(served.connect(), order)
        wait_until(lambda: not served.server.sessions)
        assert served.service.gate.admitted == 200
        assert sum(served.service.counters.ended.values()) == 200
        assert served.service.gate.open == 0
