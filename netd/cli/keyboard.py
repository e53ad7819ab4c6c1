"""The keys of a terminal, one at a time, while a screen is drawn on it."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from contextlib import suppress
from threading import Lock
from types import FrameType, TracebackType
from typing import Self

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Keyboard:
    """Keys without Enter and without echo, for the time of a `with`.

    Ctrl-C, a signal that ends, and a change of the terminal's size come as keys too: so nothing
    interrupts whoever draws, and the terminal is left as it was found."""

    INTERRUPT = "\x03"
    RESIZE = "resize"

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno()
        self._reads, self._writes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._closing = Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        mode = termios.tcgetattr(self._descriptor)
        # Not suspended either: the shell would be left with a screen that is not its own.
        mode[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(self._descriptor, termios.TCSANOW, mode)
        self._handlers = {number: signal.signal(number, self._note) for number in _ENDING}
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        with self._closing:
            self._is_closed = True
            os.close(self._reads)
            os.close(self._writes)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.wake(b"r" if number == signal.SIGWINCH else b"e")

    def wake(self, why: bytes = b"w") -> None:
        """Has `next` return "" at once; from any thread, also when all is over."""
        # A full pipe wakes as well.
        with self._closing, suppress(BlockingIOError):
            if not self._is_closed:
                os.write(self._writes, why)

    def next(self) -> str:
        """The next key; INTERRUPT, RESIZE, or "" when it was woken."""
        ready, _, _ = select.select([self._descriptor, self._reads], [], [])
        if self._reads in ready:
            why = os.read(self._reads, 4096)
            if b"e" in why:
                return self.INTERRUPT
            return self.RESIZE if b"r" in why else ""
        # Nothing to read is the end: the terminal is gone.
        return os.read(self._descriptor, 1).decode("latin-1") or self.INTERRUPT
