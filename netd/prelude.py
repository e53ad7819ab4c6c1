"""What happens on a connection before its handler: the PROXY header, TLS, authentication.

A *stage* is a generator function over a `Prelude`. It yields what it waits for, READ or WRITE, and
returns when it is content:

    def knock(prelude: Prelude) -> Steps:
        yield from prelude.write(b"who is there?")
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
when it has found nothing to read. One that has looked at bytes and left them there yields MORE, and
is woken when others have come (EPOLLET); by READ they would wake it for ever.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import replace
from math import inf
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import TYPE_CHECKING, Any, Protocol

from netd.connection import FAULTS
from netd.errors import BrokenStream
from netd.steps import StepConnection

if TYPE_CHECKING:
    from netd.loop import Loop
    from netd.service import Service

READ = EPOLLIN
MORE = EPOLLIN | EPOLLRDHUP | EPOLLET
WRITE = EPOLLOUT
# Waits for nothing that the peer does: whoever delays it calls `proceed`.
PAUSE = 0
_OVER = -1

Steps = Generator[int, None, None]
"""What a stage returns: it yields READ, MORE or WRITE."""
Stage = Callable[["Prelude"], Steps]

_AT_END = EPOLLRDHUP | EPOLLHUP | EPOLLERR


class Host(Protocol):
    """What a prelude asks of the server; `netd.entrance` is that."""

    server_address: Any

    def let_in(self, prelude: Prelude) -> float: ...
    def exchange(self, prelude: Prelude, request: Any) -> None: ...
    def go_on(self, prelude: Prelude) -> None: ...
    def give_up(self, prelude: Prelude, error: BaseException) -> None: ...
    def over(self, session: StepConnection, reason: str, error: BaseException | None) -> None: ...


class Prelude(StepConnection):
    """A connection on its way to its handler, watched by the serving loop.

    For stages: `request`, `service`, `client_address`, `origin`, `peer`, `listener`, `user`,
    `identity`, and `receive`, `receive_some`, `take`, `peek`, `write`, `speaks_for`."""

    # None of its own: it becomes a StepConnection when its stages are over.
    __slots__ = ()

    def __init__(
        self, request: socket.socket, client_address: Any, service: Service, loop: Loop, host: Host
    ) -> None:
        StepConnection.__init__(self, request, client_address, service, "", loop, host.over)
        request.setblocking(False)
        self._host = host
        self._stages = self._run()
        timeout = service.timeouts.handshake_timeout
        self.deadline = inf if timeout is None else self.began + timeout
        """When it must be over, on the monotonic clock."""
        self.is_at_end = False
        """Whether the peer has ended its side; what it sent before may still be there to read."""

    @property
    def admitted(self) -> bool:
        """Whether the gate has let it in."""
        return bool(self.origin)

    def speaks_for(self, client_address: Any) -> None:
        """The peer is a proxy, and this is the client."""
        self.client_address, self._peer = client_address, None

    @property
    def listener(self) -> Any:
        """Where the listener is, as the socket module has it."""
        return self._host.server_address

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
            wanted = next(self._stages, _OVER)
        except FAULTS as error:
            self.leave_loop()
            self._host.give_up(self, error)
            return
        if wanted == _OVER:
            del self._stages  # of no use to a session in steps, which may live for long
            self._host.go_on(self)
        elif wanted != self.interest:
            self.loop.watch(self, wanted)

    def _run(self) -> Steps:
        if self.service.announcement is not None:
            yield from self.service.announcement(self)
        if delay := self._host.let_in(self):
            self.deadline += delay
            yield PAUSE
        for stage in self.service.stages:
            yield from stage(self)

    def become_steps(self) -> None:
        """Is what it has been all along, but for its stages: a session in steps, that begins."""
        session: Any = self
        session.__class__ = StepConnection
        session.active = self.loop.now

    def leave_loop(self) -> None:
        """Is over: the loop does not watch it from now on."""
        if self.interest > 0 and self.fileno() >= 0:  # a stage may have failed with it closed
            self.loop.watch(self, 0)
        self.interest = -1

    def cut(self, reason: str) -> None:
        """Ends it from outside, for this reason word."""
        if self.interest >= 0:
            self.leave_loop()
            self._stages.close()
            self._host.give_up(self, BrokenStream(reason))

    def overdue(self, now: float) -> str | None:
        """`handshake_timeout`, once that has passed; the time-outs of sessions are not its own."""
        return "handshake_timeout" if now >= self.deadline else None

    # -- for the loop

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
        while (data := self.take(size)) is None:
            yield READ
        return data

    def take(self, size: int) -> bytes | None:
        """At most `size` bytes that have come; None when there are none. Raises BrokenStream at
        the end of the stream."""
        try:
            data: bytes = self.request.recv(size)
        except BlockingIOError:
            return None
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
                yield MORE
                continue
            if len(data) >= least:
                return data
            if not data or self.is_at_end:
                raise self._what_ended()
            yield MORE

    def _what_ended(self) -> ConnectionError:
        """What has ended the stream behind bytes that can still be read."""
        error: int = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return ConnectionError(error, os.strerror(error)) if error else BrokenStream("eof")

    def exchange(self, request: Any) -> None:
        """Goes on over another socket, which has taken the descriptor over; not blocking."""
        self._host.exchange(self, request)

    def write(self, data: bytes) -> Iterable[int]:
        """Sends all of it; what the kernel takes at once costs no wait."""
        try:
            sent: int = self.request.send(data)
        except BlockingIOError:
            sent = 0
        return () if sent == len(data) else self._write(data[sent:])

    def _write(self, data: bytes) -> Steps:
        while data:
            yield WRITE
            with suppress(BlockingIOError):
                data = data[self.request.send(data) :]
