"""What moves batches of datagrams between a socket and those who answer them.

`netd.arena` does it with two system calls for a batch, and `Plain` with one for each datagram: for
UNIX sockets, and where the C library has no recvmmsg(2).
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

from netd.arena import BATCH, IP_PKTINFO, SLOT, Arena, control_space, route_of, to_many
from netd.networks import unmapped


class Carrier(Protocol):
    """Moves batches of datagrams between a socket and the exchange."""

    cut: int
    """Datagrams that came longer than a slot since this was last set to 0."""

    wild: bool
    """Whether what it receives may be meant for a group of hosts, so that destinations matter."""

    def receive(self) -> list[tuple[bytes, Any]]:
        """(data, sender) for each datagram of a batch, at most BATCH; none when none waits."""

    def address(self, sender: Any) -> Any:
        """A sender as the socket module gives it."""

    def to_many(self, index: int) -> bool:
        """Whether the datagram at this place of the batch was sent to a group of hosts."""

    def send(self, answers: list[bytes | None]) -> list[int]:
        """Sends each answer to the sender at its place in the batch; returns the places of those
        that did not go."""

    def send_one(self, index: int, answer: bytes) -> bool:
        """Sends one more answer to the sender at that place; whether it went."""


def carrier_for(sock: socket.socket) -> Carrier:
    """The quickest carrier that can serve a bound socket."""
    wild = is_wild(sock)
    if sock.family != socket.AF_UNIX and Arena.is_available():
        return Arena(sock, wild)
    return Plain(sock, wild)


def is_wild(sock: socket.socket) -> bool:
    """Whether a bound socket has no address that is this machine's alone."""
    if sock.family == socket.AF_UNIX:
        return False
    address = unmapped(sock.getsockname()[0])
    return address.is_unspecified or address.is_multicast or _is_broadcast(sock)


def _is_broadcast(sock: socket.socket) -> bool:
    """Whether a socket is bound to a broadcast address, as only the routing table can tell."""
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(sock.getsockname())
        except PermissionError:
            return True  # for want of SO_BROADCAST
        except OSError:
            return False  # an address yet to come: free_bind
    return False


def ask_for_destinations(sock: socket.socket) -> None:
    """Has the kernel tell each datagram's destination, where a socket may hear more than its own.

    Without it the answer to a datagram that came to the second address of this machine would
    leave from the first, and a broadcast would look like a question to this host alone."""
    if is_wild(sock):
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


class Plain:
    """One system call for each datagram."""

    def __init__(self, sock: socket.socket, wild: bool) -> None:
        self._sock = sock
        self.wild = wild
        self._space = control_space(sock) if wild else 0
        self._batch: list[tuple[Any, list[Any]]] = []
        self.cut = 0

    def receive(self) -> list[tuple[bytes, Any]]:
        found: list[tuple[bytes, Any]] = []
        self._batch = []
        for _ in range(BATCH):
            try:
                data, control, flags, sender = self._sock.recvmsg(SLOT, self._space)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error of an earlier answer
            if flags & socket.MSG_TRUNC:
                self.cut += 1
                continue
            self._batch.append((sender, control))
            found.append((data, sender))
        return found

    def address(self, sender: Any) -> Any:
        return sender[:2] if isinstance(sender, tuple) else sender

    def to_many(self, index: int) -> bool:
        return any(to_many(*item) for item in self._batch[index][1])

    def send(self, answers: list[bytes | None]) -> list[int]:
        return [
            index
            for index, answer in enumerate(answers)
            if answer is not None and not self.send_one(index, answer)
        ]

    def send_one(self, index: int, answer: bytes) -> bool:
        sender, control = self._batch[index]
        try:
            self._sock.sendmsg([answer], route_of(control), socket.MSG_DONTWAIT, sender)
        except OSError:
            return False
        return True
