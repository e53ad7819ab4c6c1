"""Completion in a shell: of verbs and options, which click knows, and of names that the daemon
knows. Without a daemon those are left out, without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from netd.client.control import Control, ControlError
from netd.control.table import Kind
from netd.text import printable

PROGRAM = "netctl"
VARIABLE = "_NETCTL_COMPLETE"
# Seconds: somebody sits there and waits for the key to do something.
PATIENCE = 1.0

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def script(group: click.Command, shell: str) -> str:
    """What a shell has to read so that it completes netctl."""
    found = get_completion_class(shell)
    assert found is not None, f"click has lost its completion for {shell}"
    return found(group, {}, PROGRAM, VARIABLE).source()


def completer(kind: Kind, verb: str) -> Complete | None:
    """What completes a parameter of a kind, if the daemon knows such values."""
    if kind == "source":
        return _bans if verb == "unban" else None
    return {"service": _services, "session": _sessions}.get(kind)


def _services(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    found = ((entry["name"], entry["state"]) for entry in _ask(context, "list"))
    return _matching(found, context, parameter, begun)


def _sessions(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    found = ((s["id"], f"{s['service']} {s['peer']}") for s in _ask(context, "sessions"))
    return _matching(found, context, parameter, begun)


def _bans(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    found = ((entry["network"], entry["why"]) for entry in _ask(context, "bans"))
    return _matching(found, context, parameter, begun)


def _ask(context: click.Context, command: str) -> Iterator[dict[str, Any]]:
    socket = context.find_root().params.get("socket")
    paths = [Path(socket)] if socket else []
    try:
        with Control(*paths, timeout=PATIENCE) as control:
            yield from control.ask(command)
    except ControlError:
        return  # whoever runs the command will be told


def _matching(
    found: Iterable[tuple[str, str]], context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    named = context.params.get(parameter.name or "") or ()
    return [
        CompletionItem(value, help=printable(help) or None)
        for value, help in found
        if value.startswith(begun) and value not in named and value.isprintable()
    ]
