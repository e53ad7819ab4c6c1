"""netd's echo against the servers of Python's standard library, in one run, on this machine:

    python tests/bench [--quick] [--rounds N]

or what it costs to have authentication or TLS before it, against itself and asyncio:

    python tests/bench --guarded [--quick] [--rounds N]

Needs nothing but Python; the latter also openssl(1), for a certificate. Everything runs on
loopback, within about a minute. The servers take turns in each round, so that a change of the
machine's mood meets them all. A server has one CPU and the clients another; with one message in
flight they share one, since the time to wake another CPU would be all that is seen.

The clients are Python too, and no faster than the servers: where the rates are alike, the CPU time
that a server spends on a message tells them apart. Compare only within one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from shutil import which
from statistics import median

import load
import servers
from load import Done
from servers import GUARDED, NAMES, Server

Figures = dict[str, float]
"""What was measured, by unit."""
Found = dict[tuple[str, str], dict[str, list[float]]]
"""By scenario and unit: the figures of each server, round by round."""


@dataclass(frozen=True)
class Scenario:
    """What is done, and what it is called."""

    title: str
    run: Callable[[Server], Figures]
    same_cpu: bool = False
    """Whether clients and server share a CPU."""
    fresh: bool = False
    """Whether it needs servers that have not served before."""


@dataclass(frozen=True)
class Comparison:
    """Who is measured, and whose figures are divided by whose."""

    names: list[str]
    ratios: dict[str, tuple[str, str]]
    """By what is written above them."""


PEERS = Comparison(NAMES, {f"netd/{peer}": ("netd", peer) for peer in NAMES[1:]})
COSTS = Comparison(
    GUARDED, {"hmac/netd": ("netd-hmac", "netd"), "tls/asyncio": ("netd-tls", "asyncio-tls")}
)


def timed(what: str, run: Callable[[int], Done], server: Server) -> Figures:
    """The rate of a load, and the CPU time that the server spent on it."""
    before = server.cpu
    done = run(server.port)
    spent = server.cpu - before
    figures = {f"{what}/s": done.rate, f"CPU µs/{what}": spent / done.count * 1e6}
    if what == "datagram":
        figures["lost, %"] = 100 * done.lost / (done.count + done.lost)
    return figures


def growth(connections: int, server: Server) -> Figures:
    """What an open connection costs in memory."""
    before = server.memory
    with load.held(server.port, connections):
        return {"KiB/connection": (server.memory - before) / connections / 1024}


def scenarios(quick: bool) -> list[Scenario]:
    """All of them; in quick mode so small that their figures mean nothing."""
    seconds = 0.05 if quick else 0.6
    many, most = (10, 20) if quick else (100, 1000)

    def echo(connections: int, size: int) -> Callable[[Server], Figures]:
        run = partial(load.echo, connections=connections, size=size, seconds=seconds)
        return partial(timed, "message", run)

    return [
        Scenario("64 B echo, 1 connection", echo(1, 64), same_cpu=True),
        Scenario(f"64 B echo, {many} connections", echo(many, 64)),
        Scenario(f"64 B echo, {most} connections", echo(most, 64)),
        Scenario(f"16 KiB echo, {many} connections", echo(many, 16_384)),
        Scenario(
            f"connect, echo, close; {load.AT_ONCE} at a time",
            partial(timed, "connection", partial(load.churn, seconds=seconds)),
        ),
        Scenario(
            "64 B datagrams, 64 in flight",
            partial(timed, "datagram", partial(load.datagrams, in_flight=64, seconds=seconds)),
        ),
        Scenario(f"{most} idle connections", partial(growth, most), fresh=True),
    ]


def guarded(quick: bool) -> list[Scenario]:
    """What clients do who have to get past something: once they have, and that itself."""
    seconds = 0.05 if quick else 0.6
    many = 10 if quick else 100

    def echo(server: Server) -> Figures:
        # What it costs to come in is no part of this one, nor is the CPU time for it.
        with load.held(server.port, many, kind=server.kind) as socks:
            return timed("message", lambda _: load.exchange(socks, 64, seconds), server)

    def churn(server: Server) -> Figures:
        run = partial(load.churn, seconds=seconds, kind=server.kind)
        return timed("connection", run, server)

    return [
        Scenario(f"64 B echo, {many} connections", echo),
        Scenario(f"connect, echo, close; {load.AT_ONCE} at a time", churn),
    ]


@contextmanager
def on_cpu(cpu: int | None) -> Iterator[None]:
    """Keeps this process on a CPU for the time of a `with`."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(todo: list[Scenario], names: list[str], rounds: int) -> Found:
    """Runs all scenarios with all servers, in turns."""
    cpus = sorted(os.sched_getaffinity(0))
    servers_on, clients_on = (cpus[0], cpus[-1]) if len(cpus) > 1 else (None, None)
    found: Found = {}
    with servers.started(names, servers_on) as running:
        for number in range(rounds):
            turn = number % len(names)
            for scenario in todo:
                for name in names[turn:] + names[:turn]:
                    with on_cpu(servers_on if scenario.same_cpu else clients_on):
                        figures = run(scenario, running[name], servers_on)
                    for unit, figure in figures.items():
                        row = found.setdefault((scenario.title, unit), {n: [] for n in names})
                        row[name].append(figure)
    return found


def run(scenario: Scenario, server: Server, cpu: int | None) -> Figures:
    """One measurement."""
    if not scenario.fresh:
        return scenario.run(server)
    with servers.started([server.name], cpu) as fresh:
        return scenario.run(fresh[server.name])


def table(found: Found, shown: Comparison) -> Iterator[str]:
    """The medians, and the median of one server's figure divided by another's, round by round."""
    heads = [*shown.names, *shown.ratios]
    yield f"{'':36}{'':20}" + "".join(f"{head:>15}" for head in heads)
    last = ""
    for (title, unit), row in found.items():
        cells = [number(median(row[name])) for name in shown.names]
        cells += [ratio(row[one], row[other]) for one, other in shown.ratios.values()]
        yield f"{title if title != last else '':36}{unit:20}" + "".join(f"{c:>15}" for c in cells)
        last = title


def number(figure: float) -> str:
    """A figure with as many digits as it deserves."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"


def ratio(ours: list[float], theirs: list[float]) -> str:
    """The median of the ratios; nothing where there is nothing to divide by."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True) if their > 0]
    return f"{median(ratios):.2f}" if len(ratios) == len(ours) else "-"


def main() -> None:
    """Runs it all and prints the table."""
    parser = argparse.ArgumentParser(description="netd's echo against the standard library's")
    parser.add_argument("--quick", action="store_true", help="see that it works; measures nothing")
    parser.add_argument("--rounds", type=int, default=None, metavar="N", help="default: 3")
    parser.add_argument("--guarded", action="store_true", help="what hmac and TLS cost instead")
    given = parser.parse_args()
    if given.guarded and not which("openssl"):
        sys.exit("--guarded makes a certificate with openssl(1), which is not installed")
    rounds = given.rounds or (1 if given.quick else 3)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(
        f"Python {platform.python_version()}, Linux {platform.release()},"
        f" {len(os.sched_getaffinity(0))} CPUs; rounds: {rounds}",
        flush=True,
    )
    todo, shown = (guarded, COSTS) if given.guarded else (scenarios, PEERS)
    for line in table(measure(todo(given.quick), shown.names, rounds), shown):
        print(line)


if __name__ == "__main__":
    main()
