"""A daemon that runs, as a fault sees it: where to reach it, and what can be told from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import PATIENCE, Netd

from netd.address import Address

_CANARY = Path(__file__).with_name("canary.py")


@dataclass(frozen=True)
class Footprint:
    """What a daemon at rest holds, as the kernel counts it."""

    descriptors: int
    threads: int


class Target:
    """A daemon, and the clients that a fault makes of it; `hang_up` closes them."""

    def __init__(self, netd: Netd, addresses: dict[str, list[Address]]) -> None:
        """`addresses` are where its services listen."""
        self.netd = netd
        self.addresses = addresses
        self.clients = ExitStack()
        self.clock: Path | None = None
        """The file that sets its clock, in a setup that has one."""
        self.disk: Path | None = None
        """The small disk that it logs to, in a setup that has one."""
        self.rest = Footprint(0, 0)
        """What it holds without a client; see `settle`."""

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.netd.pid

    def settle(self) -> None:
        """Takes note of what it holds at rest, before it has had a client."""
        self.rest = self.footprint()

    # -- clients

    def address(self, service: str, scheme: str = "tcp", host: str = "") -> Address:
        """Where a service listens."""
        return next(
            found
            for found in self.addresses[service]
            if found.scheme == scheme and (not host or found.host == host)
        )

    @cached_property
    def canary(self) -> Canary:
        """The canary, in a service of its own."""
        return Canary(self.addresses["canary"][0])

    def close(self) -> None:
        """Leaves nothing of ours behind."""
        self.hang_up()
        if "canary" in vars(self):
            self.canary.close()

    def connect(
        self, service: str, source: str = "", receive_buffer: int = 0, scheme: str = "tcp"
    ) -> socket.socket:
        """A connected client, whose calls give up after PATIENCE."""
        address = self.address(service, scheme)
        peer: Any = (address.host, address.port) if address.port else address.host
        sock = socket.socket(socket.AF_INET if address.port else socket.AF_UNIX)
        self.clients.enter_context(sock)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        sock.connect(peer)
        sock.settimeout(PATIENCE)
        return sock

    def datagrams(
        self, service: str, source: tuple[str, int] = ("127.0.0.1", 0), shared: bool = False
    ) -> socket.socket:
        """A client of a UDP service, bound to `source`, which others may be too if `shared`.

        Raises PermissionError for a port below 1024."""
        address = self.address(service, "udp")
        sock = self.clients.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, shared)
        sock.bind(source)
        sock.connect((address.host, address.port))
        return sock

    def hang_up(self) -> None:
        """Closes all clients."""
        self.clients.close()

    # -- seen from outside

    def footprint(self) -> Footprint:
        """What it holds now."""
        proc = Path("/proc", str(self.pid))
        return Footprint(len(os.listdir(proc / "fd")), len(os.listdir(proc / "task")))

    def counters(self) -> Counter[str]:
        """All its counters by `service.counter` or `service.counter.reason`, and its open
        sessions as `service.open`."""
        found: Counter[str] = Counter()
        for service, state in self.netd.state().items():
            for name, value in state.items():
                if isinstance(value, int):
                    found[f"{service}.{name}"] = value
                elif isinstance(value, dict):
                    numbers = {part: n for part, n in value.items() if isinstance(n, int)}
                    found.update({f"{service}.{name}.{part}": n for part, n in numbers.items()})
        return found

    def log(self, since: int = 0) -> list[str]:
        """The lines of its log, from number `since` on."""
        return self.netd.log[since:]

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        # The clock of another process, as clock_getcpuclockid(3) makes its number.
        return time.clock_gettime(~self.pid << 3 | 2)

    def kernel_time(self) -> float:
        """Seconds of it that the kernel used for it (`stime` in proc_pid_stat(5))."""
        fields = Path("/proc", str(self.pid), "stat").read_text().rpartition(")")[2].split()
        return int(fields[12]) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes of it that are in memory (VmRSS)."""
        return self._status("VmRSS")

    @contextmanager
    def memory_growth(self, most: int) -> Iterator[None]:
        """Asserts that it never holds more than `most` bytes above what it held before."""
        Path("/proc", str(self.pid), "clear_refs").write_text("5")  # VmHWM begins anew (proc(5))
        before = self.memory()
        yield
        growth = self._status("VmHWM") - before
        assert growth <= most, f"memory grew by {growth:,} bytes"

    def _status(self, key: str) -> int:
        status = Path("/proc", str(self.pid), "status").read_text()
        value = next(line for line in status.splitlines() if line.startswith(key))
        return int(value.split()[1]) * 1024


class Canary:
    """A process that asks an echo service, from `start` to `stop`; see `faults.canary`."""

    def __init__(self, address: Address) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CANARY), address.host, str(address.port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, fresh: bool) -> None:
        """Has it sing, and come in anew each time if `fresh`; it has been answered once then."""
        self._tell("1" if fresh else "0")
        float(self._hear())

    def stop(self) -> tuple[float, bool]:
        """(seconds that the slowest echo took, whether netd has sent it away)."""
        self._tell(".")
        notes = [0.0]
        while (line := self._hear()) not in ("stop", "end"):
            notes.append(float(line))
        return max(notes), line == "end"

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command)
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()
