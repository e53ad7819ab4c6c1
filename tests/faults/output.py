"""A standard error that takes no lines: netd goes on, and tells how many were lost."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

from harness import ask, wait_until

from faults.fault import ANY, Fault, Setup
from faults.setups import SMALL, running_unheard
from faults.target import Target

_SESSION = re.compile(r"info +(echo|lines): session id=\S+ peer=\S+ duration=[\d.]+ in=\d+ out=\d+")
_DROPPED = re.compile(r"warning log: (\d+) log lines dropped, as they could not be written$")


def _visit(target: Target, number: int) -> None:
    """Has so many sessions, of which each has its line in the log by the time that it ends."""
    for _ in range(number):
        with target.connect("echo", scheme="unix") as client:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""


def _go_on(target: Target) -> None:
    """Writes hundreds of lines that nobody reads, and is served."""
    _visit(target, 300)
    assert ask(target.connect("echo", scheme="unix"), b"abc") == b"abc"
    assert ask(target.connect("lines", scheme="unix"), b"abc\n") == b"cba\n"


def _block(target: Target) -> None:
    """Reads its standard error no more, until what waits to be written is too much; then again."""
    mark = len(target.log())
    target.netd.read_log(False)
    try:
        _visit(target, 12_000)
    finally:
        target.netd.read_log(True)
    _tells_of_the_loss(target, mark, 12_000)


def _tells_of_the_loss(target: Target, mark: int, sessions: int) -> None:
    dropped = int(target.netd.wait_for_log(_DROPPED.pattern, mark)[1])
    assert dropped > 0
    wait_until(lambda: len(target.log(mark)) >= sessions - dropped + 1)
    assert _accounted_for(target.log(mark)) == sessions


def _accounted_for(lines: list[str]) -> int:
    """How many sessions the lines tell of, or of how many that they are lost."""
    found = [_SESSION.search(line) or _DROPPED.search(line) for line in lines]
    assert all(found), lines
    return sum(int(match[1]) if match.re is _DROPPED else 1 for match in found if match)


# -- a full disk


@contextmanager
def _running_on_a_small_disk() -> Iterator[Target]:
    """A daemon whose standard error is a file on a disk of 64 KiB, which is nearly full."""
    with TemporaryDirectory(prefix="netd-") as folder, _small_disk(Path(folder)) as disk:
        (disk / "ballast").write_bytes(bytes(60_000))
        with (disk / "log").open("a") as log, running_unheard(stderr=log) as target:
            target.disk = disk
            yield target


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _cannot_mount() -> str:
    if os.geteuid():
        return "mount needs root"
    with TemporaryDirectory() as folder:
        try:
            with _small_disk(Path(folder)):
                return ""
        except subprocess.CalledProcessError:
            return "mount is not permitted"


def _fill_the_disk(target: Target) -> None:
    """Writes more than fits; then makes room."""
    assert target.disk is not None
    log = target.disk / "log"
    before = len(log.read_text().splitlines())

    def lines() -> list[str]:
        return log.read_text().splitlines()[before:]

    for _ in range(10):
        _visit(target, 30)
        sleep(0.05)  # nothing is waited for: it makes several batches, of which each is lost
    (target.disk / "ballast").unlink()
    _visit(target, 1)
    wait_until(lambda: any(map(_DROPPED.search, lines())))
    assert _accounted_for(lines()) == 301


@contextmanager
def _running_without_a_reader() -> Iterator[Target]:
    """A daemon whose standard error is a pipe that nobody reads from any more."""
    reading, writing = os.pipe()
    with (
        open(reading) as reader,
        open(writing, "w") as writer,
        running_unheard(stderr=writer) as target,
    ):
        reader.close()
        yield target


_CLOSED = Setup(partial(running_unheard, "sh", "-c", 'exec "$@" 2>&-', "sh"))
_FULL = Setup(partial(running_unheard, "sh", "-c", 'exec "$@" 2>/dev/full', "sh"))
_UNREAD = Setup(_running_without_a_reader)
_SMALL_DISK = Setup(_running_on_a_small_disk, _cannot_mount)

FAULTS = [
    Fault("stderr closed", _CLOSED, _go_on, counters=None),
    Fault("stderr full", _FULL, _go_on, counters=None),
    Fault("stderr a pipe that nobody reads from any more", _UNREAD, _go_on, counters=None),
    Fault("stderr full for a while", _SMALL_DISK, _fill_the_disk, counters=None, fresh=False),
    Fault(
        "stderr blocked for a while", SMALL, _block,
        log={_SESSION.pattern: ANY, _DROPPED.pattern: 1},
        counters={
            "echo.admitted": 12_000, "echo.ended.eof": 12_000, "netd.log_lines_dropped": ANY,
        },
        fresh=False,
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""
