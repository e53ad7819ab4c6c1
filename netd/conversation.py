"""Connections whose handler has a thread and may block: every wait has an absolute deadline.

A read waits for a whole unit (a line, a frame, so many bytes) until its deadline: a peer that
sends a byte now and then gains nothing by it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from select import POLLIN, POLLOUT, poll
from time import monotonic
from typing import TYPE_CHECKING, Any

from netd.connection import CHUNK, LINGER, WASTE, ThreadConnection
from netd.deadline import Deadline
from netd.errors import Overdue, ProtocolError, RemoteError
from netd.frames import Body, EndOfFrame, Event, FrameReader, Header
from netd.lines import LineReader

if TYPE_CHECKING:
    from netd.handler import RequestHandler
    from netd.service import Service


# How long after its deadline a wait must have ended, in seconds.
GRACE = 0.5


class Conversation(ThreadConnection):
    """A connection that is read and written by a blocking handler.

    Reads give up after `idle_timeout` unless told a time of their own, in seconds, writes after
    `write_timeout`, both at the end of `session_timeout`, and when cut: with `Overdue`."""

    __slots__ = ("_buffer", "_patience", "_poll", "_reader", "_session")

    def __init__(
        self, request: socket.socket, client_address: Any, service: Service, origin: str
    ) -> None:
        super().__init__(request, client_address, service, origin)
        request.setblocking(False)
        self._poll = poll()
        self._buffer = bytearray()
        self._reader: LineReader | FrameReader | None = None
        self._session = Deadline(service.timeouts.session_timeout, "session_timeout")
        self._patience = 0.0
        """Until when the latest wait may last, on the monotonic clock."""

    # -- for the handler

    def read(self, size: int = CHUNK, timeout: float | None = None) -> bytes:
        """At most `size` bytes, as soon as there are any; b"" at the end of the stream."""
        self._leave_reader()
        if not self._buffer:
            return self._receive(size, self._deadline(timeout))
        return self._take(size)

    def read_exactly(self, size: int, timeout: float | None = None) -> bytes:
        """Exactly `size` bytes; ProtocolError when the stream ends before."""
        self._leave_reader()
        deadline = self._deadline(timeout)
        while (have := len(self._buffer)) < size:
            data = self._receive(min(CHUNK, size - have), deadline)
            if not data:
                raise ProtocolError(f"the stream ended after {have} of {size} bytes")
            self._buffer += data
        return self._take(size)

    def read_line(self, limit: int = 65_536, timeout: float | None = None) -> bytes | None:
        """A line of at most `limit` bytes, without its LF or CR LF; None at the end of the stream.

        A longer line is a ProtocolError. What follows the line stays for the next read."""
        reader = self._reader
        if not isinstance(reader, LineReader):
            reader = self._enter(LineReader(limit))
        reader.limit = limit
        deadline = self._deadline(timeout)
        while (line := reader.next_line()) is None and not reader.at_end:
            reader.receive_data(self._receive(CHUNK, deadline))
        return line

    def read_frame(
        self, body_limit: int = 65_536, timeout: float | None = None
    ) -> tuple[Header, bytes] | None:
        """Header and body of a version 2 frame (netd.frames); None at the end of the stream.

        A body above `body_limit` bytes, and any malformed frame, is a ProtocolError."""
        reader = self._reader
        if not isinstance(reader, FrameReader):
            reader = self._enter(FrameReader(body_limit=body_limit))
        reader.body_limit = body_limit
        header, body = None, bytearray()
        for event in self._events(reader, self._deadline(timeout)):
            if isinstance(event, Header):
                header = event
            elif isinstance(event, Body):
                body += event.data
        return None if header is None else (header, bytes(body))

    def send(self, data: bytes) -> None:
        """Sends all of it; Overdue when the peer has not taken it within `write_timeout`."""
        self._send(data, Deadline(self.service.timeouts.write_timeout, "write_timeout"))

    def _send(self, data: bytes, deadline: Deadline) -> None:
        view = memoryview(data)
        while view:
            try:
                sent = self.request.send(view)
            except BlockingIOError:
                self._wait(POLLOUT, deadline)
                continue
            except OSError:
                self._check_cut()
                raise
            self.bytes_out += sent
            self.active = monotonic()
            view = view[sent:]

    # -- for the server

    def converse(self, handler: RequestHandler, greeting: bytes) -> None:
        """Runs the handler; a peer at fault is told so before its fault is raised."""
        if greeting:
            self.send(greeting)
        handler.setup()
        try:
            handler.handle()
        except RemoteError as error:
            # A peer that takes nothing would not take the last words either.
            if error.reason != "write_timeout" and (reply := handler.error_reply(error)):
                self._say_last(reply)
            raise
        finally:
            handler.finish()

    def _say_last(self, words: bytes) -> None:
        """Sends the last words and lets the peer read them: closing with its bytes unread would
        be a reset, which can destroy them (RFC 1122, 4.2.2.13)."""
        self._buffer.clear()
        # Not the time of the service: a peer at fault is not waited for so long.
        deadline = self._session = Deadline(LINGER, "done")
        with suppress(OSError, Overdue):  # it does not want to know
            self._send(words, deadline)
            self.request.shutdown(socket.SHUT_WR)
            while self._discard(deadline):
                continue

    def overdue(self, now: float) -> str | None:
        """As any connection; but a wait has its own deadline, which may be a later one, and the
        thread that wakes at it is to come first: it can still tell the peer."""
        return None if now < self._patience + GRACE else super().overdue(now)

    # -- inside

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _enter(self, reader: Any) -> Any:
        self._leave_reader()
        if self._buffer:
            reader.receive_data(bytes(self._buffer))
            self._buffer.clear()
        self._reader = reader
        return reader

    def _leave_reader(self) -> None:
        if self._reader is not None:
            self._buffer += self._reader.rest()
            self._reader = None

    def _events(self, reader: FrameReader, deadline: Deadline) -> Iterator[Event]:
        while not reader.at_end:
            event = reader.next_event()
            if event is None:
                reader.receive_data(self._receive(CHUNK, deadline))
                continue
            yield event
            if isinstance(event, EndOfFrame):
                return

    def _deadline(self, timeout: float | None) -> Deadline:
        if timeout is None:
            timeout = self.service.timeouts.idle_timeout
        return Deadline(timeout, "idle_timeout")

    def _receive(self, size: int, deadline: Deadline) -> bytes:
        while True:
            try:
                data: bytes = self.request.recv(size)
            except BlockingIOError:
                self._wait(POLLIN, deadline)
                continue
            except OSError:
                self._check_cut()
                raise
            self._check_cut()
            self.bytes_in += len(data)
            self.active = monotonic()
            self.at_end = not data
            return data

    def _discard(self, deadline: Deadline) -> int:
        """How many bytes were read and forgotten; 0 at the end of the stream."""
        self._wait(POLLIN, deadline)
        size: int = self.request.recv_into(WASTE)
        self.bytes_in += size
        return size

    def _wait(self, events: int, deadline: Deadline) -> None:
        self._check_cut()
        nearest = min(deadline, self._session, key=lambda d: d.at)
        self._patience = nearest.at
        self._poll.register(self.request, events)
        ready = False
        while not ready:
            left = nearest.left()
            ready = bool(self._poll.poll(None if left is None else max(1.0, left * 1000)))

    def _check_cut(self) -> None:
        if self.was_cut is not None:
            raise Overdue(self.was_cut)
