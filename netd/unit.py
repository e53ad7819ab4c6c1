"""A service at work: its listeners, its serving loop and the thread that runs it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from time import monotonic, time
from typing import Any

from netd.connection import Connection
from netd.loop import Loop
from netd.pulse import PATIENCE, Pulse
from netd.server import Server, UDPServer
from netd.service import Service
from netd.service_config import ServiceStanza


class Unit:
    """One service, from its bound listeners to the end of its last session.

    Methods may be called from any thread, one at a time. What they do to listeners and sessions
    happens on the serving thread; `exchange` and `retire` return an event that is set then."""

    def __init__(
        self,
        service: Service,
        servers: list[Server],
        stanza: ServiceStanza | None = None,
        relatives: Callable[[Unit], list[Unit]] = lambda _: [],
    ) -> None:
        """`relatives` tells which others serve the last sessions of the same service."""
        self.service = service
        self.servers = servers
        self.upcoming = servers
        """Its listeners once the serving thread has come round to the latest `exchange`."""
        self.stanza = stanza
        """The configuration that it obeys from then on."""
        self.since = time()
        """When it began to serve, in seconds since 1970."""
        self.logger = logging.getLogger(f"netd.{service.name}")
        """Where messages about the service go."""
        self._relatives = relatives
        # Each with the point of the monotonic clock at which its sessions end.
        self._former: dict[Server, float] = {}
        self._end_reason = "reload"
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._asked = 0.0
        self.is_retired = False
        """Whether it takes nobody in any more, and ends with its last session."""
        self.pulse: Pulse | None = None
        """Whether the serving loop comes round; None while it does not run."""

    def __repr__(self) -> str:
        return f"<Unit {self.service.name} {len(self.servers)} listeners {self.open} open>"

    def obeys(self, stanza: ServiceStanza) -> bool:
        """Whether it does what a stanza says, and nothing has to be changed for it."""
        return self.stanza == stanza

    @property
    def open(self) -> int:
        """How many sessions are open."""
        return sum(len(server.sessions) for server in [*self._former, *self.servers])

    @property
    def is_taking_in(self) -> bool:
        """Whether a listener still takes clients in."""
        return any(server.interest > 0 for server in self.servers)

    @property
    def is_listening(self) -> bool:
        """Whether a listener is open, if only to take clients in when there is room again."""
        return any(server.fileno() >= 0 for server in self.servers)

    @property
    def word(self) -> str:
        """What it does: serving; paused, without descriptors or room; draining; or stuck."""
        if self.pulse is not None and self.pulse.silence() > PATIENCE:
            return "stuck"
        if self.is_retired:
            return "draining"
        return "serving" if self.is_taking_in else "paused"

    @property
    def udp_ports(self) -> list[int]:
        """The UDP ports that it serves."""
        return [
            server.socket.getsockname()[1]
            for server in self.servers
            if isinstance(server, UDPServer) and server.fileno() >= 0
        ]

    @property
    def is_alive(self) -> bool:
        """Whether its serving thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def sessions(self) -> list[Connection]:
        """The sessions that are open, the oldest of each listener first; from any thread."""
        found: list[Connection] = []
        for server in [*self._former, *self.servers]:
            found += _values(server.sessions)
        return found

    def _all_sessions(self) -> Iterator[Connection]:
        """With those of relatives, which the gate and the counters know too."""
        for unit in [self, *self._relatives(self)]:
            yield from unit.sessions()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Calls it on the serving thread, from any thread; never, if that has ended."""
        if (loop := self._loop) is not None:
            loop.call_soon(call)

    def start(self) -> None:
        """Starts the serving thread. Raises RuntimeError when there is none to be had, and OSError
        when there is no descriptor."""
        self._loop = Loop()
        self.pulse = Pulse(self._loop)
        self._attach(self.servers)
        thread = threading.Thread(target=self._run, name=self.service.name, daemon=True)
        thread.start()
        self._thread = thread

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        loop.run()
        if self.is_retired and not self._former:
            self._loop = None
            loop.close()

    def _attach(self, servers: Sequence[Server]) -> None:
        assert self._loop is not None
        for server in servers:
            server.attach(self._loop)

    def is_stuck(self) -> bool:
        """Whether the serving loop has not come round since this was last asked."""
        if self._loop is None:
            return False
        stuck = self._asked > self._loop.beat
        self._asked = monotonic()
        self._loop.ask_for_beat()
        return stuck

    # -- changing

    def exchange(
        self,
        service: Service,
        stanza: ServiceStanza,
        servers: list[Server],
        successors: Mapping[Server, Server],
        end: float,
    ) -> threading.Event:
        """Goes on with other rules and other listeners. What one of `successors` listens to is
        handed over to that; other listeners are closed, once those who wait there are in. Its
        sessions go on as `on_reload` says: those that are to be drained until `end`."""
        self.stanza, self.upcoming = stanza, servers
        return self._call(partial(self._exchange, service, stanza, servers, successors, end))

    def _exchange(
        self, service: Service, stanza: ServiceStanza, servers: list[Server],
        successors: Mapping[Server, Server], end: float,
    ) -> None:  # fmt: skip
        # Looked at by the gate, with its lock held: then nobody leaves unseen. One that has not
        # said yet for whom it comes (PROXY) is not in, and has no origin.
        service.gate.obey(stanza, (s.origin for s in self._all_sessions() if s.origin))
        self._give_up(successors, end if stanza.on_reload == "drain" else inf)
        self.service, self.servers = service, servers
        self._attach(servers)
        if stanza.on_reload == "recheck":
            for session in self.sessions():
                if (reason := service.gate.recheck(session.origin)) is not None:
                    session.cut(reason)

    def retire(
        self, successors: Mapping[Server, Server], end: float, reason: str
    ) -> threading.Event:
        """Takes nobody in any more, beside those who wait already; sessions may go on until `end`
        on the monotonic clock, then they end for this reason word, and the thread ends."""
        self.is_retired, self.upcoming = True, []
        return self._call(partial(self._retire, successors, end, reason))

    def _retire(self, successors: Mapping[Server, Server], end: float, reason: str) -> None:
        self._end_reason = reason
        self._give_up(successors, end)
        self._end_if_idle(monotonic())

    def _give_up(self, successors: Mapping[Server, Server], end: float) -> None:
        """Has the listeners closed, or handed over. Their sessions may go on until `end`."""
        assert self._loop is not None
        for server in self.servers:
            if (successor := successors.get(server)) is not None:
                server.hand_over(successor)
            else:
                server.take_in_the_last()
        # Whoever counts meanwhile may miss a session, but meets none of them twice.
        given_up, self.servers = self.servers, []
        self._former = {server: min(end, latest) for server, latest in self._former.items()}
        self._former |= dict.fromkeys(given_up, end)
        self._loop.sweep_with(self._end_if_idle)
        self._loop.arm()

    def _end_if_idle(self, now: float) -> bool:
        """Closes former servers that serve nobody any more, or no longer; whether there are any
        left."""
        for server in [server for server, end in self._former.items() if now >= end]:
            for session in _values(server.sessions):
                session.cut(self._end_reason)
        for server, end in list(self._former.items()):
            # At its end nobody is seen off any more who was turned away.
            if server.is_idle or (now >= end and not server.sessions):
                del self._former[server]
                server.server_close()
        if self.is_retired and not self._former and self._loop is not None:
            self._loop.stop()
        return bool(self._former)

    def _call(self, call: Callable[[], None]) -> threading.Event:
        """Has it called on the serving thread; the event is set afterwards."""
        done = threading.Event()

        def run() -> None:
            try:
                call()
            finally:
                done.set()

        self.call_soon(run)
        return done

    # -- telling

    def state(self) -> dict[str, Any]:
        """What the service has done, and does, as plain data."""
        gate = self.service.gate
        return {
            "protocol": self.service.protocol,
            "since": round(self.since, 3),
            "counted_since": round(self.service.counters.since, 3),
            "listen": [server.name for server in self.servers],
            "open": gate.open,
            "max_connections": gate.rules.max_connections,
            "admitted": gate.admitted,
            "refused": dict(gate.refused),
            **self._totals(),
        }

    def _totals(self) -> dict[str, Any]:
        """The counters, with what has passed in the sessions that are still open."""
        totals = self.service.counters.snapshot()
        # After that: one that is counted meanwhile is missing for a moment, and never there twice.
        for session in self._all_sessions():
            totals["bytes_in"] += session.bytes_in
            totals["bytes_out"] += session.bytes_out
        return totals

    # -- ending

    def drain(self) -> None:
        """Takes in what waits to be accepted, then nothing more; sessions go on."""
        for server in self.servers:
            server.drain()

    def stop(self) -> None:
        """Asks the serving thread to end; `close` waits for it."""
        if self._loop is not None:
            self._loop.stop()

    def join(self, end: float) -> None:
        """Waits for the end of the thread, up to the point `end` of the monotonic clock."""
        if self._thread is not None:
            self._thread.join(max(0.0, end - monotonic()))

    def close(self, end: float) -> None:
        """Ends the listeners and the sessions, once the thread has ended, or at the point `end`
        of the monotonic clock although it has not."""
        self.join(end)
        for server in [*self._former, *self.servers]:
            server.server_close()
        if self._loop is not None and not (self._thread and self._thread.is_alive()):
            self._loop.close()
            self._loop = None


def _values(sessions: dict[Any, Connection]) -> list[Connection]:
    """Those of a listener, while its thread adds some and takes out others."""
    while True:
        try:
            return list(sessions.values())
        except RuntimeError:  # it was resized; the next time, hardly
            continue
