"""TLS with keys that clients share with the server: with OpenSSL and Python as clients."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import certificates
import pytest
from harness import (
    PATIENCE,
    STREAMS,
    Served,
    new_folder,
    read_all,
    read_exactly,
    run_netd,
    serve,
    wait_until,
)
from knowing import by_scram
from test_judges import QUIET, run, talk
from test_prelude import HANDLERS, Echo, only_session
from test_tls import context, refused, secure

from netd.auth import keys, userfile
from netd.auth.keyring import Keyring
from netd.auth.preshared import Preshared
from netd.auth.register import change
from netd.auth.source import Source
from netd.auth.stage import Authentication
from netd.auth.stanza import AuthStanza
from netd.gate import Admission
from netd.handshake import Handshake
from netd.penalties import PenaltyRules
from netd.tls import CAN_PSK, Tls, TlsStanza

pytestmark = [
    pytest.mark.skipif(bool(certificates.MISSING), reason=certificates.MISSING),
    pytest.mark.skipif(not CAN_PSK, reason="TLS-PSK needs Python 3.13, and OpenSSL with it"),
]

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = [TLS12, TLS13]
TEXT = {
    TLS12: "TLSv1.2 ECDHE-PSK-CHACHA20-POLY1305",
    TLS13: "TLSv1.3 TLS_CHACHA20_POLY1305_SHA256",
}
ALERT = {TLS12: "SSLV3_ALERT_BAD_RECORD_MAC", TLS13: "SSLV3_ALERT_ILLEGAL_PARAMETER"}
"""What OpenSSL tells a client whose key is wrong."""
WRONG = b"netd_a key that nobody has"


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
    users: Path, handler: Any = Echo, transport: str = "tcp", auth: str | None = None, **tls: Any
) -> Iterator[Served]:
    """A service whose clients come in by their keys; with a certificate if `tls` has one."""
    stanza = TlsStanza.model_validate({"psk": str(users), **tls})
    stages: list[Any] = [Handshake(Tls(stanza), Preshared("upper", Source(users)))]
    if auth is not None:
        stages.append(Authentication("upper", AuthStanza(method=auth, users=Source(users))))
    rules = Admission(penalties=PenaltyRules(auth=None))
    with serve(handler, transport, stages=tuple(stages), rules=rules, name="upper") as served:
        yield served


def certified(**more: Any) -> dict[str, Any]:
    """Keys below `tls` of a service that has a certificate too."""
    return {**certificates.make("server").stanza, **more}


def knowing(name: str | None, key: bytes, version: ssl.TLSVersion = TLS13) -> ssl.SSLContext:
    """Python's client with a key, which has nothing to do with certificates."""
    found: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    found.minimum_version = found.maximum_version = version
    found.set_ciphers("PSK")
    found.set_psk_client_callback(lambda _hint: (name, key))
    return found  # type: ignore[no-any-return]


def connect(
    served: Served, name: str | None, key: bytes, version: ssl.TLSVersion = TLS13, **more: Any
) -> ssl.SSLSocket:
    """A client of Python's, which is in."""
    return secure(served, served.connect(), knowing(name, key, version), **more)


def s_client(served: Served, name: str | bytes, key: bytes, *options: str) -> list[Any]:
    """openssl(1) as a client with a key."""
    host, port = served.address
    return [
        "openssl", "s_client", "-connect", f"{host}:{port}", "-psk", key.hex(),
        "-psk_identity", name, *options,
    ]  # fmt: skip


# -- who comes in


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("transport", STREAMS)
def test_every_handler_knows_whose_key_it_was(
    users: Path, handler: Any, transport: str, version: ssl.TLSVersion
) -> None:
    """On every kind of socket."""
    add(users, "bob")
    key = add(users, "alice")
    with guarded(users, handler, transport) as served:
        client = connect(served, "alice", key, version)
        client.sendall(b"hello\n")
        assert read_exactly(client, 12) == b"alice:hello\n"
        identity = only_session(served).identity
        assert identity.tls == TEXT[version]
        assert identity.server_certificate == b""
        assert identity.certificate_name is None
        client.unwrap().close()
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"eof": 1}


@pytest.mark.parametrize("tls", [{}, certified])
@pytest.mark.parametrize(
    ("options", "cipher"),
    [
        ([], "TLS_CHACHA20_POLY1305_SHA256"),
        (["-tls1_3"], "TLS_CHACHA20_POLY1305_SHA256"),
        (["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"], "TLS_AES_128_GCM_SHA256"),
        (["-tls1_2"], "ECDHE-PSK-CHACHA20-POLY1305"),
    ],
)
def test_openssl_comes_in_by_its_key(
    users: Path, tls: Any, options: list[str], cipher: str
) -> None:
    """Whether there is a certificate too or not; it is shown none."""
    key = add(users, "alice")
    with guarded(users, **(tls and tls())) as served:
        command = s_client(served, "alice", key, *options)
        talk([*command, *QUIET], (b"hello\n", b"alice:hello\n"), (b"Q\n", b""))
        done = run(*command, said=b"Q\n")
        assert f"Cipher is {cipher}".encode() in done.stdout
        assert b"no peer certificate available" in done.stdout
        assert dict(served.service.gate.refused) == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_else_is_agreed_upon_holds_too(users: Path, version: ssl.TLSVersion) -> None:
    """The name of the server and the application."""
    key = add(users, "alice")
    with guarded(users, alpn=["echo/1"]) as served:
        using = knowing("alice", key, version)
        using.set_alpn_protocols(["echo/1"])
        client = secure(served, served.connect(), using, server_hostname="Localhost")
        assert read_exactly(client, 6) == b"alice:"
        identity = only_session(served).identity
        assert (identity.server_name, identity.application) == ("localhost", "echo/1")


def test_an_old_version_can_be_left_out(users: Path) -> None:
    """By `min_version`, as with certificates."""
    key = add(users, "alice")
    with guarded(users, min_version="TLSv1.3") as served:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            connect(served, "alice", key, TLS12)
        assert refused(served) == {"handshake": 1}
        assert read_exactly(connect(served, "alice", key), 6) == b"alice:"


@pytest.mark.parametrize("version", VERSIONS)
def test_authentication_may_follow(users: Path, version: ssl.TLSVersion) -> None:
    """By SCRAM, not bound to a certificate as none was shown; who that proves is the user."""
    key, other = add(users, "alice"), add(users, "bob")
    with guarded(users, auth="hmac", **certified()) as served:
        client = connect(served, "alice", key, version)
        by_scram(client, "bob", other)
        assert read_exactly(client, 4) == b"bob:"


# -- who does not


def alert(served: Served, name: str, key: bytes, version: ssl.TLSVersion) -> str:
    """What a client is told that has not come in."""
    with pytest.raises(ssl.SSLError) as caught:
        connect(served, name, key, version).recv(1)
    return str(caught.value.reason)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tls", [{}, certified])
def test_an_unknown_user_is_told_what_a_wrong_key_is_told(
    users: Path, tls: Any, version: ssl.TLSVersion
) -> None:
    """By the same alert; neither keeps out whoever has the right key."""
    key = add(users, "alice")
    with guarded(users, **(tls and tls())) as served:
        told = {alert(served, name, WRONG, version) for name in ("alice", "mallory", "alic", "x")}
        assert len(told) == 1
        assert told == {ALERT[version]}
        assert refused(served) == {"handshake": 4}
        assert read_exactly(connect(served, "alice", key, version), 6) == b"alice:"
        assert not served.service.counters.errors


@pytest.mark.parametrize("version", VERSIONS)
def test_the_log_says_which_user_has_failed(
    users: Path, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is such a user: what strangers say does not stand in it."""
    add(users, "alice")
    with guarded(users) as served:
        lines: list[tuple[Any, ...]] = []
        monkeypatch.setattr(type(served.service), "log_refused", lambda _, *a: lines.append(a[1:]))
        for name in ("alice", "mallory"):
            alert(served, name, WRONG, version)
        wait_until(lambda: len(lines) == 2)
        assert lines == [("handshake", "alice"), ("handshake", None)]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("name", [b"\xff\xfe", b"\xc3\xa9" * 20, b"x" * 120, b"a b\tc", b"alice "])
def test_a_name_that_cannot_be_a_users_is_refused_without_a_word(
    users: Path, version: str, name: bytes, capfd: Any
) -> None:
    """By an alert; nothing stands on standard error."""
    key = add(users, "alice")
    with guarded(users) as served:
        done = run(*s_client(served, name, key, version))
        assert done.returncode != 0
        assert b"alert" in done.stderr
        assert refused(served) == {"handshake": 1}
        assert served.service.counters.errors == 0
    assert capfd.readouterr().err == ""


def test_a_client_without_a_name_is_nobody(users: Path) -> None:
    """The suite is for a key, and no name follows (TLS 1.2)."""
    add(users, "alice")
    with guarded(users) as served:
        assert alert(served, "", WRONG, TLS12) == ALERT[TLS12]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_without_a_key_is_refused(users: Path, version: ssl.TLSVersion) -> None:
    """Where there is no certificate."""
    add(users, "alice")
    with guarded(users) as served:
        using = context(minimum_version=version, maximum_version=version)
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            secure(served, served.connect(), using, server_hostname="localhost")
        assert refused(served) == {"handshake": 1}


@pytest.mark.parametrize("tls", [{}, certified])
def test_a_name_without_its_key_is_worth_nothing(users: Path, tls: Any) -> None:
    """OpenSSL asks for the key, and then finds that the ciphers of the client do not go with
    keys: there is no certificate to fall back upon."""
    key = add(users, "alice")
    with guarded(users, **(tls and tls())) as served:
        options = "-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"
        for secret in (key, WRONG):
            done = run(*s_client(served, "alice", secret, *options), said=b"hello\nQ\n")
            assert b"alert" in done.stderr
            assert b"alice:" not in done.stdout
        assert refused(served) == {"handshake": 2}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_user_who_may_not_use_the_service_is_told_so_behind_the_handshake(
    users: Path, version: ssl.TLSVersion
) -> None:
    """It has shown who it is."""
    users.touch(0o600)
    users.write_text("roles: {staff: {services: [echo]}}\nusers: {}\n")
    key = add(users, "alice", roles=["staff"])
    with guarded(users) as served:
        assert read_all(connect(served, "alice", key, version)) == b""
        assert refused(served) == {"auth": 1}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_key_that_has_ended_is_none(
    users: Path, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so, where the client is not told."""
    now = datetime.now(UTC)
    key = add(users, "alice", end=now + timedelta(hours=1))
    text = users.read_text()
    users.write_text(re.sub(r"(start|end): '\d{4}", r"\1: '2020", text))
    with guarded(users) as served, caplog.at_level("INFO"):
        assert read_all(connect(served, "alice", key, version)) == b""
        assert refused(served) == {"auth": 1}
    assert "the key of alice has ended" in caplog.text


# -- keys that change


@pytest.mark.parametrize("version", VERSIONS)
def test_the_old_key_goes_on_until_it_ends(users: Path, version: ssl.TLSVersion) -> None:
    """A handshake has room for one key: the one that ends first, and then the one that follows."""
    old = add(users, "alice")
    now = datetime.now(UTC)
    with change(users) as register:
        new = register.rotate("alice", now, now + timedelta(days=7)).reveal()
    with guarded(users) as served:
        assert read_exactly(connect(served, "alice", old, version), 6) == b"alice:"
        alert(served, "alice", new, version)
    with change(users) as register:
        newest = register.rotate("alice", now, now, end=None).reveal()
    with guarded(users) as served:
        alert(served, "alice", old, version)
        assert read_exactly(connect(served, "alice", newest, version), 6) == b"alice:"


def test_a_change_of_the_file_holds_soon(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is added comes in, and who is taken out does not; those who are in stay."""
    monkeypatch.setattr(keys, "LOOK", 0.0)
    key = add(users, "alice")
    with guarded(users) as served:
        first = connect(served, "alice", key)
        assert read_exactly(first, 6) == b"alice:"
        other = add(users, "bob")
        assert read_exactly(connect(served, "bob", other), 4) == b"bob:"
        with change(users) as register:
            register.remove("alice")
        assert alert(served, "alice", key, TLS13) == ALERT[TLS13]
        first.sendall(b"still")
        assert read_exactly(first, 5) == b"still"


def test_who_comes_while_keys_are_read_waits_for_them(
    users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without holding up others: the file is read on a thread of its own."""
    key = add(users, "alice")
    reading, go_on, loads = Event(), Event(), [0]

    def load(source: Source) -> Keyring:
        loads[0] += 1
        if loads[0] > 1:
            reading.set()
            assert go_on.wait(PATIENCE)
        return original(source)

    original: Callable[[Source], Keyring] = userfile.load
    monkeypatch.setattr(userfile, "load", load)
    monkeypatch.setattr(keys, "LOOK", 0.0)
    with guarded(users) as served:
        other = add(users, "bob")
        raw = served.connect()
        client = served.keep(knowing("bob", other).wrap_socket(raw, do_handshake_on_connect=False))
        client.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        assert reading.wait(PATIENCE)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        go_on.set()
        client.settimeout(PATIENCE)
        client.do_handshake()
        assert read_exactly(client, 4) == b"bob:"
        assert read_exactly(connect(served, "alice", key), 6) == b"alice:"


def test_a_session_is_not_resumed(users: Path) -> None:
    """It would go on without the key, and without the name: TLS 1.2 by its number or by a ticket,
    TLS 1.3 by a ticket."""
    key = add(users, "alice")
    with guarded(users) as served:
        using = knowing("alice", key, TLS12)
        first = secure(served, served.connect(), using)
        assert read_exactly(first, 6) == b"alice:"
        assert first.session is not None
        assert not first.session.has_ticket
        first.unwrap().close()
        again = secure(served, served.connect(), using, session=first.session)
        assert read_exactly(again, 6) == b"alice:"
        assert not again.session_reused
        modern = connect(served, "alice", key)
        assert read_exactly(modern, 6) == b"alice:"
        assert not (modern.session and modern.session.has_ticket)


def test_openssl_that_would_resume_comes_in_each_time(users: Path) -> None:
    """With its key, five times over."""
    key = add(users, "alice")
    with guarded(users) as served:
        done = run(*s_client(served, "alice", key, "-tls1_2", "-reconnect"), said=b"Q\n")
        assert (done.stdout.count(b"New, TLSv1.2"), done.stdout.count(b"Reused,")) == (6, 0)
        assert dict(served.service.gate.refused) == {}


# -- beside a certificate


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_without_a_key_is_shown_the_certificate(
    users: Path, version: ssl.TLSVersion
) -> None:
    """It is nobody, and its session can be resumed, as without `psk`."""
    add(users, "alice")
    with guarded(users, **certified()) as served:
        using = context(minimum_version=version, maximum_version=version)
        first = secure(served, served.connect(), using, server_hostname="localhost")
        assert read_exactly(first, 5) == b"None:"
        assert only_session(served).identity.server_certificate == first.getpeercert(True)
        again = secure(
            served, served.connect(), using, server_hostname="localhost", session=first.session
        )
        assert read_exactly(again, 5) == b"None:"
        assert again.session_reused


@pytest.mark.parametrize("version", VERSIONS)
def test_a_certificate_or_a_key_is_enough(users: Path, version: ssl.TLSVersion) -> None:
    """With `client_ca`, a client needs one of them."""
    key = add(users, "alice")
    roots = str(certificates.root().certificate)
    with guarded(users, **certified(client_ca=roots)) as served:
        assert read_exactly(connect(served, "alice", key, version), 6) == b"alice:"
        using = context(minimum_version=version, maximum_version=version)
        pair = certificates.client("bob")
        using.load_cert_chain(pair.certificate, pair.key)
        client = secure(served, served.connect(), using, server_hostname="localhost")
        assert read_exactly(client, 4) == b"bob:"
        bare = context(minimum_version=version, maximum_version=version)
        with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"):
            secure(served, served.connect(), bare, server_hostname="localhost").recv(1)


def test_a_ticket_before_the_key_does_no_harm(users: Path, tmp_path: Path) -> None:
    """A client that has come in by the certificate, and has got a key since, says both."""
    key = add(users, "alice")
    with guarded(users, **certified()) as served:
        kept = str(tmp_path / "session.pem")
        host, port = served.address
        plain: list[Any] = ["openssl", "s_client", "-connect", f"{host}:{port}", "-tls1_3"]
        talk(
            [*plain, "-sess_out", kept, *QUIET],
            (b"hello\n", b"None:hello\n"), (b"Q\n", b""),
        )  # fmt: skip
        assert Path(kept).exists()
        command = s_client(served, "alice", key, "-tls1_3", "-sess_in", kept, *QUIET)
        talk(command, (b"hello\n", b"alice:hello\n"), (b"Q\n", b""))


@pytest.mark.parametrize("tls", [{}, certified])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_hello_may_come_byte_by_byte(users: Path, tls: Any, version: ssl.TLSVersion) -> None:
    """What tells of a key is last in it."""
    key = add(users, "alice")
    with guarded(users, **(tls and tls())) as served:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = knowing("alice", key, version).wrap_bio(incoming, outgoing)
        raw = served.connect()
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    raw.sendall(bytes([byte]))
                    only_session(served)
                incoming.write(raw.recv(65_536))
        raw.sendall(outgoing.read())
        found = b""
        while len(found) < 6:
            try:
                found += client.read(100)
            except ssl.SSLWantReadError:
                incoming.write(raw.recv(65_536))
        assert found == b"alice:"


def test_a_hello_that_is_too_long_is_left_to_the_certificate(users: Path) -> None:
    """Nobody has to be held up by a hello of 16 KiB."""
    key = add(users, "alice")
    with guarded(users, **certified()) as served:
        using = knowing("alice", key)
        using.set_alpn_protocols([f"{number:0200}" for number in range(25)])
        client = secure(served, served.connect(), using)
        assert read_exactly(client, 5) == b"None:"


# -- the daemon


def test_the_daemon_is_told_whose_key_it_was() -> None:
    """From a file with relative paths to the lines of the log."""
    stanza = {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"], "tls": {"psk": "users.yaml"}}
    with new_folder() as folder:
        key = add(folder / "users.yaml", "alice")
        with run_netd({"services": {"upper": stanza}}, folder=folder) as netd:
            port = netd.addresses["upper"][0].port
            target = "-connect", f"127.0.0.1:{port}"
            command = ["openssl", "s_client", *target, "-psk_identity", "alice", *QUIET]
            talk([*command, "-psk", key.hex()], (b"abc\n", b"ABC\n"), (b"Q\n", b""))
            assert run(*command, "-psk", WRONG.hex()).returncode != 0
            netd.wait_for_log(r"upper: session .* user=alice .* reason=eof$")
            netd.wait_for_log(r"upper: refused .* user=alice .* reason=handshake$")
            assert netd.stop() == 0
