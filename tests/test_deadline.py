"""Time left."""

from __future__ import annotations

import math
from time import monotonic

import pytest
from harness import wait_until
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.deadline import Deadline, Timeouts
from netd.errors import Overdue, RemoteError


def test_without_a_limit_there_is_always_time() -> None:
    """None is what the socket module calls no time-out."""
    deadline = Deadline(None, "idle_timeout")
    assert deadline.left() is None
    assert deadline.at == math.inf


@given(st.floats(1.0, 10**9))
def test_the_time_left_runs_out(seconds: float) -> None:
    """It is never more than was given, and less at each look."""
    before = monotonic()
    deadline = Deadline(seconds, "idle_timeout")
    first, second = deadline.left(), deadline.left()
    assert first is not None
    assert second is not None
    assert 0 < second <= first <= seconds + 1e-6
    assert before + seconds <= deadline.at <= monotonic() + seconds


@pytest.mark.parametrize("seconds", [0.0, -1.0])
@pytest.mark.parametrize("reason", ["idle_timeout", "session_timeout", "write_timeout"])
def test_a_deadline_that_has_passed_raises_its_reason(seconds: float, reason: str) -> None:
    """A wait that may not begin is the peer's fault, by the word that the log will have."""
    with pytest.raises(Overdue, match=reason.replace("_", " ")) as caught:
        Deadline(seconds, reason).left()
    assert caught.value.reason == reason
    assert isinstance(caught.value, RemoteError)


def test_a_deadline_passes_however_often_it_is_looked_at() -> None:
    """It is a point in time: activity does not move it."""
    deadline = Deadline(0.03, "session_timeout")

    def passed() -> bool:
        try:
            return deadline.left() is None
        except Overdue:
            return True

    wait_until(passed)
    assert 0 <= monotonic() - deadline.at < 1


def test_the_timeouts_are_read_as_durations() -> None:
    """The keys of a service, in seconds."""
    timeouts = Timeouts.model_validate({"idle_timeout": "1m30s", "write_timeout": "none"})
    assert timeouts.idle_timeout == 90.0
    assert timeouts.session_timeout is None
    assert timeouts.write_timeout is None


def test_a_timeout_needs_its_unit() -> None:
    """Nobody has to guess whether 5 is seconds or minutes."""
    with pytest.raises(ValidationError, match="write 5s, 5m or 5h"):
        Timeouts.model_validate({"idle_timeout": 5})
