"""A client of the control socket: what it sends is cut into requests, which are answered one after
the other. It is not read from while a request of its own is done: nobody has netd collect them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from netd.connection import CHUNK
from netd.control.privileges import Caller
from netd.control.request import CommandError, Request, parse, refusal
from netd.control.table import REQUEST_LIMIT
from netd.errors import ProtocolError, RemoteError
from netd.handler import RequestHandler
from netd.lines import LineReader
from netd.steps import StepConnection

DISPLACED = "displaced"
_SLOW = "request_timeout"
_FORM = f'send one JSON object of less than {REQUEST_LIMIT} bytes in each line: {{"netd": 1, …}}'
_LAST_WORDS = {
    DISPLACED: refusal(
        CommandError(
            "busy",
            "the control socket has too many clients, and this one had been silent for longest"
            " (end those that you do not need)",
        )
    ),
    _SLOW: refusal(
        CommandError(
            "usage",
            "the request has not come to its end in time (send it in one line, and a line feed"
            " after it)",
        )
    ),
}


class ControlConnection(StepConnection):
    """A client. It is silent, or sends a request, or waits for the answer, or takes that in."""

    __slots__ = ("caller", "is_served", "on_weight", "unfinished_since", "weight")

    def __init__(self, *args: Any, caller: Caller, on_weight: Callable[[], None]) -> None:
        """`caller` is the process at the other end; `on_weight` is called when there are more
        bytes to hold for it."""
        super().__init__(*args)
        self.caller = caller
        self.on_weight = on_weight
        self.is_served = False
        """Whether its request is being done, or waits for that."""
        self.unfinished_since: float | None = None
        """When a request began that has not come in whole."""
        self.weight = 0
        """Bytes of the long answer that it is being sent."""

    @property
    def user(self) -> int:
        """Whose it is."""
        return self.caller.uid

    @property
    def is_gone(self) -> bool:
        """Whether the session is over."""
        return self.interest < 0

    def hold(self) -> None:
        """Reads nothing more, until `answer`."""
        self.is_served = self.busy = True

    def answer(self, line: bytes) -> None:
        """Sends the answer that it was held for, and goes on."""
        if self.is_gone:
            return
        self.is_served = False
        self.active = self.waiting_since = self.loop.now
        try:
            if len(line) > CHUNK:
                self.weight = len(line)
                self.send_from(_pieces(line))
                self.on_weight()
            else:
                self.send(line)
            self._settle()
        except Exception as error:
            self._fail(error)

    def cut(self, reason: str) -> None:
        """Ends the session now. The client hears why, unless it is in the middle of an answer."""
        words = _LAST_WORDS.get(reason)
        if words and self.out is None and self.source is None and not self.is_gone:
            with suppress(OSError):  # it takes nothing, and need not know
                self.bytes_out += self.request.send(words)
        super().cut(reason)

    def overdue(self, now: float) -> str | None:
        """As any connection; one whose request is being done has no deadline."""
        if self.is_served:
            return None
        since, limit = self.unfinished_since, self.service.timeouts.write_timeout
        if since is not None and self.closing is None and limit and now - since >= limit:
            return _SLOW
        return super().overdue(now)

    def _settle(self) -> None:
        if self.is_served and not self.is_gone:
            if self.interest > 0:
                self.loop.watch(self, 0)
            return
        super()._settle()
        if not self.busy and isinstance(self.handler, ControlHandler):
            # The answer has gone out; what has come in behind its request has its turn.
            self.weight = 0
            self.handler.go_on()
            if self.is_served:
                self._settle()


def _pieces(line: bytes) -> Iterator[bytes]:
    for start in range(0, len(line), CHUNK):
        yield line[start : start + CHUNK]


class ControlHandler(RequestHandler):
    """Cuts what a client sends into requests; one after the other is handed on."""

    connection: ControlConnection

    def connection_made(self) -> None:
        """A client came in."""
        self._reader = LineReader(REQUEST_LIMIT - 1)

    def data_received(self, data: bytes) -> None:
        """The next bytes of requests."""
        self._reader.receive_data(data)
        self.go_on()

    def go_on(self) -> None:
        """Hands on the next request, if it has come in."""
        line = self._reader.next_line()
        if line is None:
            if not self._reader.unfinished:
                self.connection.unfinished_since = None
            elif self.connection.unfinished_since is None:
                self.connection.unfinished_since = self.connection.loop.now
            return
        self.connection.unfinished_since = None
        asked: Request | CommandError
        try:
            asked = parse(line)
        except CommandError as error:
            asked = error
        self.connection.hold()
        self.server.dispatcher.submit(self.connection, asked, self.connection.loop)

    def eof_received(self) -> None:
        """What is half a request is not obeyed: it may be the beginning of another one."""
        if self._reader.unfinished:
            raise ProtocolError("request: it has no line feed at its end")

    def error_reply(self, error: RemoteError) -> bytes:
        """What is told to a client that is out of step."""
        return refusal(CommandError("usage", f"{error} ({_FORM})"))
