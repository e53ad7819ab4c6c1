"""The services of a daemon: those of the configuration, at work or not, and how they change.

configuration, and what was said since (`Intent`) → which run → `Roster.change` → units
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from netd import log, stages
from netd.binding import CANNOT_BIND, Binder
from netd.config import Config, ServiceStanza, Source
from netd.difference import compare, in_force
from netd.errors import NetdError, StartError
from netd.events import Events
from netd.gate import Gate, Total
from netd.intent import Intent
from netd.pool import Pool
from netd.reloads import Reloads
from netd.replies import OwnPorts
from netd.report import Absent
from netd.roster import PATIENCE, Change, Roster
from netd.service import Service
from netd.statefile import StateFile
from netd.unit import Unit

logger = logging.getLogger("netd")

# Descriptors that are not given to connections: files of handlers, the log. A process that may
# have few of them keeps an eighth.
SPARE_DESCRIPTORS = 64


class Services:
    """The services of a daemon: `bind`, `start`; from then on any thread may change them, and one
    at a time does."""

    def __init__(
        self,
        config: Config,
        source: Source,
        total: Total,
        descriptors: int,
        inherited: dict[str, list[socket.socket]],
        owner: tuple[str, str] | None,
        events: Events,
        kept: StateFile,
    ) -> None:
        """`source` is where the configuration is from; `descriptors` is the limit of the process;
        `inherited` and `owner` are as for `Binder`; `kept` remembers what was enabled."""
        self._source, self._kept = source, kept
        self._total, self._descriptors, self._events = total, descriptors, events
        self.pool = Pool(config.max_threads)
        """The threads for conversations."""
        self._reloads = Reloads()
        self._own_ports = OwnPorts()
        self._roster = Roster(self._build, self.pool, inherited, owner)
        self._intent = Intent(config)
        self._first: Change | None = None
        self._changing = threading.Lock()
        self._is_closed = False
        self.descriptors_besides = 0
        """Descriptors of this process that are no service's."""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._intent.config

    @property
    def at_work(self) -> list[Unit]:
        """Those that take clients in."""
        return [*self._roster.units.values()]

    @property
    def units(self) -> list[Unit]:
        """Those that serve anybody: those at work, and those with their last sessions."""
        return [*self._roster.units.values(), *self._roster.leaving]

    def by_name(self) -> dict[str, Unit | Absent]:
        """Each service that there is."""
        found: dict[str, Unit | Absent] = {**self._roster.units}
        for unit in self._roster.leaving:
            if unit.open:
                found.setdefault(unit.service.name, unit)
        for name, stanza in self.config.services.items():
            word = "stopped" if self._intent.is_enabled(name) else "disabled"
            found.setdefault(name, Absent(word, stanza.speaks))
        return found

    def configuration(self) -> dict[str, Any]:
        """Where the configuration in force is from, and what became of the reloads, as plain
        data."""
        return {"file": str(self._source.file), **self._reloads.state()}

    # -- starting

    def bind(self) -> Binder:
        """Binds every address; returns what did, which knows those that could not be bound."""
        self._intent = Intent(self.config, {}, self._kept.enabled).under(self.config)
        self._first = self._roster.change(self._intent.wanted)
        return self._first.bind()

    def start(self) -> None:
        """Serves from now on. Raises StartError."""
        assert self._first is not None
        self._first.start()
        self._first.commit()
        self._set_limits()
        self._warn()

    def close(self) -> None:
        """Undoes `bind` if there was no `start`."""
        if not self._roster.units and self._first is not None:
            self._first.undo()

    def _build(self, name: str, stanza: ServiceStanza, before: Service | None) -> Service:
        obeyed: dict[str, Any] = {
            "options": stanza.options,
            "timeouts": stanza,
            "banner": stanza.banner.encode(),
            "banner_fail": stanza.banner_fail,
            "announcement": stages.announcement_of(stanza),
            "stages": tuple(stages.stages_of(name, stanza)),
        }
        if before is not None:
            return replace(before, **obeyed)
        return Service(
            name=name,
            protocol=stanza.speaks,
            gate=Gate(stanza, self._total),
            own_ports=self._own_ports,
            events=self._events,
            **obeyed,
        )

    # -- changing

    def reload(self, dry_run: bool = False) -> dict[str, Any]:
        """Reads the configuration again and goes over to it; what is different, as plain data.

        Raises ConfigError and StartError, and all stays as it was."""
        began = monotonic()
        with self._changing:
            try:
                config = self._source.load()
                difference = compare(self.config, config)
                if not dry_run:
                    config = in_force(self.config, config)
                    self._adopt(self._intent.under(config), config.drain_timeout, "reload")
            except NetdError as error:
                if not dry_run:
                    self._reloads.failed(error)
                raise
            took = monotonic() - began
            if not dry_run:
                self._reloads.done(difference, took)
        return {"dry_run": dry_run, **difference.data(), "took": round(took, 6)}

    def check(self, file: str | None) -> dict[str, Any]:
        """Reads a configuration, by default its own, and changes nothing. Raises ConfigError."""
        source = self._source if file is None else replace(self._source, file=Path(file))
        return {"file": str(source.file), "services": len(source.load().services)}

    def start_services(self, names: Iterable[str]) -> dict[str, str]:
        """Starts services, until netd ends; returns the word for what each does now. Raises
        UnknownServiceError and StartError."""
        return self._say(names, lambda intent, known: intent.start(known, True))

    def stop_services(self, names: Iterable[str]) -> dict[str, str]:
        """Ends services, with their sessions, until they are started. Raises
        UnknownServiceError."""
        return self._say(names, lambda intent, known: intent.start(known, False), 0.0)

    def drain_services(self, names: Iterable[str]) -> dict[str, str]:
        """Ends services, as their sessions end, until they are started. Raises
        UnknownServiceError."""
        return self._say(names, lambda intent, known: intent.start(known, False))

    def enable_services(self, names: Iterable[str]) -> dict[str, str]:
        """Starts services, now and whenever netd starts. Raises UnknownServiceError and
        StartError."""
        return self._say(names, lambda intent, known: intent.enable(known, True))

    def disable_services(self, names: Iterable[str]) -> dict[str, str]:
        """Ends services, as their sessions end, until they are enabled; also when netd is started
        again. Raises UnknownServiceError."""
        return self._say(names, lambda intent, known: intent.enable(known, False))

    def _say(
        self,
        names: Iterable[str],
        said: Callable[[Intent, list[str]], Intent],
        drain_timeout: float | None = None,
    ) -> dict[str, str]:
        known = list(names)
        with self._changing:
            before, leaving = self._intent, self._roster.leaving
            self._adopt(said(before, known), drain_timeout, "stopped")
            if drain_timeout is not None:
                _end([unit for unit in leaving if unit.service.name in known], "stopped")
            if self._intent.enabled != before.enabled:
                self._kept.keep(self._intent.enabled)
        found = self.by_name()
        return {name: _word(found[name]) for name in known}

    def _adopt(self, intent: Intent, drain_timeout: float | None, reason: str) -> None:
        """Goes over to another intent. Raises ConfigError and StartError, and nothing happens."""
        if self._is_closed:
            raise StartError("netd is about to end, and changes nothing any more", CANNOT_BIND)
        change = self._roster.change(intent.wanted)
        try:
            change.bind().check()
            change.start()
            for unit in change.unchanged:
                stages.renew(unit.service)
            if intent.config.log != self.config.log:
                log.output().reconfigure(intent.config.log)
        except BaseException:
            change.undo()
            raise
        change.commit(drain_timeout, reason)
        self._roster.forget(self.config.services.keys() - intent.config.services)
        self._intent = intent
        self._own_ports.keep(port for unit in self.at_work for port in unit.udp_ports)
        self._set_limits()
        self._warn()

    def _warn(self) -> None:
        """Tells what is not wrong, but keeps clients away."""
        for unit in self.at_work:
            for text in stages.warnings(unit.service):
                unit.logger.warning("%s", text)

    def forbid_changes(self) -> None:
        """Has all stay as it is from now on; waits for a change that is under way."""
        with self._changing:
            self._is_closed = True

    def _set_limits(self) -> None:
        """Of all services at once. More than there are descriptors for are refused with a word,
        which is better than having none left."""
        config, units = self.config, self.at_work
        self.pool.limit = config.max_threads
        asked = config.max_connections
        # Each loop has an epoll and an eventfd.
        taken = sum(len(unit.servers) + 2 for unit in units) + self.descriptors_besides
        taken += min(SPARE_DESCRIPTORS, self._descriptors // 8)
        room = max(1, self._descriptors - taken)
        if asked is not None and asked > room:
            logger.warning(
                "max_connections is %d, but %d open files leave room for %d connections"
                " (raise LimitNOFILE in netd.service, or ulimit -n)",
                asked, self._descriptors, room,
            )  # fmt: skip
        self._total.limit = min(asked or room, room)
        self._total.reason = "descriptors" if asked is None or asked > room else "service_limit"


def _end(units: list[Unit], reason: str) -> None:
    """Ends the last sessions of services that drain already."""
    latest = monotonic() + PATIENCE
    for unit in units:
        unit.retire({}, 0.0, reason)
    for unit in units:
        unit.join(latest)


def _word(service: Unit | Absent) -> str:
    return service.state if isinstance(service, Absent) else service.word
