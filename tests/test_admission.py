"""Rates, queues, penalties, bans and hours, as clients meet them on real sockets."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from harness import DATAGRAMS, ask, read_all, read_exactly, run_netd, serve, wait_until
from kinds import EVERY_STREAM, Steps, Talk, descriptors, echoes, ended, handlers

from netd.admission import Admission
from netd.bans import Bans
from netd.conditions import Surroundings
from netd.delayed import MAX_DELAYED
from netd.errors import ProtocolError
from netd.gate import Gate, Total
from netd.handler import RequestHandler
from netd.networks import parse_network

EVERY_DATAGRAM = [(transport, kind) for transport in DATAGRAMS for kind in handlers(transport)]
TOLD = {"banner_fail": "{reason}"}


def rules(**keys: Any) -> Admission:
    return Admission.model_validate(keys)


def silent(client: socket.socket) -> bool:
    """Whether nothing has come for a client."""
    client.setblocking(False)
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        client.settimeout(5)
    return False


# -- rates


@pytest.mark.parametrize(("transport", "handler"), EVERY_STREAM)
def test_who_comes_too_often_is_told(transport: str, handler: Any) -> None:
    """And counted; those who are in are served on."""
    limits = rules(rate_per_source={"rate": "1/h", "burst": 2})
    with serve(handler, transport, rules=limits, **TOLD) as served:
        clients = [served.connect() for _ in range(2)]
        assert all(echoes(client) for client in clients)
        for _ in range(3):
            assert read_all(served.connect()) == b"rate"
        assert all(echoes(client) for client in clients)
        gate = served.service.gate
        assert (gate.admitted, gate.refused) == (2, {"rate": 3})


def test_a_service_is_used_as_often_as_it_may_be() -> None:
    """By all of its clients together."""
    limits = rules(rate={"rate": "1/h", "burst": 2})
    with serve(Steps, rules=limits, **TOLD) as served:
        for number in range(4):
            with socket.socket() as client:
                client.settimeout(5)
                client.bind((f"127.0.0.{number + 1}", 0))
                client.connect(served.address)
                assert ask(client, b"abc") == (b"ABC" if number < 2 else b"rate")
        assert served.service.gate.refused == {"rate": 2}


@pytest.mark.parametrize(("transport", "handler"), EVERY_DATAGRAM)
def test_datagrams_that_come_too_often_are_dropped(transport: str, handler: Any) -> None:
    """And counted, each of them; they cannot wait."""
    limits = rules(rate_per_source={"rate": "1/h", "burst": 2, "action": "delay"})
    with serve(handler, transport, rules=limits) as served:
        client = served.connect()
        assert all(echoes(client) for _ in range(2))
        for _ in range(5):
            client.send(b"abc")
        gate = served.service.gate
        wait_until(lambda: gate.refused == {"rate": 5})
        assert served.service.counters.snapshot()["datagrams_dropped"] == {"rate": 5}
        assert silent(client)


# -- delays


@pytest.mark.parametrize(("transport", "handler"), EVERY_STREAM)
def test_who_comes_too_early_is_served_in_its_turn(transport: str, handler: Any) -> None:
    """Meanwhile the others are served, and nobody is refused."""
    limits = rules(rate_per_source={"rate": "4/s", "burst": 1, "action": "delay"})
    with serve(handler, transport, rules=limits) as served:
        began = time.monotonic()
        first = served.connect()
        assert echoes(first)
        early = [served.connect() for _ in range(2)]
        for client in early:
            client.send(b"abc")
        wait_until(lambda: served.service.gate.open == 3)
        assert all(echoes(first) for _ in range(20))
        assert all(map(silent, early)) or time.monotonic() - began > 0.2
        assert read_exactly(early[0], 3) == b"ABC"
        assert time.monotonic() - began >= 0.25
        assert read_exactly(early[1], 3) == b"ABC"
        assert time.monotonic() - began >= 0.5
        assert served.service.gate.refused == {}


def test_nobody_waits_longer_than_ten_seconds() -> None:
    """Who would have to is refused; those who wait take no thread, and none is left at the end."""
    limits = rules(rate_per_source={"rate": "1/s", "burst": 1, "action": "delay"})
    with serve(Talk, rules=limits, **TOLD) as served:
        clients = [served.connect() for _ in range(11)]
        assert echoes(clients[0])
        assert read_all(served.connect()) == b"rate"
        gate = served.service.gate
        assert (gate.open, gate.refused) == (11, {"rate": 1})
        assert all(silent(client) for client in clients[5:])
        clients[0].close()
        wait_until(lambda: served.service.counters.ended == {"eof": 1})
    ended(served, eof=1, shutdown=10)


@pytest.mark.parametrize(("transport", "handler"), EVERY_STREAM)
def test_at_the_end_nobody_waits_on(transport: str, handler: Any) -> None:
    """Whose turn has not come when the server closes has his connection closed at once."""
    before = descriptors()
    limits = rules(rate_per_source={"rate": "9/m", "burst": 1, "action": "delay"})
    with serve(handler, transport, rules=limits, close_timeout=1.0) as served:
        clients = [served.connect() for _ in range(2)]
        wait_until(lambda: served.service.gate.open == 2)
        served.server.shutdown()
        served.server.server_close()
        assert read_all(clients[1]) == b""
    assert served.service.gate.open == 0
    wait_until(lambda: descriptors() <= before)


@pytest.mark.parametrize(("transport", "handler"), EVERY_STREAM)
def test_who_leaves_before_its_turn_leaves_nothing(transport: str, handler: Any) -> None:
    """It is noticed when the turn comes."""
    limits = rules(rate_per_source={"rate": "10/s", "burst": 1, "action": "delay"})
    with serve(handler, transport, rules=limits) as served:
        assert ask(served.connect(), b"abc") == b"ABC"
        served.connect().close()
        wait_until(lambda: sum(served.service.counters.ended.values()) == 2)
        ended(served, eof=2)


def test_only_so_many_wait() -> None:
    """Beyond it they are refused: each takes a descriptor."""
    limits = rules(rate_per_source={"rate": "26/s", "burst": 1, "action": "delay"})
    with serve(Steps, rules=limits) as served:
        began = time.monotonic()
        clients = [served.connect() for _ in range(MAX_DELAYED + 100)]
        gate = served.service.gate
        wait_until(lambda: gate.admitted + gate.refused["rate"] == len(clients))
        turns = 1 + 26 * (time.monotonic() - began)
        assert MAX_DELAYED < gate.admitted <= MAX_DELAYED + turns


# -- the queue


@pytest.mark.parametrize(("transport", "handler"), EVERY_STREAM)
def test_who_finds_no_room_waits_for_it(transport: str, handler: Any) -> None:
    """And is served when somebody has gone."""
    limits = rules(max_connections=1, over_limit="queue")
    with serve(handler, transport, rules=limits) as served:
        first, second = served.connect(), served.connect()
        second.send(b"abc")
        assert all(echoes(first) for _ in range(20))
        assert silent(second)
        first.close()
        assert read_exactly(second, 3) == b"ABC"
        gate = served.service.gate
        assert (gate.admitted, gate.open, gate.refused) == (2, 1, {})


@pytest.mark.parametrize("handler", [Steps, Talk])
def test_all_who_wait_are_served(handler: Any) -> None:
    """One after the other, and never more at once than there may be."""
    limits = rules(max_connections=2, over_limit="queue")
    with serve(handler, rules=limits) as served:
        clients = [served.connect() for _ in range(60)]
        for client in clients:
            client.send(b"abc")
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            assert read_all(client) == b"ABC"
            assert served.service.gate.open <= 2
        gate = served.service.gate
        assert (gate.admitted, gate.refused) == (60, {})
        ended(served, eof=60)


def test_a_queue_does_not_hold_up_the_limit_of_a_source() -> None:
    """Who has too many of his own is refused, as soon as he is looked at."""
    limits = rules(max_connections=2, max_connections_per_source=1, over_limit="queue")
    with serve(Steps, rules=limits, **TOLD) as served:
        assert echoes(served.connect())
        assert read_all(served.connect()) == b"per_source_limit"


def test_who_waits_when_the_service_ends_is_told() -> None:
    """There will be no room for him."""
    limits = rules(max_connections=1, over_limit="queue")
    with serve(Steps, rules=limits, **TOLD) as served:
        first, second = served.connect(), served.connect()
        assert echoes(first)
        served.server.drain()
        assert read_all(second) == b"service_limit"
        assert echoes(first)


# -- penalties and bans


class Strict(RequestHandler):
    """Takes nothing amiss but one word."""

    def data_received(self, data: bytes) -> None:
        if data == b"bad":
            raise ProtocolError("bad")
        self.send(data.upper())

    def datagram_received(self, data: bytes) -> None:
        if data == b"bad":
            raise ProtocolError("bad")
        self.reply(data.upper())


class StrictTalk(RequestHandler):
    """The same, from a thread."""

    def handle(self) -> None:
        while data := self.read():
            if data == b"bad":
                raise ProtocolError("bad")
            self.send(data.upper())


@pytest.mark.parametrize("transport", ["tcp", "tcp6", "unix"])
@pytest.mark.parametrize("handler", [Strict, StrictTalk])
def test_who_breaks_the_protocol_stays_out_for_a_while(handler: Any, transport: str) -> None:
    """The sessions that it has go on, and it may come again when the penalty is over."""
    limits = rules(penalties={"protocol_error": "300ms"})
    with serve(handler, transport, rules=limits, **TOLD) as served:
        other = served.connect()
        assert echoes(other)
        with served.connect() as client:
            client.send(b"bad")
            read_all(client)
        wait_until(lambda: served.service.gate.open == 1)
        assert read_all(served.connect()) == b"banned"
        assert echoes(other)

        def again() -> bool:
            client = served.connect()
            client.send(b"abc")
            return client.recv(6) == b"ABC"

        wait_until(again)
        assert set(served.service.gate.refused) == {"banned"}


def test_a_penalty_is_no_penalty_for_others() -> None:
    """Whoever has another address comes in."""
    limits = rules(penalties={"protocol_error": "1h"})
    with serve(Strict, rules=limits, **TOLD) as served:
        with served.connect() as client:
            client.send(b"bad")
            assert read_all(client) == b"error: bad\r\n"
        wait_until(lambda: served.service.gate.open == 0)
        assert read_all(served.connect()) == b"banned"
        with socket.socket() as neighbour:
            neighbour.settimeout(5)
            neighbour.bind(("127.0.0.2", 0))
            neighbour.connect(served.address)
            assert echoes(neighbour)


@pytest.mark.parametrize("transport", DATAGRAMS)
def test_no_datagram_is_an_offence(transport: str) -> None:
    """It may have been sent in the name of somebody who is to be kept out."""
    limits = rules(penalties={"protocol_error": "1h"})
    with serve(Strict, transport, rules=limits) as served:
        client = served.connect()
        for _ in range(3):
            client.send(b"bad")
        assert echoes(client)
        assert served.service.gate.refused == {}


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_ban_holds_at_once_and_until_it_is_lifted(transport: str) -> None:
    """Also for those whom the service knows."""
    bans = Bans()
    gate = Gate(None, Total(surroundings=Surroundings(bans)))
    with serve(Steps, transport, gate=gate) as served:
        client = served.connect()
        assert echoes(client)
        bans.ban(parse_network("127.0.0.1"))
        client = served.connect()
        client.send(b"abc")
        wait_until(lambda: gate.refused == {"banned": 1})
        bans.unban(parse_network("127.0.0.1"))
        assert echoes(served.connect())
        assert gate.refused == {"banned": 1}


# -- the hour, the load


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix-dgram"])
@pytest.mark.parametrize("reason", ["time", "load"])
def test_it_is_served_again_when_the_condition_is_met(transport: str, reason: str) -> None:
    """A session or a sender from before is no obstacle."""
    now, load = [0.0], [0.1]
    around = Surroundings(load=lambda: load[0], clock=lambda: now[0])
    limits = rules(access_times=["thu 00:00-08:00"], time_zone="UTC", max_load=4.0)
    gate = Gate(limits, Total(surroundings=around))
    with serve(Steps, transport, gate=gate) as served:
        assert echoes(served.connect())
        if reason == "time":
            now[0] = 8 * 3600.0
        else:
            load[0] = 4.0
        served.connect().send(b"abc")
        wait_until(lambda: gate.refused == {reason: 1})
        now[0], load[0] = 8 * 3600 - 1.0, 3.9
        assert echoes(served.connect())


# -- the daemon


def test_the_daemon_obeys_the_keys_of_a_file() -> None:
    """Each with its word in the state."""

    def service(**keys: Any) -> dict[str, Any]:
        keys = {"banner_fail": "{reason}", **keys}
        return {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"], **keys}

    now = time.localtime()
    later = f"{(now.tm_hour + 6) % 24:02}:00-{(now.tm_hour + 7) % 24:02}:00"
    services = {
        "rate": service(rate_per_source={"rate": "1/h", "burst": 1}),
        "time": service(access_times=[later]),
        "queue": service(max_connections=1, over_limit="queue"),
    }
    with run_netd({"services": services}) as netd:
        assert ask(netd.connect("rate"), b"abc") == b"ABC"
        assert read_all(netd.connect("rate")) == b"rate"
        assert read_all(netd.connect("time")) == b"time"
        first, second = netd.connect("queue"), netd.connect("queue")
        assert echoes(first)
        state = netd.state()
        assert [state[name]["refused"] for name in services] == [{"rate": 1}, {"time": 1}, {}]
        assert state["netd"]["bans"] == 0
        first.close()
        assert ask(second, b"abc") == b"ABC"
        assert netd.stop() == 0


def test_a_drain_waits_for_those_whose_turn_is_to_come() -> None:
    """They are in already."""
    slow = {"rate": "2/s", "burst": 1, "action": "delay"}
    service = {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"], "rate_per_source": slow}
    with run_netd({"services": {"upper": service}}) as netd:
        assert ask(netd.connect("upper"), b"abc") == b"ABC"
        early = netd.connect("upper")
        wait_until(lambda: netd.state()["upper"]["open"] == 1)
        early.sendall(b"abc")
        early.shutdown(socket.SHUT_WR)
        assert netd.stop() == 0
        assert read_all(early) == b"ABC"
