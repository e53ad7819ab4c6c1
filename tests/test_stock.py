"""Stock stream handlers: they run unchanged, and gain deadlines, limits and counts."""

from __future__ import annotations

import http.server
import io
import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection
from time import monotonic
from typing import Any

import pytest
from harness import PATIENCE, SOON, STREAMS, ask, read_all, read_exactly, serve, slowness
from hypothesis import given
from hypothesis import strategies as st
from kinds import MUCH, ended

from netd.connection import end_reason
from netd.deadline import Timeouts
from netd.errors import Overdue, ProtocolError
from netd.service import Service
from netd.stock import LINE_LIMIT, StockSession, StockSocket, StockTimeout


class Pair:
    """A stock socket with its session, and the client at its other end."""

    def __init__(self, **timeouts: str) -> None:
        near, self.far = socket.socketpair()
        self.far.settimeout(PATIENCE)
        service = Service(timeouts=Timeouts(**timeouts))
        self.sock = StockSocket(near, service)
        self.session = StockSession(self.sock, "", service, "uid=0")

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        # Not by its own method: that waits for the files of it that a failed call has left.
        if (fd := self.sock.detach()) >= 0:
            os.close(fd)
        self.far.close()


# -- handlers


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("read_size", [-1, 0, 4])
@pytest.mark.parametrize("write_size", [0, -1])
def test_a_stream_handler_runs_unchanged(transport: str, read_size: int, write_size: int) -> None:
    """Whatever sizes its files have."""

    class Upper(socketserver.StreamRequestHandler):
        rbufsize, wbufsize = read_size, write_size

        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(line.upper())
                self.wfile.flush()

    with serve(Upper, transport, banner=b"welcome\n") as served:
        assert ask(served.connect(), b"abc\ndef") == b"welcome\nABC\nDEF"
        ended(served, eof=1)
        assert (served.service.counters.bytes_in, served.service.counters.bytes_out) == (7, 15)


def test_a_plain_handler_runs_unchanged() -> None:
    """It uses its socket as the tutorials do; it is made with a function, as some servers do."""

    class Echo(socketserver.BaseRequestHandler):
        def __init__(self, greeting: bytes, *args: Any) -> None:
            self.greeting = greeting
            super().__init__(*args)

        def handle(self) -> None:
            assert self.client_address == self.request.getpeername()
            self.request.sendall(self.greeting)
            while data := self.request.recv(1024):
                self.request.sendall(data)

    def make(*args: Any) -> Echo:
        return Echo(b"hello ", *args)

    with serve(make) as served:  # type: ignore[arg-type]
        assert ask(served.connect(), b"abc") == b"hello abc"


def test_a_web_server_runs_unchanged() -> None:
    """One of the standard library, that keeps connections open between requests."""

    class Web(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).upper()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with serve(Web) as served:
        client = HTTPConnection(*served.address, timeout=PATIENCE)
        for body in (b"abc", b"", b"x" * 2**20):
            client.request("POST", "/", body)
            assert client.getresponse().read() == body.upper()
        client.close()
        ended(served, eof=1)


def test_a_handler_that_fails_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """But for what is its client's doing: to be gone, or to be too slow."""

    class Fail(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            kind = {b"ours": ValueError, b"gone": BrokenPipeError, b"slow": TimeoutError}
            raise kind[self.rfile.read(4)]

    with serve(Fail) as served:
        for order in (b"ours", b"gone", b"slow"):
            with suppress(ConnectionError):
                ask(served.connect(), order)
        ended(served, error=1, reset=1, idle_timeout=1)
        assert served.service.counters.errors == 1
    assert caplog.text.count("Traceback") == 1


# -- deadlines


# Everything by which a handler can wait for its client.
CALLS: dict[str, Callable[[StockSocket], Any]] = {
    "recv": lambda sock: sock.recv(10),
    "recv_into": lambda sock: sock.recv_into(bytearray(10)),
    "recvfrom": lambda sock: sock.recvfrom(10),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(10)),
    "recvmsg": lambda sock: sock.recvmsg(10),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(10)]),
    "read": lambda sock: sock.makefile("rb").read(10_000),
    "read1": lambda sock: sock.makefile("rb").read1(10),
    "readinto": lambda sock: sock.makefile("rb").readinto(bytearray(10_000)),
    "readline": lambda sock: sock.makefile("rb").readline(),
    "raw readline": lambda sock: sock.makefile("rb", 0).readline(),
    "text readline": lambda sock: sock.makefile("r").readline(),
    "text read": lambda sock: sock.makefile("rw").read(),
    "pair readline": lambda sock: sock.makefile("rwb").readline(),
    "for": lambda sock: list(sock.makefile("rb")),
    "send": lambda sock: send_on(lambda: sock.send(b"x" * 1000)),
    "sendall": lambda sock: sock.sendall(b"x" * MUCH),
    "sendmsg": lambda sock: send_on(lambda: sock.sendmsg([b"x" * 500, b"y" * 500])),
    "sendfile": lambda sock: sock.sendfile(io.BytesIO(b"x" * MUCH)),
    "write": lambda sock: sock.makefile("wb").write(b"x" * MUCH),
}
WRITES = {"send", "sendall", "sendmsg", "sendfile", "write"}
# They read more than once, if they have to.
WHOLE = ["read", "readinto", "readline", "raw readline", "text readline", "text read", "for"]


def send_on(send: Any) -> None:
    """Sends until that fails."""
    while True:
        send()


# What a file could not write at its end is tried again, in vain, when it is forgotten.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("limit", ["of the service", "of the session", "own", "cut"])
def test_every_call_ends(name: str, limit: str) -> None:
    """At its deadline, or when the session is cut; in the way that stock handlers know."""
    kind = "write_timeout" if name in WRITES else "idle_timeout"
    timeouts, reason = {kind: "100ms"}, kind
    if limit == "of the session":
        timeouts, reason = {"session_timeout": "100ms"}, "session_timeout"
    with Pair(**({} if limit in ("own", "cut") else timeouts)) as pair:
        call = partial(CALLS[name], pair.sock)
        if limit == "own":
            pair.sock.settimeout(0.1)
        if limit == "cut":
            pair.session.cut("killed")
            with suppress(StockTimeout):
                assert not any(call() or ()), name
            assert pair.session.outcome == "killed"
            return
        began = monotonic()
        with pytest.raises((TimeoutError, Overdue)) as caught:
            call()
        assert 0.09 < monotonic() - began < SOON * slowness()
        assert end_reason(caught.value) == reason


def test_a_write_after_a_cut_tells_the_reason() -> None:
    """It is not taken for a reset by the client."""
    with Pair() as pair:
        pair.session.cut("shutdown")
        with pytest.raises(StockTimeout) as caught:
            pair.sock.sendall(b"abc")
        assert caught.value.reason == "shutdown"


@pytest.mark.parametrize("name", WHOLE)
def test_a_read_of_a_file_has_one_deadline(name: str) -> None:
    """However slowly its bytes come in: each of them buys no time."""
    end = threading.Event()
    with Pair(idle_timeout="200ms") as pair:

        def dribble() -> None:
            while not end.wait(0.02):
                pair.far.send(b"x")

        sending = threading.Thread(target=dribble)
        sending.start()
        try:
            with pytest.raises(StockTimeout):
                CALLS[name](pair.sock)
        finally:
            end.set()
            sending.join(PATIENCE)
        assert pair.session.bytes_in > 1


def test_the_time_out_of_a_handler_is_as_it_set_it() -> None:
    """Also in what is asked of the socket, and when there is to be none at all."""
    with Pair() as pair:
        assert pair.sock.gettimeout() is None
        pair.sock.settimeout(PATIENCE)
        pair.far.send(b"a")
        assert pair.sock.recv(1) == b"a"
        assert pair.sock.gettimeout() == PATIENCE
        pair.sock.setblocking(False)
        assert pair.sock.gettimeout() == 0
        with pytest.raises(BlockingIOError):
            pair.sock.recv(1)
        with pytest.raises(BlockingIOError):
            send_on(lambda: pair.sock.send(b"x" * 1000))
        pair.sock.setblocking(True)
        assert pair.sock.gettimeout() is None


def test_a_session_that_is_over_is_over_for_a_socket_that_never_waits() -> None:
    """The deadline of a session is kept by the server too, for whoever waits elsewhere."""

    class Poll(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setblocking(False)
            data = b"-"
            while data:
                with suppress(BlockingIOError):
                    data = self.request.recv(10)

    with serve(Poll, timeouts=Timeouts(session_timeout="100ms")) as served:
        assert read_all(served.connect()) == b""
        ended(served, session_timeout=1)


# -- limits

TEXT = st.text(st.sampled_from("ab\n"), max_size=50)


@given(TEXT, st.integers(1, 20), st.sampled_from(["rb", "rwb", "r", "rw"]), st.booleans())
def test_lines_are_those_of_any_file(text: str, piece: int, mode: str, raw: bool) -> None:
    """Whatever pieces they come in."""
    data, binary = text.encode(), "b" in mode
    expected: Any = data if binary else text
    with Pair() as pair:
        file = pair.sock.makefile(mode, 0 if raw and mode == "rb" else None)
        for at in range(0, len(data), piece):
            pair.far.send(data[at : at + piece])
        pair.far.shutdown(socket.SHUT_WR)
        with file:
            assert list(file) == expected.splitlines(keepends=True)
        assert pair.session.bytes_in == len(data)
        assert pair.session.outcome == "eof"


@pytest.mark.parametrize(("mode", "buffering"), [("rb", -1), ("rb", 0), ("rwb", -1), ("r", -1)])
def test_a_line_is_bounded(mode: str, buffering: int) -> None:
    """One of the greatest length is a line; with a byte more it is the fault of the client."""
    longest = b"x" * (LINE_LIMIT - 1) + b"\n"
    with Pair() as pair:
        pair.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        file = pair.sock.makefile(mode, buffering)
        pair.far.sendall(longest)
        assert len(file.readline()) == LINE_LIMIT
        pair.far.sendall(b"x" + longest)
        with pytest.raises(ProtocolError, match=f"line: longer than {LINE_LIMIT} bytes"):
            file.readline()
        file.close()


def test_a_line_may_be_longer_if_the_handler_says_so() -> None:
    """With a limit of its own it knows what it does."""
    with Pair() as pair:
        pair.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        pair.far.sendall(b"x" * (LINE_LIMIT + 100))
        with pair.sock.makefile("rb") as file:
            assert len(file.readline(LINE_LIMIT + 50)) == LINE_LIMIT + 50


@pytest.mark.parametrize(("mode", "buffering"), [("x", None), ("rb+", None), ("r", 0)])
def test_what_no_socket_makes_a_file_of_this_one_does_not(mode: str, buffering: Any) -> None:
    """The error is that of the standard library."""
    with Pair() as pair, pytest.raises(ValueError, match=r"mode|binary"):
        pair.sock.makefile(mode, buffering)


# -- counts


def test_every_byte_is_counted() -> None:
    """By whatever call it comes or goes."""
    with Pair() as pair, tempfile.TemporaryFile() as file:
        sock, far, session = pair.sock, pair.far, pair.session
        far.sendall(b"x" * 70)
        buffer = bytearray(10)
        sock.recv(10)
        sock.recv_into(buffer)
        sock.recvfrom(10)
        sock.recvfrom_into(buffer, 10)
        sock.recvmsg(10)
        sock.recvmsg_into([buffer])
        sock.makefile("rb", 0).read(10)
        assert session.bytes_in == 70
        file.write(b"0123456789")
        file.seek(0)
        sock.send(b"send")
        sock.sendall(b"sendall")
        sock.sendmsg([b"send", b"msg"])
        assert sock.sendfile(file) == 10
        assert sock.sendfile(file, 2, 3) == 3
        assert sock.sendfile(file, 8, 100) == 2
        sock.makefile("wb", 0).write(b"write")
        sent = b"sendsendallsendmsg012345678923489write"
        assert read_exactly(far, len(sent)) == sent
        assert session.bytes_out == len(sent)


def test_a_plain_socket_can_be_had_back() -> None:
    """For the serving loop, which must not wait as a handler may."""
    with Pair() as pair:
        plain = pair.sock.plain()
        assert type(plain) is socket.socket
        assert (pair.sock.fileno(), plain.family) == (-1, socket.AF_UNIX)
        plain.sendall(b"abc")
        assert read_exactly(pair.far, 3) == b"abc"
        plain.close()
