"""etc/tutorial.yaml: the clients of the tutorials, unchanged, against every service in it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import CHECKOUT, PATIENCE, Netd, new_folder, read_all, run_netd

from netd import config
from netd.errors import ConfigError

TUTORIAL = CHECKOUT / "etc" / "tutorial.yaml"
CLIENTS = Path(__file__).parent / "tutorial" / "clients.py"
KEY = "linhaifeng bang bang bang\n"


def old_python() -> str | None:
    """A Python 3.7, for which the tutorials were written; None where there is none."""
    kept = sorted(Path.home().glob(".pyenv/versions/3.7.*/bin/python3.7"))
    for found in [*map(str, kept), shutil.which("python3.7")]:
        if found is not None:
            done = subprocess.run([found, "--version"], capture_output=True, text=True)
            if done.stdout.startswith("Python 3.7"):
                return found
    return None


OLD = old_python()
PYTHONS = [
    pytest.param(sys.executable, id="python3"),
    pytest.param(
        OLD, id="python3.7", marks=pytest.mark.skipif(OLD is None, reason="no Python 3.7")
    ),
]


def tutorial() -> dict[str, Any]:
    """The configuration, on free ports."""
    free = re.sub(r"((?:tcp|udp)://\S+):\d+", r"\1:0", TUTORIAL.read_text())
    loaded: dict[str, Any] = yaml.safe_load(free)
    return loaded


@pytest.fixture(scope="module")
def netd() -> Iterator[Netd]:
    """A daemon with the tutorials' services, and their key beside its configuration."""
    with new_folder() as folder:
        (folder / "tutorial.key").write_text(KEY)
        (folder / "tutorial.key").chmod(0o600)
        found = {**tutorial(), "defaults": {"penalties": {"auth": "none"}}}
        with run_netd(found, folder=folder) as running:
            yield running
            assert running.stop() == 0


def ask(netd: Netd, python: str, kind: str, service: str, *lines: str, index: int = 0) -> list[str]:
    """What a client of the tutorials prints."""
    address = netd.addresses[service][index]
    done = subprocess.run(
        [python, CLIENTS, kind, address.host, str(address.port or "-")],
        input="\n".join(lines), capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


WORDS = ("hello", "a second time", "grüße, 你好", "x" * 1000)
ANSWERS = ["HELLO", "A SECOND TIME", "GRüßE, 你好", "X" * 1000]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("index", range(4))
def test_upper_over_tcp(netd: Netd, python: str, index: int) -> None:
    """A1, A4: any number of times, over IPv4 and IPv6; letters of ASCII alone change."""
    assert ask(netd, python, "tcp", "upper-tcp", *WORDS, index=index) == ANSWERS


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("index", [0, 2])
def test_upper_over_udp(netd: Netd, python: str, index: int) -> None:
    """A2: a datagram for each, an empty one for an empty one."""
    words = [*WORDS, "", "after an empty one"]
    answers = [*ANSWERS, "", "AFTER AN EMPTY ONE"]
    assert ask(netd, python, "udp", "upper-udp", *words, index=index) == answers


@pytest.mark.parametrize("python", PYTHONS)
def test_upper_over_a_unix_socket(netd: Netd, python: str) -> None:
    """A4: a file in place of a port."""
    assert ask(netd, python, "unix", "upper-unix", *WORDS) == ANSWERS


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_upper_behind_hmac(netd: Netd, python: str, digest: str) -> None:
    """F1: no word of thanks, the service follows."""
    assert ask(netd, python, f"hmac-{digest}", "upper-hmac", *WORDS) == ANSWERS


@pytest.mark.skipif(OLD is None, reason="no Python 3.7")
def test_upper_behind_hmac_by_the_default_of_python_3_7(netd: Netd) -> None:
    """F1: hmac.new(key, message), which is no longer allowed, was MD5."""
    assert OLD is not None
    assert ask(netd, OLD, "hmac-", "upper-hmac", *WORDS) == ANSWERS


def test_a_wrong_key_ends_the_connection_and_nobody_else_s(netd: Netd) -> None:
    """F1: the next client is served as ever."""
    with netd.connect("upper-hmac") as client:
        assert len(client.recv(1024)) == 32
        client.sendall(bytes(16))
        assert client.recv(1024) == b""
    assert ask(netd, sys.executable, "hmac-sha256", "upper-hmac", "hello") == ["HELLO"]


def test_many_clients_of_upper_at_once(netd: Netd) -> None:
    """A1: the tutorials' second problem, after the first."""
    clients = [netd.connect("upper-tcp") for _ in range(50)]
    try:
        for number, client in enumerate(clients):
            client.sendall(f"client {number}".encode())
        for number, client in enumerate(clients):
            assert client.recv(1024) == f"CLIENT {number}".encode()
    finally:
        for client in clients:
            client.close()


def test_discard_over_udp_never_answers(netd: Netd) -> None:
    """A3: whatever it is sent."""
    address = netd.addresses["discard-udp"][0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        for data in (b"hello", b"", bytes(60_000)):
            client.sendto(data, (address.host, address.port))
        with pytest.raises(TimeoutError):
            client.recv(1024)


def test_discard_over_tcp_never_answers(netd: Netd) -> None:
    """A3: not even at the end."""
    with netd.connect("discard-tcp") as client:
        client.settimeout(PATIENCE)
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


def test_each_service_has_ports_of_its_own_on_this_machine(tmp_path: Path) -> None:
    """As they are written, and where the tutorials' clients look for them."""
    shutil.copy(TUTORIAL, tmp_path)
    (tmp_path / "tutorial.key").write_text(KEY)
    (tmp_path / "tutorial.key").chmod(0o600)
    services = config.load(tmp_path / TUTORIAL.name).services
    places = [
        (place.scheme, place.host, place.port) for s in services.values() for place in s.listen
    ]
    assert len(set(places)) == len(places)
    assert {place[1] for place in places if place[0] != "unix"} <= {"127.0.0.1", "::1"}
    wanted = {("tcp", 9000), ("tcp", 6666), ("tcp", 8081), ("udp", 9000), ("udp", 6666),
              ("udp", 9003), ("tcp", 9999)}  # fmt: skip
    assert wanted <= {(scheme, port) for scheme, _, port in places}


def test_without_the_key_it_says_how_to_make_it(tmp_path: Path) -> None:
    """netd does not invent one."""
    shutil.copy(TUTORIAL, tmp_path)
    with pytest.raises(ConfigError, match=r"tutorial.key: No such file .*umask 77"):
        config.load(tmp_path / TUTORIAL.name)
