"""The queue of signals: each test runs a process, as signals are its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from harness import PATIENCE, python_path

ENDING = [signal.SIGTERM, signal.SIGINT]
STEERING = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
# Tells that it has begun, waits for a line, and prints the signals that came meanwhile.
PROGRAM = """
import signal, sys
from netd.signals import Signals

with Signals() as signals:
    print("ready", flush=True)
    sys.stdin.readline()
    while (number := signals.next(0)) is not None:
        print(number.name)
print("over", flush=True)
sys.stdin.readline()
print("end")
"""


def queued(*numbers: signal.Signals, afterwards: list[signal.Signals] | None = None) -> list[str]:
    """The names of the signals as they come out of the queue into which these were put."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM], env={"PYTHONPATH": python_path()},
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in numbers:
            process.send_signal(number)
        process.stdin.write("\n")
        process.stdin.flush()
        found = [line.strip() for line in iter(process.stdout.readline, "over\n")]
        for number in afterwards or []:
            process.send_signal(number)
        out, _ = process.communicate("\n", PATIENCE)
        assert (out, process.returncode) == ("end\n", 0)
        return found


@pytest.mark.parametrize("number", ENDING + STEERING)
def test_a_signal_is_queued(number: signal.Signals) -> None:
    """None of them ends the process, and each comes out under its name."""
    assert queued(number) == [number.name]


def test_without_a_signal_there_is_none() -> None:
    """A wait that is over returns None."""
    assert queued() == []


def test_a_thousand_equal_requests_are_one() -> None:
    """What they ask for is done once; another one among them is not lost."""
    assert queued(*STEERING * 500, signal.SIGTERM).count("SIGTERM") == 1
    found = queued(*[signal.SIGHUP] * 1000, signal.SIGUSR1)
    assert sorted(found) == ["SIGHUP", "SIGUSR1"]


@pytest.mark.parametrize("number", ENDING + STEERING)
def test_what_comes_too_late_is_ignored(number: signal.Signals) -> None:
    """The process goes on to its own end, with its own status."""
    assert queued(afterwards=[number] * 3) == []
