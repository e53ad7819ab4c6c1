"""A protocol from another distribution, and a handler that knows nothing of netd.

`tests/example` is installed as a user would install it, into a folder of its own."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from harness import CHECKOUT, PATIENCE, Netd, ask, run_netd, wait_until

EXAMPLE = Path(__file__).parent / "example"
WHEELS = 70, 1
"""The setuptools from which on it builds wheels by itself."""
# From the documentation of the standard library, "socketserver.TCPServer Example".
STOCK = """
import socketserver

class MyTCPHandler(socketserver.StreamRequestHandler):

    def handle(self):
        # self.rfile is a file-like object created by the handler.
        # We can now use e.g. readline() instead of raw recv() calls.
        # We limit ourselves to 10000 bytes to avoid abuse by the sender.
        self.data = self.rfile.readline(10000).rstrip()
        print(f"{self.client_address[0]} wrote:")
        print(self.data.decode("utf-8"))
        # Likewise, self.wfile is a file-like object used to write back
        # to the client
        self.wfile.write(self.data.upper())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder into which the example was installed, for PYTHONPATH."""
    have = tuple(int(part) for part in version("setuptools").split(".")[:2])
    if have < WHEELS:
        pytest.skip(f"setuptools {version('setuptools')} builds no wheels: pip install '.[test]'")
    # A build leaves its traces in the source.
    source = copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "example")
    target = tmp_path_factory.mktemp("target")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--use-pep517", "--no-index",
         "--root-user-action", "ignore", "--target", str(target), str(source)],
        check=True, timeout=120,
    )  # fmt: skip
    return str(target)


def service(protocol: str, **keys: Any) -> dict[str, Any]:
    """A stanza on free ports."""
    return {"protocol": protocol, "listen": ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"], **keys}


@pytest.fixture(scope="module")
def netd(installed: str) -> Iterator[Netd]:
    """A daemon that serves the example's two protocols, one of them with options."""
    options = {"case": "lower", "largest": 1000}
    services = {
        "roman": service("roman", send_buffer="64KiB", receive_buffer="64KiB"),
        "roman-steps": service("roman-steps", send_buffer="64KiB", receive_buffer="64KiB"),
        "small": service("roman", options=options),
    }
    with run_netd({"services": services}, env=path_with(installed)) as running:
        yield running
        assert running.stop() == 0


def path_with(folder: str) -> dict[str, str]:
    """The variables by which the daemon finds itself and what is in a folder."""
    return {"PYTHONPATH": f"{folder}:{CHECKOUT}"}


BOTH = pytest.mark.parametrize("name", ["roman", "roman-steps"])


def fill(client: socket.socket, data: bytes) -> bytes:
    """Sends the data again and again until nothing more is taken; returns what was sent."""
    sent = bytearray()
    client.setblocking(False)
    while select.select([], [client], [], 0.5)[1]:
        offset = len(sent) % len(data)
        sent += data[offset : offset + client.send(data[offset:])]
    client.settimeout(PATIENCE)
    return bytes(sent)


@BOTH
def test_a_protocol_of_another_distribution_serves_tcp(netd: Netd, name: str) -> None:
    """The entry point is all that netd has to be told."""
    assert ask(netd.connect(name), b"1999\nmmxxvi\r\n4") == b"MCMXCIX\r\n2026\r\nIV\r\n"


@BOTH
def test_a_protocol_of_another_distribution_serves_udp(netd: Netd, name: str) -> None:
    """A datagram with a question is answered by one with the answer."""
    client = netd.connect(name, "udp")
    client.sendall(b"3888")
    assert client.recv(100) == b"MMMDCCCLXXXVIII\r\n"


@BOTH
def test_what_is_refused_leaves_the_connection_open(netd: Netd, name: str) -> None:
    """An answer says why, and the next question is answered as ever."""
    refused = b"error: neither a number nor a Roman numeral\r\n"
    assert ask(netd.connect(name), b"IIII\n\nIV\n") == refused * 2 + b"4\r\n"


@BOTH
def test_a_line_that_is_too_long_ends_the_connection(netd: Netd, name: str) -> None:
    """What came before it is answered, and so is the line itself."""
    answer = ask(netd.connect(name), b"10\n" + b"I" * 1000 + b"\n20\n")
    assert answer == b"X\r\nerror: line: longer than 80 bytes\r\n"


@BOTH
def test_answers_wait_for_a_client_that_does_not_read(netd: Netd, name: str) -> None:
    """Questions are taken until the buffers of both sides are full; then all are answered."""
    client = netd.connect(name)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    sent = fill(client, b"3888\n" * 10_000)
    assert len(sent) > 100_000
    assert ask(client, b"\n").count(b"MMMDCCCLXXXVIII\r\n") == sent.count(b"\n")


def test_the_protocol_has_options_of_its_own(netd: Netd) -> None:
    """What stands below `options` reaches the handler, checked and with its defaults."""
    answer = ask(netd.connect("small"), b"9\n1001\n")
    assert answer == b"ix\r\nerror: the numbers go from 1 to 1000\r\n"


def test_a_wrong_option_is_refused_with_its_place(installed: str) -> None:
    """Options are validated as netd's own keys are: with file, line and column."""
    config = """
services:
  roman:
    protocol: roman
    listen: [tcp://127.0.0.1:0]
    options: {largest: 5000}
"""
    with run_netd(config, "--check", env=path_with(installed), ready=False) as netd:
        assert netd.wait() == 78
    assert "netd.yaml:6:24" in (said := "\n".join(netd.log))
    assert "3999" in said


def test_a_handler_of_the_standard_library_runs_unchanged(tmp_path: Path) -> None:
    """The example of socketserver's own documentation, letter for letter."""
    tmp_path.chmod(0o755)
    (tmp_path / "mine.py").write_text(STOCK)
    stanza = {"handler": "mine:MyTCPHandler", "listen": ["tcp://127.0.0.1:0"]}
    with run_netd({"services": {"mine": stanza}}, env=path_with(str(tmp_path))) as netd:
        client = netd.connect("mine")
        client.sendall(b"hello world\n")
        assert client.recv(100) == b"HELLO WORLD"
        assert client.recv(100) == b""
        wait_until(lambda: netd.state()["mine"]["open"] == 0)
        assert netd.state()["mine"]["admitted"] == 1
        assert netd.stop() == 0
