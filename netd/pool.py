"""Threads for conversations: kept a while and used again, since starting one costs as much as
serving some hundred echoes."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from time import monotonic

# Each thread costs some 20 KiB of memory while it waits, and the address space of its stack.
MAX_THREADS = 512
# Bytes of a stack, whatever the limits of the process. On less than 2 MiB deeply nested JSON ends
# the interpreter, by a signal, before Python notices (seen with 3.13 at 1 MiB).
STACK = 8 * 2**20
# Seconds that an unused thread is kept: under load none ends, and soon after it all have.
KEEP = 0.25
# A thread that waits for the interpreter's lock wakes once in each switch interval to ask for it.
# A thousand that wake at once (all are spoken to, or due) take a whole CPU for nothing but asking
# if the interval is 10 ms, and conversations end seconds late; at 20 ms they do not (measured).
# So many seconds of the interval for each thread keep well away from there.
SWITCH = 50e-6
SWITCH_LEAST = sys.getswitchinterval()


class NoThreadError(Exception):
    """No thread can be had: there are as many as allowed, or the system refuses another."""


def _set_switch_interval() -> None:
    """Fits it to the number of threads; it is one for all that the process has."""
    sys.setswitchinterval(max(SWITCH_LEAST, threading.active_count() * SWITCH))


class Pool:
    """A bounded set of threads. A task that cannot be given one at once is not taken."""

    def __init__(self, limit: int = MAX_THREADS, keep: float = KEEP) -> None:
        self.limit = limit
        """How many threads there may be; may be changed at any time."""
        self._keep = keep
        self._tasks: queue.SimpleQueue[tuple[Callable[[], None], str] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._closed = False
        self._threads: set[threading.Thread] = set()

    def __len__(self) -> int:
        return len(self._threads)

    def submit(self, task: Callable[[], None], name: str) -> None:
        """Runs a task on a thread of that name. Raises NoThreadError; never waits for a thread."""
        with self._lock:
            if self._closed:
                raise NoThreadError("the pool is closed")
            if self._idle:
                self._idle -= 1  # promised to this task
            else:
                self._start()
            # Before the lock is free: a task behind the end that `close` puts would never be run.
            self._tasks.put((task, name))

    def _start(self) -> None:
        if len(self._threads) >= self.limit:
            raise NoThreadError(f"all {self.limit} threads are in use")
        thread = threading.Thread(target=self._work, daemon=True)
        self._threads.add(thread)
        before = threading.stack_size(STACK)
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.discard(thread)
            raise NoThreadError(str(error)) from error
        finally:
            threading.stack_size(before)
        _set_switch_interval()

    def _work(self) -> None:
        thread = threading.current_thread()
        try:
            while (job := self._next()) is not None:
                task, thread.name = job
                task()
                thread.name = "idle"
                del job, task
                with self._lock:
                    self._idle += 1
        finally:
            with self._lock:
                self._threads.discard(thread)
            _set_switch_interval()

    def _next(self) -> tuple[Callable[[], None], str] | None:
        try:
            return self._tasks.get(timeout=self._keep)
        except queue.Empty:
            pass
        with self._lock:
            if self._idle:
                self._idle -= 1
                return None
        return self._tasks.get()  # a task was promised to this thread meanwhile

    def close(self, timeout: float = 0.0) -> bool:
        """Takes no more tasks, and waits up to `timeout` seconds for those that run.

        False when some still run: their threads are daemonic, and end with the process."""
        with self._lock:
            self._closed = True
            threads = [t for t in self._threads if t is not threading.current_thread()]
        for _ in threads:
            self._tasks.put(None)
        end = monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in threads)
