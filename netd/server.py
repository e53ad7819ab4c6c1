"""The four servers: subclasses of the threading servers of `socketserver`.

They keep the constructor and the hooks of the standard library, so that a handler written for it
runs on them unchanged. What they add: admission, deadlines, bounded threads, counters, and for
handlers that never block a serving loop in place of a thread for each connection.

    accept → get_request → verify_request → gate.admit_within → process_request
                                            ├ steps: finish_request, on the serving loop
                                            └ else: process_request_thread → finish_request
    … → shutdown_request → close_request: count, log, close, gate.release
"""

from __future__ import annotations

import errno
import socket
import socketserver
from functools import partial
from typing import Any

from netd.arena import SLOT, control_space
from netd.carrier import ask_for_destinations
from netd.connection import Connection, origin_of, peer_text
from netd.conversation import Conversation
from netd.datagrams import Exchange
from netd.delayed import Delayed
from netd.entrance import Entrance
from netd.listener import Listening
from netd.loop import Loop
from netd.pool import NoThreadError
from netd.prelude import Prelude
from netd.refusal import Leaving
from netd.replies import ReplyGuard
from netd.replysocket import DatagramSession, ReplySocket, answers_empty
from netd.secured import (
    SecuredConversation,
    SecuredSteps,
    SecuredStockSession,
    SecuredStockSocket,
)
from netd.serving import Serving
from netd.shortage import Shortage
from netd.steps import StepConnection
from netd.stock import StockSession, StockSocket
from netd.tlssocket import TlsSocket

# Whoever overrides one of these wants to see each datagram.
_HOOKS = (
    "get_request", "verify_request", "process_request", "finish_request", "shutdown_request",
    "close_request",
)  # fmt: skip


class _StreamServing(Entrance, Shortage):
    """A server of connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._leaving = Leaving(self._close)
        self._delayed = Delayed(self._serve_delayed)
        super().__init__(*args, **kwargs)

    def server_activate(self) -> None:
        """Listens."""
        if type(self.socket) is socket.socket:
            self.socket.__class__ = Listening
        super().server_activate()

    # -- connections

    def _admit(self, request: Any, client_address: Any) -> Any:
        if self._has_prelude:
            self._receive(request, client_address)
            return None
        origin = origin_of(request, client_address)
        reason, delay = self._ask_gate(origin)
        if reason is not None:
            self._turn_away(request, client_address, reason)
            return None
        request, session = self._open(request, client_address, origin)
        self.sessions[request] = session
        if delay:
            session.active += delay  # its time to be idle begins with its turn
            self._hold(request, client_address, delay)
            return None
        return request

    def _ask_gate(self, origin: str) -> tuple[str | None, float]:
        gate = self.service.gate
        return gate.admit_within(origin, self._delayed.patience if gate.delays else 0.0)

    def _open(self, request: Any, client_address: Any, origin: str) -> tuple[Any, Connection]:
        if self._in_steps:
            if not self._has_prelude:  # that has seen to it
                request.setblocking(False)
            loop = self._loop or self._get_own_loop()
            steps = SecuredSteps if isinstance(request, TlsSocket) else StepConnection
            return request, steps(request, client_address, self.service, origin, loop, self.over)
        if self.is_ours:
            talk = SecuredConversation if isinstance(request, TlsSocket) else Conversation
            return request, talk(request, client_address, self.service, origin)
        if isinstance(request, TlsSocket):
            request = SecuredStockSocket.of(request, self.service)
            return request, SecuredStockSession(request, client_address, self.service, origin)
        request = StockSocket(request, self.service)
        return request, StockSession(request, client_address, self.service, origin)

    def _hold(self, request: Any, client_address: Any, delay: float) -> None:
        self._delayed.hold(request, client_address, delay, self._get_own_loop())

    def _serve_delayed(self, request: Any, client_address: Any) -> None:
        """The turn of a connection has come, unless it was ended meanwhile."""
        session = self.sessions.get(request)
        if isinstance(session, Prelude):
            session.proceed()
        elif session is not None:
            try:
                self.process_request(request, client_address)
            except Exception:
                self._give_up(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hands a connection to its handler's steps, or to a thread."""
        if self._in_steps:
            self.finish_request(request, client_address)
            return
        try:
            self._run_on_thread(request, client_address)
        except NoThreadError:
            if isinstance(request, StockSocket):
                request = request.plain()  # the loop must not wait as a stock handler may
            self._turn_away(request, client_address, "threads")

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Makes the handler. It serves its conversation, on the session's own thread, or is
        started with its steps."""
        session, banner = self.sessions[request], self.service.banner
        if isinstance(session, StepConnection):
            session.start(self.RequestHandlerClass(session, client_address, self), banner)
        elif isinstance(session, Conversation):
            session.converse(self.RequestHandlerClass(session, client_address, self), banner)
        elif isinstance(session, StockSession):
            session.converse(partial(super().finish_request, request, client_address), banner)

    def _needs_loop(self) -> bool:
        if self._leaving or self._delayed or (self._in_steps and self.sessions):
            return True
        return any(isinstance(session, Prelude) for session in self.sessions.values())

    def _sweep(self, now: float) -> bool:
        leaving = self._leaving.sweep(now)
        return super()._sweep(now) or leaving

    def server_close(self) -> None:
        """As `Serving.server_close`; those who were turned away, or wait, are gone too."""
        self._leaving.cut()
        for request in self._delayed.give_up():
            if (session := self.sessions.get(request)) is not None:
                session.cut("shutdown")
                self._shut(request, session.client_address)
        super().server_close()

    def _let_go(self, request: Any) -> None:
        request.close()

    def _release(self, session: Connection) -> None:
        """As for all. How a connection ended may be an offence; a datagram may be forged."""
        gate = self.service.gate
        gate.release(session.origin)
        if (reason := session.reason or session.outcome) in gate.offences:
            gate.penalise(session.origin, reason)

    # -- refusals

    def _turn_away(
        self, request: Any, client_address: Any, reason: str,
        words: bytes | None = None, user: str | None = None,
    ) -> None:  # fmt: skip
        if reason == "descriptors":
            self._send_away(request, client_address)
            self._tell_of_shortage("no descriptors are left for more connections")
            self._pause()  # those who come again at once would keep us from the others
            return
        service, loop, peer = self.service, self._get_own_loop(), peer_text(request, client_address)
        if not self._leaving.see_off(request, client_address, service, reason, loop, words):
            self.shutdown_request(request)
        # After that: the line of a user whom there is takes longer than that of another.
        service.log_refused(peer, reason, user)


class _DatagramServing(Serving):
    """A server of datagrams.

    Answers that take no time are given in place, batch by batch, by one handler for all of them
    (`netd.datagrams`). A handler that may block, and one that is not ours, is made for each
    datagram, on a thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._exchange: Exchange | None = None
        super().__init__(*args, **kwargs)
        self._guard = ReplyGuard(self.service.gate, self.service.own_ports)

    def server_activate(self) -> None:
        """Makes ready to answer."""
        super().server_activate()
        ask_for_destinations(self.socket)
        if self.address_family != socket.AF_UNIX:
            self.service.own_ports.add(self.socket.getsockname()[1])

    def attach(self, loop: Loop) -> None:
        """As for all; the one handler that answers in place is made now."""
        if self._exchange is None and self._answers_in_place():
            self._exchange = Exchange(self.socket, self.service, self._guard, self._failed)
            handler = self.RequestHandlerClass(self._exchange, None, self)
            self._exchange.serve(handler.datagram_received)
        super().attach(loop)

    def take_in(self) -> bool:
        """Takes what waits, up to a bound; whether there may be more."""
        return super().take_in() if self._exchange is None else self._exchange.take_in()

    def _answers_in_place(self) -> bool:
        mine, plain = type(self), _DatagramServing
        return (
            self.is_ours
            and not self.RequestHandlerClass.may_block
            and all(getattr(mine, hook) is getattr(plain, hook) for hook in _HOOKS)
        )

    def _failed(self, error: Exception, client_address: Any) -> str:
        return self._reason_of(error, None, client_address)

    def get_request(self) -> tuple[Any, Any]:
        """((data, what to answer by), address of the sender) for one datagram."""
        data, control, flags, address = self.socket.recvmsg(SLOT, control_space(self.socket))
        if flags & socket.MSG_TRUNC:
            self.service.counters.add_dropped("cut")
            raise OSError(errno.EMSGSIZE, "the datagram is longer than netd takes")
        return (data, ReplySocket(self.socket, data, control, address, self._guard)), address

    def _let_go(self, request: Any) -> None:
        """There is nothing to close."""

    def _admit(self, request: Any, client_address: Any) -> Any:
        session = DatagramSession(request, client_address, self.service)
        reason = self.service.gate.admit_datagram(session.origin)
        if reason is not None:
            session.refuse(reason)
            return None
        self.sessions[request] = session
        return request

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives the handler of a datagram a thread."""
        try:
            self._run_on_thread(request, client_address)
        except NoThreadError:
            request[1].session.refuse("threads")

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Makes the handler and has it answer, on a thread."""
        if self.is_ours:
            handler = self.RequestHandlerClass(self.sessions[request], client_address, self)
            handler.datagram_received(request[0])
        else:
            request[1].answers_empty = answers_empty(self.RequestHandlerClass)
            super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Releases a datagram at the gate; there is nothing to shut down."""
        self.close_request(request)


class TCPServer(_StreamServing, socketserver.ThreadingTCPServer):
    """`socketserver.ThreadingTCPServer`, cured."""


class UDPServer(_DatagramServing, socketserver.ThreadingUDPServer):
    """`socketserver.ThreadingUDPServer`, cured."""


class UnixStreamServer(_StreamServing, socketserver.ThreadingUnixStreamServer):
    """`socketserver.ThreadingUnixStreamServer`, cured."""


class UnixDatagramServer(_DatagramServing, socketserver.ThreadingUnixDatagramServer):
    """`socketserver.ThreadingUnixDatagramServer`, cured."""


Server = TCPServer | UDPServer | UnixStreamServer | UnixDatagramServer
