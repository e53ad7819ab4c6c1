"""Tests that need the machine to themselves: how soon netd does something with a thousand clients
is not to be a matter of what the other workers run just then.

Every test has a share of the room, and one marked `alone` all of it. Each passes the gate first:
whoever waits there for the whole room keeps others from coming in.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes is a matter of the machine.
settings.register_profile("netd", deadline=None)
settings.load_profile("netd")

ROOM, GATE = Path(__file__).parent, Path(__file__)


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Has a lock of flock(2) on a file for the time of a `with`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Lets a test begin when there is room for it. Without other workers there always is."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    how = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    with ExitStack() as stack:
        with locked(GATE, fcntl.LOCK_EX):
            stack.enter_context(locked(ROOM, how))
        return (yield)
