"""Other people's programs as judges: clients of TLS, and a proxy in front of netd."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import certificates
import pytest
from harness import PATIENCE, Served, read_all, read_exactly, serve, wait_until
from test_prelude import Echo, only_session
from test_tls import context, secure, stage

from netd.gate import Admission
from netd.proxy_protocol import Announcement, ProxyProtocol

MISSING = certificates.MISSING


def needs(program: str) -> Any:
    """Skips a test where a program is not installed."""
    return pytest.mark.skipif(
        bool(MISSING) or which(program) is None, reason=f"{program} is not installed"
    )


def run(*command: str | Path, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A program that ends by itself."""
    return subprocess.run(
        [*map(str, command)], input=said, capture_output=True, timeout=4 * PATIENCE
    )


def talk(command: list[str | Path], *turns: tuple[bytes, bytes]) -> bytes:
    """Has turns with a program, each a line for it and the end of what it writes then; all that it
    has written once its input has ended."""
    with subprocess.Popen(
        [*map(str, command)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        written = b""
        for said, end in turns:
            process.stdin.write(said)
            process.stdin.flush()
            seen = len(written)
            while not written[seen:].endswith(end):
                more = process.stdout.read(1)
                assert more, written
                written += more
        process.stdin.close()
        return written + process.stdout.read()


def ended(served: Served) -> dict[str, int]:
    """How sessions have ended, once one has."""
    return dict(wait_until(lambda: served.service.counters.ended))


CHACHA = "TLS_CHACHA20_POLY1305_SHA256"
QUIET = ("-quiet", "-no_ign_eof")


def s_client(served: Served, *options: str | Path) -> list[str | Path]:
    """openssl(1) as a client that trusts the root and checks the name."""
    host, port = served.address
    return [
        "openssl", "s_client", "-connect", f"{host}:{port}", "-servername", "localhost",
        "-verify_hostname", "localhost", "-verify_return_error",
        "-CAfile", certificates.root().certificate, *options,
    ]  # fmt: skip


class Web(http.server.BaseHTTPRequestHandler):
    """A handler of the standard library: HTTP, which knows nothing of TLS."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers with who asks."""
        text = f"{self.request.user}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """netd writes the log."""


@pytest.mark.parametrize(
    ("options", "cipher"),
    [
        (["-tls1_3"], "TLS_AES_256_GCM_SHA384"),
        (
            ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
        (["-tls1_2"], "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ],
)
@needs("openssl")
def test_openssl_agrees_on_what_is_spoken(options: list[str], cipher: str) -> None:
    """The chain is verified, and the stream ends in order."""
    with serve(Echo, stages=(stage(),)) as served:
        talk(s_client(served, *QUIET, *options), (b"hello\n", b"None:hello\n"), (b"Q\n", b""))
        assert ended(served) == {"eof": 1}
        done = run(*s_client(served, *options), said=b"Q\n")
        assert f"Cipher is {cipher}".encode() in done.stdout
        assert b"Verify return code: 0 (ok)" in done.stdout


@pytest.mark.parametrize("options", [["-tls1_1"], ["-tls1"], ["-tls1_2", "-cipher", "AES128-SHA"]])
@needs("openssl")
def test_openssl_is_refused_what_is_weak(options: list[str]) -> None:
    """Old versions, and ciphers without forward secrecy."""
    with serve(Echo, stages=(stage(),)) as served:
        weakest = ["-cipher", "DEFAULT:@SECLEVEL=0"] if "-cipher" not in options else []
        done = run(*s_client(served, *weakest, *options))
        assert done.returncode != 0
        assert b"alert" in done.stderr
        assert dict(served.service.gate.refused) == {"handshake": 1}


@needs("openssl")
def test_openssl_may_ask_for_new_keys_in_a_session() -> None:
    """KeyUpdate of TLS 1.3, with an answer (RFC 8446, 4.6.3); the renegotiation of 1.2 is refused,
    which costs the client next to nothing and the server much."""
    with serve(Echo, stages=(stage(),)) as served:
        turns = (b"a\n", b"None:a\n"), (b"K\n", b"KEYUPDATE\n"), (b"b\n", b"b\n"), (b"Q\n", b"")
        talk(s_client(served, *QUIET, "-tls1_3"), *turns)
        assert ended(served) == {"eof": 1}
    with serve(Echo, stages=(stage(),)) as served:
        turns = (b"a\n", b"None:a\n"), (b"R\n", b"no renegotiation")
        talk(s_client(served, *QUIET, "-tls1_2"), *turns)
        assert served.service.counters.errors == 0


@needs("ncat")
def test_ncat_is_served() -> None:
    """With the certificate verified."""
    with serve(Echo, stages=(stage(),)) as served:
        host, port = served.address
        done = run(
            "ncat", "--ssl-verify", "--ssl-trustfile", certificates.root().certificate,
            "--ssl-servername", "localhost", "--no-shutdown", "-i", "500ms", host, str(port),
            said=b"hello\n",
        )  # fmt: skip
        assert done.stdout == b"None:hello\n"


@needs("socat")
def test_socat_is_served_and_shows_its_certificate() -> None:
    """Both sides are verified; a half-close leaves the rest of the answer whole."""
    roots = certificates.root().certificate
    with serve(Echo, stages=(stage(client_ca=str(roots)),)) as served:
        mine, (host, port) = certificates.client("alice"), served.address
        done = run(
            "socat", "-t5", "STDIO",
            f"OPENSSL:{host}:{port},cafile={roots},cert={mine.certificate},key={mine.key},"
            "commonname=server,snihost=localhost",
            said=b"x" * 200_000,
        )  # fmt: skip
        assert done.stderr == b""
        assert done.stdout == b"alice:" + b"x" * 200_000


@needs("curl")
def test_curl_reads_a_stock_handler_over_tls() -> None:
    """A web server of the standard library is served as it is, one request after the other."""
    roots = certificates.root().certificate
    with serve(Web, stages=(stage(client_ca=str(roots), alpn=["http/1.1"]),)) as served:
        mine, port = certificates.client("alice"), served.address[1]
        done = run(
            "curl", "-sS", "--cacert", roots, "--cert", mine.certificate, "--key", mine.key,
            f"https://localhost:{port}/", f"https://localhost:{port}/again",
            "--resolve", f"localhost:{port}:127.0.0.1",
        )  # fmt: skip
        assert (done.stdout, done.stderr) == (b"alice\nalice\n", b"")
        assert ended(served) == {"eof": 1}


@needs("curl")
def test_curl_is_told_that_the_port_speaks_tls() -> None:
    """In HTTP, since that is what it speaks."""
    with serve(Web, stages=(stage(),)) as served:
        done = run("curl", "-sS", "-w", "%{http_code}", f"http://127.0.0.1:{served.address[1]}/")
        assert done.stdout == b"This port speaks TLS (https://).\n400"


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["EC", "RSA"])
@needs("testssl")
def test_testssl_finds_nothing_above_low(kind: str, tmp_path: Path) -> None:
    """Protocols, ciphers, the certificate, and all the attacks that it knows."""
    pair = certificates.make(f"judged-{kind}", kind=kind)
    report = tmp_path / "report.json"
    with serve(Echo, stages=(stage(**pair.stanza),)) as served:
        subprocess.run(
            [
                "testssl", "--quiet", "--warnings", "off", "--jsonfile", report, "--ip", "one",
                "--add-ca", certificates.root().certificate, "-p", "-s", "-f", "-P", "-S", "-U",
                f"localhost:{served.address[1]}",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip
        assert served.service.counters.errors == 0
    findings = json.loads(report.read_text())
    assert len(findings) > 50
    grave = [each for each in findings if each["severity"] in ("MEDIUM", "HIGH", "CRITICAL")]
    assert grave == []


# -- the PROXY protocol


def joined(address: tuple[str, int]) -> str:
    """An address of IPv4 as it is written."""
    host, port = address
    return f"{host}:{port}"


@contextmanager
def haproxy(folder: Path, served: Served, *options: str) -> Iterator[dict[str, Any]]:
    """HAProxy in front of a server, with an address for each way to speak to that."""
    listeners = {option: socket.create_server(("127.0.0.1", 0)) for option in options}
    target = served.address if isinstance(served.address, str) else joined(served.address)
    parts = [
        "global\n    maxconn 50\ndefaults\n    mode tcp\n    timeout connect 5s\n"
        "    timeout client 5s\n    timeout server 5s\n"
    ]
    for option, listener in listeners.items():
        parts.append(f"listen l{listener.fileno()}\n    bind fd@{listener.fileno()}\n"
                     f"    server netd {target} {option}\n")  # fmt: skip
    file = folder / "haproxy.cfg"
    file.write_text("".join(parts))
    with ExitStack() as closing:
        for listener in listeners.values():
            closing.enter_context(listener)
        process = subprocess.Popen(
            ["haproxy", "-db", "-q", "-f", file],
            pass_fds=[listener.fileno() for listener in listeners.values()],
        )
        closing.callback(process.wait, PATIENCE)
        closing.callback(process.kill)
        yield {option: listener.getsockname() for option, listener in listeners.items()}


def announcement(*networks: str, **more: Any) -> Announcement:
    """The stage of a service that trusts these networks."""
    return Announcement(ProxyProtocol.model_validate({"from": list(networks), **more}))


def client_of(address: Any, source: str) -> socket.socket:
    """A client that comes from a certain address."""
    return socket.create_connection(address, PATIENCE, (source, 0))


@needs("haproxy")
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_haproxy_says_whom_it_speaks_for(tmp_path: Path, transport: str) -> None:
    """By both versions, with and without what else it can put into a header."""
    ways = ("send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c")
    with serve(Echo, transport, announcement=announcement("127.0.0.1")) as served:
        with haproxy(tmp_path, served, *ways) as addresses:
            for number, way in enumerate(ways, 1):
                with client_of(addresses[way], f"127.0.5.{number}") as client:
                    client.sendall(b"x")
                    assert read_exactly(client, 6) == b"None:x"
                    session = only_session(served)
                    assert session.client_address == client.getsockname()
                    assert session.peer == joined(client.getsockname())
                    assert session.origin == f"127.0.5.{number}"
                wait_until(lambda: not served.server.sessions)
        assert dict(served.service.gate.refused) == {}


@needs("haproxy")
def test_haproxys_clients_are_judged_one_by_one(tmp_path: Path) -> None:
    """An access list, and a limit for each source, hold for those behind it."""
    rules = Admission(no_access=["127.0.6.0/24"], max_connections_per_source=1)
    with (
        serve(
            Echo, announcement=announcement("127.0.0.1"), rules=rules, banner_fail="{reason}\n"
        ) as served,
        haproxy(tmp_path, served, "send-proxy-v2") as addresses,
        ExitStack() as closing,
    ):
        answers = []
        for source in ("127.0.5.1", "127.0.5.2", "127.0.5.1", "127.0.6.1"):
            client = closing.enter_context(client_of(addresses["send-proxy-v2"], source))
            client.sendall(b"x")
            answers.append(client.recv(100)[:5])
        assert answers == [b"None:", b"None:", b"per_s", b"addre"]


@needs("haproxy")
def test_haproxy_checks_the_health_of_a_service(tmp_path: Path) -> None:
    """Its own checks say LOCAL: they are sessions of the proxy itself, and let in."""
    way = "send-proxy-v2 check inter 100ms"
    with (
        serve(Echo, announcement=announcement("127.0.0.1")) as served,
        haproxy(tmp_path, served, way) as addresses,
    ):
        wait_until(lambda: served.service.gate.admitted > 2)
        with client_of(addresses[way], "127.0.5.1") as client:
            client.sendall(b"x")
            assert read_exactly(client, 6) == b"None:x"
        assert dict(served.service.gate.refused) == {}


@needs("haproxy")
def test_haproxy_passes_tls_on_or_speaks_it_itself(tmp_path: Path) -> None:
    """The header comes first, and TLS behind it, whosever that is."""
    roots = certificates.root().certificate
    own = f"send-proxy-v2 ssl verify required ca-file {roots} sni str(localhost)"
    with (
        serve(Echo, announcement=announcement("127.0.0.1"), stages=(stage(),)) as served,
        haproxy(tmp_path, served, "send-proxy", own) as addresses,
    ):
        client = served.keep(client_of(addresses["send-proxy"], "127.0.5.1"))
        passed = secure(served, client, context(), server_hostname="localhost")
        passed.sendall(b"x")
        assert read_exactly(passed, 6) == b"None:x"
        assert only_session(served).client_address == passed.getsockname()
        with client_of(addresses[own], "127.0.5.2") as plain:
            plain.sendall(b"y")
            assert read_exactly(plain, 6) == b"None:y"


@needs("haproxy")
def test_haproxy_without_a_header_is_turned_away(tmp_path: Path) -> None:
    """Then anybody could be behind it."""
    with (
        serve(Echo, announcement=announcement("127.0.0.1"), banner_fail="{reason}\n") as served,
        haproxy(tmp_path, served, "") as addresses,
        client_of(addresses[""], "127.0.5.1") as client,
    ):
        client.sendall(b"hello\n")
        assert read_all(client) == b"proxy\n"
        assert dict(served.service.gate.refused) == {"proxy": 1}
