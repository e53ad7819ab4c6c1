"""Who may be answered, and how much: netd is nobody's reflector.

The sender's address of a UDP datagram may be forged, to have the answer fall upon somebody else.
The answer to one is therefore no longer than the datagram, or than 64 bytes; only so many a second
go to one source; and none goes to where a server would answer it in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import monotonic
from typing import Any

from netd.gate import REMEMBERED_SOURCES, Gate
from netd.networks import unmapped
from netd.rates import Bucket, Buckets

# The answer to a datagram from an address that may be forged is at most this long, or as long as
# the request: a reflector that amplifies is worth a flood to somebody (CVE-1999-0103 and others).
UNPROVEN_REPLY = 64
# What each further answer to the same datagram costs beside its own bytes: an IPv4 and a UDP
# header. Else an empty datagram could bring 64 of one byte each, thirty times its own weight.
FURTHER_REPLY = 28
# The sender on a UNIX socket cannot be forged, so its answer has no limit.
PROVEN_REPLY = 2**62
# Nobody tells who sends on a UNIX socket: to the gate all of them are one source.
ANY_UNIX_SENDER = "unix"
# No client sends from a system port; an echo, chargen or tftp server answers from one, and two of
# them would answer each other for ever (CVE-1999-0103, CVE-2024-2169).
FIRST_USER_PORT = 1024
_BROADCAST = "255.255.255.255"


class Correspondent:
    """What is known of one sender of datagrams: whether, and how much, it may be answered."""

    __slots__ = ("address", "bucket", "is_free", "refused", "silent", "source")

    def __init__(
        self, address: Any, refused: str | None, silent: str | None,
        bucket: Bucket | None, source: str = ANY_UNIX_SENDER,
    ) -> None:  # fmt: skip
        self.address = address
        self.source = source
        """The sender as the gate knows it."""
        self.refused = refused
        """The reason word when its datagrams are not even read."""
        self.silent = silent
        """Why nothing is ever sent to it; None when it may be answered."""
        self.bucket = bucket
        """Its share of answers; None when it cannot be forged."""
        self.is_free = silent is None and bucket is None
        """Whether it may be answered however often it asks."""


class OwnPorts:
    """The UDP ports that this daemon serves. Nothing is ever sent to them; for any thread."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self.numbers = frozenset(numbers)
        """Another set after each change, so that who remembers it knows that there was one."""

    def add(self, number: int) -> None:
        """Adds one."""
        if number not in self.numbers:
            self.numbers |= {number}

    def keep(self, numbers: Iterable[int]) -> None:
        """Removes all but these."""
        if self.numbers - (kept := frozenset(numbers)):
            self.numbers &= kept


class ReplyGuard:
    """Decides to whom datagrams may be sent.

    An address of this machine cannot come in from outside, since the kernel drops such packets
    (ip_rcv: martian source): loopback is bounded in length, not in rate.
    """

    def __init__(self, gate: Gate, own_ports: OwnPorts) -> None:
        self.own_ports = own_ports
        self._gate = gate
        self._lock = threading.Lock()
        self._rate: float | None = None
        self._buckets: Buckets | None = None

    def correspondent(self, address: tuple[str, int]) -> Correspondent:
        """The decisions about a sender (host, port) that hold for all its datagrams, until the
        own ports change. For one thread alone."""
        host, port = address
        refused, name = self._gate.judge(host)
        parsed = unmapped(host)
        silent = None
        if port < FIRST_USER_PORT or port in self.own_ports.numbers:
            silent = "service_port"
        elif parsed.is_multicast or parsed.is_unspecified or str(parsed) == _BROADCAST:
            silent = "broadcast"
        self._obey(self._gate.rules.reply_rate)
        bucket = None
        if self._buckets is not None and not parsed.is_loopback:
            bucket = self._buckets.find(name, monotonic())
        return Correspondent(address, refused, silent, bucket, host)

    def _obey(self, rate: float | None) -> None:
        """The gate may have other rules than when this was made."""
        if rate != self._rate:
            self._rate = rate
            self._buckets = None
        if rate is not None and self._buckets is None:
            # Half a second's worth at once: a burst of questions is ordinary, a stream is not.
            self._buckets = Buckets(rate, max(1.0, rate / 2), REMEMBERED_SOURCES)

    def refusal(self, address: tuple[str, int], size: int, left: int) -> str | None:
        """Why an answer of `size` bytes must not go to (host, port) when `left` bytes may; None
        when it may go, and is taken for sent. For any thread."""
        with self._lock:
            who = self.correspondent(address)
            if who.silent is not None:
                return who.silent
            if size > left:
                return "amplification"
            if who.bucket is not None and not who.bucket.take(monotonic()):
                return "rate"
        return None


def reply_limit(request: int) -> int:
    """Bytes that may answer a datagram of `request` bytes from an unproven source."""
    return max(request, UNPROVEN_REPLY)
