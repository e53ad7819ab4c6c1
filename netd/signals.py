"""The signals that steer the daemon, as a queue: a signal handler would run at any point of the
code, in the middle of a log line or of a bind."""

from __future__ import annotations

import os
import select
import signal
from collections import deque
from types import TracebackType
from typing import Self

ENDING = (signal.SIGTERM, signal.SIGINT)
"""They end the daemon; the second one ends it at once, so each counts."""
_CAUGHT = (*ENDING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PIPE_SIZE = 65_536


class Signals:
    """Catches the signals for the time of a `with`, in the main thread.

    Afterwards they are ignored: the process is about to end with a status of its own, which a
    signal that comes too late must not replace."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waiting: deque[signal.Signals] = deque()
        # What the pipe cannot hold are more than 60,000 that have not been read.
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in _CAUGHT:
            signal.signal(number, lambda *_: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for number in _CAUGHT:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def next(self, timeout: float | None = None) -> signal.Signals | None:
        """The next signal; None when there is none within so many seconds."""
        if not self._waiting:
            self._take_in(timeout)
        return self._waiting.popleft() if self._waiting else None

    def _take_in(self, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if poll.poll(None if timeout is None else timeout * 1000):
            for byte in os.read(self._read, _PIPE_SIZE):
                number = signal.Signals(byte)
                # As the kernel does with one that is still pending: a thousand requests for the
                # state, sent at once, are answered once.
                if number in ENDING or number not in self._waiting:
                    self._waiting.append(number)
