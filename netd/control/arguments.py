"""The arguments of a command: from the texts that a person types to values, by the kinds of their
parameters. Pure, but for the time zone of this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from netd.control.table import FORMS, Command, Kind, Parameter
from netd.errors import NetdError
from netd.fields import describe
from netd.findings import nearest
from netd.networks import Network, parse_network, unmapped
from netd.stanza import format_duration, parse_duration

# Characters of a value.
LONGEST = 300
LONGEST_PATH = 4096
# Of what is not right, so many are repeated.
_SHOWN = 80
_PEER = re.compile(r"\[(?P<six>[^\[\]]+)\](?::[0-9]{1,5})?|(?P<four>[0-9.]+):[0-9]{1,5}")
# Those that clocks have; near the ends of what a datetime holds, time zones fall off.
_YEARS = range(1971, 9999)
# As `sessions` shows the user of a UNIX socket, or shorter.
_USER = re.compile(r"(?:unix:)?(uid=[0-9]{1,10})(?:,pid=[0-9]{1,10})?")


class ArgumentError(NetdError):
    """An argument that is not what its parameter takes; the text names it, and what to write."""


def read(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all parameters, by name. Raises ArgumentError."""
    parameters = {parameter.name: parameter for parameter in command.parameters}
    for name in given:
        if name not in parameters:
            hint = nearest(name[:40], parameters) if parameters else "it takes none"
            raise ArgumentError(f"{command.name}: there is no argument {name[:40]!a} ({hint})")
    values = {}
    for name, parameter in parameters.items():
        value = given.get(name)
        if value is None and parameter.required:
            raise ArgumentError(f"{command.name}: {name} is missing (give {parameter.form})")
        values[name] = _default(parameter) if value is None else _read(command, parameter, value)
    return values


def _default(parameter: Parameter) -> Any:
    return bool(parameter.default) if parameter.kind == "flag" else parameter.default


def _read(command: Command, parameter: Parameter, value: object) -> Any:
    if parameter.kind == "flag":
        if isinstance(value, bool):
            return value
    elif parameter.many:
        if isinstance(value, list) and value:
            return list(dict.fromkeys(_read_one(command, parameter, item) for item in value))
    else:
        return _read_one(command, parameter, value)
    wanted = f"a list, each {parameter.form}" if parameter.many else parameter.form
    raise ArgumentError(
        f"{command.name}: {parameter.name}: expected {wanted}, not {describe(value)}"
    )


def _read_one(command: Command, parameter: Parameter, value: object) -> Any:
    try:
        if not isinstance(value, str):
            raise ValueError(describe(value))
        limit = LONGEST_PATH if parameter.kind == "path" else LONGEST
        if len(value) > limit:
            raise ValueError(f"a text of {len(value)} characters (at most {limit})")
        if parameter.choices:
            return _read_choice(parameter, value)
        return _READERS[parameter.kind](value)
    except ValueError as fault:
        raise ArgumentError(
            f"{command.name}: {parameter.name}: expected {parameter.form}, not {fault}"
        ) from None


def _read_choice(parameter: Parameter, text: str) -> str:
    if text not in parameter.choices:
        raise ValueError(_repeated(text))
    return text


def _read_text(text: str) -> str:
    if not text.isprintable():
        raise ValueError(_repeated(text))
    return text


def _read_word(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(_repeated(text))
    return text


def _read_source(text: str) -> Network:
    try:
        return parse_network(text)
    except ValueError as fault:
        # It tells what is meant, when that can be guessed.
        _, bracket, hint = str(fault).rpartition("(")
        raise ValueError(_repeated(text) + (f" ({hint}" if bracket else "")) from None


def _read_peer(text: str) -> str:
    """The peer as a gate knows it: an address, or `uid=UID`."""
    if match := _USER.fullmatch(text):
        return match[1]
    match = _PEER.fullmatch(text)
    try:
        return str(unmapped((match["six"] or match["four"]) if match else text))
    except ValueError:
        raise ValueError(_repeated(text)) from None


def _read_duration(text: str) -> float | None:
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(_repeated(text)) from None


def _read_time(text: str) -> float:
    """Seconds since 1970; a time without a zone is one of this machine's."""
    try:
        when = datetime.fromisoformat(text)
        if when.year not in _YEARS:
            raise ValueError(text)
        return when.timestamp()
    except ValueError:
        raise ValueError(_repeated(text)) from None


def _read_path(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(_repeated(text))
    return text


def _repeated(text: str) -> str:
    """A text of a stranger, fit to be read."""
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


_READERS: dict[Kind, Callable[[str], Any]] = {
    "service": _read_word,
    "session": _read_word,
    "source": _read_source,
    "peer": _read_peer,
    "duration": _read_duration,
    "time": _read_time,
    "text": _read_text,
    "path": _read_path,
}
assert {*FORMS} == {*_READERS, "flag", "choice"}


def written(parameter: Parameter, value: object) -> list[str]:
    """The words by which somebody would give a value; none for one that was not given."""
    option = f"--{parameter.name.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    if isinstance(value, list):
        return [str(item) for item in value]
    if parameter.kind == "duration" and isinstance(value, float):
        value = format_duration(value)
    return [option, str(value)] if parameter.is_option else [str(value)]
