"""Too many clients: who of them has to go. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol, TypeVar


class Guest(Protocol):
    """A client, as far as it matters."""

    @property
    def user(self) -> int:
        """Whose it is."""

    @property
    def is_served(self) -> bool:
        """Whether its request is being done, or waits for that."""

    @property
    def active(self) -> float:
        """When it last said something, or took something of an answer."""

    @property
    def weight(self) -> int:
        """Bytes that it makes netd hold."""


G = TypeVar("G", bound=Guest)


def surplus(guests: Iterable[G], newcomer: int) -> G | None:
    """Who makes way for one more of the user `newcomer`: of the user who has the most, the one
    that has been silent longest. None, if that user is the newcomer and all its others are being
    served: then they come first."""
    guests = list(guests)
    numbers = Counter(guest.user for guest in guests)
    numbers[newcomer] += 1
    most = max(numbers.values())
    crowd = [guest for guest in guests if numbers[guest.user] == most]
    if silent := [guest for guest in crowd if not guest.is_served]:
        return min(silent, key=lambda guest: guest.active)
    # All ask at once: the one that came last would have waited longest.
    others = [guest for guest in crowd if guest.user != newcomer]
    return max(others, key=lambda guest: guest.active, default=None)


def heaviest(guests: Iterable[G]) -> G:
    """Who gives up an answer, when too many bytes are held for clients that do not take them: of
    the user for whom the most is held, the one that has been silent longest."""
    guests = list(guests)
    held: Counter[int] = Counter()
    for guest in guests:
        held[guest.user] += guest.weight
    ((user, _),) = held.most_common(1)
    return min((guest for guest in guests if guest.user == user), key=lambda guest: guest.active)
