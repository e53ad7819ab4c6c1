"""Datagrams whose handler has a thread: what it is given to answer by.

A stock handler answers by a socket, one of netd's own by `reply`. Both come to the same: what may
be sent, and to whom, is decided in `netd.replies`.
"""

from __future__ import annotations

import os
import socket
import socketserver
from typing import TYPE_CHECKING, Any

from netd.arena import route_of, to_many
from netd.connection import Connection
from netd.replies import (
    ANY_UNIX_SENDER,
    FURTHER_REPLY,
    PROVEN_REPLY,
    ReplyGuard,
    reply_limit,
)

if TYPE_CHECKING:
    from netd.service import Service


def answers_empty(handler: Any) -> bool:
    """Whether an empty answer of a stock handler is one. DatagramRequestHandler always answers,
    with nothing when it has nothing to say: by that a sink would be a reflector."""
    stock = socketserver.DatagramRequestHandler
    return not (isinstance(handler, type) and issubclass(handler, stock))


class ReplySocket:
    """The socket that a stock datagram handler answers by: it may answer, within the rules.

    What asks about the socket is answered by the socket. What would change the listener, or go
    around the rules, is an AttributeError."""

    def __init__(
        self, sock: socket.socket, data: bytes, control: list[Any], address: Any, guard: ReplyGuard
    ) -> None:
        self._sock = sock
        self._route = route_of(control)
        self._address = address
        self._guard = guard
        self.proven = sock.family == socket.AF_UNIX
        """Whether the sender's address cannot be forged."""
        self.answers_empty = True
        """Whether an empty answer to what was not empty is sent."""
        self._size = len(data)
        self._left = PROVEN_REPLY if self.proven else reply_limit(self._size)
        self._to_many = any(to_many(*item) for item in control)
        self.session: DatagramSession | None = None
        self.family, self.type, self.proto = sock.family, sock.type, sock.proto
        self.getsockname, self.fileno = sock.getsockname, sock.fileno

    @property
    def left(self) -> int:
        """Bytes that may still be sent back."""
        return max(0, self._left)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Sends a datagram if its receiver may be sent one; what may not be sent is counted."""
        address, size = flags_and_address[-1], memoryview(data).nbytes
        if not size and self._size and not self.answers_empty:
            return 0
        reason = self._refusal(size, address)
        if reason is None:
            self._left -= size + FURTHER_REPLY
            try:
                route = self._route if address == self._address else []
                self._sock.sendmsg([data], route, socket.MSG_DONTWAIT, address)
            except OSError:
                reason = "unsent"
        if self.session is not None:
            self.session.sent(size, reason)
        return size

    def _refusal(self, size: int, address: Any) -> str | None:
        if self.proven:
            return None if address else "unnamed"
        if self._to_many:
            return "broadcast"
        return self._guard.refusal(address[:2], size, self._left)


class DatagramSession(Connection):
    """A datagram whose handler has a thread."""

    __slots__ = ("_answers", "_socket")

    def __init__(self, request: Any, client_address: Any, service: Service) -> None:
        data, self._socket = request
        origin, peer = ANY_UNIX_SENDER, None
        if isinstance(client_address, tuple):
            origin = client_address[0]
        else:
            peer = "unix:" + os.fsdecode(client_address or "unnamed").replace("\0", "@", 1)
        super().__init__(request, client_address, service, origin, peer)
        self.bytes_in = len(data)
        self._answers = 0
        self._socket.session = self

    def reply(self, data: bytes) -> None:
        """Answers the sender, unless it must not be answered; that is counted."""
        self._socket.sendto(data, self.client_address)

    @property
    def reply_limit(self) -> int:
        """The longest answer, in bytes, that the sender may be given."""
        left: int = self._socket.left
        return left

    @property
    def proven(self) -> bool:
        """Whether the sender's address cannot be forged."""
        proven: bool = self._socket.proven
        return proven

    def sent(self, size: int, refusal: str | None) -> None:
        """Counts an answer, or why it was not sent."""
        if refusal is None:
            self.bytes_out += size
            self._answers += 1
        else:
            self.service.counters.add_dropped(refusal)

    def refuse(self, reason: str) -> None:
        """Counts it as one that was turned away."""
        self.service.counters.add_datagrams(1, self.bytes_in, 0, 0)
        self.service.counters.add_dropped(reason)

    def finish(self, reason: str) -> None:
        """As that of Connection; it is counted as a datagram too."""
        super().finish(reason)
        self.service.counters.add_datagrams(1, 0, self._answers, 0)
        if reason != "done":
            self.service.counters.add_dropped(reason)

    def cut(self, _reason: str) -> None:
        """Nothing: one datagram has come in whole, and no wait of its handler is ours to end."""
