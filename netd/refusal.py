"""Clients that may not come in: they are told why, and given the time to read it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from netd.secured import SecuredSteps
from netd.steps import StepConnection
from netd.tlssocket import TlsSocket

if TYPE_CHECKING:
    from netd.loop import Loop
    from netd.service import Service

# Beyond it they are closed at once, which may destroy what they were told.
MAX_LEAVING = 256


class Leaving:
    """Those of one listener that were turned away and have not gone yet."""

    def __init__(self, close: Callable[[Any], None]) -> None:
        """`close` is called with each request at its end."""
        self._close = close
        self._leaving: set[StepConnection] = set()

    def __len__(self) -> int:
        return len(self._leaving)

    def see_off(
        self,
        request: Any,
        client_address: Any,
        service: Service,
        reason: str,
        loop: Loop,
        words: bytes | None = None,
    ) -> bool:
        """Tells a client why, or `words`; False when it has to be closed without a word. Words that
        are empty have been said already, and it is given the time to read them."""
        message = service.fail_text(reason) if words is None else words
        if (not message and words is None) or len(self._leaving) >= MAX_LEAVING:
            return False
        request.setblocking(False)
        kind = SecuredSteps if isinstance(request, TlsSocket) else StepConnection
        leaving = kind(request, client_address, service, "", loop, self._has_left)
        self._leaving.add(leaving)
        leaving.turn_away(message, reason)
        return True

    def _has_left(self, leaving: StepConnection, _reason: str, _error: object) -> None:
        self._leaving.discard(leaving)
        self._close(leaving.request)

    def sweep(self, now: float) -> bool:
        """Closes those who take too long; whether any are left."""
        for leaving in list(self._leaving):
            if (reason := leaving.overdue(now)) is not None:
                leaving.cut(reason)
        return bool(self._leaving)

    def cut(self) -> None:
        """Closes all of them."""
        for leaving in list(self._leaving):
            leaving.cut("shutdown")


class Reserve:
    """A descriptor kept for the hour of need: in its place one more client can be accepted, told
    and closed. Else it would wait without an answer, and the listener stay readable for ever."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1

    def fill(self) -> bool:
        """Takes the descriptor, if there is one to be had; whether it is there now."""
        with self._lock:
            self._fill()
            return self._fd >= 0

    def _fill(self) -> None:
        if self._fd < 0:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return  # somebody else was faster; the next time, perhaps

    def close(self) -> None:
        """Gives the descriptor back for good."""
        with self._lock:
            self._give_back()

    def _give_back(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def spent(self) -> Iterator[bool]:
        """Gives the descriptor back to the system, for the time of a `with`; False: there is
        none."""
        with self._lock:
            had_one = self._fd >= 0
            self._give_back()
            try:
                yield had_one
            finally:
                self._fill()
