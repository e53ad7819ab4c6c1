"""What happens on a connection before its handler: the PROXY header, TLS, authentication.

A *stage* is a generator function over a `Prelude`. It yields what it waits for, READ or WRITE, and
returns when it is content:

    def knock(prelude: Prelude) -> Steps:
        yield from prelude.send(b"who is there?")
        answer = yield from prelude.receive(5)       # exactly 5 bytes, and none beyond
        if answer != b"a-cat":
            raise Unauthenticated("not a cat")       # a RemoteError: its `reason` is the word
        prelude.user = "cat"                         # the handler's `self.user`

`Service.stages` holds the stages that follow admission, in their order, and `Service.announcement`
the one before it, which finds out who the peer is. The serving loop runs them all, so that none of
them may block, and nobody waits for a client that does not answer. How it may end:

    content             the connection goes on to its thread, or to its steps in the loop
    a RemoteError       the client is turned away: `refused` in the log and in the gate's counters
    a ConnectionError   it has left: a session that is over, by `eof`, `reset` or `truncated`
    handshake_timeout   one deadline for all stages together; also a session that is over
    anything else       a fault of ours: an error line with its traceback

A stage reads its own bytes and no more: what follows them is for the next one. It yields READ only
when it has found nothing to read, or not enough: it is woken when more has come, not because
something is still there (EPOLLET). Else what has been looked at and left would wake it for ever.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator
from dataclasses import replace
from math import inf
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import TYPE_CHECKING, Any, Protocol

from netd.connection import Connection
from netd.errors import BrokenStream

if TYPE_CHECKING:
    from netd.loop import Loop
    from netd.service import Service

READ = EPOLLIN | EPOLLRDHUP | EPOLLET
WRITE = EPOLLOUT | EPOLLET
# Waits for nothing that the peer does: whoever delays it calls `proceed`.
PAUSE = 0

Steps = Generator[int, None, None]
"""What a stage returns: it yields READ or WRITE."""
Stage = Callable[["Prelude"], Steps]

_AT_END = EPOLLRDHUP | EPOLLHUP | EPOLLERR
# What ends a prelude and no more.
_FAULTS = (Exception, SystemExit)


class Host(Protocol):
    """What a prelude asks of the server; `netd.entrance` is that."""

    def let_in(self, prelude: Prelude) -> float: ...
    def exchange(self, prelude: Prelude, request: Any) -> None: ...
    def go_on(self, prelude: Prelude) -> None: ...
    def give_up(self, prelude: Prelude, error: BaseException) -> None: ...


class Prelude(Connection):
    """A connection on its way to its handler, watched by the serving loop.

    For stages: `request`, `service`, `client_address`, `origin`, `peer`, `user`, `identity`, and
    `receive`, `receive_some`, `peek`, `send`, `speaks_for`."""

    __slots__ = ("_host", "_steps", "admitted", "deadline", "interest", "is_at_end", "loop")

    def __init__(
        self, request: socket.socket, client_address: Any, service: Service, loop: Loop, host: Host
    ) -> None:
        super().__init__(request, client_address, service)
        request.setblocking(False)
        self.loop = loop
        self._host = host
        self._steps = self._run()
        self.admitted = False
        """Whether the gate has let it in."""
        self.interest = 0
        """What the loop waits for, an epoll event mask; -1 when it is over."""
        timeout = service.timeouts.handshake_timeout
        self.deadline = inf if timeout is None else self.began + timeout
        """When it must be over, on the monotonic clock."""
        self.is_at_end = False
        """Whether the peer has ended its side; what it sent before may still be there to read."""

    def speaks_for(self, client_address: Any) -> None:
        """The peer is a proxy, and this is the client."""
        self.client_address, self._peer = client_address, None

    @property
    def user(self) -> str | None:
        """Who the client has shown to be."""
        return self.identity.user

    @user.setter
    def user(self, name: str | None) -> None:
        self.identity = replace(self.identity, user=name)

    # -- for the server

    def proceed(self) -> None:
        """Goes on until the peer has to do something, or to the end. The first time this is
        tried at once: most clients speak first."""
        try:
            wanted = next(self._steps)
        except StopIteration:
            self._leave_loop()
            self._host.go_on(self)
        except _FAULTS as error:
            self._leave_loop()
            self._host.give_up(self, error)
        else:
            if wanted != self.interest:
                self.loop.watch(self, wanted)

    def _run(self) -> Steps:
        if self.service.announcement is not None:
            yield from self.service.announcement(self)
        if delay := self._host.let_in(self):
            self.deadline += delay
            yield PAUSE
        for stage in self.service.stages:
            yield from stage(self)

    def _leave_loop(self) -> None:
        if self.interest > 0 and self.fileno() >= 0:  # a stage may have failed with it closed
            self.loop.watch(self, 0)
        self.interest = -1

    def cut(self, reason: str) -> None:
        """Ends it from outside, for this reason word."""
        if self.interest >= 0:
            self._leave_loop()
            self._steps.close()
            self._host.give_up(self, BrokenStream(reason))

    def overdue(self, now: float) -> str | None:
        """`handshake_timeout`, once that has passed; the time-outs of sessions are not its own."""
        return "handshake_timeout" if now >= self.deadline else None

    # -- for the loop

    def fileno(self) -> int:
        """The descriptor of the connection."""
        fd: int = self.request.fileno()
        return fd

    def ready(self, events: int) -> None:
        """The socket is readable, writable or broken."""
        if events & _AT_END:
            self.is_at_end = True
        self.proceed()

    # -- for stages

    def receive(self, size: int) -> Generator[int, None, bytes]:
        """Exactly `size` bytes. Raises BrokenStream when the peer ends before."""
        data = bytearray()
        while len(data) < size:
            data += yield from self.receive_some(size - len(data))
        return bytes(data)

    def receive_some(self, size: int) -> Generator[int, None, bytes]:
        """At least one byte and at most `size`. Raises BrokenStream at the end of the stream."""
        while True:
            try:
                data: bytes = self.request.recv(size)
            except BlockingIOError:
                yield READ
                continue
            if not data:
                raise BrokenStream("eof")
            return data

    def peek(self, size: int, least: int = 1) -> Generator[int, None, bytes]:
        """At least `least` bytes and at most `size`, which stay there to be read; not under TLS.
        Raises BrokenStream when the peer ends before."""
        while True:
            try:
                data: bytes = self.request.recv(size, socket.MSG_PEEK)
            except BlockingIOError:
                yield READ
                continue
            if len(data) >= least:
                return data
            if not data or self.is_at_end:
                raise self._end()
            yield READ

    def _end(self) -> ConnectionError:
        """What has ended the stream behind bytes that can still be read."""
        error: int = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return ConnectionError(error, os.strerror(error)) if error else BrokenStream("eof")

    def exchange(self, request: Any) -> None:
        """Goes on over another socket, which has taken the descriptor over; not blocking."""
        self._host.exchange(self, request)

    def send(self, data: bytes) -> Steps:
        """Sends all of it."""
        while data:
            try:
                sent: int = self.request.send(data)
            except BlockingIOError:
                yield WRITE
            else:
                data = data[sent:]
