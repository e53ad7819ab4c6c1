"""What the verbs show that list something: services, sessions, bans, counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from netd.cli import paint
from netd.cli.figures import NOTHING, moment, short_size, short_span
from netd.cli.layout import Column, fields, lines, table

_SERVICES = [Column("service"), Column("protocol"), Column("state"), Column("open", right=True),
             Column("listen")]  # fmt: skip
_SESSIONS = [
    Column("id", right=True), Column("service"), Column("peer"), Column("user"),
    Column("age", right=True), Column("idle", right=True), Column("in", right=True),
    Column("out", right=True), Column("state"), Column("tls"),
]  # fmt: skip
_BANS = [Column("network"), Column("until"), Column("why")]
_STATS = [Column("of"), Column("counter"), Column("value")]


def services(data: Any, width: int | None) -> list[Text]:
    """The services, each with its listeners."""
    if not data:
        return lines("no services")
    rows = [
        [
            service["name"], service["protocol"] or NOTHING, paint.state(service["state"]),
            str(service["open"]), " ".join(service["listen"]) or NOTHING,
        ]
        for service in data
    ]  # fmt: skip
    return table(_SERVICES, rows, width)


def sessions(data: Any, width: int | None) -> list[Text]:
    """The open sessions."""
    if not data:
        return lines("no open sessions")
    rows = [
        [
            session["id"], session["service"], session["peer"] or NOTHING,
            session["user"] or NOTHING, short_span(session["age"]), short_span(session["idle"]),
            short_size(session["bytes_in"]), short_size(session["bytes_out"]), session["state"],
            session["tls"] or NOTHING,
        ]
        for session in data
    ]  # fmt: skip
    return table(_SESSIONS, rows, width)


def bans(data: Any, width: int | None) -> list[Text]:
    """The bans in force."""
    if not data:
        return lines("no bans")
    rows = [[ban["network"], ends(ban["until"]), ban["why"] or NOTHING] for ban in data]
    return table(_BANS, rows, width)


def ends(until: float | None) -> str:
    """When a ban ends."""
    return "unban" if until is None else moment(until)


def stats(data: Any, width: int | None) -> list[Text]:
    """All counters, one to a line."""
    found = {"netd": [*_flat(data["daemon"])]}
    found |= {name: [*_flat(counters)] for name, counters in data["services"].items()}
    if width is None:
        rows = [[name, *pair] for name, pairs in found.items() for pair in pairs]
        return table(_STATS, rows, None)
    told: list[Text] = []
    for name, pairs in found.items():
        told += [*([Text()] if told else []), Text(name, "bold"), *fields(pairs, width)]
    return told


def _flat(counters: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in counters.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", " ".join(map(str, value)) or NOTHING
        else:
            yield f"{prefix}{key}", NOTHING if value is None else str(value)
