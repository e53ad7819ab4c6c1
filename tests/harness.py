"""The one harness for tests on real sockets.

    with serve(UpperHandler, "tcp6") as served:
        client = served.connect()
        client.sendall(b"abc")
        assert read_exactly(client, 3) == b"ABC"

The server runs in this process, on a thread of its own, at a free port or a path in a short
folder. At the end all is closed, clients included; a server that does not stop, or that keeps a
session, fails the test.

    service = {"protocol": "upper", "listen": ["tcp://[::1]:0"]}
    with run_netd({"services": {"upper": service}}) as netd:
        netd.connect("upper").sendall(b"abc")
        assert netd.stop() == 0

This is the real daemon, in a process and a runtime folder of its own.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import socketserver
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, TypeVar

import yaml

import netd
from netd.address import Address, parse_address
from netd.admission import Admission
from netd.gate import Gate
from netd.listener import SocketOptions
from netd.pool import Pool
from netd.server import Server, TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer
from netd.service import Service
from netd.stanza import Stanza

PATIENCE = 15.0
"""Seconds after which a test gives up a wait."""
SOON = 5.0
"""Seconds within which something has ended on a usual machine that is not measured closely."""
_USUAL = 0.015
"""Seconds that `_loop` takes on the machines for which bounds of time are given."""

STREAMS = ("tcp", "tcp6", "unix")
DATAGRAMS = ("udp", "udp6", "unix-dgram")
TRANSPORTS = STREAMS + DATAGRAMS

_CLASSES: dict[str, type[Server]] = {
    "tcp": TCPServer, "tcp6": TCPServer, "unix": UnixStreamServer,
    "udp": UDPServer, "udp6": UDPServer, "unix-dgram": UnixDatagramServer,
}  # fmt: skip

T = TypeVar("T")
S = TypeVar("S", bound=socket.socket)


class Served:
    """A server that serves, and what makes clients of it."""

    def __init__(self, server: Server, folder: Path, closing: ExitStack) -> None:
        self.server = server
        self._folder = folder
        self._closing = closing
        self._numbers = count(1)

    @property
    def service(self) -> Service:
        """What its listeners share: the gate, the counters, the options."""
        return self.server.service

    @property
    def address(self) -> Any:
        """Where it listens, as the socket module gives it."""
        return self.server.server_address

    def connect(self) -> socket.socket:
        """A client: a connected socket whose calls give up after PATIENCE."""
        sock = socket.socket(self.server.address_family, self.server.socket_type)
        self._closing.enter_context(sock)
        sock.settimeout(PATIENCE)
        if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_DGRAM):
            sock.bind(str(self._folder / f"client-{next(self._numbers)}"))
        sock.connect(self.address)
        return sock

    def keep(self, sock: S) -> S:
        """Has a socket that a client's was made into closed with the others."""
        return self._closing.enter_context(sock)


@contextmanager
def serve(
    handler: type[socketserver.BaseRequestHandler],
    transport: str = "tcp",
    *,
    options: Stanza | None = None,
    rules: Admission | None = None,
    socket_options: SocketOptions | None = None,
    pool: Pool | None = None,
    close_timeout: float = PATIENCE,
    server_class: type[Server] | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """Serves a handler for the time of a `with`.

    `options` are those of its protocol, by default as without any key in the YAML; `rules` those
    of the gate; `settings` are fields of Service, such as `timeouts` and `banner`. The other
    keywords are those of the server, whose class the transport decides, or `server_class`."""
    if options is None and (model := getattr(handler, "Options", None)):
        options = model()
    settings = {"gate": Gate(rules), "options": options, **settings}
    with ExitStack() as closing:
        folder = Path(closing.enter_context(TemporaryDirectory(prefix="netd-")))
        server = (server_class or _CLASSES[transport])(
            _address(transport, folder), handler, service=Service(**settings),
            options=socket_options, pool=pool, close_timeout=close_timeout,
        )  # fmt: skip
        thread = Thread(target=server.serve_forever, name=transport, daemon=True)
        closing.callback(_stop, server, thread)
        thread.start()
        yield Served(server, folder, closing)


def _address(transport: str, folder: Path) -> Any:
    if transport.startswith("unix"):
        return str(folder / "server")
    return ("::1" if transport.endswith("6") else "127.0.0.1"), 0


def _stop(server: Server, thread: Thread) -> None:
    # On a thread, since it waits for the serving loop without end.
    stopping = Thread(target=server.shutdown, daemon=True)
    stopping.start()
    stopping.join(PATIENCE)
    thread.join(PATIENCE)
    ended = not thread.is_alive()
    server.server_close()
    assert ended, f"{server!r} did not stop"
    wait_until(lambda: not server.sessions)


def wait_until(predicate: Callable[[], T], timeout: float = PATIENCE) -> T:
    """What the predicate returns, as soon as that is true; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (found := predicate()):
        assert time.monotonic() < end, f"still {found!r} after {timeout} s"
        time.sleep(0.002)
    return found


@contextmanager
def cheap(seconds: float) -> Iterator[None]:
    """Fails when a `with` takes more CPU time than that of a usual machine."""
    before, began = slowness(), time.process_time()
    yield
    spent = time.process_time() - began
    factor = max(before, slowness())
    assert spent < seconds * factor, f"{spent:.2f} s on a machine {factor:.1f} times as slow"


def slowness() -> float:
    """How many times as long as on a usual machine things take here and now, but never less: what
    bounds of time are multiplied by, so that a slow machine is no fault of netd's."""
    return max(1.0, _loop() / _USUAL)


def _loop() -> float:
    began = time.process_time()
    sum(n % 7 for n in range(200_000))
    return time.process_time() - began


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """The next `size` bytes of a stream; fails when it ends before."""
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(min(size - len(data), 65_536))
        assert chunk, f"the stream ended after {len(data)} of {size} bytes: {bytes(data[-80:])!r}"
        data += chunk
    return bytes(data)


def read_all(sock: socket.socket) -> bytes:
    """All that comes until the peer ends the stream."""
    return b"".join(iter(lambda: sock.recv(65_536), b""))


def ask(sock: socket.socket, data: bytes) -> bytes:
    """Sends all of it and ends our side, as `nc -N` does; returns all that comes meanwhile and
    after, until the peer ends its side too."""

    def send() -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    sender = Thread(target=send)
    sender.start()
    try:
        return read_all(sock)
    finally:
        sender.join(PATIENCE)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody has now, at any address of this machine. None of those that the kernel
    hands out (ip_local_port_range of ip(7)): somebody else might be given it the next moment."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket(socket.AF_INET6, kind) as sock, suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
            sock.bind(("::", port))
            return port


# -- the daemon as a process

AS_ROOT = os.geteuid() == 0
CHECKOUT = Path(netd.__file__).parents[1]
COMMAND = [sys.executable, "-c", "from netd.cli.netd import main; main()"]
# Not Popen's `user`, since an ordinary user may not be let to this interpreter and its modules.
_AS_NOBODY = """
import encodings.idna, os
from netd.cli.netd import main
os.setgroups([])
os.setresgid(*[65534] * 3)
os.setresuid(*[65534] * 3)
main()
"""
_FOREIGN = (
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS",
    "LISTEN_FDNAMES", "JOURNAL_STREAM", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR",
)  # fmt: skip
# Modules that each daemon compiles anew are half of its start, and none of what users have.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_LISTENING = re.compile(r"""([\w.-]+)(?:: |","message":")listening on ([^" ]+)""")
_STATE = re.compile(r"([\w.-]+): (\{.*\})$")


@contextmanager
def new_folder() -> Iterator[Path]:
    """A short path to a folder in which a daemon can run, whoever it becomes."""
    with TemporaryDirectory(prefix="netd-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


def python_path(*folders: Path) -> str:
    """The folders in which a daemon looks for modules, before those of this process."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(CHECKOUT), *map(str, folders), *filter(None, given)])


def environment(folder: Path) -> dict[str, str]:
    """The variables of a daemon whose runtime folder is `folder/run`, which it makes itself."""
    own = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
    return own | {
        "NETD_CONTROL": str(folder / "run" / "control.sock"),
        "PYTHONPATH": python_path(),
        "PYTHONWARNINGS": "error",
    }


def write_config(folder: Path, config: dict[str, Any] | str) -> Path:
    """A file that the daemon can read whoever it becomes."""
    file, new = folder / "netd.yaml", folder / "netd.yaml.new"
    new.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    new.chmod(0o644)
    # A daemon that reads it meanwhile reads one or the other.
    new.rename(file)
    return file


class Netd:
    """A daemon that runs, and what it has logged to standard error so far."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, closing: ExitStack) -> None:
        self.process = process
        self.folder = folder
        """The folder of its configuration, with `run`, its runtime folder."""
        self.log: list[str] = []
        """The lines of its log so far."""
        self._addresses: dict[str, list[Address]] = {}
        self._searched = 0
        self._closing = closing
        self._reading = Event()
        self._reading.set()
        self._reader = Thread(target=self._read, name="log of netd", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.process.pid

    @property
    def runtime_folder(self) -> Path:
        """Where its control socket is, its lock, and UNIX sockets without a folder."""
        return self.folder / "run"

    @property
    def addresses(self) -> dict[str, list[Address]]:
        """Where it listens, by service."""
        while self._searched < len(self.log):  # each line once: there may be many thousands
            if match := _LISTENING.search(self.log[self._searched]):
                self._addresses.setdefault(match[1], []).append(parse_address(match[2]))
            self._searched += 1
        return self._addresses

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.log.append(line.removesuffix("\n"))
            self._reading.wait()

    def read_log(self, yes: bool) -> None:
        """Goes on reading its standard error, or lets that pile up."""
        if yes:
            self._reading.set()
        else:
            self._reading.clear()

    def wait_for_log(self, pattern: str, since: int = 0) -> re.Match[str]:
        """The first match of a regular expression in a line of the log from number `since` on."""
        looked_at = since

        def find() -> re.Match[str] | None:
            nonlocal looked_at
            while looked_at < len(self.log):
                looked_at += 1
                if match := re.search(pattern, self.log[looked_at - 1]):
                    return match
            return None

        return self._wait_for(find)

    def _wait_for(self, find: Callable[[], T | None]) -> T:
        """What is found in the log, as soon as it is there; fails when the daemon has ended."""

        def look() -> T | None:
            more = self._reader.is_alive()
            found = find()
            assert found or more, f"netd has ended with status {self.process.wait(PATIENCE)}"
            return found

        found = wait_until(look, timeout=2 * PATIENCE)
        assert found
        return found

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def state(self, *services: str) -> dict[str, dict[str, Any]]:
        """What it tells of itself on SIGUSR1: by service, of these at least, by default of all
        that it ever had; and under "netd" as a whole."""
        since = len(self.log)
        names = {"netd", *(services or self.addresses)}
        self.send_signal(signal.SIGUSR1)

        def told() -> dict[str, dict[str, Any]] | None:
            matches = filter(None, (_STATE.search(line) for line in self.log[since:]))
            found = {match[1]: json.loads(match[2]) for match in matches}
            return found if found.keys() >= names else None

        return self._wait_for(told)

    def connect(self, service: str, scheme: str = "tcp") -> socket.socket:
        """A client of a service: a connected socket whose calls give up after PATIENCE."""
        address = next(a for a in self.addresses[service] if a.scheme == scheme)
        kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        target: Any = (address.host, address.port)
        if scheme.startswith("unix"):
            family, target = socket.AF_UNIX, address.host
        sock = self._closing.enter_context(socket.socket(family, kind))
        # With a time-out, a UNIX socket whose backlog is full would refuse at once.
        sock.settimeout(None if family == socket.AF_UNIX else PATIENCE)
        sock.connect(target)
        sock.settimeout(PATIENCE)
        return sock

    def wait(self, timeout: float = 2 * PATIENCE) -> int:
        """Its exit status, once it has ended and its log has been read to the end."""
        status = self.process.wait(timeout)
        self._reader.join(PATIENCE)
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status, after a signal that ends it."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """Ends it without a chance, as `kill -9` does; fine when it has ended already."""
        self.process.kill()
        self._reading.set()
        self.wait()


@contextmanager
def run_netd(
    config: dict[str, Any] | str,
    *args: str,
    env: Mapping[str, str] | None = None,
    ready: bool = True,
    unprivileged: bool = False,
    folder: Path | None = None,
    prefix: Sequence[str] = (),
    **popen: Any,
) -> Iterator[Netd]:
    """Runs the daemon for the time of a `with`, which begins when it is ready.

    `config` is the configuration, as keys or as text; `args` are further options; `env` holds
    variables to set; with `ready=False` the block begins at once; `unprivileged` has it started
    by an ordinary user, though root runs the test; `folder` is that of an earlier
    daemon, by default a new one; `prefix` is a program that runs the command which follows it;
    `popen` is for Popen. When the block fails, the log is part of the failure."""
    with ExitStack() as closing:
        if folder is None:
            folder = closing.enter_context(new_folder())
        program = [sys.executable, "-c", _AS_NOBODY] if unprivileged and AS_ROOT else COMMAND
        command = [*prefix, *program, "-c", str(write_config(folder, config)), *args]
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder) | dict(env or {}), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            **{"stderr": subprocess.PIPE} | popen,
        )  # fmt: skip
        closing.enter_context(process)
        running = Netd(process, folder, closing)
        closing.callback(running.kill)
        try:
            if ready:
                running.wait_for_log(r"\bready: ")
            yield running
        except BaseException as error:
            error.add_note("\n".join(["the end of netd's log:", *running.log[-30:]]))
            raise
