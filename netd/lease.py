"""Datagrams that a listener takes without asking the gate about each batch of them.

To ask costs as much as to answer some datagrams. So who sends many is granted more for a moment,
out of the buckets that limit it: never more than there is, and so little of it that nobody else
misses it. What is not used goes back.
"""

from __future__ import annotations

from time import monotonic

from netd.gate import Gate

# Datagrams in a batch of a source that is granted some ahead; to others their limits are exact.
MANY = 16
AHEAD = 1024
# Seconds for which they are, and by which a ban may come late.
LEASE = 0.02


class Leases:
    """What a gate has granted ahead, by source. For one thread alone."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._rules = gate.rules
        self._left: dict[str, int] = {}
        self._until = 0.0

    def take(self, source: str, number: int) -> tuple[str | None, int]:
        """How many of a source's next datagrams are taken, as `Gate.judge_datagrams` has it."""
        if monotonic() < self._until and (left := self._left.get(source, 0) - number) >= 0:
            self._left[source] = left
            return None, number
        return self._ask(source, number)

    def _ask(self, source: str, number: int) -> tuple[str | None, int]:
        gate, now = self._gate, monotonic()
        if now >= self._until or gate.rules is not self._rules:
            self.give_back()
            self._rules, self._until = gate.rules, now + LEASE
        elif left := self._left.pop(source, 0):
            gate.take_back(source, left)
        reason, taken = gate.judge_datagrams(source, number)
        if reason is None and number >= MANY:
            self._left[source] = gate.lend(source, AHEAD)
        return reason, taken

    def give_back(self) -> None:
        """Gives back what is left; to other rules than it was granted by, nothing."""
        if self._gate.rules is self._rules:
            for source, left in self._left.items():
                self._gate.take_back(source, left)
        self._left.clear()
