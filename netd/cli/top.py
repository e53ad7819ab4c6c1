"""`netctl top`: the services live, on the full screen.

A thread asks the daemon once a second, so that the keys work although it may not answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event, Thread
from time import strftime
from typing import Any

from rich.live import Live
from rich.text import Text

from netd.cli import paint, terminal
from netd.cli.figures import NOTHING, of, rate, short_size, size, span
from netd.cli.keyboard import Keyboard
from netd.cli.layout import Column, fitting, wrapped
from netd.cli.status_view import event_line
from netd.client.control import Control, ControlError

INTERVAL = 1.0
"""Seconds from one look to the next."""
_COLUMNS = [
    Column("service"), Column("state"), Column("open", right=True), Column("new/s", right=True),
    Column("refused/s", right=True), Column("in/s", right=True), Column("out/s", right=True),
    Column("datagrams/s", right=True), Column("admitted", right=True),
    Column("refused", right=True), Column("protocol"),
]  # fmt: skip


@dataclass
class Look:
    """What the daemon said at one time, and at the time before."""

    now: dict[str, Any]
    before: dict[str, Any]

    @property
    def seconds(self) -> float:
        """The time between them."""
        return max(0.001, float(self.now["time"] - self.before["time"]))

    def per_second(self, name: str, *counters: str) -> float:
        """By how much counters of a service have grown each second, all together."""
        now, before = self.now["services"][name], self.before["services"].get(name, {})
        if "open" not in before:  # it did not run
            return 0.0
        grown = sum(_total(now, counter) - _total(before, counter) for counter in counters)
        return max(0.0, grown / self.seconds)  # they begin anew when netd does


def _total(service: dict[str, Any], counter: str) -> int:
    value: Any = service.get(counter, 0)
    return sum(value.values()) if isinstance(value, dict) else value


class Watch(Thread):
    """Looks at the daemon once a second, and calls `wake` when there is something new."""

    def __init__(self, control: Control, first: dict[str, Any], wake: Callable[[], None]) -> None:
        super().__init__(name="watch", daemon=True)
        self._control, self._wake = control, wake
        self._ended = Event()
        self.look = Look(first, first)
        self.fault = ""
        """Why there is nothing new."""

    def run(self) -> None:
        """Looks, until `stop`."""
        while not self._ended.wait(INTERVAL):
            try:
                now = terminal.shown(self._control.ask("status"))
                self.look, self.fault = Look(now, self.look.now), ""
            except ControlError as error:
                self.fault = str(error)
            if not self._ended.is_set():
                self._wake()

    def stop(self) -> None:
        """Ends it; what it waits for does not matter any more."""
        self._ended.set()


def watch(control: Control) -> None:
    """Shows the services until somebody types q or Ctrl-C. Raises ControlError without a terminal,
    and when there is no daemon at the beginning."""
    output = terminal.console()
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or output.is_dumb_terminal:
        raise ControlError("usage", "top: it needs a terminal (use `netctl status`, or --json)")
    first = terminal.shown(control.ask("status"))
    with Keyboard() as keyboard:
        watching = Watch(control, first, keyboard.wake)
        watching.start()
        with Live(console=output, screen=True, auto_refresh=False) as live:
            key = ""
            while key not in ("q", "Q", Keyboard.INTERRUPT):
                picture = screen(watching.look, watching.fault, *output.size)
                live.update(picture, refresh=True)
                key = keyboard.next()
        watching.stop()


def screen(look: Look, fault: str, width: int, height: int) -> Text:
    """What fits on a screen: the daemon, the services, the last events."""
    foot = Text("q leaves", "bright_black")
    if fault:
        foot = paint.removed(fault)
    head = [part for line in _head(look.now) for part in wrapped(line, width)]
    head.append(Text())
    services = fitting(_COLUMNS, [*_rows(look)], width)
    room = max(0, height - len(head) - 2)
    lines = head + services[:room]
    if (left := room - len(services) - 2) > 0 and look.now["events"]:
        lines += [Text(), Text("Last events", "bold")]
        lines += [event_line(event) for event in look.now["events"][:left]]
    lines += [Text()] * (height - 1 - len(lines))
    lines = [*lines[: height - 1], foot]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True, end="").join(lines)


def _head(now: dict[str, Any]) -> Iterator[Text]:
    daemon = now["daemon"]
    state = daemon.get("state", "serving")
    yield Text.assemble(
        (f"netd {daemon['version']}", "bold"), " ", paint.state(state),
        f", up {span(daemon['uptime'])}, pid {daemon['pid']}, {strftime('%H:%M:%S')}",
    )  # fmt: skip
    yield Text(
        f"sessions {of(daemon['open'], daemon['max_connections'])},"
        f" threads {of(daemon['threads'], daemon['max_threads'])},"
        f" files {of(daemon['descriptors'], daemon['max_descriptors'])},"
        f" memory {size(daemon['memory'])}, CPU {span(daemon['cpu_seconds'])}"
    )


def _rows(look: Look) -> Iterator[list[str | Text]]:
    """The services, those with most sessions first."""
    services = look.now["services"].items()
    for name, service in sorted(services, key=lambda item: -item[1].get("open", -1)):
        head = [name, paint.state(service["state"])]
        if "open" not in service:  # it does not run
            yield [*head, *[NOTHING] * (len(_COLUMNS) - 3), service.get("protocol") or NOTHING]
            continue
        yield [
            *head, str(service["open"]), rate(look.per_second(name, "admitted")),
            rate(look.per_second(name, "refused")), short_size(look.per_second(name, "bytes_in")),
            short_size(look.per_second(name, "bytes_out")),
            rate(look.per_second(name, "datagrams_in", "datagrams_out")),
            str(service["admitted"]), str(_total(service, "refused")),
            service.get("protocol") or NOTHING,
        ]  # fmt: skip
