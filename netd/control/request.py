"""A request: the line of a client, read by the table of commands. Pure: no socket and no clock.

What cannot be read at all is a ProtocolError, and the client is out of step. What can be read and
cannot be done is a CommandError, which the client is told; it may go on.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netd.control import arguments
from netd.control.table import COMMANDS, REQUEST_LIMIT, VERSION, Command, ErrorCode
from netd.errors import NetdError, Refused
from netd.fields import Fields, describe, parse_object
from netd.findings import nearest

# Bytes of an id that is text.
LONGEST_ID = 64
_KEYS = ("netd", "command", "arguments", "id")

Id = str | int | None
"""What a client calls its request, for itself; None when it calls it nothing."""


class CommandError(NetdError):
    """A command is not done. `code` is for programs, the text is for people, and `problems` are
    the lines that tell what is wrong with a configuration."""

    def __init__(self, code: ErrorCode, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.problems = tuple(problems)
        self.id: Id = None
        """That of the request."""


@dataclass(frozen=True)
class Request:
    """A command, with all its arguments read."""

    command: Command
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """By the names of its parameters; those that were not given have their defaults."""
    id: Id = None

    def __str__(self) -> str:
        """As it would be typed."""
        words = [self.command.name]
        for parameter in self.command.parameters:
            words += arguments.written(parameter, self.arguments[parameter.name])
        return shlex.join(words)


def parse(line: bytes) -> Request:
    """The request in a line. Raises ProtocolError, or CommandError."""
    fields = parse_object(line, "request")
    found: Id = None
    try:
        found = _id(fields)
        _check_keys(fields)
        command = _command(fields)
        given = fields.object("arguments", default=None)
        read = arguments.read(command, given.members if given else {})
    except (Refused, arguments.ArgumentError) as fault:
        error = CommandError("usage", str(fault))
    except CommandError as fault:
        error = fault
    else:
        return Request(command, read, found)
    error.id = found
    raise error from None


def _id(fields: Fields) -> Id:
    value = fields.members.get("id")
    if value is None or type(value) is int:
        return value
    if type(value) is str and len(value.encode()) <= LONGEST_ID:
        return value
    expected = f"a whole number, or text of at most {LONGEST_ID} bytes"
    raise Refused(f"id: expected {expected}, not {describe(value)}")


def _check_keys(fields: Fields) -> None:
    version = fields.members.get("netd")
    if type(version) is not int or version != VERSION:
        told = "it is missing" if version is None else f"not {describe(version)}"
        raise Refused(
            f"netd: expected the version {VERSION} of the control protocol, and {told}"
            ' (write {"netd": 1, "command": …}, or use the netctl that came with this netd)'
        )
    for key in fields.members:
        if key not in _KEYS:
            raise Refused(f"request: there is no key {key[:40]!a} ({nearest(key, _KEYS)})")


def _command(fields: Fields) -> Command:
    name = fields.text("command", limit=REQUEST_LIMIT)
    known = {command.name: command for command in COMMANDS.values() if not command.local}
    if name in known:
        return known[name]
    if name in COMMANDS:
        what = f"{name} is done by netctl itself (run `netctl {name}`)"
    else:
        what = f"there is no command {name[:40]!a} ({nearest(name[:40], known)})"
    raise CommandError("unknown-command", what)


# -- replies


def reply(id: Id, data: object) -> bytes:
    """The line that tells what a command returned."""
    return _line({"netd": VERSION, "ok": True} | _repeated(id) | {"data": data})


def refusal(error: CommandError) -> bytes:
    """The line that tells why a command is not done."""
    told: dict[str, Any] = {"error": error.code, "message": str(error)}
    if error.code == "configuration":
        told["problems"] = list(error.problems)
    return _line({"netd": VERSION, "ok": False} | _repeated(error.id) | told)


def _repeated(id: Id) -> dict[str, Any]:
    return {} if id is None else {"id": id}


def _line(reply: dict[str, Any]) -> bytes:
    text = json.dumps(reply, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A file name may hold what is no UTF-8, and stands in a text as a lone surrogate.
    return text.encode(errors="replace") + b"\n"
