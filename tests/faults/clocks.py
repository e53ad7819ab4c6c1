"""A clock that leaps: no timer fires early or late."""

from __future__ import annotations

from functools import partial
from time import monotonic

from harness import read_all

from faults.fault import Fault, Sessions, ends_in_time
from faults.setups import CLOCKED
from faults.target import Target

_IDLE = b"error: idle timeout\r\n"
_YEAR = 365 * 86_400


def _leap(target: Target, offset: str, years: int) -> None:
    """Sets the clock while deadlines of every kind are pending, each of them a second away."""
    assert target.clock is not None
    unread = target.connect("unread", receive_buffer=1024)
    clients = [
        (target.connect("mute"), b""),
        (target.connect("mute-lines"), _IDLE),
        (target.connect("slow"), b""),
        (target.connect("waits"), b"waited 1.0 s\n" + _IDLE),
    ]
    began, before, mark = monotonic(), _seconds(target), len(target.log())
    try:
        target.clock.write_text(offset)
        assert abs(_since(before, _seconds(target)) - years * _YEAR) < _YEAR / 10
        for client, last_words in clients:
            assert read_all(client) == last_words
            ends_in_time(began, 0.9, 1.7)
        target.netd.wait_for_log("unread: session .* duration=1", mark)
    finally:
        target.clock.write_text("+0")
    unread.close()
    assert abs(_since(before, _seconds(target))) < 60


def _seconds(target: Target) -> int:
    """The time by the daemon's clock."""
    return int.from_bytes(read_all(target.connect("time")))


def _since(before: int, after: int) -> int:
    """Seconds from one to the other, of 32 bits each, which wrap round in 2036."""
    return (after - before + 2**31) % 2**32 - 2**31


_SESSIONS = (
    Sessions("mute", 1, "idle_timeout", 0, 0),
    Sessions("mute-lines", 1, "idle_timeout", 0, len(_IDLE)),
    Sessions("slow", 1, "session_timeout", 0, 0),
    Sessions("waits", 1, "idle_timeout"),
    Sessions("unread", 1, "write_timeout"),
    Sessions("time", 3, "done", 0, 12),
)

FAULTS = [
    Fault("clock set 10 years ahead", CLOCKED, partial(_leap, offset="+10y", years=10), _SESSIONS),
    Fault("clock set 10 years back", CLOCKED, partial(_leap, offset="-10y", years=-10), _SESSIONS),
]  # fmt: skip
"""Rows of the table; see `faults`."""
