"""A service at work: its thread, its sign of life, its end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest
from harness import PATIENCE, read_all, read_exactly, wait_until

from netd.handler import RequestHandler
from netd.protocols.echo import EchoHandler
from netd.server import TCPServer
from netd.service import Service
from netd.unit import Unit


class Waiting(RequestHandler):
    """Keeps the serving loop from coming round until it is told to go on."""

    begun, go_on = threading.Event(), threading.Event()

    def data_received(self, data: bytes) -> None:
        self.begun.set()
        self.go_on.wait(PATIENCE)
        self.send(data)


def stick(client: socket.socket) -> None:
    """Has the loop that serves a client stand still from now on."""
    Waiting.begun.clear()
    Waiting.go_on.clear()
    client.sendall(b"hello")
    assert Waiting.begun.wait(PATIENCE)


@contextmanager
def started(
    handler: type[RequestHandler] = EchoHandler,
) -> Iterator[tuple[Unit, socket.socket]]:
    """A unit that serves, and a client of it."""
    service = Service("it")
    server = TCPServer(("127.0.0.1", 0), handler, service=service)
    unit = Unit(service, [server])
    unit.start()
    client = socket.create_connection(server.server_address, PATIENCE)
    try:
        yield unit, client
    finally:
        client.close()
        unit.stop()
        unit.close(monotonic() + PATIENCE)


def ask(client: socket.socket) -> bytes:
    """An answer."""
    client.sendall(b"hello")
    return read_exactly(client, 5)


def test_it_shows_its_state() -> None:
    """As plain data for programs, and in short for whoever debugs it."""
    with started() as (unit, client):
        assert ask(client) == b"hello"
        assert unit.open == 1
        assert unit.state()["listen"] == [unit.servers[0].name]
        assert unit.state()["admitted"] == 1
        assert repr(unit) == "<Unit it 1 listeners 1 open>"
        client.close()
        wait_until(lambda: unit.state()["ended"] == {"eof": 1})


def test_a_drained_unit_takes_nobody_in_and_serves_on() -> None:
    """Its listener is closed, its session open."""
    with started() as (unit, client):
        assert ask(client) == b"hello"
        address = unit.servers[0].server_address
        assert unit.is_taking_in
        unit.drain()
        wait_until(lambda: not unit.is_taking_in)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE)
        assert ask(client) == b"hello"


def test_a_closed_unit_has_neither_thread_nor_session() -> None:
    """Its client sees the end, and its thread is no more."""
    with started() as (unit, client):
        assert ask(client) == b"hello"
        unit.stop()
        unit.close(monotonic() + PATIENCE)
        assert read_all(client) == b""
        assert "it" not in {thread.name for thread in threading.enumerate()}
        assert unit.open == 0


def test_a_unit_that_was_not_started_can_be_closed() -> None:
    """As when another service could not be bound."""
    unit = Unit(Service("it"), [TCPServer(("127.0.0.1", 0), EchoHandler)])
    assert not unit.is_stuck()
    unit.drain()
    unit.stop()
    unit.close(monotonic())
    assert unit.servers[0].name == "closed"


def test_the_pulse_of_a_loop_is_felt_beside_the_watchdog() -> None:
    """Whoever asks learns how long the loop has been silent; the watchdog's own question stays."""
    with started(Waiting) as (unit, client):
        assert unit.pulse is not None
        assert unit.pulse.beats(PATIENCE)
        stick(client)
        wait_until(lambda: unit.pulse is not None and unit.pulse.silence() > 0.02)
        assert not unit.pulse.beats(0.03)
        wait_until(unit.is_stuck)
        silence = unit.pulse.silence()
        assert unit.pulse.silence() > silence > 0.02
        Waiting.go_on.set()
        assert read_exactly(client, 5) == b"hello"
        assert unit.pulse.beats(PATIENCE)
        wait_until(lambda: not unit.is_stuck())


def test_what_passes_in_an_open_session_counts_at_once() -> None:
    """A download of an hour is not a surprise at its end."""
    with started() as (unit, client):
        assert ask(client) == b"hello"
        wait_until(lambda: unit.state()["bytes_out"] == 5)
        assert unit.state()["bytes_in"] == 5
        client.close()
        wait_until(lambda: unit.state()["ended"] == {"eof": 1})
        assert (unit.state()["bytes_in"], unit.state()["bytes_out"]) == (5, 5)


def test_a_loop_that_comes_round_is_not_stuck() -> None:
    """However often it is asked, as long as it is given time to answer."""
    with started() as (unit, client):
        assert not unit.is_stuck()
        assert ask(client) == b"hello"
        wait_until(lambda: not unit.is_stuck())


def test_a_loop_that_stands_still_is_stuck_until_it_goes_on() -> None:
    """It is known from the second time on that this is asked."""
    with started(Waiting) as (unit, client):
        stick(client)
        wait_until(unit.is_stuck)
        assert unit.is_stuck()
        Waiting.go_on.set()
        assert read_exactly(client, 5) == b"hello"
        wait_until(lambda: not unit.is_stuck())


def test_a_thread_that_wakes_up_after_the_end_ends_quietly() -> None:
    """A loop that was stuck when its unit was closed finds that there is nothing left to do."""
    with started(Waiting) as (unit, client):
        stick(client)
        wait_until(unit.is_stuck)
        unit.stop()
        unit.close(monotonic())
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "it")
        Waiting.go_on.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
