"""How busy the machine is: the 1-minute load average, as `uptime` shows it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from time import monotonic

# How old the figure may be, in seconds; the kernel works out a new one each 5.
INTERVAL = 1.0
# sysinfo(2): three load averages follow the uptime, in units of 1/65536.
_SCALE = 65_536
_SYSINFO_SIZE = 256


def read_load() -> float:
    """The load average now. Where the sandbox hides /proc/loadavg (ProcSubset=pid), the kernel is
    asked for it; that comes second, since only the file shows a container its own load."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return kernel_load()


def kernel_load() -> float:
    """The load average of the whole machine, from sysinfo(2). It cannot fail on Linux."""
    space = (ctypes.c_ulong * (_SYSINFO_SIZE // ctypes.sizeof(ctypes.c_ulong)))()
    ctypes.CDLL(None).sysinfo(space)
    return int(space[1]) / _SCALE


class LoadAverage:
    """The load average, read at most once in INTERVAL, whoever asks for it and how often."""

    def __init__(
        self, read: Callable[[], float] = read_load, clock: Callable[[], float] = monotonic
    ) -> None:
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._latest = 0.0

    def __call__(self) -> float:
        """The latest figure."""
        now = self._clock()
        if now >= self._next and self._lock.acquire(blocking=False):
            try:
                if now >= self._next:  # else another thread was just faster
                    self._next = now + INTERVAL
                    self._latest = self._read()
            finally:
                self._lock.release()
        return self._latest
