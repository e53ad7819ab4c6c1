"""Sources that misbehaved: they stay out for a while, and for longer each time.

A penalty never concerns others than the source itself, takes bounded memory, and ends: sources are
prefixes of addresses that cannot be forged, since offences over UDP do not count.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from netd.stanza import Duration, Stanza

# Sources that are remembered, at some 300 bytes each. Of more than these the oldest is forgiven:
# to keep everybody out in its place would be what an attacker with many addresses wants.
PENALISED_SOURCES = 16_384
# Doublings beyond which a penalty grows no more, even without `max`.
_MOST_DOUBLINGS = 30


class PenaltyRules(Stanza):
    """How long a source stays out that did what it may not do."""

    protocol_error: Duration = None
    """For a connection that ended with `protocol_error`; none: that is no offence. Each further
    one doubles it, and good conduct for as long as the latest penalty was halves it again."""
    auth: Duration = 1.0
    """For a client that `auth` has turned away; doubled and halved likewise."""
    handshake: Duration = None
    """For a client whose TLS handshake has failed."""
    handshake_timeout: Duration = None
    """For a client that was not ready for the protocol in time."""
    max: Duration = 600.0
    """The longest penalty."""


class Penalty(NamedTuple):
    """What is remembered of a source."""

    offences: int
    """Offences that have not been forgotten."""
    seconds: float
    """How long the latest penalty is."""
    until: float
    """When it is over, on the monotonic clock."""

    def remaining(self, now: float) -> int:
        """Offences that are not forgotten yet: good conduct for as long as the penalty was makes
        up for one."""
        return max(0, self.offences - max(0, int((now - self.until) // self.seconds)))


class Penalties:
    """The penalties of one service."""

    def __init__(self, rules: PenaltyRules) -> None:
        offences = dict(rules)
        del offences["max"]
        self._seconds: dict[str, float] = {
            offence: seconds for offence, seconds in offences.items() if seconds is not None
        }
        self.offences = frozenset(self._seconds)
        """The reason words of what is an offence here."""
        self.any = False
        """Whether there has been an offence."""
        self._longest = float("inf") if rules.max is None else rules.max
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Penalty] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def under(self, rules: PenaltyRules) -> Penalties:
        """The penalties of a service whose rules are others from now on: what a source has is not
        forgotten by that."""
        successor = Penalties(rules)
        with self._lock:
            successor._known.update(self._known)
            successor.any = self.any
        return successor

    def add(self, source: str, offence: str, now: float) -> None:
        """Takes note of how a source ended a session, and penalises it if that is an offence.

        What its other sessions, begun before, do during a penalty adds nothing to that."""
        first = self._seconds.get(offence)
        if first is None:
            return
        with self._lock:
            self.any = True
            known = self._known.get(source)
            if known is not None and now < known.until:
                return
            offences = 0 if known is None else known.remaining(now)
            seconds = min(self._longest, first * 2 ** min(offences, _MOST_DOUBLINGS))
            self._known[source] = Penalty(offences + 1, seconds, now + seconds)
            self._known.move_to_end(source)
            if len(self._known) > PENALISED_SOURCES:
                self._known.popitem(last=False)

    def find(self, source: str, now: float) -> Penalty | None:
        """What is remembered of a source that is not forgiven wholly."""
        known = self._known.get(source)
        return known if known is not None and known.remaining(now) else None

    def keeps_out(self, source: str, now: float) -> bool:
        """Whether a source has a penalty now."""
        known = self._known.get(source)
        return known is not None and now < known.until
