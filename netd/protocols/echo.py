"""echo (RFC 862): whatever comes goes back, byte for byte, until the client closes."""

from __future__ import annotations

from netd.handler import RequestHandler


class EchoHandler(RequestHandler):
    """Sends back what it is sent."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        self.send(data)

    def datagram_received(self, data: bytes) -> None:
        self.reply(data)
