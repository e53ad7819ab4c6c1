"""discard (RFC 863): whatever comes is thrown away, and nothing is ever answered.

client → any bytes, or datagrams          server → nothing
"""

from __future__ import annotations

from netd.handler import RequestHandler


class DiscardHandler(RequestHandler):
    """Reads, and says nothing."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Throws it away."""

    def datagram_received(self, data: bytes) -> None:
        """Throws it away."""
