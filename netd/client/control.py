"""The control socket from outside: a command goes in, its data or its error comes out.

    with Control(Path("/run/netd/control.sock")) as control:
        control.ask("ban", {"source": "192.0.2.0/24", "for": "1h"})

`netd.control.table` lists the commands; docs/netctl.md tells what each returns.
"""

from __future__ import annotations

import errno
import grp
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self

from netd import instance
from netd.control.table import REQUEST_LIMIT, VERSION, ErrorCode
from netd.errors import NetdError, ProtocolError
from netd.lines import LineReader

Fault = ErrorCode | Literal["not-running", "timeout", "protocol"]
"""The codes of the daemon, and those of what can go wrong on the way to it."""

TIMEOUT = 10.0
"""Seconds until an answer has to be there."""
# Of an answer. There may be a hundred thousand sessions or bans, at some 300 bytes each.
REPLY_LIMIT = 128 * 2**20
_SYSTEM = Path("/run/netd/control.sock")
_CHUNK = 262_144
_ABSENT = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)


class ControlError(NetdError):
    """A command was not done; `code` tells why in a word, `problems` are the faults of a
    configuration, one line each."""

    def __init__(self, code: Fault, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.problems = [*problems]


def default_paths() -> list[Path]:
    """Where a control socket is looked for when none is named: NETD_CONTROL alone; else that of
    this user's own netd, and that of the system's."""
    own = instance.control_path()
    return [own] if os.environ.get("NETD_CONTROL") else [*dict.fromkeys([own, _SYSTEM])]


class Control:
    """A connection to the control socket, made when it is first used; for one thread.

    After an error the next command begins with a new connection."""

    def __init__(self, *paths: Path, timeout: float = TIMEOUT) -> None:
        """The first of `paths` is used that has a netd, by default of `default_paths`. `timeout`
        is how long an answer may take, in seconds."""
        self.paths = paths or tuple(default_paths())
        self.timeout = timeout
        self._socket: socket.socket | None = None
        self._path = self.paths[0]

    def __repr__(self) -> str:
        return f"<Control {self._path} {'connected' if self._socket else 'not connected'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Has a command done, and returns its data. Raises ControlError."""
        request = {"netd": VERSION, "command": command, "arguments": dict(arguments or {})}
        line = json.dumps(request).encode() + b"\n"
        if len(line) > REQUEST_LIMIT:
            raise ControlError(
                "usage",
                f"{command}: {len(line)} bytes of arguments are too many (at most"
                f" {REQUEST_LIMIT}: name fewer at once)",
            )
        end = monotonic() + self.timeout
        try:
            return read_reply(self._exchange(line, end))
        except ControlError:
            self.close()  # an answer that comes late is not that of the next command
            raise

    # -- on the wire

    def _exchange(self, line: bytes, end: float) -> bytes:
        """The answer to a request. Raises ControlError."""
        connected = self._socket or self._connect()
        self._socket = connected
        try:
            connected.settimeout(max(0.001, end - monotonic()))
            # A daemon with too many clients says so and hangs up, without having read anything.
            with suppress(BrokenPipeError, ConnectionResetError):
                connected.sendall(line, socket.MSG_NOSIGNAL)
            return self._read(connected, end)
        except TimeoutError as error:
            raise ControlError("timeout", self._late()) from error
        except OSError as error:
            raise ControlError("protocol", self._broken(error.strerror or str(error))) from error

    def _read(self, connected: socket.socket, end: float) -> bytes:
        reader = LineReader(REPLY_LIMIT)
        try:
            while (line := reader.next_line()) is None and not reader.at_end:
                if (left := end - monotonic()) <= 0:
                    raise TimeoutError
                connected.settimeout(left)
                reader.receive_data(connected.recv(_CHUNK))
        except ProtocolError as error:
            raise ControlError("protocol", self._broken(str(error))) from error
        if line is None or reader.cut:
            raise ControlError("protocol", self._broken("it hung up before the end of its answer"))
        return line

    def _connect(self) -> socket.socket:
        for path in self.paths:
            self._path = path
            try:
                return self._connect_to(path)
            except _ABSENT:
                continue
            except PermissionError as error:
                raise ControlError("permission", _denied(path)) from error
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ETIMEDOUT):
                    raise ControlError("timeout", self._late()) from error
                fault = error.strerror or str(error)
                message = f"cannot use {path} as the control socket: {fault} (name another one)"
                raise ControlError("usage", message) from error
        raise ControlError("not-running", _absent(self.paths))

    def _connect_to(self, path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Not settimeout(), under which a full queue of clients fails at once (EAGAIN).
            seconds, rest = divmod(round(self.timeout * 1e6), 1_000_000)
            limit = struct.pack("ll", seconds, rest)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            sock.connect(str(path))
        except BaseException:
            sock.close()
            raise
        return sock

    # -- in words

    def _late(self) -> str:
        return (
            f"netd does not answer on {self._path} within {self.timeout:g} s (it may be stopped or"
            " very busy: look at `systemctl status netd` and its log, or wait longer with"
            " --timeout)"
        )

    def _broken(self, fault: str) -> str:
        return f"no answer from {self._path}: {fault} (try again, or look at netd's log)"


def _absent(paths: Sequence[Path]) -> str:
    places = " or ".join(map(str, paths))
    return (
        f"netd is not running: nobody listens on {places} (start it with `systemctl start netd` or"
        " `netd -c FILE`; if it has another control socket, name that with --socket or"
        " NETD_CONTROL)"
    )


def _denied(path: Path) -> str:
    try:
        number = path.stat().st_gid
    except OSError:
        return (
            f"no permission to reach {path}, which is in a folder of another user (run this as"
            " that user or as root)"
        )
    try:
        group = grp.getgrgid(number).gr_name
    except KeyError:
        group = str(number)
    return (
        f"no permission to use {path}, which is for the group {group} (run this as root, or"
        f" become a member with `usermod -aG {group} USER` and log in anew)"
    )


def read_reply(line: bytes) -> Any:
    """The data of an answer, which is one line. Raises ControlError, also for one that netd
    would not give."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError("protocol", _foreign("its answer is not JSON")) from error
    if not isinstance(reply, dict) or reply.get("netd") != VERSION:
        raise ControlError("protocol", _foreign(f"its answer is not of version {VERSION}"))
    if reply.get("ok") is True and "data" in reply:
        return reply["data"]
    code, message = reply.get("error"), reply.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise ControlError("protocol", _foreign("its answer lacks data and error"))
    problems = reply.get("problems")
    lines = [str(problem) for problem in problems] if isinstance(problems, list) else []
    known: Any = code  # a later netd may have further codes, which are failures like any other
    raise ControlError(known, message, lines)


def _foreign(fault: str) -> str:
    return f"what listens there is not netd, or another version of it: {fault}"
