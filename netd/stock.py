"""What an unchanged `socketserver` stream handler is given in place of its socket.

Such a handler reads and writes the socket by itself, or through files made of it. The socket
therefore counts what passes and keeps netd's deadlines in each call; the files bound a line, and
keep one deadline for the whole of a read, however slowly its bytes come in.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from netd.connection import CHUNK, ThreadConnection
from netd.deadline import Deadline
from netd.errors import Overdue, ProtocolError

if TYPE_CHECKING:
    from netd.service import Service

    _Socket = socket.socket
else:
    _Socket = object  # a mixin, which leaves the layout of sockets as it is

T = TypeVar("T")

# What readline() takes at most, in bytes or characters: a stock handler asks for no limit.
LINE_LIMIT = 65_536


class StockSession(ThreadConnection):
    """The session of a stock stream handler."""

    __slots__ = ()

    def __init__(self, request: Timed, client_address: Any, service: Service, origin: str) -> None:
        super().__init__(request, client_address, service, origin)
        request.record = self

    def converse(self, run: Callable[[], None], banner: bytes) -> None:
        """Runs the handler."""
        if banner:
            self.request.sendall(banner)
        run()

    def came_in(self, number: int) -> None:
        """Counts bytes that were read."""
        self.bytes_in += number
        self.active = monotonic()
        self.at_end = number == 0

    def went_out(self, number: int) -> None:
        """Counts bytes that were written."""
        self.bytes_out += number
        self.active = monotonic()


class StockTimeout(Overdue, TimeoutError):
    """A deadline has passed, or the session was cut, told in the way that stock handlers know."""


def _reading(name: str, size: Callable[[Any], int]) -> Any:
    """A call that receives, timed and counted; `size` finds the number of bytes in its result."""

    def call(self: Timed, *args: Any, **named: Any) -> Any:
        plain = getattr(super(Timed, self), name)
        found = self.timed(self.deadline_to_read(), plain, *args, **named)
        self.record.came_in(size(found))
        return found

    return call


def _writing(name: str) -> Any:
    """A call that sends, timed and counted."""

    def call(self: Timed, data: Any, *args: Any) -> Any:
        plain = getattr(super(Timed, self), name)
        sent = self.timed(self.deadline_to_write(), plain, data, *args)
        self.record.went_out(memoryview(data).nbytes if sent is None else sent)
        return sent

    return call


class Timed(_Socket):
    """Mixed into a connected socket: its calls keep the service's deadlines and count bytes.

    A time-out that the handler sets itself (`timeout` of StreamRequestHandler) still holds."""

    __slots__ = ()

    record: StockSession
    """The session that counts."""
    _own_timeout: float | None
    _until: Deadline
    """When the session has to be over."""
    _read: Deadline | None
    """The deadline of the read that a file has in hand."""

    def adopt(self, service: Service) -> None:
        """Keeps the deadlines of a service from now on."""
        self.settimeout(None)
        self._until = Deadline(service.timeouts.session_timeout, "session_timeout")
        self._read = None

    @property
    def user(self) -> str | None:
        """Who the client has shown to be, as `RequestHandler.user` is."""
        return self.record.identity.user

    # -- time-outs

    def settimeout(self, value: float | None) -> None:
        super().settimeout(value)
        self._own_timeout = value

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def gettimeout(self) -> float | None:
        return self._own_timeout

    @contextmanager
    def one_read(self) -> Iterator[None]:
        """Whatever is received within a `with` has one deadline."""
        outer = self._read
        self._read = self.deadline_to_read()
        try:
            yield
        finally:
            self._read = outer

    def deadline_to_read(self) -> Deadline:
        """By when a call that receives has to end."""
        timeout = self.record.service.timeouts.idle_timeout
        return self._read or self._nearest(Deadline(timeout, "idle_timeout"))

    def deadline_to_write(self) -> Deadline:
        """By when a call that sends has to end."""
        timeout = self.record.service.timeouts.write_timeout
        return self._nearest(Deadline(timeout, "write_timeout"))

    def _nearest(self, deadline: Deadline) -> Deadline:
        own = Deadline(self._own_timeout, deadline.reason)
        return min(deadline, own, self._until, key=lambda each: each.at)

    def timed(self, deadline: Deadline, call: Callable[..., T], *args: Any, **named: Any) -> T:
        """What a call of the socket returns; StockTimeout when that is not in time."""
        try:
            super().settimeout(0.0 if self._own_timeout == 0 else deadline.left())
            return call(*args, **named)
        except BlockingIOError:
            raise
        except (Overdue, OSError) as error:
            if self.record.was_cut is not None:
                raise StockTimeout(self.record.was_cut) from None
            if isinstance(error, Overdue | TimeoutError):
                raise StockTimeout(deadline.reason) from None
            raise

    # -- calls

    recv = _reading("recv", len)
    recv_into = _reading("recv_into", int)
    recvfrom = _reading("recvfrom", lambda found: len(found[0]))
    recvfrom_into = _reading("recvfrom_into", lambda found: int(found[0]))
    recvmsg = _reading("recvmsg", lambda found: len(found[0]))
    recvmsg_into = _reading("recvmsg_into", lambda found: int(found[0]))
    send = _writing("send")
    sendall = _writing("sendall")
    sendmsg = _writing("sendmsg")

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """As that of a socket; but through `sendall`, so that it is timed and counted."""
        if offset:
            file.seek(offset)
        sent = 0
        while chunk := file.read(CHUNK if count is None else min(CHUNK, count - sent)):
            self.sendall(chunk)
            sent += len(chunk)
        return sent

    # -- files

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """As that of a socket; what can be read from is bounded."""
        is_text = "b" not in mode
        only_writes = "w" in mode and "r" not in mode
        if only_writes or set(mode) - set("rwb") or (is_text and buffering == 0):
            return super().makefile(  # type: ignore[call-overload]
                mode, buffering, encoding=encoding, errors=errors, newline=newline
            )
        raw = _Raw(self, "rw" if "w" in mode else "r")
        self._io_refs += 1  # type: ignore[attr-defined]
        if buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        file: Any = _Pair(raw, raw, size) if "w" in mode else _Reader(raw, size)
        file.sock = self
        if is_text:
            file = _Text(file, io.text_encoding(encoding), errors, newline)
            file.sock, file.mode = self, mode
        return file


class StockSocket(Timed, socket.socket):
    """What a stock handler is given in place of its socket."""

    __slots__ = ("_own_timeout", "_read", "_until", "record")

    def __init__(self, request: socket.socket, service: Service) -> None:
        family, type_, proto = request.family, request.type, request.proto
        super().__init__(family, type_, proto, fileno=request.detach())
        self.adopt(service)

    def plain(self) -> socket.socket:
        """The connection as it was accepted; this socket is then none any more."""
        return socket.socket(fileno=self.detach())


class _Bounded:
    """Mixed into a file: its lines end, and so does each of its reads."""

    sock: Timed

    def read(self, size: int | None = -1, /) -> Any:
        with self.sock.one_read():
            return super().read(size)  # type: ignore[misc]

    def readline(self, size: int | None = -1, /) -> Any:
        with self.sock.one_read():
            if size is not None and size >= 0:
                return super().readline(size)  # type: ignore[misc]
            line = super().readline(LINE_LIMIT + 1)  # type: ignore[misc]
        if len(line) > LINE_LIMIT:
            raise ProtocolError(f"line: longer than {LINE_LIMIT} bytes")
        return line


class _Raw(_Bounded, socket.SocketIO):
    def __init__(self, sock: Timed, mode: Any) -> None:
        super().__init__(sock, mode)
        self.sock = sock


class _Reader(_Bounded, io.BufferedReader):
    def readinto(self, buffer: Any, /) -> int:
        with self.sock.one_read():
            return super().readinto(buffer)


class _Pair(_Bounded, io.BufferedRWPair): ...


class _Text(_Bounded, io.TextIOWrapper): ...
