"""Connections that speak TLS: as `netd.steps`, `netd.conversation` and `netd.stock` have them, and
with what TLS needs beyond that. It has an end of its own, which has to be sent before the
connection is closed; and bytes may wait in OpenSSL, where no epoll sees them.

An orderly end is said to the peer whenever all has been sent. A handler that fails, and a session
that is cut while it sends, end without it: then the peer knows that something is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLIN, EPOLLOUT, POLLIN, POLLOUT, poll
from typing import TYPE_CHECKING, Any

from netd.connection import WASTE, end_reason
from netd.conversation import GRACE, Conversation
from netd.deadline import Deadline
from netd.steps import StepConnection
from netd.stock import StockSession, Timed
from netd.tlssocket import RECORD, TlsSocket

if TYPE_CHECKING:
    from netd.handler import RequestHandler
    from netd.service import Service


class SecuredSteps(StepConnection):
    """A connection over TLS whose handler runs in steps."""

    __slots__ = ("parting",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.parting = False
        """Whether the end of TLS waits until the peer has taken what was sent before it."""

    def ready(self, events: int) -> None:
        """As for all; but a read may have to wait for room to write, and then for bytes again."""
        super().ready(events)
        if not self.busy and (self.request.stalled or self.interest == EPOLLOUT):
            wanted = EPOLLOUT if self.request.stalled else EPOLLIN
            self.request.stalled = False
            if wanted != self.interest:
                self.loop.watch(self, wanted)

    def overdue(self, now: float) -> str | None:
        """As for all; the end of TLS has to be taken in time, as everything that is sent."""
        limit = self.service.timeouts.write_timeout
        if self.parting and limit is not None and now - self.waiting_since >= limit:
            return "write_timeout"
        return super().overdue(now)

    def _go_on(self) -> None:
        if not self.parting:
            super()._go_on()

    def _meet_end(self) -> None:
        self.handler.eof_received()
        self.close("eof")  # which `_settle` follows by the end of TLS

    def _settle(self) -> None:
        if self.interest >= 0 and self._has_said_all() and not self.request.part():
            if not self.parting:
                self.parting = True
                self.waiting_since = self.loop.now
            if self.interest != EPOLLOUT:
                self.loop.watch(self, EPOLLOUT)
            return
        self.parting = False
        super()._settle()
        if not self.busy and self.interest > 0 and self.request.pending():
            self.loop.call_soon(self._catch_up)

    def _has_said_all(self) -> bool:
        return self.closing is not None and not self.lingering and not self._is_sending()

    def _is_sending(self) -> bool:
        return self.out is not None or self.source is not None

    def _catch_up(self) -> None:
        """Reads what OpenSSL has taken from the kernel already."""
        if not self.busy and self.interest > 0:
            self.ready(EPOLLIN)

    def _discard(self) -> None:
        try:
            size = self.request.discard(WASTE)
        except BlockingIOError:
            return
        if not size:
            self._end(self.closing or "done", None)

    def _end(self, reason: str, error: BaseException | None) -> None:
        if self.interest >= 0 and error is None and not self._is_sending():
            self.request.part()
        super()._end(reason, error)


class SecuredConversation(Conversation):
    """A connection over TLS whose handler has a thread."""

    __slots__ = ()

    def converse(self, handler: RequestHandler, greeting: bytes) -> None:
        """As for all, and to the end of TLS."""
        try:
            super().converse(handler, greeting)
            self._part()
        except BaseException as error:
            if end_reason(error) is None:
                self.request.forsake()
            raise

    def _part(self) -> None:
        deadline = Deadline(self.service.timeouts.write_timeout, "write_timeout")
        while not self.request.part():
            self._wait(POLLOUT, deadline)

    def _wait(self, _events: int, deadline: Deadline) -> None:
        super()._wait(self.request.waits_for, deadline)

    def _discard(self, deadline: Deadline) -> int:
        self.request.waits_for = POLLIN
        self._wait(POLLIN, deadline)
        size: int = self.request.discard(WASTE)
        return size


class SecuredStockSocket(Timed, TlsSocket):
    """What a stock handler is given in place of its socket, over TLS.

    OpenSSL's side of a connection is tied to the one Python socket that it was made for. So that
    becomes one of this kind, where a plain one hands its descriptor over."""

    @classmethod
    def of(cls, request: Any, service: Service) -> SecuredStockSocket:
        """Makes a TlsSocket one for a stock handler."""
        request.__class__ = cls
        adopted: SecuredStockSocket = request
        adopted.adopt(service)
        return adopted

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As that of a socket: one deadline holds for all of it."""
        deadline, view = self.deadline_to_write(), memoryview(data).cast("B")
        while view:
            sent = self.timed(deadline, super(Timed, self).send, view[:RECORD], flags)
            self.record.went_out(sent)
            view = view[sent:]


class SecuredStockSession(StockSession):
    """The session of a stock stream handler over TLS."""

    __slots__ = ()

    def converse(self, run: Callable[[], None], banner: bytes) -> None:
        """As for all, and to the end of TLS."""
        try:
            super().converse(run, banner)
            self._part()
        except BaseException as error:
            if end_reason(error) is None:
                self.request.forsake()
            raise

    def overdue(self, now: float) -> str | None:
        """As any connection, but later: the thread that wakes at its own deadline is to come first
        and end in order."""
        return super().overdue(now - GRACE)

    def _part(self) -> None:
        deadline, waiting = self.request.deadline_to_write(), poll()
        waiting.register(self.request, POLLOUT)
        while not self.request.part():
            left = deadline.left()
            waiting.poll(None if left is None else left * 1000)
