"""The status page over HTTP: who is answered what, and that nobody can hold it or hurt netd."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from harness import (
    CHECKOUT,
    PATIENCE,
    SOON,
    Netd,
    ask,
    environment,
    new_folder,
    python_path,
    read_all,
    read_exactly,
    run_netd,
    slowness,
    wait_until,
)
from hypothesis import given
from hypothesis import strategies as st
from roll import Listed

from netd.events import Events
from netd.listener import SocketOptions
from netd.report import Report
from netd.status.server import CLIENTS, HEAD_LIMIT, THREADS, StatusUnit
from netd.status.site import Site, host_name, is_address

CONFIG: dict[str, Any] = {
    "status": {"listen": "127.0.0.1:0", "hosts": ["netd.example"]},
    "services": {"echo": {"protocol": "echo", "listen": ["tcp://127.0.0.1:0"]}},
}
STATE = {"uptime": 1.0, "version": "0", "pid": 1}
WAITING = """
from pathlib import Path
from time import sleep
from netd.handler import RequestHandler
class Waiting(RequestHandler):
    def data_received(self, data):
        Path(data.decode(), "here").touch()
        while not Path(data.decode(), "go-on").exists():
            sleep(0.01)
        self.send(b"done")
"""
FOREIGN = [
    ["evil.example"], ["evil.example:9464"], ["127.0.0.1.evil.example"], ["a@localhost"], [""],
    ["localhost.evil.example"], ["localhost", "evil.example"], ["localhost", "localhost"],
    ["localhost:x"], ["[localhost]"],
]  # fmt: skip
STRICT = [
    "X-Content-Type-Options: nosniff", "X-Frame-Options: DENY", "Referrer-Policy: no-referrer",
    "Cross-Origin-Resource-Policy: same-origin", "Cache-Control: no-store",
]  # fmt: skip
UNTOUCHED = """
import netd.cli.netd, sys
sys.exit(bool({"http.server", "prometheus_client"} & set(sys.modules)))
"""


@contextmanager
def served(timeout: float = 10.0) -> Iterator[tuple[StatusUnit, Any]]:
    """A status page of no services in this process, and where it listens."""
    unit = StatusUnit(Site(Report(Listed(), lambda: STATE, Events()), ["netd.example"]), timeout)
    server = unit.make(socket.AF_INET, ("127.0.0.1", 0), SocketOptions())
    unit.servers.append(server)
    server.server_bind()
    server.server_activate()
    unit.start()
    try:
        yield unit, server.server_address
    finally:
        unit.stop()
        unit.close(monotonic() + PATIENCE)


@pytest.fixture(scope="module")
def address() -> Iterator[Any]:
    """Where a status page is."""
    with served() as (_, found):
        yield found


def send(address: Any, request: bytes) -> bytes:
    """All that is answered to some bytes."""
    with socket.create_connection(address, PATIENCE) as client:
        return ask(client, request)


def status_of(answer: bytes) -> int:
    """The status of a response."""
    return int(answer.split(b" ", 2)[1])


def get(netd: Netd, path: str, **headers: str) -> tuple[HTTPResponse, bytes]:
    """A response of a daemon, with its body."""
    (place,) = netd.addresses["status"]
    connection = HTTPConnection(place.host, place.port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


# -- requests


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/status.json?x=1", "application/json"),
        ("/healthz", "application/json"),
    ],
)
def test_what_there_is_is_answered(path: str, kind: str) -> None:
    """With its type and its length, and to HEAD without the body."""
    with run_netd(CONFIG) as netd:
        response, body = get(netd, path)
        assert response.status == 200
        assert response.getheader("Content-Type") == kind
        assert response.getheader("Content-Length") == str(len(body))
        with netd.connect("status") as client:
            head = ask(client, f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        assert head.startswith(b"HTTP/1.0 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "x"])
def test_nothing_can_be_changed(address: Any, method: str) -> None:
    """Any other method is refused, and told which there are, though it sends a body along."""
    request = f"{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n".encode()
    answer = send(address, request + b"x" * 90_000)
    assert status_of(answer) == 405
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.0\r\n\r\n", 404),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /../etc/passwd HTTP/1.0\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/x\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"x" * HEAD_LIMIT + b" HTTP/1.0\r\n\r\n", 431),
        (b"GET / HTTP/1.0\r\nA: " + b"x" * 1_000_000, 431),
    ],
    ids=str,
)
def test_what_is_no_good_request_is_refused(address: Any, request_: bytes, status: int) -> None:
    """In a line of plain text, which no browser takes for a page."""
    answer = send(address, request_)
    assert status_of(answer) == status
    assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in answer
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer


def test_every_answer_has_headers(address: Any) -> None:
    """HTTP/0.9 would give a browser something that it may take for a page."""
    answer = send(address, b"GET /x\r\n\r\n")
    assert status_of(answer) == 404
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]:9464", "localhost:9464", "netd.example",
                                  "NETD.example:80", "192.0.2.1"])  # fmt: skip
def test_it_answers_to_addresses_and_its_own_names(address: Any, host: str) -> None:
    """With a port or without one, in any case of letters."""
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert status_of(send(address, request)) == 200


@pytest.mark.parametrize("hosts", FOREIGN, ids=",".join)
def test_it_does_not_answer_to_other_names(address: Any, hosts: list[str]) -> None:
    """By DNS rebinding a page of somebody else would read it in the browser of the
    administrator."""
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    answer = send(address, f"GET /status.json HTTP/1.1\r\n{lines}\r\n".encode())
    assert status_of(answer) == 421
    assert b"evil" not in answer


@given(st.text(), st.one_of(st.just(""), st.integers(0, 65_535).map(":{}".format)))
def test_a_host_is_a_name_and_a_port(name: str, port: str) -> None:
    """Anything that is read as one has nothing of the port in it."""
    found = host_name(name + port)
    assert found is None or found == "" or ":" not in found or is_address(found) or "[" in name


@given(st.ip_addresses(), st.one_of(st.just(""), st.integers(0, 65_535).map(":{}".format)))
def test_every_address_is_one(ip: Any, port: str) -> None:
    """As it stands in a Host header."""
    name = host_name((f"[{ip}]" if ip.version == 6 else str(ip)) + port)
    assert name is not None
    assert is_address(name)


@given(
    st.sampled_from([b"", b"GET ", b"GET / HTTP/1.0\r\n"]), st.binary(max_size=300), st.booleans()
)
def test_no_bytes_make_it_fail(address: Any, begin: bytes, rest: bytes, whole: bool) -> None:
    """They are answered in HTTP, or not at all."""
    answer = send(address, begin + rest + b"\r\n\r\n" * whole)
    assert answer == b"" or answer.startswith(b"HTTP/1.0 ")
    assert not answer.startswith(b"HTTP/1.0 500")


def test_a_whole_request_may_come_byte_by_byte(address: Any) -> None:
    """It is answered as any other one."""
    with socket.create_connection(address, PATIENCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET / HTTP/1.0\r\n\r\n":
            client.send(bytes([byte]))
        assert status_of(read_all(client)) == 200


def test_the_headers_keep_browsers_strict(address: Any) -> None:
    """On the page, whose own script alone may run, and on all else, where none may."""
    page = send(address, b"GET / HTTP/1.0\r\n\r\n").split(b"\r\n\r\n")[0].decode()
    assert "script-src 'sha256-" in page
    assert "unsafe" not in page
    assert "Access-Control" not in page
    for answer in (page, send(address, b"GET /x HTTP/1.0\r\n\r\n").decode()):
        assert "Content-Security-Policy: default-src 'none'" in answer
        assert "frame-ancestors 'none'" in answer
        for line in STRICT:
            assert f"\r\n{line}\r\n" in answer + "\r\n"


# -- clients who take their time


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.0\r\nA: b"])
def test_a_client_who_does_not_end_its_request_is_ended(sent: bytes) -> None:
    """However much it has sent, and though it goes on."""
    with served(timeout=0.3) as (unit, address):
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(sent)
            wait_until(lambda: unit.open == 1)
            client.settimeout(0.05)
            began = monotonic()

            def is_over() -> bool:
                try:
                    client.sendall(b"x")  # a byte now and then buys no time
                    return client.recv(1) == b""
                except TimeoutError:
                    return False
                except ConnectionError:
                    return True

            wait_until(is_over)
            assert monotonic() - began >= 0.2
        wait_until(lambda: unit.open == 0)
        assert unit.state()["ended"] == {"session_timeout": 1}


def _is_healthy(netd: Netd) -> bool:
    try:
        return get(netd, "/healthz")[0].status == 200
    except ConnectionError:
        return False


def test_a_thousand_idle_clients_keep_nobody_out() -> None:
    """Neither from the page nor from the services; those who have waited longest make way."""
    with run_netd(CONFIG) as netd, ExitStack() as closing:
        client = netd.connect("echo")
        (place,) = netd.addresses["status"]
        for number in range(1000):
            idle = closing.enter_context(socket.socket())
            idle.settimeout(PATIENCE)
            idle.connect((place.host, place.port))
            if number % 100 == 0:
                client.sendall(b"hello")
                assert read_exactly(client, 5) == b"hello"
        # On a busy machine those who make way may not have left their threads yet.
        wait_until(lambda: _is_healthy(netd))
        state = netd.state()["status"]
        assert state["open"] <= CLIENTS + 1
        assert state["ended"]["displaced"] >= 1000 - THREADS - state["refused"].get("threads", 0)
        threads = len(list(Path(f"/proc/{netd.pid}/task").iterdir()))
        assert threads <= THREADS + 6
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"


# -- health


def test_a_service_that_stands_still_is_named() -> None:
    """With 503 as long as it does; the others are not, and the page is told too."""
    waiting = {"handler": "waiting:Waiting", "listen": ["tcp://127.0.0.1:0"]}
    config = CONFIG | {"services": CONFIG["services"] | {"waiting": waiting}}
    with new_folder() as folder:
        (folder / "waiting.py").write_text(WAITING)
        with run_netd(config, env={"PYTHONPATH": python_path(folder)}) as netd:
            assert json.loads(get(netd, "/healthz")[1]) == {"status": "ok", "stuck": []}
            client = netd.connect("waiting")
            client.sendall(str(folder).encode())
            wait_until((folder / "here").exists)
            began = monotonic()
            response, body = get(netd, "/healthz")
            assert response.status == 503
            assert json.loads(body) == {"status": "stuck", "stuck": ["waiting"]}
            assert 1.5 < monotonic() - began < SOON * slowness()
            services = json.loads(get(netd, "/status.json")[1])["services"]
            assert (services["waiting"]["state"], services["echo"]["state"]) == ("stuck", "serving")
            assert services["waiting"]["silence"] > 2
            (folder / "go-on").touch()
            assert read_exactly(client, 4) == b"done"
            wait_until(lambda: get(netd, "/healthz")[0].status == 200)


# -- the daemon


def test_the_status_tells_of_all_services() -> None:
    """Those that are disabled too; and refusals, with the peer as the log has it written."""
    echo = CONFIG["services"]["echo"]
    config = CONFIG | {
        "log": {"address": "prefix"},
        "services": {
            "echo": echo | {"no_access": ["127.0.0.0/8"]},
            "off": {"protocol": "echo", "listen": ["tcp://127.0.0.1:0"], "enabled": False},
        },
    }
    with run_netd(config) as netd:
        read_all(netd.connect("echo"))
        status = json.loads(get(netd, "/status.json")[1])
        assert status["services"]["echo"]["refused"] == {"address": 1}
        assert status["services"]["off"] == {"state": "disabled", "protocol": "echo"}
        (event,) = status["events"]
        assert (event["kind"], event["service"], event["text"]) == ("refused", "echo", "address")
        assert (event["peer"], event["times"]) == ("127.0.0.0/24", 1)
        assert status["daemon"]["pid"] == netd.pid
        assert status["daemon"]["descriptors"] > 8


def test_it_is_served_on_a_unix_socket_too() -> None:
    """Beside the control socket, with the mode that was asked for; gone at the end."""
    status = {"listen": "unix:status.sock", "socket_mode": "0600"}
    with run_netd(CONFIG | {"status": status}) as netd:
        file = netd.runtime_folder / "status.sock"
        assert file.stat().st_mode & 0o777 == 0o600
        with netd.connect("status", "unix") as client:
            answer = ask(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(answer) == 200
        assert netd.stop() == 0
        assert not file.exists()


def test_a_port_that_is_taken_is_a_start_error() -> None:
    """Told beside those of the services, with status 71."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with run_netd(CONFIG | {"status": {"listen": taken}}, ready=False) as netd:
            assert netd.wait() == 71
            assert netd.log == [
                f"netd: status: cannot listen on tcp://{taken}: the address is in use"
                " (`ss -lnp` shows by whom)"
            ]


def test_a_request_in_hand_is_answered_before_the_end() -> None:
    """It is drained as the services are, and takes no more clients."""
    with run_netd(CONFIG) as netd:
        client = netd.connect("status")
        client.sendall(b"GET /status.json HTTP/1.0\r\n")
        wait_until(lambda: netd.state()["status"]["open"] == 1)
        netd.send_signal(signal.SIGTERM)
        netd.wait_for_log("draining")
        (place,) = netd.addresses["status"]

        def is_closed() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((place.host, place.port)) != 0

        wait_until(is_closed)
        client.sendall(b"\r\n")
        assert status_of(read_all(client)) == 200
        assert netd.wait() == 0


def test_scrapes_leave_no_lines_in_the_log() -> None:
    """They come every few seconds, for ever."""
    with run_netd(CONFIG) as netd:
        lines = len(netd.log)
        get(netd, "/healthz")
        wait_until(lambda: netd.state()["status"]["ended"])
        assert not [line for line in netd.log[lines:] if "session" in line and "{" not in line]


def test_without_it_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    """Its libraries cost a daemon without a status page neither time nor memory."""
    done = subprocess.run(
        [sys.executable, "-c", UNTOUCHED], cwd=CHECKOUT, env=environment(tmp_path), check=False
    )
    assert done.returncode == 0
