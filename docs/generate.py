"""Writes the reference parts of configuration.md, from the models that obey the keys, and of
netctl.md, from the table of commands.

    python -m docs.generate

What stands above the mark in those files is written by hand and stays.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from netd import address, catalog, hours, networks, stanza
from netd.admission import Admission
from netd.auth import source
from netd.auth.stanza import AuthStanza
from netd.cli.verbs import metavar
from netd.config import Config, ServiceStanza
from netd.control import stanza as control_stanza
from netd.control.stanza import ControlStanza
from netd.control.table import COMMANDS, Command, Level, Parameter
from netd.deadline import Timeouts
from netd.listener import SocketOptions
from netd.log import LogOptions
from netd.networks import SourcePrefix
from netd.penalties import PenaltyRules
from netd.protocols import qotd
from netd.proxy_protocol import ProxyProtocol
from netd.rates import ServiceRate, SourceRate
from netd.schema import defaults_of
from netd.stanza import Stanza, descriptions
from netd.status.stanza import StatusStanza, parse_place
from netd.tls import TlsStanza, check_server_name

PAGE = Path(__file__).with_name("configuration.md")
MANUAL = Path(__file__).with_name("netctl.md")
MARK = "`python -m docs.generate`. -->\n"

_LEVELS = {Level.USER: "user", Level.OPERATOR: "operator", Level.ADMIN: "administrator"}
# By what reads the value.
_READERS = {
    stanza.parse_duration: "duration",
    stanza.parse_size: "size",
    stanza.parse_rate: "rate",
    stanza.parse_mode: "file mode",
    stanza.parse_path: "path of a file",
    qotd.read_file: "path of a file",
    control_stanza.check_control_path: "absolute path",
    control_stanza.check_account: "user or %group",
    address.parse_address: "address",
    parse_place: "HOST:PORT or unix:PATH",
    networks.parse_network: "network",
    source.parse_source: "path of a file, `credential:NAME` or `env:NAME`",
    hours.parse_access_time: "time of access",
    hours.check_time_zone: "time zone",
    check_server_name: "name of a server",
}
_PLAIN = {bool: "true or false", int: "number", float: "number", str: "text", Any: "keys"}
_LIMITS = {
    "ge": " from {}", "le": " to {}",
    "min_length": ", at least {}", "max_length": " of at most {} characters",
}  # fmt: skip
_PLACES = {
    frozenset({"stream", "datagram"}): "TCP, UDP and UNIX sockets",
    frozenset({"stream"}): "TCP and UNIX stream sockets",
    frozenset({"datagram"}): "UDP and UNIX datagram sockets",
}


def page() -> str:
    """The whole page of the configuration as it should be."""
    return written(PAGE) + "\n".join(reference())


def manual() -> str:
    """The whole page of netctl as it should be."""
    return written(MANUAL) + "\n".join(line for entry in COMMANDS.values() for line in verb(entry))


def written(page: Path) -> str:
    """The part of a page that is written by hand."""
    return page.read_text().partition(MARK)[0] + MARK + "\n"


def reference() -> Iterator[str]:
    """The lines of the generated part."""
    yield from section("## Keys of the file", Config, "")
    yield from section("### control", ControlStanza)
    yield from section("### status", StatusStanza)
    yield from section("### log", LogOptions)
    yield from section(
        "## Keys of a service", ServiceStanza,
        "Each may stand in `defaults` too.", own_keys(ServiceStanza),
    )  # fmt: skip
    yield from section("### proxy_protocol", ProxyProtocol)
    yield from section("### tls", TlsStanza)
    yield from section("### auth", AuthStanza)
    yield from section("### Access and limits", Admission)
    yield from section("#### source_prefix", SourcePrefix)
    yield from section("#### rate_per_source", SourceRate)
    yield from section("#### rate", ServiceRate)
    yield from section("#### penalties", PenaltyRules)
    yield from section("### Time", Timeouts)
    yield from section("### Sockets", SocketOptions)
    yield "## Protocols and their options\n"
    for name in catalog.own_names():
        yield from protocol(name)


def own_keys(model: type[Stanza]) -> list[str]:
    """The keys that a stanza does not have from another one."""
    return [key for key in model.model_fields if key in model.__annotations__]


def protocol(name: str) -> Iterator[str]:
    """What a protocol does, where it is served, and its options."""
    handler = catalog.find(name)
    text = (import_module(handler.__module__).__doc__ or "").partition("\n\n")[0]
    where = _PLACES[catalog.transports_of(handler)]
    yield f"### {name}\n"
    yield f"{one_line(text)}\n"
    if handler.Options.model_fields:
        yield f"Served on {where}. The keys below `options`:\n"
        yield from table(handler.Options, handler.Options.model_fields)
    else:
        yield f"Served on {where}. It has no options.\n"


def section(
    heading: str, model: type[Stanza], text: str | None = None, keys: Iterable[str] | None = None
) -> Iterator[str]:
    """A heading, the description of a stanza, and the table of its keys."""
    yield f"{heading}\n"
    if text is None:
        text = one_line(model.__doc__ or "")
    if text:
        yield f"{text}\n"
    yield from table(model, model.model_fields if keys is None else keys)


def table(model: type[Stanza], keys: Iterable[str]) -> Iterator[str]:
    """A row for each key."""
    hints = get_type_hints(model, include_extras=True)
    defaults, meanings = defaults_of(model), descriptions(model)
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key in keys:
        default = shown(defaults[key]) if key in defaults else "required"
        written = model.model_fields[key].alias or key
        cells = [f"`{written}`", in_words(hints[key]), default, meanings[key]]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def verb(entry: Command) -> Iterator[str]:
    """What a verb of netctl does, and its arguments."""
    yield f"## {entry.name}\n"
    yield f"`netctl {' '.join([entry.name, *map(argument, entry.parameters)])}`\n"
    yield f"{one_line(f'{entry.summary} {entry.details}')} (Level: {_LEVELS[entry.level]}.)\n"
    if entry.parameters:
        yield "| argument | value | meaning |"
        yield "|---|---|---|"
        for each in entry.parameters:
            form = "" if each.kind == "flag" else each.form
            yield f"| `{argument(each).strip('[]')}` | {form} | {each.summary} |"
        yield ""


def argument(each: Parameter) -> str:
    """A parameter as it is typed."""
    text = metavar(each)
    if each.is_option:
        value = "" if each.kind == "flag" else f" {each.kind.upper()}"
        text = f"--{each.name.replace('_', '-')}{value}"
    return text if each.required else f"[{text}]"


def shown(default: Any) -> str:
    """A default as it is written in a file."""
    if isinstance(default, dict) and default:
        return "see below"
    plain = isinstance(default, str) and default
    return f"`{default if plain else json.dumps(default)}`"


def one_line(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.split())


def in_words(hint: Any) -> str:
    """What the value of a key may be."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return annotated(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        kinds = [in_words(kind) for kind in arguments if kind is not NoneType]
        return " or ".join(kinds + ["null"] * (NoneType in arguments))
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is list:
        return f"list of: {in_words(arguments[0])}"
    if origin is dict or (isinstance(hint, type) and issubclass(hint, Stanza)):
        return "keys"
    return _PLAIN[hint]


def annotated(hint: Any, metadata: Iterable[Any]) -> str:
    """What a value may be that something reads or limits."""
    if get_origin(hint) is Annotated:
        return annotated(get_args(hint)[0], [*get_args(hint)[1:], *metadata])
    kind, limits = "", ""
    for item in metadata:
        reader: Any = getattr(item, "func", None)
        kind = kind or _READERS.get(reader, "")
        for part in [item, *getattr(item, "metadata", [])]:  # Field() wraps several
            for name, form in _LIMITS.items():
                if (limit := getattr(part, name, None)) is not None:
                    limits += form.format(in_unit(limit, kind))
    return (kind or in_words(hint)) + limits


def in_unit(limit: float, kind: str) -> str:
    """A limit as the value itself would be written."""
    match kind:
        case "size":
            return stanza.format_size(int(limit))
        case "duration":
            return stanza.format_duration(limit)
    return f"{limit:,}"


if __name__ == "__main__":
    for file, text in ((PAGE, page()), (MANUAL, manual())):
        file.write_text(text)
        print(f"{file.name} is up to date", file=sys.stderr)
