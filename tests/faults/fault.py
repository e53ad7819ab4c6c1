"""A fault, what it is expected to do, and the runner that sees whether it does."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from harness import slowness

from faults.target import Target

LATE = 0.25
"""Seconds within which the canary is answered, throughout, on a usual machine."""
BACK = 2.0
"""Seconds within which descriptors, threads and sessions are back to what they were, likewise."""

# What the runner itself brings about: the canary's sessions, and the state that SIGUSR1 asks for.
_OURS = re.compile(r" canary: session |: \{\"\S.*\}$")


class _Any:
    """Equal to whatever the kernel makes it: bytes that were on their way when a session ended."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __repr__(self) -> str:
        return "any number"

    def __add__(self, other: object) -> _Any:
        return self

    __hash__ = object.__hash__
    __radd__ = __add__


ANY: Any = _Any()

DRAINED = {r"info +netd: SIGTERM: draining": 1, r"info +netd: stopped$": 1}
"""What the log says when a daemon was told to end."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A daemon to provoke faults in; those of one setup share it, one after the other."""

    run: Callable[[], AbstractContextManager[Target]]
    missing: Callable[[], str] = str
    """What this machine lacks for it, in words; empty when nothing is."""


@dataclass(frozen=True)
class Sessions:
    """So many sessions of a service that ended by a reason; each has its line in the log."""

    service: str
    number: int
    reason: str
    bytes_in: int = ANY
    bytes_out: int = ANY

    @property
    def log(self) -> dict[str, int]:
        return {rf"info +{self.service}: session .* reason={self.reason}$": self.number}

    @property
    def counters(self) -> dict[str, int]:
        return {
            f"{self.service}.admitted": self.number,
            f"{self.service}.ended.{self.reason}": self.number,
            f"{self.service}.bytes_in": self.bytes_in,
            f"{self.service}.bytes_out": self.bytes_out,
        }


@dataclass(frozen=True)
class Refusals:
    """So many clients of a service that were turned away, each with its line in the log."""

    service: str
    number: int
    reason: str

    @property
    def log(self) -> dict[str, int]:
        return {rf"info +{self.service}: refused .* reason={self.reason}$": self.number}

    @property
    def counters(self) -> dict[str, int]:
        return {f"{self.service}.refused.{self.reason}": self.number}


@dataclass(frozen=True)
class Fault:
    """One row of the table. `provoke` asserts the outcome; it may return counters, as in
    `counters`, that are known only afterwards."""

    name: str
    setup: Setup
    provoke: Callable[[Target], Mapping[str, int] | None]
    ends: tuple[Sessions | Refusals, ...] = ()
    log: Mapping[str, int] = field(default_factory=dict)
    """Further lines of the log: a regular expression for each kind, and how many there are."""
    counters: Mapping[str, int] | None = field(default_factory=dict)
    """Further counters by `service.counter` or `service.counter.reason`, and by how much they
    grow; those that are not named stay as they are. None: nobody can ask for them afterwards."""
    fresh: bool = True
    """Whether clients can still come in, so that the canary does so each time."""
    missing: Callable[[], str] = str
    """What this machine lacks for it, in words; empty when nothing is."""
    status: int | None = None
    """The exit status of a daemon that the fault ends."""
    alone: bool = False
    """Whether it takes all of the machine: then other tests wait."""

    def __str__(self) -> str:
        return self.name


class LateError(AssertionError):
    """What should have come by a certain time came later."""


def ends_in_time(began: float, least: float, most: float) -> None:
    """Asserts that something which began then has not ended before `least` seconds. Raises
    LateError if it took more than `most`."""
    took = time.monotonic() - began
    assert took >= least, f"ended after {took:.3f} s, and not before {least:g} s was expected"
    if took > most * slowness():
        raise LateError(f"ended after {took:.3f} s")


def survive(fault: Fault, target: Target) -> None:
    """Provokes a fault, and asserts all that is true of every fault. Raises AssertionError."""
    before = target.counters() if fault.counters is not None else Counter()
    mark = len(target.log())
    target.canary.start(fault.fresh)
    with target.clients:
        told = fault.provoke(target) or {}
    slowest, sent_away = target.canary.stop()
    if fault.status is None:
        assert not sent_away, "the canary was sent away"
        _come_to_rest(fault, target, before, told)
    else:
        assert target.netd.wait() == fault.status
    _check_log(fault, target.log(mark))
    if slowest > LATE * slowness():
        raise LateError(f"the canary was answered after {slowest:.3f} s")


def _come_to_rest(
    fault: Fault, target: Target, before: Counter[str], told: Mapping[str, int]
) -> None:
    """Asserts that descriptors and threads are soon as many as before, and counters what they
    should be: a busy daemon may still be taking in clients that are gone already."""

    def differences() -> str:
        if (now := target.footprint()) != target.rest:
            return f"{now} {BACK} s after the end, and {target.rest} at rest"
        if fault.counters is None:
            return ""
        return _differences("growth of counters", _growth(target, before), expected)

    expected = _sum(fault.counters or {}, *(end.counters for end in fault.ends)) | dict(told)
    end = time.monotonic() + BACK * slowness()
    while (found := differences()) and time.monotonic() < end:
        time.sleep(0.002)
    assert not found, found


def _growth(target: Target, before: Counter[str]) -> dict[str, int]:
    """By how much the counters have grown that a fault can move."""
    found = target.counters()
    found.subtract(before)
    ours = ("canary.", "netd.open", "netd.threads", "netd.log_lines_waiting")
    return {name: number for name, number in found.items() if not name.startswith(ours)}


def _sum(*parts: Mapping[str, int]) -> dict[str, int]:
    whole: dict[str, int] = {}
    for part in parts:
        for name, number in part.items():
            whole[name] = whole.get(name, 0) + number
    return whole


def _check_log(fault: Fault, lines: list[str]) -> None:
    expected = _sum(fault.log, *(end.log for end in fault.ends))
    found: Counter[str] = Counter()
    strange = []
    for line in filter(lambda line: not _OURS.search(line), lines):
        kind = next((kind for kind in expected if re.search(kind, line)), None)
        if kind is None:
            strange.append(line)
        else:
            found[kind] += 1
    assert not strange, "lines in the log that nothing accounts for:\n" + "\n".join(strange[:50])
    wrong = _differences("lines in the log", found, expected)
    assert not wrong, wrong


def _differences(what: str, found: Mapping[str, int], expected: Mapping[str, int]) -> str:
    """How two countings differ, in lines; "" if they agree. What one does not name is 0."""
    faults = [
        f"{name}: {found.get(name, 0)}, and {expected.get(name, 0)} expected"
        for name in {**found, **expected}
        if expected.get(name, 0) != found.get(name, 0)
    ]
    return f"{what}:\n" + "\n".join(faults) if faults else ""
