"""Datagrams that a listener takes without asking the gate about each batch of them.

To ask, and to count who has sent how many, costs as much as to answer some datagrams. So when many
come, their sources are granted more for a moment, out of the buckets that limit them: never more
than there is, and so little of it that nobody else misses it. What is not used goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import monotonic

from netd.gate import Gate

# Datagrams in a batch, and of each source in it on average, that are many. Where fewer come the
# limits are exact.
MANY = 16
MANY_EACH = 4
AHEAD = 4096
# Seconds for which a lease holds, and by which a ban may come late.
LEASE = 0.02


class Lease:
    """What a gate has granted some sources ahead. For one thread alone."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._rules = gate.rules
        self._granted: dict[str, int] = {}
        self._least = 0
        """Datagrams that may come before the first source can have used up what it was granted."""
        self.covered = 0
        """Datagrams that have come."""
        self._until = 0.0

    def covers(self, number: int) -> bool:
        """Whether the next `number` datagrams may be taken, whichever of the sources send them."""
        if self.covered + number > self._least or monotonic() >= self._until:
            return False
        self.covered += number
        return True

    def includes(self, source: str) -> bool:
        """Whether it was granted for this source."""
        return source in self._granted

    def grant(self, sources: Iterable[str]) -> None:
        """Begins, for sources that are let in now. Before it the one before is to be settled."""
        gate = self._gate
        self._rules = gate.rules
        self._granted = {source: gate.lend(source, AHEAD) for source in sources}
        self._least, self.covered = min(self._granted.values()), 0
        self._until = monotonic() + LEASE

    def settle(self, used: Mapping[str, int]) -> None:
        """Ends, and gives back what was granted and not used, by source; to other rules than it
        was granted by, nothing."""
        if self._gate.rules is self._rules:
            for source, granted in self._granted.items():
                self._gate.take_back(source, granted - used.get(source, 0))
        self._granted, self._least, self.covered = {}, 0, 0
