"""The daemon: services built from a configuration, bound, served, drained.

Each service has a thread of its own, with one serving loop for all its listeners. The main thread
waits for signals and does nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from netd import __version__, log, systemd
from netd.bans import Bans
from netd.binding import CANNOT_BIND, Binder
from netd.conditions import Surroundings
from netd.config import Config, Source
from netd.control.commands import Commands
from netd.control.server import ControlUnit
from netd.errors import NetdError, StartError
from netd.events import Events
from netd.gate import Total
from netd.report import Report
from netd.roster import MORE_THREADS
from netd.services import Services
from netd.signals import ENDING, Signals
from netd.stanza import format_duration
from netd.statefile import StateFile, path_of
from netd.text import counted
from netd.unit import Unit

logger = logging.getLogger("netd")

# How long threads may take to notice that they have to end, in seconds.
STOP_TIMEOUT = 2.0
# How often a drain looks for its end, and how often it tells systemd that it goes on, in seconds.
_POLL = 0.02
_REPORT = 1.0
# What systemd is asked to wait for longer than TimeoutStopSec, in seconds; asked anew each _REPORT.
_EXTENSION = 10.0


class Daemon:
    """The process that serves a configuration: `bind`, `start`, `run`, and in any case `close`."""

    def __init__(
        self,
        config: Config,
        source: Source,
        signals: Signals,
        inherited: dict[str, list[socket.socket]],
        descriptors: int,
        control: Path,
        owner: tuple[str, str] | None = None,
    ) -> None:
        """`source` is where the configuration is from; `inherited` are the sockets from systemd;
        `descriptors` is the limit of the process; `control` is the path of the control socket;
        `owner` is the user and group that netd is about to become."""
        self._signals = signals
        self._began = monotonic()
        self._is_ending = self._hurries = False
        self._watchdog: systemd.Watchdog | None = None
        self.bans = Bans()
        """Networks that no service lets in."""
        self._total = Total(surroundings=Surroundings(bans=self.bans))
        self._events = Events()
        self._kept = StateFile(path_of(control), self.bans)
        self.services = Services(
            config, source, self._total, descriptors, inherited, owner, self._events, self._kept
        )
        self._report = Report(self.services, self.state, self._events)
        commands = Commands(self._report, self.bans, self.services, self.shutdown, self._kept.keep)
        self._control = ControlUnit(config.control, control, commands, descriptors)
        self.services.descriptors_besides = self._control.clients
        self._status: Unit | None = None

    # -- starting

    def bind(self) -> None:
        """Binds every address. Raises StartError that names all that could not be bound."""
        self._kept.load()
        self._binder = self.services.bind()
        self._bind_status(self._binder)
        self._control.servers += self._binder.bind_other("control", *self._control.place)
        self.services.descriptors_besides += sum(len(unit.servers) + 2 for unit in self._own)
        self._binder.check()

    def _bind_status(self, binder: Binder) -> None:
        stanza = self.services.config.status
        if stanza.listen is None:
            return
        # Here, as they cost some time and memory; and now, as they may be out of reach for the
        # user that netd becomes.
        from netd.status.server import StatusUnit
        from netd.status.site import Site

        unit = self._status = StatusUnit(Site(self._report, stanza.hosts))
        unit.servers += binder.bind_other("status", stanza.listen, stanza.socket_options, unit.make)

    @property
    def _own(self) -> list[Unit]:
        """The status page, and the control socket, which answers until the end."""
        return [self._status, self._control] if self._status else [self._control]

    @property
    def _drained(self) -> list[Unit]:
        """What is drained before the end: the services, and the status page."""
        return [*self.services.units, *self._own[:-1]]

    @property
    def _units(self) -> list[Unit]:
        """All that serves anybody."""
        return [*self.services.units, *self._own]

    def start(self) -> None:
        """Serves from now on, and says so to the log and to systemd. Raises StartError."""
        logging.getLogger().addHandler(self._events)
        self.services.start()
        for unit in self._own:
            self._start_own(unit)
        self._start_watchdog()
        self._warn()
        summary = self._summary()
        logger.info("ready: %s", summary)
        systemd.ready(summary)

    def _start_own(self, unit: Unit) -> None:
        for server in unit.servers:
            unit.logger.info("listening on %s", server.name)
        try:
            unit.start()
        except (RuntimeError, OSError) as error:
            raise StartError(
                f"{unit.service.name}: {error} ({MORE_THREADS})", CANNOT_BIND
            ) from error

    def _warn(self) -> None:
        """Tells what is not wrong, but hardly meant."""
        if absent := self._binder.left_out:
            addresses = ", ".join(str(failure.address) for failure in absent)
            logger.warning("this machine has no IPv6, so these are left out: %s", addresses)
        if not self.services.units:
            disabled = counted(len(self.services.config.services), "service")
            logger.warning("netd serves nothing: %s in the configuration, none enabled", disabled)
        if names := self._binder.unclaimed:
            logger.warning(
                "sockets that systemd passed and no service listens on: %s (add listen: [fd:%s])",
                ", ".join(names), names[0],
            )  # fmt: skip

    def _summary(self) -> str:
        units = self.services.at_work
        listeners = sum(len(unit.servers) for unit in units)
        return f"{counted(len(units), 'service')} on {counted(listeners, 'listener')}"

    def _start_watchdog(self) -> None:
        interval = systemd.watchdog_interval()
        if interval is not None:
            self._watchdog = systemd.Watchdog(interval, self.stuck)
            self._watchdog.start()

    def stuck(self) -> Sequence[str]:
        """The services whose serving loop has not come round since this was last asked."""
        return [unit.service.name for unit in self._units if unit.is_stuck()]

    # -- serving

    def run(self) -> None:
        """Obeys signals until one ends the daemon, then drains it."""
        while (number := self._signals.next()) not in ENDING:
            self._obey(number)
        self._drain(number.name)

    def _obey(self, number: signal.Signals | None) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR1:
            self._dump_state()
        elif number == signal.SIGUSR2:
            log.output().reopen()

    def _reload(self) -> None:
        systemd.reloading()
        with suppress(NetdError):  # it has been logged
            self.services.reload()
        systemd.ready(self._summary())

    def state(self) -> dict[str, Any]:
        """What the daemon as a whole does, as plain data."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(monotonic() - self._began, 3),
            "state": "draining" if self._is_ending else "serving",
            "open": self._total.open,
            "max_connections": self._total.limit,
            "bans": len(self.bans),
            "threads": len(self.services.pool),
            "max_threads": self.services.config.max_threads,
            "log_lines_waiting": log.output().waiting,
            "log_lines_dropped": log.output().dropped,
            "configuration": self.services.configuration(),
        }

    def _dump_state(self) -> None:
        for target, state in [
            (logger, self.state()),
            *((u.logger, u.state()) for u in self._units),
        ]:
            # It was asked for, so no level holds it back.
            record = target.makeRecord(
                target.name, logging.INFO, __file__, 0, "%s", (json.dumps(state),), None
            )
            target.handle(record)

    # -- ending

    def shutdown(self, now: bool) -> None:
        """Ends it as SIGTERM does, without waiting for sessions if `now`; from any thread."""
        self._hurries = self._hurries or now
        if not self._is_ending:
            self._is_ending = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _drain(self, signal_name: str) -> None:
        """Takes in what waits to be accepted, and lets sessions end until `drain_timeout`."""
        self._is_ending = True
        timeout = self.services.config.drain_timeout
        end = monotonic() + (float("inf") if timeout is None else timeout)
        patience = "as long as they take" if timeout is None else format_duration(timeout)
        logger.info("%s: draining; sessions may go on for %s", signal_name, patience)
        systemd.stopping()
        self.services.forbid_changes()
        for unit in self._drained:
            unit.drain()
        report = 0.0
        while self._is_draining():
            now = monotonic()
            if now >= end or self._hurries:
                why = "shutdown --now" if self._hurries else "drain_timeout"
                logger.warning("%s: ending %s", why, self._sessions())
                return
            if now >= report:
                self._report_drain()
                report = now + _REPORT
            if (number := self._signals.next(_POLL)) in ENDING:
                logger.warning("second signal: ending %s", self._sessions())
                return
            self._obey(number)

    def _report_drain(self) -> None:
        """Without it systemd would kill a drain that lasts longer than TimeoutStopSec."""
        systemd.status(f"draining {self._sessions()}")
        systemd.notify(f"EXTEND_TIMEOUT_USEC={_EXTENSION * 1e6:.0f}")

    def _sessions(self) -> str:
        return counted(sum(unit.open for unit in self.services.units), "session")

    def _is_draining(self) -> bool:
        return any(unit.is_listening or unit.open for unit in self._drained)

    def close(self) -> None:
        """Ends all that is open, and removes the socket files; takes 3 x STOP_TIMEOUT at most."""
        if self._watchdog is not None:
            self._watchdog.stop()
        self._control.settle(monotonic() + STOP_TIMEOUT)
        self.services.close()
        for unit in self._units:
            unit.stop()
        end = monotonic() + STOP_TIMEOUT
        for unit in self._units:
            unit.close(end)
        logging.getLogger().removeHandler(self._events)
        self.services.pool.close(STOP_TIMEOUT)
