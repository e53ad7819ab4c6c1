"""Datagrams answered in place, in batches, on the serving thread.

`Exchange` runs a handler's `datagram_received` for each, and sends the answers of the whole batch
together. Below it, a carrier moves the batch (`netd.carrier`).

Every answer passes the rules of `netd.replies`: netd is nobody's reflector.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any

from netd.address import bracketed
from netd.arena import BATCH
from netd.carrier import carrier_for
from netd.gate import REMEMBERED_SOURCES
from netd.identity import NOBODY
from netd.lease import MANY, MANY_EACH, Lease
from netd.replies import (
    FURTHER_REPLY,
    PROVEN_REPLY,
    UNPROVEN_REPLY,
    Correspondent,
    ReplyGuard,
)
from netd.throttle import Throttle

if TYPE_CHECKING:
    from netd.service import Service

logger = logging.getLogger("netd")

# Batches taken in one turn of the loop; then the others have theirs.
BATCHES_PER_TURN = 2
_refused = Throttle()
_sender = itemgetter(1)


class Exchange:
    """All the datagrams of one listener, and the connection of the handler that answers them."""

    identity = NOBODY

    def __init__(
        self,
        sock: socket.socket,
        service: Service,
        guard: ReplyGuard,
        report: Callable[[Exception, Any], str],
    ) -> None:
        """`report` is told of what a handler raised over which sender; it returns the reason
        word."""
        self.service = service
        self._carrier = carrier_for(sock)
        self._guard = guard
        self._report = report
        self.proven = sock.family == socket.AF_UNIX
        """Whether a sender's address cannot be forged."""
        self._known: dict[Any, Correspondent] = {}
        self._ports = guard.own_ports.numbers
        self._received: Callable[[bytes], object] = len  # nobody hears them yet
        self._who = Correspondent("", None, "broadcast", None)
        self._index = self._left = 0
        self._lease = Lease(service.gate)
        self._leased: dict[Any, Correspondent] = {}
        """The senders for whose sources the lease was granted."""
        self._source: str | None = None
        """That source, if it is but one, as most often."""
        self._spent: Counter[Any] = Counter()
        """By sender: the datagrams since then, where there are several sources."""
        self._beside = 0
        """Datagrams since then whose senders have no part in the lease."""
        self._partly: dict[str, tuple[str, int]] = {}
        """By source: why not all of its datagrams in the batch are taken, and how many are left
        that are."""
        self._answer: bytes | None = None
        self._more: list[tuple[int, bytes]] = []

    def serve(self, received: Callable[[bytes], None]) -> None:
        """Has datagrams answered by a handler's `datagram_received`."""
        self._received = received

    # -- for the handler, about the datagram in hand

    @property
    def client_address(self) -> Any:
        """The sender's address."""
        return self._who.address

    @property
    def reply_limit(self) -> int:
        """The longest answer, in bytes, that the sender may be given."""
        return max(0, self._left)

    def reply(self, data: bytes) -> None:
        """Answers the sender, unless it must not be answered; that is counted."""
        who, size = self._who, len(data)
        if who.is_free and size <= self._left and self._answer is None:
            # Nearly every answer goes this way.
            self._left -= size + FURTHER_REPLY
            self._answer = data
        elif who.silent is not None:
            self._drop(who.silent)
        elif size > self._left:
            self._drop("amplification")
        elif who.bucket is not None and not who.bucket.take(monotonic()):
            self._drop("rate")
        else:
            self._left -= size + FURTHER_REPLY
            if self._answer is None:
                self._answer = data
            else:
                self._more.append((self._index, data))

    # -- for the server

    def take_in(self) -> bool:
        """Answers what waits, up to a bound; whether there may be more."""
        for _ in range(BATCHES_PER_TURN):
            batch = self._carrier.receive()
            if batch:
                self._answer_all(batch)
            if cut := self._carrier.cut:
                self._carrier.cut = 0
                self._drop("cut", cut)
            if len(batch) + cut < BATCH:
                return False
        return True

    def _answer_all(self, batch: list[tuple[bytes, Any]]) -> None:
        known, received, carrier, meet = self._known, self._received, self._carrier, self._meet
        wild, least = carrier.wild, PROVEN_REPLY if self.proven else UNPROVEN_REPLY
        if self._guard.own_ports.numbers is not self._ports:
            self._ports = self._guard.own_ports.numbers
            known.clear()
            self._settle()
        if not self.service.gate.is_plain:
            if self._lease.covers(len(batch)):
                if self._source is None:
                    self._spent.update(map(_sender, batch))
                known, meet = self._leased, self._meet_beside
            else:
                known, meet = self._judge_all(batch), self._meet_again
        answers: list[bytes | None] = []
        bytes_in = 0
        for data, sender in batch:
            who = known.get(sender) or meet(sender)
            size = len(data)
            bytes_in += size
            self._answer = None
            if who.refused is None:
                if wild and carrier.to_many(len(answers)):
                    who = Correspondent(who.address, None, "broadcast", None)
                self._who, self._index = who, len(answers)
                self._left = size if size > least else least  # reply_limit, without the call
                try:
                    received(data)
                except Exception as error:
                    self._fail(error)
            else:
                self._refuse(who.address, who.refused)
            answers.append(self._answer)
        self._send(answers, len(batch), bytes_in)

    def _meet(self, sender: Any) -> Correspondent:
        """Forms an opinion of a sender, which holds for its next datagrams too."""
        address = self._carrier.address(sender)
        if self.proven:
            who = Correspondent(address, None, None if address else "unnamed", None)
        else:
            who = self._guard.correspondent(address)
        if len(self._known) >= REMEMBERED_SOURCES:
            self._known.clear()
        self._known[sender] = who
        return who

    def _judge_all(self, batch: list[tuple[bytes, Any]]) -> dict[Any, Correspondent]:
        """Asks anew which datagrams are taken, for the hour, or a rate, matters too. The senders,
        but for those of whom some are and some are not: `_meet_again` tells which."""
        self._settle()
        known, meet = self._known, self._meet
        counts = Counter(map(_sender, batch))
        found = {sender: known.get(sender) or meet(sender) for sender in counts}
        numbers: Counter[str] = Counter()
        for sender, number in counts.items():
            numbers[found[sender].source] += number
        self._partly.clear()
        for source, number in numbers.items():
            reason, taken = self.service.gate.judge_datagrams(source, number)
            if reason is not None:
                self._partly[source] = reason, taken
        if self._partly:
            return {who: each for who, each in found.items() if each.source not in self._partly}
        if len(batch) >= max(MANY, MANY_EACH * len(numbers)):
            self._lease.grant(numbers)
            self._leased = found
            self._source = next(iter(numbers)) if len(numbers) == 1 else None
        return found

    def _settle(self) -> None:
        """Ends the lease, if there is one."""
        leased, used = self._leased, Counter[str]()
        if not leased:
            return
        if self._source is not None:
            used[self._source] = self._lease.covered - self._beside
        for sender in leased.keys() & self._spent.keys():
            used[leased[sender].source] += self._spent[sender]
        self._lease.settle(used)
        self._leased, self._beside = {}, 0
        self._spent.clear()

    def _meet_beside(self, sender: Any) -> Correspondent:
        """The opinion of a datagram whose sender has no part in the lease yet; it is given one if
        its source has, as it may send from several ports."""
        who = self._known.get(sender) or self._meet(sender)
        if self._lease.includes(who.source) and len(self._leased) < REMEMBERED_SOURCES:
            self._leased[sender] = who
            return who
        self._beside += 1
        if who.refused is None:
            reason, _ = self.service.gate.judge_datagrams(who.source, 1)
            if reason is not None:
                return Correspondent(who.address, reason, who.silent, who.bucket, who.source)
        return who

    def _meet_again(self, sender: Any) -> Correspondent:
        """The opinion of the next datagram of a sender of whom not all are taken."""
        who = self._known.get(sender) or self._meet(sender)
        if who.refused is not None:
            return who
        reason, left = self._partly[who.source]
        if left > 0:
            self._partly[who.source] = reason, left - 1
            return who
        return Correspondent(who.address, reason, who.silent, who.bucket, who.source)

    def _send(self, answers: list[bytes | None], received: int, bytes_in: int) -> None:
        sent = len(answers) - answers.count(None)
        bytes_out = sum(map(len, filter(None, answers)))
        lost = self._carrier.send(answers) if sent else []
        if lost:
            self._drop("unsent", len(lost))
            sent -= len(lost)
            bytes_out -= sum(len(answers[index] or b"") for index in lost)
        for index, answer in self._more:
            if self._carrier.send_one(index, answer):
                sent, bytes_out = sent + 1, bytes_out + len(answer)
            else:
                self._drop("unsent")
        self._more.clear()
        self.service.counters.add_datagrams(received, bytes_in, sent, bytes_out)

    def _drop(self, reason: str, number: int = 1) -> None:
        self.service.counters.add_dropped(reason, number)

    def _refuse(self, address: Any, reason: str) -> None:
        self.service.gate.count_refused(reason)
        self._drop(reason)
        if times := _refused.due():
            logger.info("%s: %d datagrams refused (%s)", self.service.name, times, reason)
            if self.service.events is not None:
                peer = "unix"
                if not self.proven:
                    peer = f"{bracketed(address[0])}:{address[1]}"
                self.service.events.refused(self.service.name, peer, reason)

    def _fail(self, error: Exception) -> None:
        """What a handler answered before it failed is not sent."""
        self._answer = None
        while self._more and self._more[-1][0] == self._index:
            self._more.pop()
        self._drop(self._report(error, self.client_address))
