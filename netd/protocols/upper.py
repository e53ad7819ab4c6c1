"""upper: each chunk comes back in upper case, as in the socket tutorials.

    client → any bytes          server → the same bytes, ASCII letters in upper case

No line end is waited for. Only ASCII changes: `str.upper` would change lengths (ß → SS). An empty
datagram is answered by an empty one.
"""

from __future__ import annotations

from netd.handler import RequestHandler


class UpperHandler(RequestHandler):
    """Answers at once, byte for byte."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        self.send(data.upper())

    def datagram_received(self, data: bytes) -> None:
        self.reply(data.upper())
