"""time (RFC 868): the time as a number.

    server → 4 bytes, big-endian: seconds since 1900-01-01 00:00 UTC; then it closes

A datagram, empty ones included, is answered by one of 4 bytes. The number wraps round to 0 at
2036-02-07 06:28:16 UTC; a client tells the eras apart by what it knows already.
"""

from __future__ import annotations

from time import time

from netd.handler import RequestHandler

# 70 years with 17 leap days, to the epoch of time(): RFC 868 gives the number.
EPOCH = 2_208_988_800


def stamp(now: float) -> bytes:
    """The four bytes for a time in seconds since 1970."""
    return ((int(now) + EPOCH) % 2**32).to_bytes(4)


class TimeHandler(RequestHandler):
    """Tells the time and closes."""

    __slots__ = ()

    def connection_made(self) -> None:
        self.send(stamp(time()))
        self.close()

    def datagram_received(self, _data: bytes) -> None:
        self.reply(stamp(time()))
