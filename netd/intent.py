"""What is to be served: the configuration, and what an administrator has said since it was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from netd.config import Config, ServiceStanza
from netd.errors import NetdError
from netd.findings import nearest


class UnknownServiceError(NetdError):
    """There is no such service in the configuration."""


@dataclass(frozen=True)
class Intent:
    """What is to be served. Never changes: whoever wants something else makes another one."""

    config: Config
    started: Mapping[str, bool] = field(default_factory=dict)
    """Services that were started (True) or stopped (False), until netd ends."""
    enabled: Mapping[str, bool] = field(default_factory=dict)
    """Services that were enabled or disabled for good, whatever the configuration says."""

    @property
    def wanted(self) -> dict[str, ServiceStanza]:
        """The services that are to run, as the configuration has them."""
        services = self.config.services
        return {name: services[name] for name in services if self._is_wanted(name)}

    def _is_wanted(self, name: str) -> bool:
        return self.started.get(name, self.is_enabled(name))

    def is_enabled(self, name: str) -> bool:
        """Whether a service runs unless it is started or stopped."""
        return self.enabled.get(name, self.config.services[name].enabled)

    def start(self, names: Iterable[str], yes: bool) -> Intent:
        """With services started or stopped. Raises UnknownServiceError."""
        return replace(self, started={**self.started, **dict.fromkeys(self._known(names), yes)})

    def enable(self, names: Iterable[str], yes: bool) -> Intent:
        """With services enabled or disabled, and started or stopped by that. Raises
        UnknownServiceError."""
        names = self._known(names)
        started = {name: was for name, was in self.started.items() if name not in names}
        enabled = {**self.enabled, **dict.fromkeys(names, yes)}
        for name in names:
            if yes == self.config.services[name].enabled:
                del enabled[name]
        return replace(self, started=started, enabled=enabled)

    def under(self, config: Config) -> Intent:
        """With another configuration. Services that it does not have are not started or stopped
        any more; what is disabled is so when it comes back too, as after a restart."""
        started = {name: yes for name, yes in self.started.items() if name in config.services}
        return replace(self, config=config, started=started)

    def _known(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        for name in names:
            if name not in self.config.services:
                hint = nearest(name, self.config.services)
                raise UnknownServiceError(f"there is no service {name!r} ({hint})")
        return names
