"""What `netctl status` shows, in the manner of `systemctl status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from netd.cli import paint
from netd.cli.figures import NOTHING, clock, moment, of, reasons, size, span
from netd.cli.layout import Cell, Column, fields, table, wrapped
from netd.text import counted

# Of the last events; `--json` has them all.
EVENTS = 10
# By how much the further lines of one are indented.
_HANGING = 4
# Cells for the labels, so that those of all blocks stand below each other.
_LABEL = 9
_EVENT_COLUMNS = [Column("time"), Column("kind"), Column("service"), Column("client"),
                  Column("times", right=True), Column("what")]  # fmt: skip
_Pair = tuple[str, Cell | Sequence[Cell]]


def status(data: Any, width: int | None) -> list[Text]:
    """The daemon, each service, and what happened last."""
    daemon, services, now = data["daemon"], data["services"], data["time"]
    found = _head(daemon.get("state", "serving"), f"netd {daemon['version']}")
    found += fields([*_of_daemon(daemon, now)], width, _LABEL)
    for name, service in services.items():
        protocol = service.get("protocol")
        found += [Text(), *_head(service["state"], f"{name} ({protocol})" if protocol else name)]
        found += fields([*_of_service(service, now)], width, _LABEL)
    named = [
        event for event in data["events"] if len(services) != 1 or event["service"] in services
    ]
    return [*found, *events(named[:EVENTS], width)]


def _head(state: str, name: str) -> list[Text]:
    return [Text.assemble(paint.dot(state), " ", (name, "bold"), ": ", paint.state(state))]


def _since(since: float | None, now: float) -> Iterator[_Pair]:
    if since is not None:
        yield "Since", f"{moment(since)}; {span(now - since)} ago"


def _of_daemon(daemon: dict[str, Any], now: float) -> Iterator[_Pair]:
    yield from _configuration(daemon.get("configuration"), now)
    yield from _since(daemon["started"], now)
    yield "PID", str(daemon["pid"])
    yield "Sessions", of(daemon["open"], daemon["max_connections"])
    yield "Threads", of(daemon["threads"], daemon["max_threads"])
    yield "Files", of(daemon["descriptors"], daemon["max_descriptors"])
    yield "Memory", size(daemon["memory"])
    yield "CPU", span(daemon["cpu_seconds"])
    if daemon["bans"]:
        yield "Bans", str(daemon["bans"])
    if daemon["log_lines_waiting"] or daemon["log_lines_dropped"]:
        lost = f"{daemon['log_lines_dropped']} lost"
        yield "Log", f"{counted(daemon['log_lines_waiting'], 'line')} waiting, {lost}"


def _configuration(read: dict[str, Any] | None, now: float) -> Iterator[_Pair]:
    if read is None:
        return
    yield "Config", read["file"] or "built in"
    if read["reloads"] or read["failed_reloads"]:
        since = f"{moment(read['loaded'])}; {span(now - read['loaded'])} ago"
        times = f"{counted(read['reloads'], 'reload')}, {read['failed_reloads']} failed"
        yield "Loaded", f"{since} ({times})"
    if read["error"]:
        # One line for each fault; their ends have become printable like all else.
        yield "Error", [paint.removed(line) for line in read["error"].split("\\n")]


def _of_service(service: dict[str, Any], now: float) -> Iterator[_Pair]:
    yield from _since(service.get("since"), now)
    if service.get("listen"):
        yield "Listen", service["listen"]
    if "open" not in service:  # it does not run
        return
    yield "Sessions", of(service["open"], service["max_connections"])
    refused = sum(service["refused"].values())
    turned_away = (
        f", {refused} refused ({reasons(service['refused'])})" if refused else ", 0 refused"
    )
    yield "Clients", f"{service['admitted']} let in{turned_away}"
    yield "Bytes", f"{size(service['bytes_in'])} in, {size(service['bytes_out'])} out"
    yield from _datagrams(service)
    if service["errors"]:
        yield "Errors", Text(f"{service['errors']} (see the log)", "bold red")


def _datagrams(service: dict[str, Any]) -> Iterator[_Pair]:
    dropped = service["datagrams_dropped"]
    number = sum(dropped.values())
    if service["datagrams_in"] or service["datagrams_out"] or number:
        told = f"{service['datagrams_in']} in, {service['datagrams_out']} out"
        yield "Datagrams", told + (f", {number} dropped ({reasons(dropped)})" if number else "")


def events(found: Sequence[dict[str, Any]], width: int | None) -> list[Text]:
    """What happened last, the latest first, under a heading; nothing if nothing did."""
    if not found:
        return []
    return [Text(), Text("Last events", "bold"), *_events(found, width)]


def _events(found: Sequence[dict[str, Any]], width: int | None) -> list[Text]:
    if width is None:
        return table(_EVENT_COLUMNS, [event_cells(event) for event in found], None)
    told: list[Text] = []
    for event in found:
        first, *more = wrapped(event_line(event), width, _HANGING)
        told += [first, *(Text(" " * _HANGING) + part for part in more)]
    return told


def event_line(event: dict[str, Any]) -> Text:
    """An event as a line of text."""
    at, kind, service, peer, times, what = event_cells(event)
    often = f" ×{times}" if event["times"] > 1 else ""
    whom = f" {peer}" if event["peer"] else ""
    return Text.assemble(f"{at} ", kind, f" {service}: {what}{whom}{often}")


def event_cells(event: dict[str, Any]) -> tuple[str, Text, str, str, str, str]:
    """Time, kind, service, client, times and text of an event."""
    return (
        clock(event["time"]), paint.event(event["kind"]), event["service"],
        event["peer"] or NOTHING, str(event["times"]), event["text"],
    )  # fmt: skip
