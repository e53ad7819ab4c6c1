"""The services at work, and the way to others, while a serving thread does not come round."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from harness import PATIENCE, new_folder, read_exactly, wait_until

from netd import roster
from netd.gate import Gate
from netd.handler import RequestHandler
from netd.pool import Pool
from netd.roster import Roster
from netd.service import Service
from netd.service_config import ServiceStanza


class Slow(RequestHandler):
    """Keeps its serving thread until it is told to go on."""

    go_on = threading.Event()

    def data_received(self, data: bytes) -> None:
        self.go_on.wait(PATIENCE)
        self.send(data)


def build(name: str, stanza: ServiceStanza, before: Service | None) -> Service:
    """A service that goes on where the one before was."""
    return before or Service(name, gate=Gate(stanza))


def change(services: Roster, **wanted: ServiceStanza) -> None:
    """Goes over to these services."""
    found = services.change(wanted)
    found.bind().check()
    found.start()
    found.commit()


@contextmanager
def at_work(**wanted: ServiceStanza) -> Iterator[Roster]:
    """The services of a configuration."""
    pool = Pool(1)
    services = Roster(build, pool, {}, None)
    try:
        change(services, **wanted)
        yield services
    finally:
        Slow.go_on.set()
        units = [*services.units.values(), *services.leaving]
        for unit in units:
            unit.stop()
        for unit in units:
            unit.close(monotonic() + PATIENCE)
        pool.close(PATIENCE)


def say(path: Path, data: bytes) -> bytes:
    """What a new client is answered."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(data)
        return read_exactly(client, len(data))


@pytest.mark.parametrize("last", [16_384, 9])
def test_a_stuck_service_makes_up_for_all_it_has_missed(
    last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the end it is as the last change has it, be that what it was at first; its socket is
    there, with whoever waited in it."""
    monkeypatch.setattr(roster, "PATIENCE", 0.01)
    Slow.go_on.clear()
    with new_folder() as folder, socket.socket(socket.AF_UNIX) as client:
        path = folder / "it.sock"

        def stanza(limit: int) -> ServiceStanza:
            return ServiceStanza.model_validate(
                {
                    "handler": f"{__name__}:Slow", "listen": [f"unix:{path}"],
                    "max_connections": limit,
                },
                context={"folder": folder},
            )  # fmt: skip

        with at_work(it=stanza(16_384)) as services:
            before = path.stat().st_ino
            unit = services.units["it"]
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(b"hello")
            wait_until(lambda: unit.open)
            for limit in (7, 8, last):
                change(services, it=stanza(limit))
            Slow.go_on.set()
            assert read_exactly(client, 5) == b"hello"
            wait_until(lambda: unit.servers == unit.upcoming)
            assert unit.service.gate.rules.max_connections == last
            assert path.stat().st_ino == before
            assert say(path, b"again") == b"again"
        assert not path.exists()
