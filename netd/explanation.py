"""What each rule of admission says of a client, as plain data for whoever asks why."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Verdict = Literal["off", "pass", "delay", "refuse"]


class Step(TypedDict):
    """One rule, in the order in which they are looked at."""

    rule: str
    """The key of the configuration, or what else decides."""
    verdict: Verdict
    """`off` is a rule that is not set."""
    reason: str | None
    """The reason word, if it refuses."""
    detail: dict[str, Any]
    """What was compared: strings, numbers and nulls."""


def step(rule: str, reason: str | None, **detail: Any) -> Step:
    """A rule that is set, and the reason word if it refuses."""
    return Step(
        rule=rule, verdict="pass" if reason is None else "refuse", reason=reason, detail=detail
    )


def off(rule: str) -> Step:
    """A rule that is not set."""
    return Step(rule=rule, verdict="off", reason=None, detail={})
