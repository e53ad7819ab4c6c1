"""What clients do to an echo server. Each load is bounded in time and in count, and checks that
what comes back is as long as what was sent."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic

from guards import Client

HOST = "127.0.0.1"
PATIENCE = 5
"""Seconds after which a call gives up."""
MOST_CONNECTIONS = 20_000
"""Connections that are made one after the other in a load: their ports rest for a while."""
AT_ONCE = 16
"""Of these, at a time."""
FLIGHTS = 4
"""Sockets that datagrams are sent from."""
LOST_AFTER = 0.1
"""Seconds of silence after which the datagrams in flight are taken for lost."""

_SILENT = f"the server has been silent for {PATIENCE} seconds"
# SO_RCVTIMEO and SO_SNDTIMEO: a time-out that costs nothing, unlike that of settimeout().
_TIMEOUT = struct.pack("ll", PATIENCE, 0)


@dataclass
class Done:
    """What a load came to."""

    count: int
    """Messages, or connections, that were answered."""
    seconds: float
    lost: int = 0
    """Datagrams that were not answered."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.count / self.seconds


def connect(port: int, kind: int = socket.SOCK_STREAM, source: str = "") -> socket.socket:
    """A client whose calls block, but not for ever."""
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT)
    if source:
        sock.bind((source, 0))
    sock.connect((HOST, port))
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextmanager
def held(
    port: int, connections: int, size: int = 64, kind: type[Client] = Client
) -> Iterator[list[socket.socket]]:
    """So many open connections, each of which was served once."""
    message = bytes(size)
    with ExitStack() as closing:
        socks = []
        for _ in range(connections):
            client = kind(connect(port), message)
            closing.callback(client.close)
            _serve_once(client)
            socks.append(client.sock)
        yield socks


def _serve_once(client: Client) -> None:
    """Waits until its message is back."""
    with select.epoll() as epoll:
        epoll.register(client.sock, select.EPOLLIN)
        _events(epoll, 1)
        while not client.go_on():
            _events(epoll, 1)


def echo(port: int, connections: int, size: int, seconds: float) -> Done:
    """Open connections with one message in flight on each."""
    with held(port, connections, size) as socks:
        return exchange(socks, size, seconds)


def exchange(socks: list[socket.socket], size: int, seconds: float) -> Done:
    """The same on connections that are open already, and were served."""
    message = bytes(size)
    with select.epoll() as epoll:
        by_fd = {sock.fileno(): sock for sock in socks}
        missing = dict.fromkeys(by_fd, size)
        for fd, sock in by_fd.items():
            epoll.register(fd, select.EPOLLIN)
            sock.sendall(message)
        count, began = 0, monotonic()
        end = began + seconds
        while (now := monotonic()) < end or not count:
            for fd, _ in _events(epoll, len(socks)):
                sock = by_fd[fd]
                try:
                    came = len(sock.recv(missing[fd]))
                except ssl.SSLWantReadError:
                    continue
                if not came:
                    raise ConnectionError("the server ended the connection")
                if came < missing[fd]:
                    missing[fd] -= came
                    continue
                missing[fd] = size
                count += 1
                sock.sendall(message)
    return Done(count, now - began)


def churn(port: int, seconds: float, kind: type[Client] = Client) -> Done:
    """Connections of one message each, AT_ONCE at a time."""
    message = bytes(64)
    open_: dict[int, Client] = {}
    begun = count = 0
    with select.epoll() as epoll:

        def begin() -> None:
            # From several addresses, so that no port is needed again before it has had its rest.
            sock = connect(port, source=f"127.0.1.{begun % 16 + 1}")
            fd = sock.fileno()
            epoll.register(fd, select.EPOLLIN)
            open_[fd] = kind(sock, message)

        began = monotonic()
        end = began + seconds
        while begun < AT_ONCE:
            begin()
            begun += 1
        while open_:
            for fd, _ in _events(epoll, AT_ONCE):
                if not open_[fd].go_on():
                    continue
                open_.pop(fd).close()
                count += 1
                if begun < MOST_CONNECTIONS and monotonic() < end:
                    begin()
                    begun += 1
    return Done(count, monotonic() - began)


def datagrams(port: int, in_flight: int, seconds: float) -> Done:
    """Datagrams of 64 bytes, so many on their way at a time."""
    message = bytes(64)
    with ExitStack() as closing:
        socks = [closing.enter_context(connect(port, socket.SOCK_DGRAM)) for _ in range(FLIGHTS)]
        epoll = closing.enter_context(select.epoll())
        by_fd = {sock.fileno(): sock for sock in socks}
        share = max(1, in_flight // FLIGHTS)
        out = dict.fromkeys(by_fd, 0)
        for sock in socks:
            epoll.register(sock, select.EPOLLIN)
        count = lost = 0
        began = monotonic()
        end = began + seconds
        while (now := monotonic()) < end or not count:
            if now > end + PATIENCE:
                raise TimeoutError(_SILENT)
            for fd, sock in by_fd.items():
                while out[fd] < share:
                    sock.send(message)
                    out[fd] += 1
            events = epoll.poll(LOST_AFTER)
            if not events:
                lost += sum(out.values())
                out = dict.fromkeys(by_fd, 0)
            for fd, _ in events:
                came = _take_all(by_fd[fd])
                out[fd] = max(0, out[fd] - came)
                count += came
    return Done(count, now - began, lost)


def _take_all(sock: socket.socket) -> int:
    """How many datagrams have come."""
    count = 0
    try:
        while True:
            sock.recv(2048, socket.MSG_DONTWAIT)
            count += 1
    except BlockingIOError:
        return count


def _events(epoll: select.epoll, most: int) -> list[tuple[int, int]]:
    events = epoll.poll(PATIENCE, most)
    if not events:
        raise TimeoutError(_SILENT)
    return events
