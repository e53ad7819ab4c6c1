"""The commands `netctl users`: who may come in, in the file that netd reads.

They work on the file itself, whether netd runs or not; it follows within a second. A key is made
here, shown once on standard output, and never taken from the command line.
"""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import click

from netd.auth import userfile
from netd.auth.keyring import Keyring
from netd.auth.register import change
from netd.auth.source import Source
from netd.auth.userfile import (
    LONGEST_CERTIFICATE,
    NAME,
    KeyStanza,
    UserStanza,
    format_moment,
    parse_moment,
)
from netd.cli.userfiles import find, owner
from netd.errors import ConfigError, Unauthenticated
from netd.secret import Secret
from netd.stanza import parse_duration
from netd.verifier import Verifier

FAILED = 1
_KEEP = "1d"


@click.group()
@click.option(
    "-f",
    "--file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The file of users; by default the one that the configuration names.",
)
@click.option(
    "-c", "--config", "configuration", metavar="FILE",
    help="The configuration that names it; by default the one that netd would read.",
)  # fmt: skip
@click.pass_context
def users(context: click.Context, file: Path | None, configuration: str | None) -> None:
    """Users of services with `auth`: add, list, remove, rotate, test."""
    context.obj = file, configuration


# -- the arguments


def _check_name(_context: click.Context, _parameter: Any, name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise click.BadParameter("use letters, digits and _ . - @, at most 64 of them")
    return name


def _check_certificate(_context: click.Context, _parameter: Any, name: str | None) -> str | None:
    if name is not None and not 1 <= len(name) <= LONGEST_CERTIFICATE:
        raise click.BadParameter(f"write a name of 1 to {LONGEST_CERTIFICATE} characters")
    return name


def _read_end(_context: click.Context, _parameter: Any, text: str | None) -> datetime | None:
    """A point of time, or how long it is until then."""
    if text is None:
        return None
    try:
        end = parse_moment(text) if "T" in text else _now() + _duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if end <= _now():
        raise click.BadParameter(f"{text} is over")
    return end


def _duration(text: str) -> timedelta:
    seconds = 0.0 if text == "0" else parse_duration(text)
    if seconds is None:
        raise ValueError("write a duration such as 90d, or a point of time")
    return timedelta(seconds=seconds)


def _read_keep(_context: click.Context, _parameter: Any, text: str) -> timedelta:
    try:
        return _duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_name = click.argument("name", callback=_check_name)
_ends = click.option("--ends", callback=_read_end, metavar="WHEN",
                     help="When the key ends: 90d, or 2027-01-01T00:00:00Z.")  # fmt: skip
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def _failing(command: Callable[..., None]) -> Callable[..., None]:
    """What cannot be done is a line on standard error, and the exit status 1."""

    @wraps(command)
    def guarded(*args: Any, **named: Any) -> None:
        try:
            command(*args, **named)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(f"netctl: {problem}", err=True)
            sys.exit(FAILED)

    return guarded


# -- the commands


@users.command()
@_name
@click.option(
    "--role", "roles", multiple=True, metavar="ROLE",
    help="A role of the file; several times for several. Without any: everything.",
)  # fmt: skip
@click.option(
    "--uid", type=click.IntRange(0, 2**32 - 2), help="Known on UNIX sockets by this number."
)
@click.option(
    "--certificate", metavar="NAME", callback=_check_certificate,
    help="Known under TLS by this name in a certificate.",
)  # fmt: skip
@_ends
@_as_json
@click.pass_context
@_failing
def add(
    context: click.Context, name: str, roles: tuple[str, ...], uid: int | None,
    certificate: str | None, ends: datetime | None, as_json: bool,
) -> None:  # fmt: skip
    """Add the user NAME, and print a new key."""
    with change(find(*context.obj), create=True, owner=owner(context.obj[1])) as register:
        keys = {"roles": [*roles], "uid": uid, "certificate": certificate}
        secret = register.add(name, _now(), ends, **keys)
    _show(name, secret, _wants_json(context, as_json))


@users.command()
@_name
@click.option("--keep", default=_KEEP, show_default=True, callback=_read_keep, metavar="DURATION",
              help="How long the key that NAME has goes on; 0: not at all.")  # fmt: skip
@_ends
@_as_json
@click.pass_context
@_failing
def rotate(
    context: click.Context, name: str, keep: timedelta, ends: datetime | None, as_json: bool
) -> None:
    """Print a new key for the user NAME; the old one goes on for a while."""
    with change(find(*context.obj)) as register:
        now = _now()
        secret = register.rotate(name, now, now + keep, ends)
    _show(name, secret, _wants_json(context, as_json))


@users.command()
@_name
@click.pass_context
@_failing
def remove(context: click.Context, name: str) -> None:
    """Take the user NAME out; sessions that are open go on."""
    with change(find(*context.obj)) as register:
        register.remove(name)
    click.echo(f"{name} is removed")


@users.command("list")
@_as_json
@click.pass_context
@_failing
def list_users(context: click.Context, as_json: bool) -> None:
    """Show all users, what they may do, and until when their keys hold."""
    path = find(*context.obj)
    file = userfile.read(Source(path))
    rows = [_row(name, user) for name, user in sorted(file.users.items())]
    if _wants_json(context, as_json):
        click.echo(json.dumps({"file": str(path), "users": rows}))
        return
    lines = [["user", "roles", "keys", "ends", "uid", "certificate"]]
    lines += [
        [_cell(row[column]) for column in lines[0]] for row in [_as_line(row) for row in rows]
    ]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


@users.command()
@_name
@click.pass_context
@_failing
def test(context: click.Context, name: str) -> None:
    """Say whether a key, which is asked for or read from standard input, lets NAME in."""
    keyring = userfile.load(Source(find(*context.obj)))
    if name not in keyring.users:
        raise ConfigError(f"there is no user {name} (`netctl users list` shows all)")
    given = getpass.getpass("Key: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    click.echo(f"{name}: {_judge(keyring, name, given)}")


# -- inside


def _wants_json(context: click.Context, as_json: bool) -> bool:
    """Whether it was asked for, after the verb or at the beginning of the whole command."""
    return as_json or bool(context.find_root().params.get("as_json"))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _judge(keyring: Keyring, name: str, given: str) -> str:
    """What a key is good for. Raises ConfigError when it is good for nothing."""
    try:
        secret = Secret.parse(given).reveal()
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    for key in keyring.keys:
        if key.user.name == name and Verifier.of(secret, key.verifier.salt) == key.verifier:
            try:
                key.check(_now().timestamp())
            except Unauthenticated as error:
                raise ConfigError(str(error)) from None
            services = key.user.rights.services
            where = "all services" if services is None else ", ".join(sorted(services)) or "nothing"
            return f"the key is right, and good for {where}"
    raise ConfigError(f"{name} has another key")


def _show(name: str, secret: Secret, as_json: bool) -> None:
    """Shows a new key, this once."""
    key = secret.reveal().decode()
    if as_json:
        click.echo(json.dumps({"user": name, "key": key}))
        return
    click.echo(key)
    click.echo(f"This is the key of {name}; it is not shown again.", err=True)


def _row(name: str, user: UserStanza) -> dict[str, Any]:
    return {
        "user": name,
        "roles": user.roles,
        "uid": user.uid,
        "certificate": user.certificate,
        "keys": [_key_row(key) for key in user.keys],
    }


def _key_row(key: KeyStanza) -> dict[str, Any]:
    start, end = (
        None if moment is None else format_moment(moment) for moment in (key.start, key.end)
    )
    return {"start": start, "end": end, "classic": key.secret is not None}


def _as_line(row: dict[str, Any]) -> dict[str, Any]:
    ends = [key["end"] or "never" for key in row["keys"]]
    return {**row, "keys": len(row["keys"]), "ends": ends}


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
