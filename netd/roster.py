"""The services at work, and how one set of them becomes another while clients come and go.

    bind     what is new; what stays is duplicated    may fail: `undo`
    start    threads for new services                 may fail: `undo`
    commit   each thread exchanges its listeners      cannot fail

A service whose stanza is the same is not touched at all.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from math import inf
from time import monotonic

from netd.binding import CANNOT_BIND, Binder
from netd.config import ServiceStanza
from netd.errors import StartError
from netd.pool import Pool
from netd.server import Server
from netd.service import Service
from netd.succession import Succession
from netd.unit import Unit

logger = logging.getLogger("netd")

Build = Callable[[str, ServiceStanza, Service | None], Service]
"""Makes a service, that goes on where an earlier one of the name was."""
MORE_THREADS = "raise TasksMax and LimitNOFILE in netd.service, or ulimit -u and -n"
"""What can be done when a thread cannot be started, or has no descriptors."""
# How long a commit waits for a serving thread, in seconds. One that is stuck follows later.
PATIENCE = 5.0


class Roster:
    """The services at work, by name."""

    def __init__(
        self,
        build: Build,
        pool: Pool,
        inherited: dict[str, list[socket.socket]],
        owner: tuple[str, str] | None,
    ) -> None:
        """`inherited` and `owner` are as for `Binder`."""
        self._build = build
        self._pool, self._inherited, self._owner = pool, inherited, owner
        self.units: dict[str, Unit] = {}
        self._leaving: list[Unit] = []
        self._known: dict[str, Service] = {}

    @property
    def leaving(self) -> list[Unit]:
        """Those that serve their last sessions."""
        return [unit for unit in self._leaving if unit.is_alive]

    def relatives(self, unit: Unit) -> list[Unit]:
        """Those of the same service that serve their last sessions; they have one gate, and one
        set of counters."""
        gate = unit.service.gate
        return [each for each in self.leaving if each.service.gate is gate and each is not unit]

    def binder(self, succession: Succession | None = None) -> Binder:
        """Binds the listeners of its services, and others of this process."""
        return Binder(self._pool, self._inherited, self._owner, succession)

    def change(self, wanted: Mapping[str, ServiceStanza]) -> Change:
        """The way to exactly these services."""
        return Change(self, wanted)

    # -- for a change

    def renew(self, name: str, stanza: ServiceStanza) -> Service:
        """The service as it is to be, with the gate and the counters of the one of this name."""
        return self._build(name, stanza, self._known.get(name))

    def replace(self, units: dict[str, Unit], leaving: list[Unit]) -> None:
        """Has other units from now on."""
        self.units = units
        self._leaving = [*self.leaving, *leaving]
        self._known |= {name: unit.service for name, unit in units.items()}

    def forget(self, names: Iterable[str]) -> None:
        """Services of these names will begin anew, should there be any."""
        for name in names:
            self._known.pop(name, None)


class Change:
    """From the services at work to those that are wanted: `bind`, `start`, then `commit`; or at any
    point before that, `undo`."""

    def __init__(self, roster: Roster, wanted: Mapping[str, ServiceStanza]) -> None:
        self._roster = roster
        self._wanted = wanted
        units = roster.units
        self._removed = [unit for name, unit in units.items() if name not in wanted]
        kept = {name: unit for name, unit in units.items() if name in wanted}
        self.unchanged = [unit for name, unit in kept.items() if unit.obeys(wanted[name])]
        """The services that are not touched."""
        self._changed = [unit for unit in kept.values() if unit not in self.unchanged]
        self._succession = Succession(
            server for unit in (*self._removed, *self._changed) for server in unit.upcoming
        )
        self._servers: dict[str, tuple[Service, list[Server]]] = {}
        self._added: dict[str, Unit] = {}

    def bind(self) -> Binder:
        """Binds all that is new; returns what bound it. Raises StartError."""
        binder = self._roster.binder(self._succession)
        changed = {unit.service.name for unit in self._changed}
        for name, stanza in self._wanted.items():
            if name in changed or name not in self._roster.units:
                service = self._roster.renew(name, stanza)
                self._servers[name] = service, binder.bind(stanza, service)
        return binder

    def start(self) -> None:
        """Starts the threads of services that are new. They serve nobody yet. Raises StartError."""
        for name in self._wanted:
            if name not in self._roster.units:
                unit = Unit(self._servers[name][0], [], self._wanted[name], self._roster.relatives)
                try:
                    unit.start()
                except (RuntimeError, OSError) as error:
                    raise StartError(f"{name}: {error} ({MORE_THREADS})", CANNOT_BIND) from error
                self._added[name] = unit

    def undo(self) -> None:
        """Leaves nothing of what was prepared."""
        for _, servers in self._servers.values():
            for server in servers:
                server.server_close()
        for unit in self._added.values():
            unit.stop()
            unit.close(monotonic() + PATIENCE)
        self._succession.undo()

    def commit(self, drain_timeout: float | None = None, reason: str = "reload") -> None:
        """Has all serving threads go over to what is wanted. Sessions that are to be drained may
        go on for so many seconds; then they end for this reason word."""
        end = monotonic() + (inf if drain_timeout is None else drain_timeout)
        successors = self._succession.successors
        units = {name: self._unit(name) for name in self._wanted}
        self._tell()
        done = [unit.retire(successors, end, reason) for unit in self._removed]
        for name, (service, servers) in self._servers.items():
            done.append(units[name].exchange(service, self._wanted[name], servers, successors, end))
        self._roster.replace(units, self._removed)
        latest = monotonic() + PATIENCE
        if not all(event.wait(max(0.0, latest - monotonic())) for event in done):
            logger.error("a serving thread is stuck, and goes on as before until it is not")
        if drain_timeout == 0:
            for unit in self._removed:
                unit.join(latest)

    def _tell(self) -> None:
        inherited = set(self._succession.successors.values())
        for name, (_, servers) in self._servers.items():
            for server in servers:
                if server not in inherited:
                    self._unit(name).logger.info("listening on %s", server.name)

    def _unit(self, name: str) -> Unit:
        return self._added.get(name) or self._roster.units[name]
