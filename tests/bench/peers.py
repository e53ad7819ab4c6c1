"""Echo servers of the standard library, TCP and UDP on one port:

    python peers.py threading|asyncio PORT
    python peers.py asyncio PORT CERTIFICATE KEY

With what anybody would set: address reuse, a long backlog and no Nagle delay for both, a large
receive buffer for datagrams. Without the first two the threading server would lose by its
defaults alone, which are a backlog of 5 and 40 ms for the second half of an answer. With a
certificate, asyncio speaks TLS over TCP, of the versions that netd does.
"""

from __future__ import annotations

import asyncio
import socket
import socketserver
import ssl
import sys
import threading
from typing import cast

HOST = "127.0.0.1"
BACKLOG = 4096
CHUNK = 65_536
DATAGRAM_BUFFER = 4 * 2**20


class TCPEcho(socketserver.BaseRequestHandler):
    """Sends back what comes in."""

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self) -> None:
        while data := self.request.recv(CHUNK):
            self.request.sendall(data)


class UDPEcho(socketserver.BaseRequestHandler):
    """Sends back what comes in."""

    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


class TCPServer(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    request_queue_size = BACKLOG


class UDPServer(socketserver.ThreadingUDPServer):
    """A thread for each datagram."""


def serve_threading(port: int) -> None:
    """Serves for ever."""
    datagrams = UDPServer((HOST, port), UDPEcho)
    datagrams.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER)
    threading.Thread(target=datagrams.serve_forever, daemon=True).start()
    TCPServer((HOST, port), TCPEcho).serve_forever()


class StreamProtocol(asyncio.Protocol):
    """Sends back what comes in. asyncio sets TCP_NODELAY itself."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self.write(data)


class DatagramProtocol(asyncio.DatagramProtocol):
    """Sends back what comes in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sendto = cast(asyncio.DatagramTransport, transport).sendto
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.sendto(data, address)


async def serve_asyncio(port: int, context: ssl.SSLContext | None) -> None:
    """Serves for ever."""
    loop = asyncio.get_running_loop()
    # The loop holds its transports by weak references alone.
    _transport, _ = await loop.create_datagram_endpoint(DatagramProtocol, (HOST, port))
    server = await loop.create_server(StreamProtocol, HOST, port, backlog=BACKLOG, ssl=context)
    await server.serve_forever()


def context_of(certificate: str, key: str) -> ssl.SSLContext:
    """What TLS is spoken with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # as netd's
    context.load_cert_chain(certificate, key)
    return context


def main() -> None:
    """Runs the server that the arguments name."""
    name, port, *pair = sys.argv[1:]
    if name == "threading":
        serve_threading(int(port))
    else:
        asyncio.run(serve_asyncio(int(port), context_of(*pair) if pair else None))


if __name__ == "__main__":
    main()
