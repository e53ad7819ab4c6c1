"""Connections on their way to their handler, where something comes before it (`netd.prelude`).

    verify_request → Prelude: announcement → gate.admit_within → stages → process_request

A prelude is in `sessions` from the first. Until the gate has let it in it is no session yet: it
ends as a refusal. One that ends after that, because a stage turned the client away, is counted as
admitted and as refused; because the client left or took too long, as a session.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from netd.connection import Connection, origin_of
from netd.errors import RemoteError
from netd.handler import overrides
from netd.prelude import Prelude
from netd.serving import Serving
from netd.steps import StepConnection
from netd.tlssocket import TlsSocket

# Connections of one listener that have not said yet for whom they come (PROXY). They are not
# counted by any limit of the gate, and each costs a descriptor.
MAX_UNANNOUNCED = 256


class TurnedAway(RemoteError):
    """The gate does not let the client in."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Entrance(Serving):
    """A server of connections whose handler may not be the first that they meet."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unannounced = 0
        super().__init__(*args, **kwargs)
        self._in_steps = self.is_ours and not overrides(self.RequestHandlerClass, "handle")
        self._has_prelude = bool(self.service.announcement or self.service.stages)

    def _receive(self, request: Any, client_address: Any) -> None:
        """Begins with what comes before the handler."""
        loop = self._loop or self._get_own_loop()
        prelude = Prelude(request, client_address, self.service, loop, self)
        self.sessions[request] = prelude
        self._unannounced += 1
        prelude.proceed()
        if not prelude.interest:
            loop.arm()  # which else is done when it is watched
        if self._unannounced > MAX_UNANNOUNCED and not (prelude.admitted or prelude.interest < 0):
            prelude.cut("proxy")

    # -- for the prelude

    def let_in(self, prelude: Prelude) -> float:
        """Admits it: the seconds that it has to wait before it goes on, for which it is held.
        Raises TurnedAway."""
        origin = origin_of(prelude.request, prelude.client_address)
        reason, delay = self._ask_gate(origin)
        if reason is not None:
            raise TurnedAway(reason)
        prelude.origin = origin
        self._unannounced -= 1
        if delay:
            self._hold(prelude.request, prelude.client_address, delay)
        return delay

    def exchange(self, prelude: Prelude, request: Any) -> None:
        """Has another request stand for the connection, such as one that speaks TLS."""
        del self.sessions[prelude.request]
        self.sessions[request] = prelude
        prelude.request = request

    def go_on(self, prelude: Prelude) -> None:
        """Hands it to its handler."""
        request, client_address = prelude.request, prelude.client_address
        try:
            if self._in_steps and not isinstance(request, TlsSocket):
                prelude.become_steps()
            else:
                request = self._reopen(prelude)
            self.process_request(request, client_address)
        except Exception:
            prelude.loop.forget(request)
            self._give_up(request, client_address)

    def _reopen(self, prelude: Prelude) -> Any:
        """Has the same session go on by another connection; its request as that has it."""
        prelude.leave_loop()
        request, session = self._open(prelude.request, prelude.client_address, prelude.origin)
        session.follow(prelude)
        del self.sessions[prelude.request]
        self.sessions[request] = session
        return request

    def over(self, session: StepConnection, reason: str, error: BaseException | None) -> None:
        """A session in steps has ended."""
        session.reason = reason
        if error is not None:
            self._reason_of(error, session.request, session.client_address)
        self._close(session.request)

    def give_up(self, prelude: Prelude, error: BaseException) -> None:
        """Ends it, for what a stage has raised."""
        request, client_address = prelude.request, prelude.client_address
        reason = self._reason_of(error, request, client_address)
        if prelude.admitted and not isinstance(error, RemoteError):
            prelude.reason = reason
            self._close(request)
            return
        del self.sessions[request]
        if prelude.admitted:
            self.service.gate.turn_out(prelude.origin, reason)
        else:
            self._unannounced -= 1
            if not isinstance(error, TurnedAway):
                self.service.gate.count_refused(reason)
        words, user = None, None
        if isinstance(error, RemoteError):
            words, user = error.last_words, error.user
        self._turn_away(request, client_address, reason, words, user)

    # -- for the server to fill in

    @abstractmethod
    def _ask_gate(self, origin: str) -> tuple[str | None, float]:
        """The reason word why a client is not let in, or None; and for how long it has to wait."""

    @abstractmethod
    def _hold(self, request: Any, client_address: Any, delay: float) -> None:
        """Has it go on in `delay` seconds."""

    @abstractmethod
    def _open(self, request: Any, client_address: Any, origin: str) -> tuple[Any, Connection]:
        """The request as its handler is to have it, and its session."""

    @abstractmethod
    def _turn_away(
        self, request: Any, client_address: Any, reason: str,
        words: bytes | None = None, user: str | None = None,
    ) -> None:  # fmt: skip
        """Tells a client why it may not come in, or `words`, and has it leave; `user` is who it
        says it is."""
