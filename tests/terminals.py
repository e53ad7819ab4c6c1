"""A terminal that is looked at, and typed into.

with Terminal(["netctl", "top"], env=..., width=80, height=24) as terminal:
    terminal.wait_for("q leaves")
    terminal.type("q")
    assert terminal.wait() == 0
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from harness import PATIENCE, wait_until

# They come before the size that the terminal has.
_SIZE = ("COLUMNS", "LINES")


class Terminal:
    """A program in a terminal of its own, and all that it has written there."""

    def __init__(
        self, command: Sequence[str | Path], env: Mapping[str, str], width: int = 80,
        height: int = 24, cwd: Path | None = None,
    ) -> None:  # fmt: skip
        ours, self._theirs = pty.openpty()
        self._fd = ours
        self._written = bytearray()
        self.resize(width, height)
        self.process = subprocess.Popen(
            [*command], stdin=self._theirs, stdout=self._theirs, stderr=self._theirs,
            env={name: value for name, value in env.items() if name not in _SIZE},
            cwd=cwd, start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        self._reader = Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def _read(self) -> None:
        with suppress(OSError):  # EIO: nobody is left at the other end
            while data := os.read(self._fd, 65_536):
                self._written += data
        os.close(self._fd)

    @property
    def written(self) -> str:
        """All of it since the last `wait_for`, escape sequences too."""
        return self._written.decode(errors="surrogateescape")

    @property
    def mode(self) -> list[object]:
        """How the terminal treats what is typed: tcgetattr(3)."""
        return termios.tcgetattr(self._theirs)

    def resize(self, width: int, height: int) -> None:
        """Gives it another size."""
        size = struct.pack("4H", height, width, 0, 0)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, size)

    def type(self, text: str) -> None:
        """Types it."""
        os.write(self._fd, text.encode())

    def wait_for(self, pattern: str) -> str:
        """What has been written, as soon as this is a part of it; the next wait begins after it."""
        try:
            found = wait_until(lambda: re.search(pattern, self.written), 4 * PATIENCE)
        except AssertionError:
            raise AssertionError(f"{pattern!r} not in {self.written!r}") from None
        assert found is not None
        seen = self.written[: found.end()]
        del self._written[: len(seen.encode(errors="surrogateescape"))]
        return seen

    def wait(self) -> int:
        """The exit status, once all that was written has been read."""
        status = self.process.wait(4 * PATIENCE)
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1
        self._reader.join(PATIENCE)
        return status


def _take_terminal() -> None:
    """So that Ctrl-C and a change of the size reach the program."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
