"""What becomes of a request, on all four servers: its session, its thread, its errors."""

from __future__ import annotations

import logging
import socket
from abc import abstractmethod
from functools import partial
from typing import Any

from netd.connection import Connection, abandon, end_reason
from netd.handler import RequestHandler, check
from netd.intake import Intake
from netd.listener import SocketOptions
from netd.pool import NoThreadError, Pool
from netd.service import Service
from netd.throttle import Throttle

logger = logging.getLogger("netd")

_no_thread = Throttle()


class Serving(Intake):
    """What the four servers share: life, sessions, errors.

    For the caller: the constructor, `serve_forever`, `handle_request`, `shutdown`,
    `server_close`; or, to serve on a loop that others use too, `attach`, `drain` and
    `server_close`. May be overridden: what `socketserver.BaseServer` says may be."""

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Any,  # noqa: N803
        bind_and_activate: bool = True,
        *,
        service: Service | None = None,
        options: SocketOptions | None = None,
        pool: Pool | None = None,
        bound: socket.socket | None = None,
        close_timeout: float = 5.0,
    ) -> None:
        """`options` take the place of the class variables of socketserver; `bound` is a socket to
        serve that is bound already; `pool` has the threads for conversations; `close_timeout`, in
        seconds, bounds `server_close`."""
        self.service: Service = service or Service()
        self.sessions: dict[Any, Connection] = {}
        """What has been admitted and not yet released, by request."""
        self.close_timeout = close_timeout
        self._pool, self._own_pool = (Pool(), True) if pool is None else (pool, False)
        self.is_ours = False
        """Whether the handler is one of netd's kind, not a stock one."""
        if isinstance(RequestHandlerClass, type):
            check(RequestHandlerClass)
            self.is_ours = issubclass(RequestHandlerClass, RequestHandler)
        super().__init__(server_address, RequestHandlerClass, bind_and_activate, options, bound)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.service.name} {self.name} {len(self.sessions)} open>"

    def server_close(self) -> None:
        """Closes the listener and ends the sessions. Conversations are given `close_timeout`
        seconds to notice; this never waits longer. On a loop that others use too: to be called
        on its thread, or when that has ended."""
        super().server_close()
        for session in list(self.sessions.values()):
            session.cut("shutdown")
        if self._own_pool:
            self._pool.close(self.close_timeout)
        if self._loop is not None:
            self._loop.sweep_without(self._sweep)
            if self._own_loop:
                self._loop.close()
                self._loop = None

    def _sweep(self, now: float) -> bool:
        for session in list(self.sessions.values()):
            if (reason := session.overdue(now)) is not None:
                session.cut(reason)
        return bool(self.sessions)

    # -- requests

    def _take(self, request: Any, client_address: Any) -> None:
        try:
            if not self.verify_request(request, client_address):
                self._shut(request, client_address)
            elif (admitted := self._admit(request, client_address)) is not None:
                request = admitted
                self.process_request(request, client_address)
        except Exception:
            self._give_up(request, client_address)

    def _give_up(self, request: Any, client_address: Any) -> None:
        """Ends a request for the exception in hand, which is a fault of ours."""
        if (session := self.sessions.get(request)) is not None:
            session.reason = "error"
        self._report(request, client_address)
        self._shut(request, client_address)

    @abstractmethod
    def _admit(self, request: Any, client_address: Any) -> Any:
        """The request as its handler is to have it, with a session; None if it is turned away."""

    def _shut(self, request: Any, client_address: Any) -> None:
        """Calls `shutdown_request`, which a subclass may have got wrong."""
        try:
            self.shutdown_request(request)
        except Exception:
            self._report(request, client_address)

    def _close(self, request: Any) -> None:
        """Calls `close_request`, which a subclass may have got wrong."""
        try:
            self.close_request(request)
        except Exception:
            self._report(request, None)

    def close_request(self, request: Any) -> None:
        """Closes a request. One that had been admitted is counted and logged before, and released
        at the gate after."""
        session = self.sessions.get(request)
        try:
            if session is not None:
                session.finish(session.reason or session.outcome)
                if session.reason == "write_timeout":
                    abandon(request)
            self._let_go(request)
        finally:
            if session is not None:
                # In this order, so that a gate that counts anew who is in never counts one that
                # it has released already.
                del self.sessions[request]
                self._release(session)

    @abstractmethod
    def _let_go(self, request: Any) -> None:
        """Closes it."""

    def _release(self, session: Connection) -> None:
        self.service.gate.release(session.origin)

    # -- threads

    def _run_on_thread(self, request: Any, client_address: Any) -> None:
        """Gives an admitted session a thread. Raises NoThreadError, and the session is no more."""
        session = self.sessions[request]
        task = partial(self.process_request_thread, request, client_address)
        try:
            self._pool.submit(task, f"{self.service.name}/{session.peer}")
        except NoThreadError as error:
            del self.sessions[request]
            self.service.gate.revoke(session.origin, "threads")
            if count := _no_thread.due():
                logger.warning("no thread for a client: %s (%d times)", error, count)
            raise
        if self._loop is not None:
            self._loop.arm()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a session on its own thread, from the handler to the access line."""
        session = self.sessions[request]
        session.reason = "error"
        try:
            self.finish_request(request, client_address)
            session.reason = session.outcome
        except Exception as error:
            session.reason = self._reason_of(error, request, client_address)
        finally:
            self._shut(request, client_address)

    # -- errors

    def _reason_of(self, error: BaseException, request: Any, client_address: Any) -> str:
        """The reason word for an error that ends a session; a fault of ours is reported."""
        reason = end_reason(error)
        if reason is None:
            try:
                raise error
            except BaseException:
                self._report(request, client_address)
        return reason or "error"

    def _report(self, request: Any, client_address: Any) -> None:
        """Counts the exception in hand, which is a fault of ours, and calls `handle_error`, which
        a subclass may have got wrong."""
        self.service.counters.add_error()
        try:
            self.handle_error(request, client_address)
        except Exception:
            logger.exception("%s: handle_error failed", self.service.name)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Logs the exception in hand, which is a fault of ours, with its traceback."""
        logging.getLogger(f"netd.{self.service.name}").exception(
            "the handler failed while serving %s", client_address or "a UNIX client"
        )
