"""A roll of services, for reports of what is not a whole daemon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netd.report import Absent
from netd.unit import Unit


@dataclass
class Listed:
    """The services that a report is about."""

    services: Mapping[str, Unit] = field(default_factory=dict)

    @property
    def units(self) -> list[Unit]:
        """Those that serve anybody."""
        return [*self.services.values()]

    def by_name(self) -> Mapping[str, Unit | Absent]:
        """All of them."""
        return self.services
