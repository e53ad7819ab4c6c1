"""What a user may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce

Names = frozenset[str] | None
"""Names of what may be used; None: of all that there is."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user may do; more than the service offers it never is."""

    services: Names = None
    """Services that it may use."""
    commands: Names = None
    """Commands that it may run, where a service runs commands."""
    roots: Names = None
    """Folders that it may use, by the names that a service of files gives them."""

    def __or__(self, other: Rights) -> Rights:
        """What either allows."""
        return Rights(
            *(_either(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        )

    @classmethod
    def of(cls, roles: Iterable[Rights]) -> Rights:
        """What any of the roles allows; without any, everything."""
        given = [*roles]
        return reduce(cls.__or__, given) if given else EVERYTHING


EVERYTHING = Rights()
"""Of a user without roles."""


def allows(names: Names, name: str) -> bool:
    """Whether a name is among those that may be used."""
    return names is None or name in names


def _either(one: Names, other: Names) -> Names:
    return None if one is None or other is None else one | other
