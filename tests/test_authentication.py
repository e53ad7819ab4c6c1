"""Clients show who they are, before handlers of every kind and on every stream."""

from __future__ import annotations

import os
import re
import socket
import socketserver
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from harness import (
    SOON,
    STREAMS,
    Served,
    read_all,
    read_exactly,
    serve,
    slowness,
    wait_until,
)
from kinds import Stock, faults
from knowing import by_hmac, by_scram, read_reply

from netd import log
from netd.auth import keys
from netd.auth.register import change
from netd.auth.rights import allows
from netd.auth.source import Source
from netd.auth.stage import NONCES, Authentication
from netd.auth.stanza import AuthStanza
from netd.auth.userfile import RoleStanza, UserFile
from netd.challenge import NONCE_SIZE, SIZE, Channel, answer, verify
from netd.deadline import Timeouts
from netd.errors import Unauthenticated
from netd.gate import Admission
from netd.handler import RequestHandler
from netd.log import LogOptions
from netd.penalties import PenaltyRules
from netd.proxy_protocol import Announcement, ProxyProtocol
from netd.scram import Client

KEY, OTHER = b"linhaifeng bang bang bang", b"Jedan has a big key!"
UNPUNISHED = Admission(penalties=PenaltyRules(auth=None))


def punishing(duration: str) -> Admission:
    """Rules by which a first failure has this penalty."""
    return Admission.model_validate({"penalties": {"auth": duration}})


class Steps(RequestHandler):
    """Says who the client is, and then what it says."""

    def connection_made(self) -> None:
        self.send(f"{self.user}:".encode())

    def data_received(self, data: bytes) -> None:
        self.send(data.upper())


class Talk(RequestHandler):
    """The same, from a thread."""

    def handle(self) -> None:
        self.send(f"{self.user}:".encode())
        while data := self.read():
            self.send(data.upper())


class Plain(Stock):
    """As in the tutorials; it knows no users."""

    def handle(self) -> None:
        self.wfile.write(b"shared:")
        super().handle()


HANDLERS: list[type[socketserver.BaseRequestHandler]] = [Steps, Talk, Plain]


def write(file: Path, data: bytes) -> Source:
    """A file with keys."""
    file.write_bytes(data)
    file.chmod(0o600)
    return Source(file)


@pytest.fixture
def shared(tmp_path: Path) -> AuthStanza:
    """One key for all, and one that takes over from it."""
    return AuthStanza(key=write(tmp_path / "key", KEY + b"\n" + OTHER + b"\n"))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """An empty file of users, in which a change is seen at once."""
    file = tmp_path / "users.yaml"
    write(file, b"")
    return file


def add(file: Path, name: str, **more: Any) -> bytes:
    """Adds a user; returns the key."""
    with change(file) as register:
        return register.add(name, datetime.now(UTC), **more).reveal()


@contextmanager
def guarded(
    stanza: AuthStanza, handler: type[socketserver.BaseRequestHandler] = Steps,
    transport: str = "tcp", **how: Any,
) -> Iterator[Served]:  # fmt: skip
    """A service that asks its clients."""
    stage = Authentication(how.get("name", "service"), stanza)
    with serve(handler, transport, stages=(stage,), **{"rules": UNPUNISHED, **how}) as served:
        yield served


def connect_from(served: Served, source: str) -> socket.socket:
    """A client of another address."""
    return socket.create_connection(served.address, 5, (source, 0))


# -- who is let in


@pytest.mark.parametrize("handler", HANDLERS)
def test_what_is_said_before_the_question_is_heard(users: Path, handler: Any) -> None:
    """A client need not wait for the challenge to say that it speaks version 2, and what came in
    one piece with the header of a proxy is not waited for again."""
    key = add(users, "alice")
    proxies = Announcement(ProxyProtocol.model_validate({"from": ["127.0.0.1"]}))
    with guarded(AuthStanza(users=Source(users)), handler, announcement=proxies) as served:
        client, speaker = served.connect(), Client("alice", key)
        wait_until(lambda: [each.interest > 0 for each in served.server.sessions.values()])
        client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + speaker.hello())
        read_exactly(client, SIZE)
        client.sendall(speaker.final(read_reply(client)))
        speaker.check(read_reply(client))


@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_a_classic_client_is_let_in(
    shared: AuthStanza, transport: str, handler: Any, digest: Literal["md5", "sha256"]
) -> None:
    """By either key; its next message may follow at once, and is the service's."""
    with guarded(shared, handler, transport) as served:
        for key in (KEY, OTHER):
            with served.connect() as client:
                by_hmac(client, key, digest, more=b"0123456789abcdefghij")
                assert read_exactly(client, 27) == b"shared:0123456789ABCDEFGHIJ"
        assert dict(served.service.gate.refused) == {}


def test_no_client_is_asked_what_another_was_asked(shared: AuthStanza) -> None:
    """Though nonces are drawn many at a time."""
    with guarded(shared) as served:
        asked = set()
        for _ in range(2 * NONCES + 1):
            with served.connect() as client:
                asked.add(read_exactly(client, SIZE)[:NONCE_SIZE])
    assert len(asked) == 2 * NONCES + 1


@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_an_answer_may_come_byte_by_byte(
    shared: AuthStanza, digest: Literal["md5", "sha256"]
) -> None:
    """As may all that follows."""
    with guarded(shared) as served, served.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = _answer(client, digest) + b"abc"
        for byte in stream:
            client.sendall(bytes([byte]))
        assert read_exactly(client, 10) == b"shared:ABC"


def _answer(client: socket.socket, digest: Literal["md5", "sha256"]) -> bytes:
    return answer(read_exactly(client, SIZE), KEY, digest)


@pytest.mark.parametrize("handler", [Steps, Talk])
@pytest.mark.parametrize("transport", STREAMS)
def test_a_client_of_version_2_is_let_in(users: Path, transport: str, handler: Any) -> None:
    """It sees that the server knows the key, and may go on at once too."""
    key = add(users, "alice")
    with guarded(AuthStanza(users=Source(users)), handler, transport) as served:
        client = served.connect()
        reply = by_scram(client, "alice", key, more=b"abc")
        assert reply.members["user"] == "alice"
        assert read_exactly(client, 9) == b"alice:ABC"


def test_each_user_is_known_by_the_key(users: Path) -> None:
    """Classic clients name no user."""
    found = {name: add(users, name) for name in ("alice", "bob", "carol")}
    with guarded(AuthStanza(users=Source(users))) as served:
        for name, key in found.items():
            client = served.connect()
            by_hmac(client, key, "md5")
            assert read_exactly(client, len(name) + 1) == f"{name}:".encode()


def test_a_key_is_rotated_while_clients_come_in(
    users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one holds until the new one is everywhere; by either protocol."""
    monkeypatch.setattr(keys, "LOOK", 0.0)
    old = add(users, "alice")
    with guarded(AuthStanza(users=Source(users))) as served:
        now = datetime.now(UTC)
        with change(users) as register:
            new = register.rotate("alice", now, now + timedelta(hours=1)).reveal()
        for key in (old, new):
            by_scram(served.connect(), "alice", key)
            by_hmac(served.connect(), key)
        with change(users) as register:
            register.remove("alice")
        assert not _comes_in(served, new)
        assert not _comes_in(served, old)


def _comes_in(served: Served, key: bytes) -> bool:
    with served.connect() as client:
        by_hmac(client, key, more=b"")
        client.shutdown(socket.SHUT_WR)
        return read_all(client) != b""


def test_a_peer_of_this_machine_is_known_by_its_number(users: Path) -> None:
    """On a UNIX socket nobody has to be asked."""
    add(users, "alice", uid=os.geteuid())
    stanza = AuthStanza(method="peer", users=Source(users))
    with guarded(stanza, transport="unix") as served:
        assert read_exactly(served.connect(), 6) == b"alice:"


def test_a_peer_that_is_no_user_is_turned_away(users: Path) -> None:
    """Whoever may open the socket file."""
    add(users, "alice", uid=os.geteuid() + 1)
    stanza = AuthStanza(method="peer", users=Source(users))
    with guarded(stanza, transport="unix") as served:
        assert read_all(served.connect()) == b""
        assert dict(served.service.gate.refused) == {"auth": 1}


# -- who is not


@pytest.mark.parametrize("size", [16, 31, 32, 100])
def test_a_wrong_answer_ends_the_connection(shared: AuthStanza, size: int) -> None:
    """Quietly, as the tutorials' clients expect it; others are served meanwhile."""
    with guarded(shared) as served:
        good = served.connect()
        by_hmac(good, KEY)
        bad = served.connect()
        read_exactly(bad, SIZE)
        bad.sendall(bytes(size))
        assert read_all(bad) == b""
        assert read_exactly(good, 7) == b"shared:"
        gate = served.service.gate
        wait_until(lambda: gate.refused)
        assert (gate.admitted, dict(gate.refused)) == (2, {"auth": 1})


@pytest.mark.parametrize(("user", "key"), [("alice", KEY), ("nobody", KEY)])
def test_a_client_of_version_2_is_told_no_more_than_that(
    users: Path, user: str, key: bytes
) -> None:
    """Whether there is such a user or not."""
    add(users, "alice")
    with guarded(AuthStanza(users=Source(users))) as served:
        with pytest.raises(Unauthenticated, match=r"^no such user, or not the key$"):
            by_scram(served.connect(), user, key)
        wait_until(lambda: served.service.gate.refused == {"auth": 1})


def test_a_key_that_has_ended_is_none(users: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says why; the client is not told."""
    caplog.set_level("INFO")
    with change(users) as register:
        began, ended = (datetime(year, 1, 1, tzinfo=UTC) for year in (2025, 2026))
        key = register.add("alice", began, ended).reveal()
    with guarded(AuthStanza(users=Source(users))) as served:
        with pytest.raises(Unauthenticated, match=r"^no such user, or not the key$"):
            by_scram(served.connect(), "alice", key)
        client = served.connect()
        by_hmac(client, key)
        assert read_all(client) == b""
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert all("the key of alice has ended on 2026-01-01 00:00:00 UTC" in line for line in told)


def test_a_user_comes_into_the_services_of_the_roles(
    users: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And into no other."""
    caplog.set_level("INFO")
    with change(users) as register:
        register.file = UserFile(roles={"staff": RoleStanza(services=["upper"])})
        key = register.add("alice", datetime.now(UTC), roles=["staff"]).reveal()
    with guarded(AuthStanza(users=Source(users)), name="upper") as served:
        by_scram(served.connect(), "alice", key)
    with guarded(AuthStanza(users=Source(users)), name="exec") as served:
        with pytest.raises(Unauthenticated, match=r"^no such user, or not the key$"):
            by_scram(served.connect(), "alice", key)
        wait_until(lambda: served.service.gate.refused == {"auth": 1})
    assert "alice may not use exec" in caplog.text


class Asks(RequestHandler):
    """Says which commands the client may run, and which folders it may use."""

    def connection_made(self) -> None:
        commands = ",".join(sorted(self.rights.commands or ["any"]))
        self.send(f"{commands} {allows(self.rights.roots, 'public')};".encode())


def test_a_handler_knows_what_the_user_may_do(users: Path) -> None:
    """By the roles; where nobody is asked, everything."""
    with change(users) as register:
        role = RoleStanza(commands=["uptime", "df"], roots=["private"])
        register.file = UserFile(roles={"staff": role})
        key = register.add("alice", datetime.now(UTC), roles=["staff"]).reveal()
    with guarded(AuthStanza(users=Source(users)), Asks) as served:
        client = served.connect()
        by_hmac(client, key)
        assert read_exactly(client, 16) == b"df,uptime False;"
    with serve(Asks) as served:
        assert read_exactly(served.connect(), 9) == b"any True;"


def test_a_client_that_leaves_has_done_nothing(shared: AuthStanza) -> None:
    """A port scan, or a load balancer that looks whether somebody is there."""
    rules = punishing("1h")
    with guarded(shared, rules=rules) as served:
        for beginning in (b"", bytes(7)):
            with served.connect() as client:
                read_exactly(client, SIZE)
                client.sendall(beginning)
        wait_until(lambda: sum(served.service.counters.ended.values()) == 2)
        client = served.connect()
        by_hmac(client, KEY)
        assert read_exactly(client, 7) == b"shared:"
        assert not served.service.gate.refused


def test_a_client_that_does_not_answer_is_closed_in_time(shared: AuthStanza) -> None:
    """However slowly it does so; one deadline holds for all of it."""
    with guarded(
        shared, timeouts=Timeouts.model_validate({"handshake_timeout": "300ms"})
    ) as served:
        mute, slow = served.connect(), served.connect()
        began = time.monotonic()
        slow.sendall(bytes(9))
        for client in (mute, slow):
            assert len(read_all(client)) == SIZE
        assert 0.25 <= time.monotonic() - began < SOON * slowness()
        wait_until(lambda: served.service.counters.ended == {"handshake_timeout": 2})


# -- what cannot be reused


def test_a_knowing_client_sees_which_listener_it_has_reached(shared: AuthStanza) -> None:
    """A challenge that another one has relayed does not fit."""
    with guarded(shared) as served, guarded(shared) as other:
        client = served.connect()
        challenge = read_exactly(client, SIZE)
        assert verify(challenge, KEY, Channel.to(client.getpeername()))
        assert not verify(challenge, KEY, Channel.to(other.address))
        assert not verify(challenge, OTHER, Channel.to(client.getpeername()))


def test_a_knowing_client_of_a_unix_socket_sees_it_too(shared: AuthStanza) -> None:
    """By its path."""
    with guarded(shared, transport="unix") as served:
        client = served.connect()
        assert verify(read_exactly(client, SIZE), KEY, Channel.to(client.getpeername()))


def test_no_two_challenges_are_the_same(shared: AuthStanza) -> None:
    """So an answer that somebody has seen is worth nothing; nor is the challenge itself."""
    with guarded(shared) as served:
        seen = {read_exactly(served.connect(), SIZE) for _ in range(50)}
        assert len(seen) == 50
        client = served.connect()
        client.sendall(read_exactly(client, SIZE))
        assert read_all(client) == b""
        first = served.connect()
        stolen = _answer(first, "sha256")
        second = served.connect()
        read_exactly(second, SIZE)
        second.sendall(stolen)
        assert read_all(second) == b""


# -- penalties


def test_whoever_guesses_stays_out_and_nobody_else(shared: AuthStanza) -> None:
    """For longer each time; others come in by the same key all the while."""
    rules = punishing("400ms")
    with guarded(shared, rules=rules, banner_fail="{reason}\n") as served:
        began, lengths = time.monotonic(), []
        for _ in range(3):
            with connect_from(served, "127.0.0.2") as guesser:
                read_exactly(guesser, SIZE)
                guesser.sendall(bytes(32))
                assert read_all(guesser) == b"auth\n"
            began = time.monotonic()
            while _told(served) == b"banned\n":
                assert _lets_in(served, "127.0.0.3")
            lengths.append(time.monotonic() - began)
        assert 0.3 < lengths[0] < 0.7 < lengths[1] < 1.5 < lengths[2] < 2.5
        assert _lets_in(served, "127.0.0.2")


def _told(served: Served) -> bytes:
    """What a client of the guesser's address is told first."""
    with connect_from(served, "127.0.0.2") as client:
        return client.recv(7)


def _lets_in(served: Served, source: str) -> bool:
    with connect_from(served, source) as client:
        by_hmac(client, KEY)
        return read_exactly(client, 7) == b"shared:"


def test_a_failure_is_a_line_that_fail2ban_reads(
    users: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the expression of docs/authentication.md; nothing that a client says forges another."""
    add(users, "alice")
    log.setup(LogOptions())
    try:
        with guarded(AuthStanza(users=Source(users))) as served:
            for user in ("alice", "x peer=192.0.2.9:1 reason=auth", "nobody"):
                with pytest.raises(Unauthenticated):
                    by_scram(served.connect(), user, KEY)
            client = served.connect()
            read_exactly(client, SIZE)
            client.sendall(bytes(32))
            assert read_all(client) == b""
    finally:
        log.output().close()
    lines = [line for line in capfd.readouterr().err.splitlines() if "refused" in line]
    assert len(lines) == 4
    expression = failregex()
    found = [re.search(expression, line) for line in lines]
    assert [match and match["host"] for match in found] == ["127.0.0.1"] * 4
    assert [line.count("user=") for line in lines] == [1, 0, 0, 0]
    assert not re.search(expression, lines[0].replace("reason=auth", "reason=rate"))


def failregex() -> str:
    """The expression that the page has for fail2ban, in which <ADDR> stands for an address."""
    page = Path(__file__).parents[1] / "docs" / "authentication.md"
    found = re.search(r"^failregex = (.*)$", page.read_text(), re.MULTILINE)
    assert found
    return found[1].replace("<ADDR>", r"(?P<host>[0-9a-f.:]+)")


def test_nothing_of_ours_fails(shared: AuthStanza, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a client sends, and in whatever order."""
    streams = [
        b"NETD2 ", b"NETD2 \0\0\0\0", b"NETD2 \xff\xff\xff\xff" + bytes(6), b"NETD2 " + bytes(100),
        b"NETD2 \x0a\0\0\0{}", b"NETD2 \x02\0\0\0{}    ", b"GET / HTTP/1.1\r\n\r\n", bytes(1000),
    ]  # fmt: skip
    with guarded(shared) as served:
        for stream in streams:
            with served.connect() as client:
                read_exactly(client, SIZE)
                client.sendall(stream)
                client.shutdown(socket.SHUT_WR)
                rest = read_all(client)
                assert not rest or b"not-authenticated" in rest
    assert not faults(caplog)


def test_a_reply_to_what_is_no_message_names_it(shared: AuthStanza) -> None:
    """For whoever writes a client."""
    with guarded(shared) as served, served.connect() as client:
        read_exactly(client, SIZE)
        client.sendall(b"NETD2 \x0c\0\0\0" + b'{"v":2,"i":1')
        reply = read_reply(client)
        assert reply.members["error"] == "not-authenticated"
        assert "JSON" in str(reply.members["message"])
        assert read_all(client) == b""
