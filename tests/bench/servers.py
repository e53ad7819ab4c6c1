"""The servers to compare, each in a process of its own."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import load
from guards import CERTIFICATE, CERTIFICATE_KEY, CLIENTS

HERE = Path(__file__).parent
NAMES = ["netd", "threading", "asyncio"]
GUARDED = ["netd", "netd-hmac", "netd-tls", "asyncio-tls"]
"""A word behind the hyphen is what stands before the service: a key of `guards.CLIENTS`."""
START_TIMEOUT = 15.0
"""Seconds that a server may take until it answers."""
_TICKS = os.sysconf("SC_CLK_TCK")
# As it comes: with its limits, its deadlines, and a line in its log for each session.
_CONFIG = """
services:
  echo:
    protocol: echo
    listen: [{listen}]
    {stanza}
"""


class Server:
    """A server that runs."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.port = port
        self.process = process
        self.kind = CLIENTS[_guard(name)]
        """The clients that it lets in."""

    @property
    def cpu(self) -> float:
        """Seconds of CPU that all its threads have used, those that ended included."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime of proc(5)

    @property
    def memory(self) -> int:
        """Bytes of memory that are its own."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024

    def wait_until_ready(self) -> None:
        """Waits for the first echo over TCP. Raises RuntimeError."""
        end = monotonic() + START_TIMEOUT
        while monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                with load.held(self.port, 1, kind=self.kind):
                    return
            except OSError:
                sleep(0.02)
        raise RuntimeError(f"{self.name} does not answer (status {self.process.poll()})")


@contextmanager
def started(names: Collection[str], cpu: int | None) -> Iterator[dict[str, Server]]:
    """Runs these servers, on that CPU, for the time of a `with`."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(TemporaryDirectory(prefix="netd-bench-")))
        folder.chmod(0o755)  # netd has given up its privileges when it tidies up
        servers = {}
        for kind in {CLIENTS[_guard(name)] for name in names}:
            kind.lay_out(folder)
        for name in names:
            port = free_port()
            process = _start(_command(name, port, folder), folder, cpu)
            closing.callback(_end, process)
            servers[name] = Server(name, port, process)
        for server in servers.values():
            server.wait_until_ready()
        yield servers


def free_port() -> int:
    """A port that nobody has, neither with TCP nor with UDP. None of those that the kernel hands
    out to clients (ip_local_port_range of ip(7)): it might give it away the next moment."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams, socket.socket() as streams:
            try:
                datagrams.bind((load.HOST, port))
                streams.bind((load.HOST, port))
            except OSError:
                continue
            return port


def _guard(name: str) -> str:
    """What stands before a server, by its name; "" if nothing."""
    return name.partition("-")[2]


def _command(name: str, port: int, folder: Path) -> list[str]:
    program, guard = name.partition("-")[0], _guard(name)
    if program != "netd":
        files = (CERTIFICATE, CERTIFICATE_KEY) if guard == "tls" else ()
        pair = [str(folder / file) for file in files]
        return [sys.executable, str(HERE / "peers.py"), program, str(port), *pair]
    config = folder / f"netd-{port}.yaml"
    schemes = ("tcp",) if guard else ("tcp", "udp")  # datagrams pass no guard
    listen = ", ".join(f'"{scheme}://{load.HOST}:{port}"' for scheme in schemes)
    config.write_text(_CONFIG.format(listen=listen, stanza=CLIENTS[guard].stanza))
    config.chmod(0o644)
    return [sys.executable, "-c", "from netd.cli.netd import main; main()", "-c", str(config)]


def _start(command: list[str], folder: Path, cpu: int | None) -> subprocess.Popen[bytes]:
    ours = os.sched_getaffinity(0)
    control = folder / f"run-{len(os.listdir(folder))}" / "control.sock"
    with (folder / "log").open("ab") as log:
        try:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})  # all its threads inherit it
            return subprocess.Popen(
                command, cwd=HERE.parents[1], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"NETD_CONTROL": str(control)},
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, ours)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(load.PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
