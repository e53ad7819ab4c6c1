"""The serving loop: one epoll that holds listeners and their connections, on one thread.

Nothing that it calls may block. One active Python thread per process is the measure: two that
pass the interpreter's lock to each other run at half the speed of one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from select import EPOLLIN, epoll
from time import monotonic
from typing import Protocol

logger = logging.getLogger("netd")

# Events taken at once. Python's own allocator has room for so many of 12 bytes; for more, each wake
# would pay glibc's price. What is left comes first the next time.
EVENTS_PER_WAKE = 42
# How often deadlines are looked at, in seconds: they are kept to within this much.
SWEEP = 0.5
# How long to sleep with nothing to look at, in seconds.
_IDLE = 3600.0


class Watched(Protocol):
    """Something with a descriptor, told when that is ready."""

    interest: int
    """The epoll events it waits for; 0 before it is watched, -1 when it is over."""

    def fileno(self) -> int: ...
    def ready(self, events: int) -> None: ...


class Loop:
    """Waits for descriptors and deadlines, and runs what they call for.

    `run` runs on the serving thread; `call_soon` and `stop` may be called from any thread, all
    else from the serving thread alone, or before it runs.
    """

    def __init__(self) -> None:
        self._epoll = epoll()
        self._watched: dict[int, Watched] = {}
        self._alarm = _Alarm()
        self._timers: dict[Callable[[], None], float] = {}
        self._sweeps: list[Callable[[float], bool]] = []
        self._running = False
        self._next_sweep = inf
        """When to look at the deadlines; never while there are none."""
        self._next_chores = 0.0
        """When to look at deadlines or run a timer."""
        self.now = monotonic()
        """The monotonic time, in seconds, at which the loop last woke."""
        self.beat = self.now
        """When the loop last answered `ask_for_beat`."""
        self.watch(self._alarm, EPOLLIN)

    def watch(self, watched: Watched, events: int) -> None:
        """Waits for these epoll events of something; 0 takes it out, as closing it does."""
        fd = watched.fileno()
        if watched.interest == 0:
            self._watched[fd] = watched
            self._epoll.register(fd, events)
            if self._next_sweep == inf:
                self.arm()
        elif events:
            self._epoll.modify(fd, events)
        else:
            self._epoll.unregister(fd)
            del self._watched[fd]
        watched.interest = events

    def forget(self, watched: Watched) -> None:
        """It is about to be closed, which takes it out of the epoll without another call."""
        self._watched.pop(watched.fileno(), None)

    def sweep_with(self, sweep: Callable[[float], bool]) -> None:
        """Has deadlines looked at: `sweep(now)` tells whether there is anything more to watch."""
        if sweep not in self._sweeps:
            self._sweeps.append(sweep)

    def sweep_without(self, sweep: Callable[[float], bool]) -> None:
        """Ends what `sweep_with` began."""
        if sweep in self._sweeps:
            self._sweeps.remove(sweep)

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        """Calls it in `delay` seconds. Asked for again before that, the later time counts."""
        self._timers[call] = at = monotonic() + delay
        self._next_chores = min(self._next_chores, at)

    def call_off(self, call: Callable[[], None]) -> None:
        """Ends what `call_later` began."""
        self._timers.pop(call, None)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Calls it on the serving thread, from any thread."""
        self._alarm.call(call)

    def ask_for_beat(self) -> None:
        """Has `beat` set to the time at which the loop comes round to it."""
        self.call_soon(self._set_beat)

    def _set_beat(self) -> None:
        self.beat = monotonic()

    def stop(self) -> None:
        """Has `run` return, from any thread."""
        self.call_soon(self._stop)

    def _stop(self) -> None:
        self._running = False

    def arm(self) -> None:
        """Something has a deadline from now on. Until then none are looked at."""
        if self._next_sweep == inf:
            self._next_sweep = self.now + SWEEP
            self._next_chores = min(self._next_chores, self._next_sweep)

    def run(self, tick: Callable[[], None] | None = None, interval: float = SWEEP) -> None:
        """Serves until `stop`. `tick` is called each round, every `interval` seconds at least."""
        self._running, self.now = True, monotonic()
        poll, watched_by, now = self._epoll.poll, self._watched, self.now
        while self._running:
            timeout = self._next_chores - now
            if tick is not None and timeout > interval:
                timeout = interval
            events = poll(timeout if timeout > 0 else 0, EVENTS_PER_WAKE)
            self.now = now = monotonic()
            for fd, mask in events:
                try:
                    watched = watched_by[fd]
                except KeyError:
                    continue  # it was closed earlier in this round
                try:
                    watched.ready(mask)
                except Exception:
                    self._broken(watched)
            if now >= self._next_chores:
                self._do_chores()
            if tick is not None:
                tick()

    def _do_chores(self) -> None:
        """Looks at the deadlines, runs the timers that are due, and sees how long to sleep."""
        if self.now >= self._next_sweep:
            pending = [_survive(sweep, self.now) for sweep in list(self._sweeps)]
            self._next_sweep = self.now + SWEEP if any(pending) else inf
        for call in [call for call, at in self._timers.items() if at <= self.now]:
            del self._timers[call]
            _survive(call)
        self._next_chores = min(self.now + _IDLE, self._next_sweep, *self._timers.values())

    def _broken(self, watched: Watched) -> None:
        """A fault of ours came through; whatever it was, the others go on being served."""
        logger.exception("%r failed in the serving loop and is served no longer", watched)
        if watched.interest > 0:
            with suppress(OSError, ValueError):  # it may have failed because it was closed
                self.watch(watched, 0)

    def close(self) -> None:
        """Gives the loop's descriptors back."""
        self._epoll.close()
        self._alarm.close()


def _survive(chore: Callable[..., object], *args: object) -> bool:
    """Whether a chore has more to do. One that fails may have: the loop and the others go on."""
    try:
        return bool(chore(*args))
    except Exception:
        logger.exception("%r failed in the serving loop", chore)
        return True


class _Alarm:
    """Wakes the loop from another thread, with something to call."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []
        self.interest = 0

    def fileno(self) -> int:
        return self._fd

    def call(self, call: Callable[[], None]) -> None:
        with self._lock:
            if self._fd >= 0:
                self._calls.append(call)
                os.eventfd_write(self._fd, 1)

    def ready(self, _events: int) -> None:
        os.eventfd_read(self._fd)
        with self._lock:
            calls, self._calls = self._calls, []
        for call in calls:
            _survive(call)

    def close(self) -> None:
        with self._lock:
            os.close(self._fd)
            self._fd = -1
