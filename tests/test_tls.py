"""TLS on any service: handlers of all kinds, clients of all kinds, and how a stream ends."""

from __future__ import annotations

import _ssl
import ctypes
import socket
import ssl
import struct
from contextlib import suppress
from select import EPOLLOUT, POLLOUT
from time import monotonic
from typing import Any

import certificates
import pytest
from harness import (
    PATIENCE,
    SOON,
    STREAMS,
    Served,
    read_all,
    read_exactly,
    serve,
    slowness,
    wait_until,
)
from test_prelude import HANDLERS, Echo, Stock, Talk, only_session, password

from netd.connection import MORSEL
from netd.deadline import Timeouts
from netd.errors import ConfigError
from netd.handler import RequestHandler
from netd.handshake import Handshake
from netd.listener import SocketOptions
from netd.pool import Pool
from netd.secured import SecuredSteps
from netd.tls import Tls, TlsStanza

pytestmark = pytest.mark.skipif(bool(certificates.MISSING), reason=certificates.MISSING)

PLENTY = bytes(range(256)) * 2**15
"""More than the kernel takes for a client that does not read (tcp_wmem)."""


def stage(**keys: Any) -> Handshake:
    """The stage of a service with these keys below `tls`, by default with the server's pair."""
    keys = {**certificates.make("server").stanza, **keys}
    return Handshake(Tls(TlsStanza.model_validate(keys)))


def context(**options: Any) -> ssl.SSLContext:
    """A client's, which trusts the root and checks the name."""
    found = ssl.create_default_context(cafile=certificates.root().certificate)
    for name, value in options.items():
        setattr(found, name, value)
    return found


def connect(
    served: Served, name: str = "localhost", using: ssl.SSLContext | None = None
) -> ssl.SSLSocket:
    """A client that speaks TLS with the server, and notices when it is cut off."""
    return secure(served, served.connect(), using or context(), server_hostname=name)


def secure(
    served: Served, client: socket.socket, using: ssl.SSLContext, **how: Any
) -> ssl.SSLSocket:
    """A client's socket that speaks TLS from now on."""
    sock = using.wrap_socket(
        client, suppress_ragged_eofs=False, do_handshake_on_connect=False, **how
    )
    served.keep(sock).do_handshake()
    return sock


class Flood(RequestHandler):
    """Steps: answers anything by 8 MiB, and ends."""

    def data_received(self, _data: bytes) -> None:
        self.send_from(iter([PLENTY[at : at + 65_536] for at in range(0, len(PLENTY), 65_536)]))
        self.close()


class FloodTalk(RequestHandler):
    """A conversation: the same."""

    def handle(self) -> None:
        self.read()
        self.send(PLENTY)


class FloodStock(Stock):
    """A handler of the standard library: the same."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(PLENTY)


FLOODS = [Flood, FloodTalk, FloodStock]


class Crash(RequestHandler):
    """Steps with a fault."""

    def data_received(self, data: bytes) -> None:
        self.send(data)
        raise ZeroDivisionError("as asked for")


class CrashTalk(RequestHandler):
    """A conversation with a fault."""

    def handle(self) -> None:
        self.send(self.read())
        raise ZeroDivisionError("as asked for")


class CrashStock(Stock):
    """A handler of the standard library with a fault."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())
        raise ZeroDivisionError("as asked for")


# -- sessions


def test_a_client_that_resets_just_before_is_met_by_the_handshake() -> None:
    """Even between two calls of ours: nothing is read of it in the clear, or closed for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        client.sendall(b"\x16\x03\x01\x00\x01\x00")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(OSError, match="not connected"):
            ours.getpeername()
        how: Any = {"server_side": True, "do_handshake_on_connect": False}
        with stage().tls.contexts.find(None).wrap_socket(ours, **how) as sock:
            assert sock.fileno() >= 0
            with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
                sock.do_handshake()
            with pytest.raises(OSError, match="not connected"):
                sock.getpeername()


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("transport", STREAMS)
def test_every_handler_serves_over_tls(handler: Any, transport: str) -> None:
    """Steps, conversations and stock handlers know nothing of it, on every kind of socket."""
    with serve(handler, transport, stages=(stage(),), banner=b"hi ") as served:
        client = connect(served)
        client.sendall(b"hello\n")
        assert read_exactly(client, 14) == b"hi None:hello\n"
        assert client.version() == "TLSv1.3"
        client.unwrap().close()
        wait_until(lambda: served.service.counters.ended)
        counters = served.service.counters
        assert dict(counters.ended) == {"eof": 1}
        assert (counters.bytes_in, counters.bytes_out) == (6, 14)


@pytest.mark.parametrize("handler", HANDLERS)
def test_authentication_follows_the_handshake(handler: Any) -> None:
    """A stage behind TLS speaks over it, and what follows its bytes in one record is not lost."""
    with serve(handler, stages=(stage(), password), banner=b"hi ") as served:
        client = connect(served)
        client.sendall(b"sesamehello\n")
        assert read_exactly(client, 14) == b"?hi Ali:hello\n"


@pytest.mark.parametrize("handler", FLOODS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_long_answer_arrives_whole_and_ends_in_order(handler: Any, version: Any) -> None:
    """However slowly the client reads: the end of TLS is sent behind the last byte."""
    with serve(handler, stages=(stage(),)) as served:
        client = connect(served, using=context(maximum_version=version))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.sendall(b"go\n")
        answer = bytearray()
        while data := client.recv(5000):
            answer += data
        assert bytes(answer) == PLENTY
        client.close()
        wait_until(lambda: served.service.counters.ended)
        assert served.service.counters.bytes_out == len(PLENTY)


def swap(client: ssl.SSLSocket, data: bytes, size: int) -> bytes:
    """Sends while it receives, on one thread: what comes, `size` bytes."""
    client.setblocking(False)
    found, left, end = bytearray(), memoryview(data), monotonic() + PATIENCE
    while len(found) < size:
        assert monotonic() < end
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if left:
                left = left[client.send(left[:16_384]) :]
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            found += client.recv(65_536)
    return bytes(found)


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_large_message_is_echoed_whole(handler: Any) -> None:
    """Many records each way, read and written in turns."""
    with serve(handler, stages=(stage(),)) as served:
        client = connect(served)
        messages = (b"x" * 60_000 + b"\n") * 20
        assert swap(client, messages, 5 + len(messages)) == b"None:" + messages


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_session_knows_its_version_and_cipher(handler: Any) -> None:
    """As text, for whoever lists sessions; with the name and the application asked for."""
    with serve(handler, stages=(stage(alpn=["echo/2", "echo/1"]),)) as served:
        using = context(maximum_version=ssl.TLSVersion.TLSv1_2)
        using.set_alpn_protocols(["echo/1"])
        client = connect(served, using=using)
        assert read_exactly(client, 5) == b"None:"
        identity = only_session(served).identity
        assert identity.tls == "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384"
        assert (identity.server_name, identity.application) == ("localhost", "echo/1")
        assert identity.server_certificate == client.getpeercert(binary_form=True)
        assert client.selected_alpn_protocol() == "echo/1"


def test_a_session_is_resumed_by_a_ticket() -> None:
    """A client that comes again need not have the server sign anything anew."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with serve(Echo, stages=(stage(),)) as served:
            using = context(maximum_version=version)
            first = connect(served, using=using)
            assert read_exactly(first, 5) == b"None:"
            second = secure(
                served, served.connect(), using, server_hostname="localhost", session=first.session
            )
            assert read_exactly(second, 5) == b"None:"
            assert second.session_reused


# -- ends


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_stream_that_is_cut_off_is_told_from_one_that_ends(handler: Any) -> None:
    """Without the end that TLS has, anybody may have ended it."""
    with serve(handler, stages=(stage(),)) as served:
        client = connect(served)
        client.sendall(b"half")
        assert read_exactly(client, 5) == b"None:"
        client.shutdown(socket.SHUT_WR)  # the FIN alone
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"truncated": 1}


@pytest.mark.parametrize("size", [MORSEL - 1, MORSEL, MORSEL + 1, 16_384])
def test_what_came_before_the_cut_is_a_step_still(size: int) -> None:
    """Whatever is read at once, and in however many reads a record is taken."""
    got = bytearray()

    class Taker(RequestHandler):
        def data_received(self, data: bytes) -> None:
            got.extend(data)

    with serve(Taker, stages=(stage(),)) as served:
        client = connect(served)
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)  # the FIN alone
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"truncated": 1}
        assert (len(got), served.service.counters.bytes_in) == (size, size)


@pytest.mark.parametrize("handler", [Crash, CrashTalk, CrashStock])
def test_a_handler_that_fails_does_not_end_in_order(handler: Any) -> None:
    """The client sees that its answer may not be whole."""
    with serve(handler, stages=(stage(),)) as served:
        client = connect(served)
        client.sendall(b"abc\n")
        assert read_exactly(client, 4) == b"abc\n"
        with pytest.raises(ssl.SSLEOFError):
            client.recv(1)
        assert served.service.counters.errors == 1


def test_last_words_are_read_before_the_end() -> None:
    """A peer at fault is told so over TLS, though it has sent more than was read."""
    with serve(Talk, stages=(stage(),)) as served:
        client = connect(served)
        client.sendall(b"x" * 100_000)
        assert read_all(client).startswith(b"None:error: line")
        client.close()
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"protocol_error": 1}


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_session_that_is_idle_is_ended_in_order(handler: Any) -> None:
    """Its deadline is that of any session."""
    timeouts = Timeouts(idle_timeout="500ms")
    with serve(handler, stages=(stage(),), timeouts=timeouts) as served:
        client, began = connect(served), monotonic()
        assert read_all(client).startswith(b"None:")
        client.close()
        assert monotonic() - began < SOON * slowness()
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"idle_timeout": 1}


@pytest.mark.parametrize("handler", FLOODS)
def test_a_client_that_does_not_read_is_cut(handler: Any) -> None:
    """After `write_timeout`, as without TLS; and it is not told that this was all."""
    timeouts = Timeouts(write_timeout="500ms")
    with serve(handler, stages=(stage(),), timeouts=timeouts) as served:
        client = served.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        secured = secure(served, client, context(), server_hostname="localhost")
        secured.sendall(b"go\n")
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"write_timeout": 1}
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            read_all(secured)


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_session_can_be_cut_from_outside(handler: Any) -> None:
    """By another thread too, and no cipher text reaches the handler."""
    with serve(handler, stages=(stage(),)) as served:
        client = connect(served)
        assert read_exactly(client, 5) == b"None:"
        session = only_session(served)
        served.server._get_own_loop().call_soon(lambda: session.cut("killed"))
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"killed": 1}


@pytest.mark.parametrize("handler", HANDLERS)
def test_damaged_records_end_the_session(handler: Any) -> None:
    """What does not decrypt is the peer's fault, or that of somebody between; not ours."""
    with serve(handler, stages=(stage(),)) as served:
        client = connect(served)
        assert read_exactly(client, 5) == b"None:"
        socket.socket.send(client, b"\x17\x03\x03\x00\x20" + bytes(32))
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"protocol_error": 1}
        assert served.service.counters.errors == 0


def ask_for_keys(client: ssl.SSLSocket) -> None:
    """Has the client change its keys and ask the server to do so too (RFC 8446, 4.6.3), for which
    Python has no name: the SSL of OpenSSL is the second field of its object."""
    library = ctypes.CDLL(_ssl.__file__)
    held: Any = client
    pointer = ctypes.c_void_p.from_address(id(held._sslobj) + object.__basicsize__ + 8)
    assert library.SSL_key_update(pointer, 1) == 1
    assert library.SSL_do_handshake(pointer) == 1


@pytest.mark.parametrize("handler", [Echo, Talk])
def test_a_client_that_asks_for_keys_and_does_not_read_only_waits(handler: Any) -> None:
    """Each change of keys is answered, until there is no room for an answer; then nothing more is
    read from it, and all goes on where it was once the client reads."""
    options = SocketOptions(send_buffer=4096)
    with serve(handler, stages=(stage(),), socket_options=options) as served:
        client = connect(served)
        assert read_exactly(client, 5) == b"None:"
        session = only_session(served)
        sent = 0
        while not waits_to_write(session):
            ask_for_keys(client)
            sent += 1
            assert sent < 100_000
        for _ in range(2):
            client.sendall(b"abc\n")
            assert read_exactly(client, 4) == b"abc\n"
        wait_until(lambda: not waits_to_write(session))
        client.unwrap().close()
        wait_until(lambda: served.service.counters.ended)
        assert dict(served.service.counters.ended) == {"eof": 1}


def waits_to_write(session: Any) -> bool:
    """Whether a session that only reads waits for room to write."""
    if isinstance(session, SecuredSteps):
        return session.interest == EPOLLOUT
    return bool(session.request.waits_for == POLLOUT)


# -- clients that do not come so far


def refused(served: Served) -> dict[str, int]:
    """Why clients were turned away, once there is one."""
    return dict(wait_until(lambda: served.service.gate.refused))


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"hello\n", b"this port speaks TLS\r\n"),
        (b"\0\0\0\0", b"\x15\x03\x01\x00\x02\x02\x0a"),
    ],
)
def test_a_client_that_speaks_no_tls_is_told(sent: bytes, answer: bytes) -> None:
    """In its own way: HTTP, text, or an alert."""
    with serve(Echo, stages=(stage(),)) as served:
        client = served.connect()
        client.sendall(sent)
        assert read_all(client).startswith(answer)
        assert refused(served) == {"handshake": 1}


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff" + bytes(2000), b"\x16\x03" * 1000],
)
def test_what_merely_begins_like_a_handshake_is_answered_by_an_alert(sent: bytes) -> None:
    """OpenSSL finds out, and the client can read what it says."""
    with serve(Echo, stages=(stage(),)) as served:
        client = served.connect()
        client.sendall(sent)
        assert read_all(client)[:1] == b"\x15"
        assert refused(served) == {"handshake": 1}


@pytest.mark.parametrize("transport", STREAMS)
def test_a_hello_may_come_byte_by_byte(transport: str) -> None:
    """On a UNIX socket too, where the kernel takes so many writes and no more until it is read."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    with serve(Echo, transport, stages=(stage(),)) as served:
        client = served.connect()
        for byte in outgoing.read():
            client.sendall(bytes([byte]))
        incoming.write(client.recv(65_536))
        half.do_handshake()
        assert half.version() == "TLSv1.3"


def test_an_old_version_is_refused_by_an_alert() -> None:
    """TLS 1.1, and 1.2 where that is not wanted."""
    hello = "1603010031010000 2d0302".replace(" ", "")
    body = bytes.fromhex(hello) + bytes(32) + bytes.fromhex("000006c013c009002f0100")
    with serve(Echo, stages=(stage(),)) as served:
        client = served.connect()
        client.sendall(body)
        assert read_all(client) == bytes.fromhex("15030200020246")  # protocol_version
        assert refused(served) == {"handshake": 1}
    with serve(Echo, stages=(stage(min_version="TLSv1.3"),)) as served:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            connect(served, using=context(maximum_version=ssl.TLSVersion.TLSv1_2))
        assert refused(served) == {"handshake": 1}


def test_mute_clients_hold_up_nobody_and_cost_little() -> None:
    """They have one deadline; OpenSSL is not asked for anything before they have said hello."""
    timeouts = Timeouts(handshake_timeout="2s")
    with serve(Echo, stages=(stage(),), timeouts=timeouts) as served:
        mute, began = [served.connect() for _ in range(100)], monotonic()
        for client in mute[:50]:
            client.sendall(b"\x16\x03\x01\x02\x00\x01")
        wait_until(lambda: len(served.server.sessions) == 100)
        began_one = monotonic()
        assert read_exactly(connect(served), 5) == b"None:"
        assert monotonic() - began_one < 1.0  # while all of them are still there
        assert not any(
            isinstance(request, ssl.SSLSocket) for request in list(served.server.sessions)[:100]
        )
        for client in mute:
            assert read_all_or_reset(client) == b""
        assert 2.0 <= monotonic() - began < SOON * slowness()
        assert served.service.counters.ended["handshake_timeout"] == 100


def read_all_or_reset(client: socket.socket) -> bytes:
    """All that comes; what was not read at the other end makes its end a reset."""
    try:
        return read_all(client)
    except ConnectionResetError:
        return b""


def test_a_client_that_leaves_in_the_handshake_is_over() -> None:
    """By a FIN or an RST, wherever it is."""
    for how, reason in (("fin", "eof"), ("rst", "reset")):
        with serve(Echo, stages=(stage(),)) as served:
            outgoing = ssl.MemoryBIO()
            half = context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                half.do_handshake()
            client = served.connect()
            client.sendall(outgoing.read())
            assert client.recv(5) == b"\x16\x03\x03\x00\x7a"
            if how == "rst":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            else:
                client.shutdown(socket.SHUT_WR)
            wait_until(lambda served=served: served.service.counters.ended)
            assert dict(served.service.counters.ended) == {reason: 1}


@pytest.mark.parametrize("handler", [Talk, Stock])
def test_a_client_without_a_thread_is_told_so_over_tls(handler: Any) -> None:
    """It can read why, though no handler was made for it."""
    with serve(handler, stages=(stage(),), pool=Pool(1), banner_fail="{reason}\n") as served:
        first = connect(served)
        assert read_exactly(first, 5) == b"None:"
        assert read_all(connect(served)) == b"threads\n"
        assert refused(served) == {"threads": 1}


def test_a_client_that_fails_behind_tls_is_told_so_over_tls() -> None:
    """A stage that turns it away does so in what it can read, and ends in order."""
    with serve(Echo, stages=(stage(), password), banner_fail="{reason}\n") as served:
        client = connect(served)
        client.sendall(b"simsim")
        assert read_all(client) == b"?auth\n"
        assert refused(served) == {"auth": 1}


# -- certificates of clients


@pytest.mark.parametrize("handler", HANDLERS)
def test_the_name_in_a_certificate_is_the_user(handler: Any) -> None:
    """The handler and the session know it, once the certificate has been verified."""
    roots = str(certificates.root().certificate)
    with serve(handler, stages=(stage(client_ca=roots),)) as served:
        using = context()
        pair = certificates.client("alice")
        using.load_cert_chain(pair.certificate, pair.key)
        assert read_exactly(connect(served, using=using), 6) == b"alice:"
        assert only_session(served).identity.certificate_name == "alice"


def test_authentication_outdoes_the_certificate() -> None:
    """Who has shown to be somebody by `auth` is that one."""
    roots = str(certificates.root().certificate)
    with serve(Echo, stages=(stage(client_ca=roots), password)) as served:
        using = context()
        pair = certificates.client("alice")
        using.load_cert_chain(pair.certificate, pair.key)
        client = connect(served, using=using)
        client.sendall(b"sesame")
        assert read_exactly(client, 5) == b"?Ali:"
        assert only_session(served).identity.certificate_name == "alice"


def test_a_client_without_a_certificate_is_refused_where_one_is_required() -> None:
    """And let in, as nobody, where it is optional."""
    roots = str(certificates.root().certificate)
    with serve(Echo, stages=(stage(client_ca=roots),)) as served:
        client = connect(served)
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            client.recv(1)
        assert refused(served) == {"handshake": 1}
    with serve(Echo, stages=(stage(client_ca=roots, client_certificate="optional"),)) as served:
        assert read_exactly(connect(served), 5) == b"None:"


def test_a_certificate_of_another_root_is_refused() -> None:
    """Also where it is optional to show one."""
    mine, roots = certificates.stranger(), str(certificates.root().certificate)
    for wish in ("required", "optional"):
        with serve(Echo, stages=(stage(client_ca=roots, client_certificate=wish),)) as served:
            using = context()
            using.load_cert_chain(mine.certificate, mine.key)
            client = connect(served, using=using)
            with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
                client.recv(1)
            assert refused(served) == {"handshake": 1}


# -- names of servers


def test_the_certificate_is_that_of_the_name_asked_for() -> None:
    """Exactly, by a wildcard, or else the service's own."""
    exact, wild = (
        certificates.make("exact", ("a.example",)),
        certificates.make("wild", ("*.b.example",)),
    )
    names = {"a.example": exact.stanza, "*.B.example": wild.stanza}
    with serve(Echo, stages=(stage(sni=names),)) as served:
        for name, common in (
            ("a.example", "exact"), ("x.b.example", "wild"), ("localhost", "server"),
        ):  # fmt: skip
            client = connect(served, name)
            subject: Any = (client.getpeercert() or {})["subject"]
            assert dict(part[0] for part in subject)["commonName"] == common
            assert read_exactly(client, 5) == b"None:"
            client.close()
        using = context(check_hostname=False)
        client = secure(served, served.connect(), using)  # asks for no name
        assert read_exactly(client, 5) == b"None:"


def test_a_name_that_is_no_ascii_is_refused_without_a_traceback(capfd: Any) -> None:
    """Python would write one to standard error for any client that wants it to."""
    outgoing = ssl.MemoryBIO()
    half = context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a-long-name.example")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    hello = outgoing.read().replace(b"a-long-name.example", b"a-long-n\xff\xfee.example")
    with serve(Echo, stages=(stage(),)) as served:
        client = served.connect()
        client.sendall(hello)
        assert read_all(client)[:1] == b"\x15"
        assert refused(served) == {"handshake": 1}
    assert capfd.readouterr().err == ""


# -- renewal


def test_certificates_are_renewed_while_sessions_stay(tmp_path: Any) -> None:
    """Who comes after it is shown the new one; a wrong one leaves all as it is."""
    files = {"certificate": tmp_path / "now.pem", "key": tmp_path / "now.key"}

    def put(pair: certificates.Pair) -> None:
        files["certificate"].write_bytes(pair.certificate.read_bytes())
        files["key"].write_bytes(pair.key.read_bytes())
        files["key"].chmod(0o600)

    def shown(client: ssl.SSLSocket) -> Any:
        subject: Any = (client.getpeercert() or {})["subject"]
        return dict(part[0] for part in subject)["commonName"]

    put(certificates.make("server"))
    renewed = stage(**{key: str(file) for key, file in files.items()})
    with serve(Echo, stages=(renewed,)) as served:
        before = connect(served)
        put(certificates.make("newer"))
        assert shown(connect(served)) == "server"
        renewed.tls.renew()
        assert shown(connect(served)) == "newer"
        files["key"].write_text("nothing")
        with pytest.raises(ConfigError, match="there is no key in it"):
            renewed.tls.renew()
        assert shown(connect(served)) == "newer"
        before.sendall(b"still")
        assert read_exactly(before, 10) == b"None:still"
