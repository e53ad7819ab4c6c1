"""One handler of each kind, on every transport, and what is asserted of any session."""

from __future__ import annotations

import logging
import os
import socket
import socketserver
import struct
from typing import Any

import pytest
from harness import DATAGRAMS, STREAMS, TRANSPORTS, Served, wait_until

from netd.handler import RequestHandler
from netd.server import TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer

ANY_PORT = ("127.0.0.1", 0)
# More than the kernel holds for a peer that does not read, on loopback.
MUCH = 16 * 2**20
CLASSES: dict[str, Any] = {
    "tcp": TCPServer, "tcp6": TCPServer, "unix": UnixStreamServer,
    "udp": UDPServer, "udp6": UDPServer, "unix-dgram": UnixDatagramServer,
}  # fmt: skip


class Steps(RequestHandler):
    """Answers in the serving loop."""

    def data_received(self, data: bytes) -> None:
        self.send(data.upper())

    def datagram_received(self, data: bytes) -> None:
        self.reply(data.upper())


class Talk(RequestHandler):
    """Answers from a thread."""

    may_block = True

    def handle(self) -> None:
        while data := self.read():
            self.send(data.upper())

    def datagram_received(self, data: bytes) -> None:
        self.reply(data.upper())


class Stock(socketserver.StreamRequestHandler):
    """As in the tutorials."""

    def handle(self) -> None:
        while data := self.request.recv(100):
            self.wfile.write(data.upper())


class StockDatagram(socketserver.DatagramRequestHandler):
    """As in the tutorials."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


def handlers(transport: str) -> list[Any]:
    """One handler of each kind that a transport has."""
    return [Steps, Talk, StockDatagram if transport in DATAGRAMS else Stock]


EVERY_WAY = [(t, h) for t in TRANSPORTS for h in handlers(t)]
EVERY_STREAM = [(t, h) for t in STREAMS for h in handlers(t)]


def echoes(client: socket.socket) -> bool:
    """Whether a client is answered."""
    client.send(b"abc")
    return client.recv(3) == b"ABC"


def reset(client: socket.socket) -> None:
    """Closes a client with a reset in place of an ordinary end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged at error or above, which tells of our own faults."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


def ended(served: Served, **reasons: int) -> None:
    """Waits until all sessions have ended, and asserts that it was by these reasons, and that
    nothing is left of them."""
    wait_until(lambda: not served.server.sessions)
    assert served.service.counters.ended == reasons
    assert served.service.gate.open == 0


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
