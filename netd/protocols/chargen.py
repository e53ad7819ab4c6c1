"""chargen (RFC 864): characters without end, to test the way to the client.

    stream      server → line line line …  until the client closes; what it sends is ignored
    datagram    client → anything          server → the first 0 to 512 bytes of the stream
    line        72 of the 95 printing ASCII characters, each line one further on, and CR LF

To a sender that may be forged the answer is as long as the request: RFC 864 wants a random length,
which made chargen the best known of all amplifiers (CVE-1999-0103).
"""

from __future__ import annotations

from itertools import repeat
from random import randrange

from netd.handler import RequestHandler

PRINTING = bytes(range(0x20, 0x7F))
WIDTH = 72
LONGEST = 512
"""The longest answer to a datagram, in bytes."""


def line(number: int) -> bytes:
    """The line of this number, counted from 0."""
    start = number % len(PRINTING)
    return (PRINTING * 2)[start : start + WIDTH] + b"\r\n"


CYCLE = b"".join(line(number) for number in range(len(PRINTING)))
"""All the lines there are: 7,030 bytes, after which the stream begins anew."""

# As much as one step may send (steps.OUT_LIMIT): the fewer the steps, the faster the stream.
CHUNK = CYCLE * (65_536 // len(CYCLE))


def text(length: int) -> bytes:
    """The first bytes of the stream, at most 7,030."""
    return CYCLE[:length]


class ChargenHandler(RequestHandler):
    """Sends as fast as the client reads."""

    __slots__ = ()

    def connection_made(self) -> None:
        self.send_from(repeat(CHUNK))

    def datagram_received(self, data: bytes) -> None:
        self.reply(text(randrange(LONGEST + 1) if self.proven else min(len(data), LONGEST)))
