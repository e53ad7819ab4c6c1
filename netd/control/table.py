"""The commands of the control socket: one table, from which the daemon takes what it obeys, and
netctl its verbs, its help, its completion and its manual.

On the wire there is one JSON object per line both ways, in UTF-8 (RFC 8259), under the version
VERSION:

    {"netd": 1, "command": "ban", "arguments": {"source": "192.0.2.0/24", "for": "1h"}}
    {"netd": 1, "ok": true, "data": {"network": "192.0.2.0/24", "until": 1795514400.0, "why": ""}}
    {"netd": 1, "ok": false, "error": "usage", "message": "ban: give source (an address or …)"}

An argument has the name of its parameter. Its value is the text that a person would type; for a
flag it is true or false, and for a parameter that takes many it is a list of texts. A path is
absolute. What is null counts as not given. A request may have an `id`, a text or a number, which
its reply repeats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

VERSION = 1
# Bytes of a request, with the end of its line.
REQUEST_LIMIT = 65_536


class Level(IntEnum):
    """What somebody may do; each may what those below may."""

    USER = 0
    """Look."""
    OPERATOR = 1
    """Start and stop services, end sessions, ban."""
    ADMIN = 2
    """Reload, shut down, set the level of the log."""


ErrorCode = Literal[
    "usage",
    "unknown-command",
    "permission",
    "refused",
    "configuration",
    "busy",
    "internal",
]
"""Why a request is not done. With `configuration` the reply has `problems` too: a list of lines."""

Kind = Literal[
    "service", "session", "source", "peer", "duration", "time", "flag", "choice", "text", "path"
]

FORMS: dict[Kind, str] = {
    "service": "the name of a service",
    "session": "the id of a session, as `sessions` shows it",
    "source": "an address or a CIDR block, such as 192.0.2.0/24",
    "peer": "an address, with :PORT or without, such as 192.0.2.1 or [2001:db8::1]:5000",
    "duration": "a duration, such as 90s, 10m, 1h30m or 7d",
    "time": "a point of time in ISO 8601, such as 2026-11-20T08:30",
    "flag": "true or false",
    "choice": "one of a few words",
    "text": "text, in one line",
    "path": "the path of a file, from / on",
}
"""How a value of each kind is written."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a command. Those that are options have a name on the command line too, with
    `--` before it and `-` for `_`; the others go by their place."""

    name: str
    kind: Kind
    summary: str
    required: bool = False
    many: bool = False
    """Whether it takes one value or more, as a list."""
    default: str | bool | None = None
    choices: tuple[str, ...] = ()
    option: bool = False

    @property
    def is_option(self) -> bool:
        """Whether it has its name on the command line."""
        return self.option or self.kind == "flag"

    @property
    def form(self) -> str:
        """How its value is written."""
        return f"one of {', '.join(self.choices)}" if self.choices else FORMS[self.kind]


@dataclass(frozen=True)
class Command:
    """Something that can be asked for."""

    name: str
    level: Level
    summary: str
    """A sentence."""
    parameters: tuple[Parameter, ...] = ()
    details: str = ""
    """Further sentences, for a manual."""
    local: bool = False
    """Whether netctl does it by itself, and the daemon does not know it."""


def _table(commands: Iterable[Command]) -> dict[str, Command]:
    return {command.name: command for command in commands}


LOG_LEVELS = ("debug", "info", "warning", "error")
SHELLS = ("bash", "zsh", "fish")

_ONE = Parameter("service", "service", "This service alone.")
_SOME = Parameter("services", "service", "The services.", required=True, many=True)

COMMANDS: dict[str, Command] = _table(
    [
        # -- looking
        Command(
            "status", Level.USER, "Show what netd and its services do.", (_ONE,),
            "State and since when, listeners, sessions, how many were let in and turned away and"
            " for what reason, bytes, and what went wrong last.",
        ),
        Command("list", Level.USER, "List the services."),
        Command(
            "sessions", Level.USER, "List the sessions that are open.",
            (Parameter("service", "service", "Those of this service alone."),),
        ),
        Command(
            "stats", Level.USER, "Show all counters.", (_ONE,),
            "They begin with the start of netd, and a reload leaves them as they are.",
        ),
        Command(
            "top", Level.USER, "Watch the services live, on the full screen.", local=True,
        ),
        Command(
            "explain", Level.USER, "Tell whether a client would be let in, and by which rule.",
            (
                Parameter("service", "service", "The service.", required=True),
                Parameter("peer", "peer", "The client.", required=True),
                Parameter("at", "time", "As it would be then, in place of now.", option=True),
                Parameter("datagram", "flag", "For a datagram in place of a connection."),
            ),
            "Shows every rule of admission with what it compared. Nothing is counted, and no"
            " client is kept out for having been asked about. A client of a UNIX socket is"
            " written uid=UID.",
        ),
        Command("bans", Level.USER, "List the bans in force."),
        # -- services and clients
        Command(
            "start", Level.OPERATOR, "Start services that were stopped or drained.", (_SOME,),
        ),
        Command(
            "stop", Level.OPERATOR, "Stop services: close their listeners, end their sessions.",
            (_SOME,), "It lasts until `start`, or until netd starts anew.",
        ),
        Command(
            "drain", Level.OPERATOR, "Close the listeners of services, and let their sessions end.",
            (_SOME,), "It lasts until `start`, or until netd starts anew.",
        ),
        Command(
            "enable", Level.OPERATOR, "Start services that were disabled.", (_SOME,),
        ),
        Command(
            "disable", Level.OPERATOR, "Drain services, and keep them from starting.", (_SOME,),
            "It lasts until `enable`, over reloads, and when netd starts anew.",
        ),
        Command(
            "kill", Level.OPERATOR, "End sessions.",
            (Parameter("ids", "session", "The sessions.", required=True, many=True),),
        ),
        Command(
            "ban", Level.OPERATOR, "Keep a network out of all services.",
            (
                Parameter("source", "source", "The address or network.", required=True),
                Parameter("for", "duration", "For how long; else until `unban`.", option=True),
                Parameter("why", "text", "A note, which `bans` shows.", option=True),
                Parameter("force", "flag", "Even if it is half the world."),
            ),
            "Sessions that are open go on; `kill` ends them.",
        ),
        Command(
            "unban", Level.OPERATOR, "Let networks in again.",
            (
                Parameter(
                    "sources", "source", "The networks, as `bans` shows them.", required=True,
                    many=True,
                ),
            ),
        ),
        # -- the daemon
        Command(
            "check", Level.ADMIN, "Look for faults in a configuration, as netd would read it.",
            (Parameter("file", "path", "The file; else the one that netd runs with."),),
        ),
        Command(
            "reload", Level.ADMIN, "Read the configuration anew, and change what it changes.",
            (Parameter("dry_run", "flag", "Only show what would change."),),
            "If anything is wrong with it, all stays as it is.",
        ),
        Command(
            "log-level", Level.ADMIN, "Show or set how much is logged.",
            (Parameter("level", "choice", "The least severe to log.", choices=LOG_LEVELS),),
            "It lasts until netd starts anew, or reads another level from its configuration.",
        ),
        Command(
            "shutdown", Level.ADMIN, "End netd: drain all services first.",
            (Parameter("now", "flag", "Do not wait for sessions to end."),),
        ),
        # -- the shell
        Command(
            "completion", Level.USER, "Print the script that completes netctl in a shell.",
            (Parameter("shell", "choice", "The shell.", required=True, choices=SHELLS),),
            local=True,
        ),
    ]
)  # fmt: skip
