"""The sessions that are open, as plain data; and their end."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from functools import partial
from time import monotonic
from typing import Any

from netd.connection import Connection, ThreadConnection
from netd.errors import NetdError
from netd.prelude import Prelude
from netd.replysocket import DatagramSession
from netd.steps import StepConnection
from netd.unit import Unit

# How long a serving loop may take to end sessions, in seconds.
PATIENCE = 2.0
KILLED = "killed"


class StuckError(NetdError):
    """A serving loop does not come round to what it was asked."""


def listed(units: Iterable[Unit]) -> list[dict[str, Any]]:
    """All sessions, those of each service together. While it is made up some of them end: those
    are left out, as far as they have told."""
    now = monotonic()
    return [
        _shown(session, unit.service.name, now) for unit in units for session in unit.sessions()
    ]


def _shown(session: Connection, service: str, now: float) -> dict[str, Any]:
    age = max(0.0, now - session.began)
    # A loop looks at the clock once a round, which may have been before the session began.
    idle = min(age, max(0.0, now - session.active))
    return {
        "id": session.id,
        "service": service,
        "peer": session.peer,
        "user": session.identity.user,
        "age": round(age, 3),
        "idle": round(idle, 3),
        "bytes_in": session.bytes_in,
        "bytes_out": session.bytes_out,
        "state": state_of(session, now),
        "tls": session.identity.tls or None,
    }


def state_of(session: Connection, now: float) -> str:
    """open; handshake, as something comes before the protocol; delayed, as it came too early and
    waits for its turn; or ending, as all is said, and the last bytes are on their way."""
    if session.active > now:
        return "delayed"
    if isinstance(session, Prelude):
        return "handshake"
    if isinstance(session, StepConnection):
        ends = session.closing is not None or session.interest < 0
    else:
        ends = isinstance(session, ThreadConnection) and session.was_cut is not None
    return "ending" if ends else "open"


def kill(units: Iterable[Unit], ids: Collection[str]) -> set[str]:
    """Ends sessions, for the reason `killed`, each on the serving thread of its service; the ids
    of those that there were. A datagram that a thread answers cannot be called back, and is none
    of them. Raises StuckError."""
    wanted, killed = set(ids), set[str]()
    asked: list[tuple[Unit, threading.Event]] = []
    for unit in units:
        found = [session for session in unit.sessions() if session.id in wanted]
        found = [session for session in found if not isinstance(session, DatagramSession)]
        if found:
            killed |= {session.id for session in found}
            done = threading.Event()
            asked.append((unit, done))
            unit.call_soon(partial(_cut, found, done))
    end = monotonic() + PATIENCE
    for unit, done in asked:
        if not done.wait(max(0.0, end - monotonic())):
            raise StuckError(
                f"{unit.service.name} has not come round for {PATIENCE:g} s, so that its sessions"
                " go on (they end when it does; `netctl status` shows whether it is stuck)"
            )
    return killed


def _cut(sessions: Iterable[Connection], done: threading.Event) -> None:
    try:
        for session in sessions:
            session.cut(KILLED)
    finally:
        done.set()
