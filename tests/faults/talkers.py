"""Small protocols that the faults need beside netd's own; the daemon finds them by PYTHONPATH."""

from __future__ import annotations

import os
from time import monotonic

from netd.handler import RequestHandler

MEGABYTE = bytes(range(256)) * 4096


class Lines(RequestHandler):
    """A conversation: each line comes back reversed; `long` is answered by a megabyte, and
    `crash` by a fault of the handler."""

    def handle(self) -> None:
        while (line := self.read_line()) is not None:
            if line == b"crash":
                raise ZeroDivisionError("as asked for")
            self.send(MEGABYTE if line == b"long" else line[::-1] + b"\n")


class Frames(RequestHandler):
    """A conversation: each frame is answered by the length of its body, in decimal digits."""

    def handle(self) -> None:
        while (frame := self.read_frame()) is not None:
            frame[0].check_request()
            self.send(b"%d\n" % len(frame[1]))


class Waits(RequestHandler):
    """A conversation that waits a second for a line, and tells how long it took."""

    def handle(self) -> None:
        began = monotonic()
        try:
            self.read_line(timeout=1.0)
        finally:
            self.send(b"waited %.1f s\n" % (monotonic() - began))


class Hoards(RequestHandler):
    """A conversation that takes all descriptors that there are, and keeps them to its end."""

    def handle(self) -> None:
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            self.send(b"%d\n" % len(taken))
            self.read_line()
        finally:
            for descriptor in taken:
                os.close(descriptor)


class Named(RequestHandler):
    """Answers datagrams on a thread."""

    may_block = True

    def datagram_received(self, data: bytes) -> None:
        self.reply(data)
