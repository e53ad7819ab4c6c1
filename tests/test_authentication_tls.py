"""Clients show who they are over TLS: bound to the certificate that they were shown, or by their
own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certificates
import pytest
from harness import Served, read_all, read_exactly, serve, wait_until
from knowing import by_hmac, by_scram

from netd.auth.register import change
from netd.auth.source import Source
from netd.auth.stage import Authentication
from netd.auth.stanza import AuthStanza
from netd.challenge import SIZE, Channel, verify
from netd.errors import Unauthenticated
from netd.gate import Admission
from netd.handler import RequestHandler
from netd.handshake import Handshake
from netd.penalties import PenaltyRules
from netd.scram import end_point
from netd.tls import Tls, TlsStanza

pytestmark = pytest.mark.skipif(bool(certificates.MISSING), reason=certificates.MISSING)


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


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Where the users are."""
    return tmp_path / "users.yaml"


def add(file: Path, name: str, **more: Any) -> bytes:
    """Adds a user; returns the key."""
    with change(file, create=True) as register:
        return register.add(name, datetime.now(UTC), **more).reveal()


@contextmanager
def guarded(
    users: Path, method: Any = "hmac", handler: Any = Steps, **tls: Any
) -> Iterator[Served]:
    """A service that speaks TLS, and asks its clients."""
    keys = {**certificates.make("server").stanza, **tls}
    stages = (
        Handshake(Tls(TlsStanza.model_validate(keys))),
        Authentication("upper", AuthStanza(method=method, users=Source(users))),
    )
    rules = Admission(penalties=PenaltyRules(auth=None))
    with serve(handler, stages=stages, rules=rules) as served:
        yield served


def connect(served: Served, pair: certificates.Pair | None = None) -> ssl.SSLSocket:
    """A client, with a certificate of its own if one is given."""
    context = ssl.create_default_context(cafile=certificates.root().certificate)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return served.keep(context.wrap_socket(served.connect(), server_hostname="localhost"))


def certificate_of(client: ssl.SSLSocket) -> bytes:
    """What the server has shown it."""
    shown = client.getpeercert(binary_form=True)
    assert shown
    return shown


@pytest.mark.parametrize("handler", [Steps, Talk])
def test_a_client_binds_its_proof_to_the_certificate(users: Path, handler: Any) -> None:
    """SCRAM-SHA-256-PLUS; what it sends at once behind it is the service's."""
    key = add(users, "alice")
    with guarded(users, handler=handler) as served:
        client = connect(served)
        by_scram(client, "alice", key, end_point(certificate_of(client)), more=b"abc")
        assert read_exactly(client, 9) == b"alice:ABC"


def test_a_client_that_cannot_bind_is_let_in_too(users: Path) -> None:
    """It has the certificate verified, as any client has."""
    key = add(users, "alice")
    with guarded(users) as served:
        client = connect(served)
        by_scram(client, "alice", key)
        assert read_exactly(client, 6) == b"alice:"


def test_somebody_between_is_seen(users: Path) -> None:
    """The client was shown another certificate than ours."""
    key = add(users, "alice")
    with guarded(users) as served:
        client = connect(served)
        other = ssl.PEM_cert_to_DER_cert(certificates.make("another").certificate.read_text())
        with pytest.raises(Unauthenticated, match="channel bindings"):
            by_scram(client, "alice", key, end_point(other))
        wait_until(lambda: served.service.gate.refused == {"auth": 1})


@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_a_classic_client_comes_in_over_tls(users: Path, digest: Any) -> None:
    """The next message is in the same record as the answer."""
    key = add(users, "alice")
    with guarded(users) as served:
        client = connect(served)
        by_hmac(client, key, digest, more=b"abc")
        assert read_exactly(client, 9) == b"alice:ABC"


def test_the_challenge_shows_which_certificate_the_server_has(users: Path) -> None:
    """A knowing client compares it with the one that it was shown."""
    key = add(users, "alice")
    with guarded(users) as served:
        client = connect(served)
        challenge, shown = read_exactly(client, SIZE), certificate_of(client)
        assert verify(challenge, key, Channel.to(client.getpeername(), shown))
        assert not verify(challenge, key, Channel.to(client.getpeername()))
        assert not verify(challenge, key, Channel.to(client.getpeername(), b"another"))


def test_a_wrong_answer_ends_the_connection_as_tls_has_it(users: Path) -> None:
    """With a word of good-bye, so that it is not taken for an attack."""
    add(users, "alice")
    with guarded(users) as served:
        client = connect(served)
        read_exactly(client, SIZE)
        client.sendall(bytes(32))
        assert read_all(client) == b""
        wait_until(lambda: served.service.gate.refused == {"auth": 1})


def test_a_client_is_known_by_its_certificate(users: Path) -> None:
    """By the name in it, when there is such a user."""
    add(users, "alice", certificate="alice@home")
    roots = {"client_ca": str(certificates.root().certificate)}
    with guarded(users, "certificate", **roots) as served:
        client = connect(served, certificates.make("alice@home"))
        assert read_exactly(client, 6) == b"alice:"
        stranger = connect(served, certificates.make("mallory"))
        assert read_all(stranger) == b""
        wait_until(lambda: served.service.gate.refused == {"auth": 1})


def test_a_client_without_a_certificate_is_turned_away(users: Path) -> None:
    """Where TLS itself does not insist on one."""
    add(users, "alice", certificate="alice@home")
    roots = {"client_ca": str(certificates.root().certificate), "client_certificate": "optional"}
    with guarded(users, "certificate", **roots) as served:
        assert read_all(connect(served)) == b""
        wait_until(lambda: served.service.gate.refused == {"auth": 1})
