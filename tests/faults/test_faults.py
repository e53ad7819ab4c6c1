"""Runs the table of faults against real daemons."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from faults.fault import Fault, LateError, Setup, survive
from faults.table import FAULTS, SOAKS
from faults.target import Target

# A machine that is busy with something else delays canaries and clients too. It hardly does the
# same one twice, where what netd itself holds up is late each time.
TRIES = 2
PRECEDENCE = 10


class Daemons:
    """The daemons that run, one for each setup; a fault that ends one, or fails, costs it."""

    def __init__(self) -> None:
        self._running: dict[Setup, tuple[Target, ExitStack]] = {}

    def get(self, setup: Setup) -> Target:
        """A daemon that no fault has harmed."""
        if setup not in self._running:
            stack = ExitStack()
            self._running[setup] = stack.enter_context(setup.run()), stack
        return self._running[setup][0]

    def discard(self, setup: Setup) -> None:
        """The next fault is given a new one."""
        self._running.pop(setup)[1].close()

    def stop(self) -> None:
        """Ends all of them, by the signal that an administrator would send."""
        for target, stack in self._running.values():
            with stack:
                assert target.netd.stop() == 0


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    """The daemons that the rows share. They, and their clients, come before what else runs here:
    how soon netd does something is not to be a matter of other tests. Only root can see to that."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before - PRECEDENCE)
    running = Daemons()
    yield running
    running.stop()
    os.setpriority(os.PRIO_PROCESS, 0, before)


def provoke(fault: Fault, daemons: Daemons) -> None:
    """Provokes a fault in a daemon of its setup."""
    target = daemons.get(fault.setup)
    fit = False
    try:
        survive(fault, target)
        fit = fault.status is None
    finally:
        if not fit:
            daemons.discard(fault.setup)


def try_it(fault: Fault, daemons: Daemons) -> None:
    """Provokes a fault, and again when all was right but late."""
    if missing := fault.missing() or fault.setup.missing():
        pytest.skip(missing)
    for _ in range(TRIES - 1):
        with suppress(LateError):
            provoke(fault, daemons)
            return
    provoke(fault, daemons)


def rows(faults: list[Fault]) -> list[Any]:
    """A case of a test for each row."""
    alone = [pytest.mark.alone]
    return [pytest.param(row, id=row.name, marks=alone if row.alone else []) for row in faults]


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_netd_survives(fault: Fault, daemons: Daemons) -> None:
    """A fault has its outcome, and no other: see `faults`."""
    try_it(fault, daemons)


@pytest.mark.soak
@pytest.mark.parametrize("fault", rows(SOAKS))
def test_netd_survives_long(fault: Fault, daemons: Daemons) -> None:
    """As above, for minutes."""
    try_it(fault, daemons)
