"""What the daemon and its services do, as plain data: behind the control socket, the status page
and the metrics."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import time
from typing import Any, NamedTuple, Protocol

from netd import log
from netd.events import Event, Events
from netd.pulse import PATIENCE
from netd.unit import Unit

_DESCRIPTORS = Path("/proc/self/fd")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Absent(NamedTuple):
    """A service that is not at work."""

    state: str
    """`disabled` or `stopped`."""
    protocol: str
    """What it would speak."""


class Roll(Protocol):
    """The services of a daemon."""

    @property
    def units(self) -> Sequence[Unit]:
        """Those that serve anybody."""

    def by_name(self) -> Mapping[str, Unit | Absent]:
        """Each that there is."""


class Report:
    """The source of all figures. Whoever asks pays; nothing is collected in advance."""

    def __init__(
        self,
        roll: Roll,
        state: Callable[[], dict[str, Any]],
        events: Events,
    ) -> None:
        """`state` is the daemon's own."""
        self._roll, self._state, self._events = roll, state, events
        self._started = time() - state()["uptime"]

    def status(self, service: str | None = None) -> dict[str, Any]:
        """All that there is to see, or what is about one service and the whole."""
        services, events = self.services(), self._events.last()
        if service is not None:
            services = {service: services[service]}
            events = [event for event in events if event.service == service]
        return {
            "time": round(time(), 3),
            "daemon": self.daemon(),
            "services": services,
            "events": [_shown(event) for event in events],
        }

    @property
    def names(self) -> list[str]:
        """All services that there are."""
        return [*self._roll.by_name()]

    @property
    def units(self) -> Sequence[Unit]:
        """The services that serve anybody."""
        return self._roll.units

    def find(self, name: str) -> Unit | None:
        """A service, if it is at work."""
        found = self._roll.by_name().get(name)
        return found if isinstance(found, Unit) else None

    def daemon(self) -> dict[str, Any]:
        """What the process does as a whole."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self._state() | {
            "started": round(self._started, 3),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "memory": resident_memory(),
            "descriptors": open_descriptors(),
            "max_descriptors": soft,
        }

    def services(self) -> dict[str, dict[str, Any]]:
        """What each service does, by name; those that are not at work have nothing but a state and
        a protocol."""
        return {
            name: found._asdict() if isinstance(found, Absent) else _shown_service(found)
            for name, found in self._roll.by_name().items()
        }

    def health(self) -> dict[str, Any]:
        """`status` is ok or stuck; `stuck` names the services whose serving loop does not come
        round in PATIENCE, for which this waits."""
        found = {name: u for name, u in self._roll.by_name().items() if isinstance(u, Unit)}
        for unit in found.values():
            if unit.pulse is not None:
                unit.pulse.silence()  # all are asked before any is waited for
        stuck = [name for name, u in found.items() if u.pulse and not u.pulse.beats(PATIENCE)]
        return {"status": "stuck" if stuck else "ok", "stuck": stuck}


def _shown_service(unit: Unit) -> dict[str, Any]:
    silence = unit.pulse.silence() if unit.pulse else 0.0
    return {"state": unit.word, "silence": round(silence, 3)} | unit.state()


def _shown(event: Event) -> dict[str, Any]:
    """An event with its client as the key `log.address` has it written."""
    peer = log.output().address(event.peer) if event.peer else ""
    return asdict(event) | {"peer": peer, "time": round(event.time, 3)}


def open_descriptors() -> int:
    """How many descriptors the process has open."""
    # Since Linux 6.2 the size of the folder is their number; before it is 0.
    if size := _DESCRIPTORS.stat().st_size:
        return size
    try:
        return len(os.listdir(_DESCRIPTORS))
    except OSError:  # there is none left to read the folder by
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def resident_memory() -> int:
    """Bytes of memory that the process has in use (VmRSS of proc(5)); the most that it ever had,
    while there is no descriptor to read that by."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
