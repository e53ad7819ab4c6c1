"""Connections that came too early: they wait for their turn, and nobody waits for them."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from netd.gate import MAX_DELAY

if TYPE_CHECKING:
    from netd.loop import Loop

# Of one listener; each costs a descriptor meanwhile. Those beyond are turned away.
MAX_DELAYED = 256


class Delayed:
    """Those of one listener that are in and are not served yet. No descriptor of theirs is
    watched: what they send meanwhile waits in the kernel."""

    def __init__(self, serve: Callable[[Any, Any], None]) -> None:
        """`serve(request, client_address)` is called when a turn has come; it raises nothing."""
        self._serve = serve
        self._queue: list[tuple[float, int, Any, Any]] = []
        self._numbers = count()
        self._loop: Loop | None = None

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def patience(self) -> float:
        """How long one more may wait, in seconds."""
        return MAX_DELAY if len(self._queue) < MAX_DELAYED else 0.0

    def hold(self, request: Any, client_address: Any, delay: float, loop: Loop) -> None:
        """Has it served in `delay` seconds."""
        # The number keeps the order, and two requests from being compared.
        heappush(self._queue, (monotonic() + delay, next(self._numbers), request, client_address))
        self._loop = loop
        self._set_timer()

    def _set_timer(self) -> None:
        if self._queue and self._loop is not None:
            self._loop.call_later(self._queue[0][0] - monotonic(), self._serve_due)

    def _serve_due(self) -> None:
        now = monotonic()
        while self._queue and self._queue[0][0] <= now:
            _, _, request, client_address = heappop(self._queue)
            self._serve(request, client_address)
        self._set_timer()

    def give_up(self) -> list[Any]:
        """The requests that still waited; they are not served any more."""
        if self._loop is not None:
            self._loop.call_off(self._serve_due)
        given_up, self._queue = [request for _, _, request, _ in self._queue], []
        return given_up
