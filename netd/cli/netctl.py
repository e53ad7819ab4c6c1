"""The command `netctl`: what an administrator asks of netd, and has it do, while it runs.

The daemon returns data, which is formatted here."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from netd.cli import completion, terminal
from netd.cli.terminal import View
from netd.cli.verbs import Verbs
from netd.client.control import Control, ControlError, Fault
from netd.control.table import Command

FAILED, USAGE, NOT_RUNNING, PERMISSION = 1, 2, 3, 4
_STATUS: dict[Fault, int] = {
    "usage": USAGE,
    "unknown-command": USAGE,
    "not-running": NOT_RUNNING,
    "permission": PERMISSION,
}

_UNWILLING = ("permission", "refused")


def run(entry: Command, settings: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Does what a verb says. Raises ControlError."""
    if entry.name == "completion":
        terminal.write(completion.script(COMMAND, arguments["shell"]))
        return
    paths = [Path(settings["socket"])] if settings["socket"] else []
    with Control(*paths, timeout=settings["timeout"]) as control:
        if entry.name == "top":
            _watch(control, settings["as_json"])
            return
        if settings["as_json"]:
            data = _ask_for_program(control, entry.name, arguments)
        else:
            data = _ask(control, entry.name, arguments)
            terminal.show(views()[entry.name], data)
    if missing := shortfall(entry.name, arguments, data):
        terminal.tell(f"netctl: {missing}")
        sys.exit(FAILED)


def _ask_for_program(control: Control, name: str, arguments: dict[str, Any]) -> Any:
    """As `_ask`, and writes what comes of it as one JSON document, whatever it is."""
    try:
        data = _ask(control, name, arguments)
    except ControlError as error:
        told = {"error": error.code, "message": str(error), "problems": error.problems}
        terminal.show_json(told)
        raise
    terminal.show_json(data)
    return data


def _ask(control: Control, name: str, arguments: dict[str, Any]) -> Any:
    if name != "check":
        return control.ask(name, arguments)
    named = arguments.get("file")
    if named is not None:  # the daemon is in another folder
        arguments["file"] = named = str(Path(named).absolute())
    try:
        return control.ask(name, arguments)
    except ControlError as error:
        # Without a daemon, or one that would do it, a file can be read here. But which file a
        # daemon runs with, it alone knows.
        if error.code != "not-running" and (named is None or error.code not in _UNWILLING):
            raise
    return _check(named)


def _check(named: str | None) -> dict[str, Any]:
    """As the daemon would check it. Raises ControlError with all that is wrong."""
    from netd import config  # it takes half a second, and no other verb needs it
    from netd.errors import ConfigError

    file = config.choose_file(named)
    try:
        return {"file": str(file), "services": len(config.load(file).services)}
    except ConfigError as error:
        message = f"check: {file} cannot be used"
        raise ControlError("configuration", message, error.problems) from error


def _watch(control: Control, as_json: bool) -> None:
    from netd.cli import top

    if as_json:
        raise ControlError("usage", "top: it has no --json (use `netctl stats --json`)")
    top.watch(control)


def views() -> dict[str, View]:
    """What shows the data of each verb."""
    # Here, since rich takes as long to load as all the rest.
    from netd.cli import explained, listings, outcomes, status_view

    changing = dict.fromkeys(["start", "stop", "drain", "enable", "disable"], outcomes.states)
    return {
        **changing,
        "status": status_view.status,
        "list": listings.services,
        "sessions": listings.sessions,
        "stats": listings.stats,
        "explain": explained.explained,
        "bans": listings.bans,
        "kill": outcomes.killed,
        "ban": outcomes.banned,
        "unban": outcomes.unbanned,
        "check": outcomes.checked,
        "reload": outcomes.reloaded,
        "log-level": outcomes.log_level,
        "shutdown": outcomes.shut_down,
    }


def shortfall(name: str, arguments: dict[str, Any], data: Any) -> str:
    """What was asked for and not done, although the rest was; or nothing."""
    if name == "kill" and data["unknown"]:
        return f"no such session: {', '.join(data['unknown'])}"
    if name == "unban" and (rest := len(arguments["sources"]) - len(data["unbanned"])) > 0:
        return f"not banned before: {rest} of {len(arguments['sources'])}"
    return ""


COMMAND = Verbs(run)


def main() -> None:
    """The entry point: every error becomes a line on standard error and an exit status."""
    # The interrupt key ends netctl without a traceback, and so does the end of `netctl | head`.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    terminal.set_up()
    try:
        COMMAND.main(
            prog_name=completion.PROGRAM, complete_var=completion.VARIABLE, standalone_mode=False
        )
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else completion.PROGRAM
        terminal.tell(f"netctl: {error.format_message()} (see `{path} --help`)")
        sys.exit(USAGE)
    except ControlError as error:
        terminal.tell("\n".join([f"netctl: {error}", *error.problems]))
        sys.exit(_STATUS.get(error.code, FAILED))
    except OSError as error:  # those of the socket have become ControlErrors
        terminal.tell(f"netctl: cannot write to standard output: {error.strerror}")
        sys.exit(FAILED)
