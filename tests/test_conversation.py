"""Conversations: handlers that block, on a thread of their own, in waits that all have an end."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import pytest
from harness import (
    PATIENCE,
    SOON,
    STREAMS,
    ask,
    read_all,
    read_exactly,
    serve,
    slowness,
    wait_until,
)
from hypothesis import given
from hypothesis import strategies as st
from kinds import MUCH, ended, faults

from netd import frames
from netd.conversation import Conversation
from netd.deadline import Timeouts
from netd.errors import Overdue, ProtocolError, RemoteError
from netd.handler import RequestHandler
from netd.service import Service


@contextmanager
def pair(**timeouts: str) -> Iterator[tuple[Conversation, socket.socket]]:
    """A conversation, and the client at its other end."""
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(PATIENCE)
        yield Conversation(near, "", Service(timeouts=Timeouts(**timeouts)), "uid=0"), far


# -- reading

LINE = st.binary(max_size=20).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))
UNITS = st.lists(
    st.one_of(
        st.tuples(st.just("line"), LINE),
        st.tuples(st.just("block"), st.binary(max_size=20)),
        st.tuples(st.just("frame"), st.binary(max_size=20)),
    ),
    max_size=8,
)


def wire(kind: str, data: bytes) -> bytes:
    """How a unit is sent."""
    if kind == "frame":
        return frames.encode({"v": 2, "id": 1}, data)
    return data + b"\r\n" if kind == "line" else data


def next_unit(conversation: Conversation, kind: str, size: int) -> bytes | None:
    """Reads a unit of a kind."""
    if kind == "frame":
        frame = conversation.read_frame()
        return None if frame is None else frame[1]
    return conversation.read_line() if kind == "line" else conversation.read_exactly(size)


@given(UNITS, st.integers(1, 30), st.binary(max_size=20))
def test_units_of_all_kinds_follow_each_other(
    units: list[tuple[str, bytes]], piece: int, trailing: bytes
) -> None:
    """Whatever pieces they come in, no read takes a byte of what follows."""
    stream = b"".join(wire(*unit) for unit in units) + trailing
    with pair() as (conversation, far):
        pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
        sender = threading.Thread(target=lambda: [far.send(data) for data in pieces])
        sender.start()
        for kind, data in units:
            assert next_unit(conversation, kind, len(data)) == data
        sender.join(PATIENCE)
        far.shutdown(socket.SHUT_WR)
        assert b"".join(iter(conversation.read, b"")) == trailing
        assert conversation.bytes_in == len(stream)


def test_read_gives_what_is_there() -> None:
    """At most as much as asked for; then nothing, for ever, at the end of the stream."""
    with pair() as (conversation, far):
        far.sendall(b"abcdef")
        assert conversation.read(4) == b"abcd"
        assert conversation.read(4) == b"ef"
        far.sendall(b"a line\nand more")
        assert conversation.read_line() == b"a line"
        assert conversation.read(3) == b"and"
        far.shutdown(socket.SHUT_WR)
        assert conversation.read() == b" more"
        assert [conversation.read(), conversation.read()] == [b"", b""]
        assert conversation.read_line() is None
        assert conversation.read_frame() is None


def test_nothing_is_read_when_nothing_is_asked_for() -> None:
    """A body of no bytes is there at once, and is not the end of the stream."""
    with pair(idle_timeout="100ms") as (conversation, far):
        assert conversation.read_exactly(0) == b""
        assert conversation.outcome == "done"
        far.sendall(b"ab")
        assert conversation.read_exactly(1) == b"a"
        assert conversation.read_exactly(0) == b""
        assert conversation.read_exactly(1) == b"b"


@pytest.mark.parametrize(
    ("sent", "read", "fault"),
    [
        (b"abc", lambda c: c.read_exactly(4), "the stream ended after 3 of 4 bytes"),
        (b"", lambda c: c.read_exactly(4), "the stream ended after 0 of 4 bytes"),
        (frames.encode({}, b"abc")[:-1], lambda c: c.read_frame(), "body"),
        (b"\2\0", lambda c: c.read_frame(), "header length"),
        (b"x" * 11, lambda c: c.read_line(10), "line: longer than 10 bytes"),
        (frames.encode({}, b"x" * 11), lambda c: c.read_frame(10), "size"),
    ],
)
def test_a_unit_that_is_cut_or_too_long_is_the_fault_of_the_peer(
    sent: bytes, read: Callable[[Conversation], object], fault: str
) -> None:
    """The error names what is wrong."""
    with pair() as (conversation, far):
        far.sendall(sent)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError, match=fault):
            read(conversation)


def test_a_limit_can_differ_from_line_to_line() -> None:
    """As it does in a protocol whose first line is a greeting."""
    with pair() as (conversation, far):
        far.sendall(b"short\n" + b"x" * 50 + b"\n" + b"y" * 50 + b"\n")
        assert conversation.read_line(10) == b"short"
        assert conversation.read_line(50) == b"x" * 50
        with pytest.raises(ProtocolError, match="longer than 49"):
            conversation.read_line(49)


# -- deadlines

READS: list[Callable[..., object]] = [
    lambda c, **timeout: c.read(**timeout),
    lambda c, **timeout: c.read_line(**timeout),
    lambda c, **timeout: c.read_exactly(10, **timeout),
    lambda c, **timeout: c.read_frame(**timeout),
]


@pytest.mark.parametrize("read", READS)
def test_a_read_ends_at_its_deadline(read: Callable[..., object]) -> None:
    """At that of the service, at its own, or at the end of the session, whichever counts."""
    for timeouts, own, reason in [
        ({"idle_timeout": "50ms"}, {}, "idle_timeout"),
        ({}, {"timeout": 0.05}, "idle_timeout"),
        ({"session_timeout": "50ms"}, {}, "session_timeout"),
        ({"session_timeout": "50ms"}, {"timeout": PATIENCE}, "session_timeout"),
    ]:
        began = monotonic()
        with pair(**timeouts) as (conversation, _far), pytest.raises(Overdue) as caught:
            read(conversation, **own)
        assert caught.value.reason == reason
        assert 0.05 <= monotonic() - began < SOON * slowness()


def test_a_write_ends_at_its_deadline() -> None:
    """A peer that reads a byte now and then gains nothing by it."""
    end = threading.Event()
    with pair(write_timeout="300ms") as (conversation, far):

        def sip() -> None:
            while not end.wait(0.01):
                far.recv(1)

        sipping = threading.Thread(target=sip)
        sipping.start()
        try:
            with pytest.raises(Overdue) as caught:
                conversation.send(b"x" * MUCH)
        finally:
            end.set()
            sipping.join(PATIENCE)
        assert caught.value.reason == "write_timeout"
        assert 0 < conversation.bytes_out < MUCH


class Waiter(RequestHandler):
    """Waits for a line in a time of its own."""

    def handle(self) -> None:
        while line := self.read_line(timeout=PATIENCE):
            self.send(line + b"\n")


def test_a_read_may_take_longer_than_the_service_allows() -> None:
    """If it says so: the handler knows why its client is silent."""
    with serve(Waiter, timeouts=Timeouts(idle_timeout="100ms")) as served:
        client = served.connect()
        client.sendall(b"a\n")
        assert read_exactly(client, 2) == b"a\n"
        client.settimeout(1.5)  # three times as long as deadlines may be looked at late
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.sendall(b"b\n")
        assert read_exactly(client, 2) == b"b\n"


class Busy(RequestHandler):
    """Neither reads nor writes."""

    end = threading.Event()

    def handle(self) -> None:
        self.end.wait(PATIENCE)
        self.read()


@pytest.mark.parametrize("name", ["idle_timeout", "session_timeout"])
def test_a_handler_that_waits_for_something_else_is_cut_too(name: str) -> None:
    """Its client sees the end at once, itself at its next read."""
    Busy.end = threading.Event()
    with serve(Busy, timeouts=Timeouts(**{name: "100ms"})) as served:
        assert read_all(served.connect()) == b""
        assert served.server.sessions
        Busy.end.set()
        ended(served, **{name: 1})


# -- cutting


class Reader(RequestHandler):
    def handle(self) -> None:
        self.send(b"hello\n")
        self.read()


class Writer(RequestHandler):
    def handle(self) -> None:
        self.send(b"x" * MUCH)


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("handler", [Reader, Writer])
def test_a_conversation_can_be_cut_from_outside(transport: str, handler: type[Any]) -> None:
    """Whatever it waits for; the reason is the one that was given."""
    with serve(handler, transport) as served:
        client = served.connect()
        assert client.recv(1)
        (session,) = served.server.sessions.values()
        session.cut("killed")
        session.cut("too late")
        ended(served, killed=1)


def test_server_close_cuts_all_conversations() -> None:
    """With the reason `shutdown`; whoever does not notice in time is left to itself."""
    Busy.end = threading.Event()
    for handler in (Reader, Writer, Busy):
        with serve(handler, close_timeout=0.1) as served:
            client = served.connect()
            wait_until(lambda served=served: served.server.sessions)
            began = monotonic()
            served.server.shutdown()
            served.server.server_close()
            assert monotonic() - began < SOON * slowness()
            Busy.end.set()
            ended(served, shutdown=1)
            client.close()


# -- the end


class Err(RequestHandler):
    def handle(self) -> None:
        self.read(1)
        raise ProtocolError("a fault of yours")


@pytest.mark.parametrize("transport", STREAMS)
def test_an_error_reply_arrives_although_the_client_sends_on(transport: str) -> None:
    """To close at once would be a reset, which destroys what the client has not read yet."""
    with serve(Err, transport) as served:
        client = served.connect()
        try:
            client.sendall(b"x" * 10_000_000)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pytest.fail("the client could not send it all")
        assert read_all(client) == b"error: a fault of yours\r\n"
        ended(served, protocol_error=1)
        assert served.service.counters.bytes_in == 10_000_000


def test_a_client_that_never_goes_is_let_go() -> None:
    """Last words are no way to hold a thread: two seconds, and a little."""
    with serve(Err) as served:
        client = served.connect()
        client.sendall(b"x")
        assert read_all(client) == b"error: a fault of yours\r\n"
        ended(served, protocol_error=1)


def test_last_words_that_are_not_taken_do_not_hold_the_thread() -> None:
    """The time that an ordinary write is given, 30 seconds, is not spent on them."""

    class Full(RequestHandler):
        def handle(self) -> None:
            sock = self.connection.request
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for size in (65_536, 1):
                with suppress(BlockingIOError):
                    while True:
                        sock.send(b"x" * size)
            raise ProtocolError("you do not listen")

    with serve(Full) as served:
        client = served.connect()
        assert client.recv(1)
        ended(served, protocol_error=1)


def test_an_error_reply_may_be_empty() -> None:
    """Then the client is just let go."""

    class Silent(Err):
        def error_reply(self, _error: RemoteError) -> bytes:
            return b""

    with serve(Silent) as served:
        assert ask(served.connect(), b"x") == b""
        ended(served, protocol_error=1)


@pytest.mark.parametrize("method", ["setup", "handle", "finish", "error_reply"])
def test_a_fault_ends_its_own_session(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is reported once, with its traceback; the next client is served on."""

    def fail(*_args: Any) -> None:
        raise ValueError("a fault of ours")

    class Once(Waiter):
        def handle(self) -> None:
            if (line := self.read_line()) == b"err":
                raise ProtocolError("a fault of yours")
            assert line is not None
            self.send(line)

    with serve(type("Failing", (Once,), {method: fail})) as served:
        for _ in range(2):
            client = served.connect()
            client.sendall(b"err\n" if method == "error_reply" else b"a\n")
            with suppress(ConnectionError):
                read_all(client)
        ended(served, error=2)
        assert served.service.counters.errors == len(faults(caplog)) == 2
        assert caplog.text.count("Traceback") >= 2


def test_finish_is_called_however_a_conversation_ends() -> None:
    """After setup and handle, and whatever handle raised."""
    calls: list[str] = []

    class Around(RequestHandler):
        def setup(self) -> None:
            calls.append("setup")

        def handle(self) -> None:
            calls.append("handle")
            if self.read_line() == b"err":
                raise ProtocolError("a fault of yours")

        def finish(self) -> None:
            calls.append("finish")

    with serve(Around) as served:
        for order in (b"", b"err\n"):
            ask(served.connect(), order)
        ended(served, eof=1, protocol_error=1)
    assert calls == ["setup", "handle", "finish"] * 2


@pytest.mark.parametrize("transport", STREAMS)
def test_a_conversation_is_counted_by_how_it_ended(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the client, by the handler, or by a reset; none of them is a fault."""

    class Polite(RequestHandler):
        def handle(self) -> None:
            while line := self.read_line():
                self.send(line + b"\n")
                if line == b"quit":
                    return

    with serve(Polite, transport, banner=b"welcome\n") as served:
        assert ask(served.connect(), b"a\n") == b"welcome\na\n"
        leaving = served.connect()
        leaving.sendall(b"quit\n")
        assert read_all(leaving) == b"welcome\nquit\n"
        ended(served, eof=1, done=1)
        counters = served.service.counters
        assert (counters.bytes_in, counters.bytes_out) == (7, 23)
        if transport != "unix":
            client = served.connect()
            assert read_exactly(client, 8) == b"welcome\n"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            ended(served, eof=1, done=1, reset=1)
    assert not faults(caplog)
    assert counters.errors == 0
