"""Connections whose handler never blocks: the serving loop runs its steps in place.

A connection is in one of three states, which `_settle` reads off after each step:

    reading     nothing waits to be sent; the next bytes of the peer are the next step
    sending     something waits, so nothing is read: what netd holds for a peer that does not
                read is bounded by what one step sends
    lingering   all is said and our side is closed; what the peer still sends is discarded until
                it closes too. Closing at once, with its bytes unread, would be a reset, which
                can destroy the last words before the peer has read them (RFC 1122, 4.2.2.13)
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Any

from netd.connection import CHUNK, FAULTS, LINGER, MORSEL, WASTE, Connection, end_reason
from netd.errors import RemoteError

if TYPE_CHECKING:
    from netd.handler import RequestHandler
    from netd.loop import Loop
    from netd.service import Service

# Kept for a peer that does not read. A step that answers a chunk with its like never exceeds it.
OUT_LIMIT = CHUNK


class StepConnection(Connection):
    """A non-blocking connection, watched by the serving loop.

    `on_end(connection, reason, error)` is called once, when it is over: the server then counts,
    logs and closes it. `error` is the exception when the fault is our own."""

    __slots__ = (
        "_host", "_on_end", "_stages", "busy", "closing", "deadline", "handler", "interest",
        "is_at_end", "lingering", "loop", "out", "portion", "source", "waiting_since",
    )  # fmt: skip
    # Four of them are those of netd.prelude, as which it may begin; else they are never set.

    def __init__(
        self,
        request: socket.socket,
        client_address: Any,
        service: Service,
        origin: str,
        loop: Loop,
        on_end: Callable[[StepConnection, str, BaseException | None], None],
    ) -> None:
        # By its name: `super()` makes an object for each session.
        Connection.__init__(self, request, client_address, service, origin)
        self.loop = loop
        self._on_end = on_end
        self.handler: Any = None
        """A RequestHandler, from the first step to the last; then none, which ends their cycle."""
        self.portion = MORSEL
        """How many bytes are read at once."""
        self.interest = 0
        """What the loop waits for, an epoll event mask; -1 when the session is over."""
        self.busy = False
        """Whether something else than reading is to be done: one of the next three is set."""
        self.out: bytearray | None = None
        self.source: Iterator[bytes] | None = None
        self.waiting_since = 0.0
        """Since when something waits to be sent, or the peer to close its side."""
        self.closing: str | None = None
        """The reason word, once it is to end when all has been sent."""
        self.lingering = False

    # -- for the server

    def start(self, handler: RequestHandler, greeting: bytes) -> None:
        """Runs the first step. The first read is tried at once: most clients speak first."""
        self.handler = handler
        try:
            if greeting:
                self.send(greeting)
            handler.connection_made()
            if not self.busy:
                self.ready(EPOLLIN)
            if self.busy or self.interest != EPOLLIN:
                self._settle()
        except FAULTS as error:
            self._fail(error)

    def turn_away(self, message: bytes, reason: str) -> None:
        """Tells a client that it may not come in, and lets it read that."""
        self.close(reason)
        try:
            if message:
                self.send(message)
            self._settle()
        except FAULTS as error:
            self._fail(error)

    def cut(self, reason: str) -> None:
        """Ends the session now; what waits to be sent is lost."""
        self._end(reason, None)

    # -- for the handler

    def send(self, data: bytes) -> None:
        """Sends now what the kernel takes and keeps the rest, at most OUT_LIMIT bytes."""
        if self.out:
            self._keep(len(self.out), data)
            return
        try:
            sent = self.request.send(data)
        except BlockingIOError:
            sent = 0
        self.bytes_out += sent
        if sent < len(data):
            self.busy = True
            self.waiting_since = self.loop.now
            self._keep(0, memoryview(data)[sent:])

    def _keep(self, kept: int, data: bytes | memoryview) -> None:
        if kept + len(data) > OUT_LIMIT:
            raise BufferError(
                f"a step sent more than {OUT_LIMIT} bytes that the peer has not taken yet"
                " (send long answers with send_from)"
            )
        if self.out:
            self.out += data
        else:
            self.out = bytearray(data)  # of just that size, where += would make room for more

    def send_from(self, chunks: Iterator[bytes]) -> None:
        """Sends what the iterator yields, each chunk when the one before it has gone out."""
        self.source = chunks
        self.busy = True
        self.waiting_since = self.loop.now

    def close(self, reason: str = "done") -> None:
        """Ends the session once everything has been sent."""
        if self.closing is None:
            self.closing = reason
            self.busy = True

    # -- for the loop

    def fileno(self) -> int:
        """The socket's descriptor; -1 when it is closed."""
        return int(self.request.fileno())

    def ready(self, _events: int) -> None:
        """The socket is readable, writable or broken."""
        try:
            if self.busy:
                self._go_on()
            else:
                # The way of nearly every byte, so it is spelled out.
                try:
                    data = self.request.recv(self.portion)
                except BlockingIOError:
                    return
                if size := len(data):
                    if size == MORSEL == self.portion:
                        size = len(data := self._read_on(data))
                    self.bytes_in += size
                    self.active = self.loop.now
                    self.handler.data_received(data)
                else:
                    self._meet_end()
                if not self.busy:
                    return
            self._settle()
        except FAULTS as error:
            self._fail(error)

    def overdue(self, now: float) -> str | None:
        """The reason word of a deadline that has passed, or None."""
        waiting = now - self.waiting_since
        if self.lingering:
            return self.closing if waiting >= LINGER else None
        limit = self.service.timeouts.write_timeout
        sending = self.out is not None or self.source is not None
        if sending and limit is not None and waiting >= limit:
            return "write_timeout"
        return super().overdue(now)

    # -- inside

    def _read_on(self, data: bytes) -> bytes:
        """All that has come, of which this may be the beginning. From now on a CHUNK is read."""
        self.portion = CHUNK
        try:
            data += self.request.recv(CHUNK - MORSEL)
        except BlockingIOError:
            pass  # that was all
        except OSError:
            self.bytes_in += len(data)
            self.handler.data_received(data)  # it came before the stream broke
            raise
        return data

    def _meet_end(self) -> None:
        self.handler.eof_received()
        if self.busy:
            self.close("eof")
        else:
            self._end("eof", None)

    def _go_on(self) -> None:
        if self.out is not None:
            self._flush(self.out)
        elif self.source is None:
            self._discard()
        elif (chunk := next(self.source, None)) is None:
            self.source = None
        else:
            # One chunk a turn, so that a fast reader does not keep the loop from the others.
            self.send(chunk)
            self.active = self.waiting_since = self.loop.now

    def _flush(self, out: bytearray) -> None:
        try:
            sent = self.request.send(out)
        except BlockingIOError:
            return
        self.bytes_out += sent
        self.active = self.loop.now
        del out[:sent]
        if not out:
            self.out = None

    def _discard(self) -> None:
        """Forgets what the peer still sends, until it closes its side."""
        try:
            size = self.request.recv_into(WASTE)
        except BlockingIOError:
            return
        self.bytes_in += size
        if not size:
            self._end(self.closing or "done", None)

    def _settle(self) -> None:
        """Tells the loop what to wait for next, or ends the session."""
        if self.interest < 0:
            return
        wanted = EPOLLIN
        if self.busy:
            if self.out is not None or self.source is not None:
                wanted = EPOLLOUT
            elif self.closing is None:
                self.busy = False
            elif self.closing == "eof" or not self._linger():
                self._end(self.closing, None)
                return
        if wanted != self.interest:
            self.loop.watch(self, wanted)

    def _linger(self) -> bool:
        """Closes our side, once; False when the peer is gone already."""
        if not self.lingering:
            self.lingering = True
            self.waiting_since = self.loop.now
            try:
                self.request.shutdown(socket.SHUT_WR)
            except OSError:
                return False
        return True

    def _fail(self, error: BaseException) -> None:
        if self.interest < 0:
            raise error  # not the handler's: the session was over before
        reason = end_reason(error)
        if reason is None:
            self._end("error", error)
        elif isinstance(error, RemoteError) and self.handler is not None:
            self.source = None
            self.close(reason)
            try:
                if reply := self.handler.error_reply(error):
                    self.send(reply)
                self._settle()
            except OSError:
                self._end(reason, None)
            except FAULTS as fault:
                self._end("error", fault)
        else:
            self._end(self.closing or reason, None)

    def _end(self, reason: str, error: BaseException | None) -> None:
        if self.interest < 0:
            return
        self.loop.forget(self)
        self.interest = -1
        handler, self.handler, self.source = self.handler, None, None
        if handler is not None:
            try:
                handler.connection_lost(reason)
            except FAULTS as fault:
                if end_reason(fault) is None:  # else it tried to send
                    reason, error = "error", error or fault
        self._on_end(self, reason, error)
