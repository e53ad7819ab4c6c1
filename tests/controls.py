"""Clients of the control socket, which send what they are told."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from harness import PATIENCE, Netd, new_folder
from roll import Listed

from netd.bans import Bans
from netd.control.commands import Commands
from netd.control.operations import Operations
from netd.control.server import TIMEOUT, ControlUnit
from netd.control.stanza import ControlStanza
from netd.events import Events
from netd.report import Report

# A client of another user. It becomes that before it opens the socket.
_AS_USER = """
import os, socket, sys
uid, gid, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgroups([])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(path)
    except PermissionError:
        sys.exit("not permitted")
    print(flush=True)
    for line in sys.stdin.buffer:
        sock.sendall(line)
        reply = b""
        while not reply.endswith(b"\\n"):
            reply += sock.recv(65536) or b"\\n"
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()
"""


class Client:
    """A connection to a control socket, whose calls give up after PATIENCE."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self._buffer = b""

    def close(self) -> None:
        """Ends it."""
        self.socket.close()

    def send(self, command: str, **arguments: Any) -> None:
        """Sends a request; `for_` is the argument `for`."""
        self.socket.sendall(request(command, **arguments))

    def read(self) -> dict[str, Any]:
        """The next reply; {} at the end of the stream."""
        while b"\n" not in self._buffer:
            try:
                chunk = self.socket.recv(1 << 20)
            except ConnectionResetError:  # what it had sent last was not read any more
                chunk = b""
            if not chunk:
                assert not self._buffer
                return {}
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The reply to a request."""
        self.send(command, **arguments)
        return self.read()

    def data(self, command: str, **arguments: Any) -> Any:
        """What a command returns; it has to be done."""
        reply = self.ask(command, **arguments)
        assert reply["ok"], reply
        return reply["data"]

    def error(self, command: str, **arguments: Any) -> tuple[str, str]:
        """(the code, the message) of a command that is not to be done."""
        reply = self.ask(command, **arguments)
        assert not reply["ok"], reply
        return reply["error"], reply["message"]


def request(command: str, **arguments: Any) -> bytes:
    """The line of a request; `for_` is the argument `for`."""
    given = {name.removesuffix("_"): value for name, value in arguments.items()}
    return json.dumps({"netd": 1, "command": command, "arguments": given}).encode() + b"\n"


def path_of(netd: Netd) -> Path:
    """Where the control socket of a daemon is."""
    return netd.runtime_folder / "control.sock"


@contextmanager
def control(netd: Netd) -> Iterator[Client]:
    """A client of a daemon."""
    with closing(Client(path_of(netd))) as client:
        yield client


@contextmanager
def served(operations: Any = None, timeout: float = TIMEOUT, **keys: Any) -> Iterator[Path]:
    """A control socket of no services in this process: its path. `operations` is what it can have
    the daemon do; `keys` are those of the stanza."""
    with new_folder() as folder:
        report = Report(Listed(), lambda: {"uptime": 1.0}, Events())
        does = operations or _Nothing()
        shutdown = getattr(operations, "shutdown", bool)
        commands = Commands(report, Bans(), does, shutdown, list)
        stanza, path = ControlStanza(**keys), folder / "control.sock"
        unit = ControlUnit(stanza, path, commands, 20_000, timeout)
        address, options, make = unit.place
        server = make(socket.AF_UNIX, address.host, options)
        unit.servers.append(server)
        server.server_bind()
        server.server_activate()
        unit.start()
        try:
            yield path
        finally:
            unit.stop()
            unit.close(monotonic() + PATIENCE)


class _Nothing(Operations):
    """What a daemon does that does nothing."""


@contextmanager
def other_user(path: Path, uid: int, gid: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of another user, connected to a control socket: it sends each line of its input,
    and writes each reply, after an empty line that says that it may."""
    command = [sys.executable, "-I", "-S", "-c", _AS_USER, str(uid), str(gid), str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ask_as(path: Path, uid: int, gid: int, line: bytes) -> dict[str, Any]:
    """The reply to another user's request; {"error": …} with what it says if it may not connect."""
    with other_user(path, uid, gid) as process:
        out, err = process.communicate(line, timeout=2 * PATIENCE)
    if process.returncode:
        return {"error": err.decode().strip()}
    reply: dict[str, Any] = json.loads(out)
    return reply
