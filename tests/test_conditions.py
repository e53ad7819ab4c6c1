"""Bans, penalties, hours and load: which of them keeps a client out, and what is told of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from netd.bans import Bans
from netd.conditions import Conditions, Surroundings
from netd.hours import Hours, parse_access_time
from netd.networks import parse_network
from netd.penalties import Penalties, PenaltyRules

FRIDAY_NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC).timestamp()
PEER, SOURCE = "192.0.2.7", "192.0.2.7/32"


class Scene:
    """Conditions of all kinds, none of which is against PEER, and their clocks."""

    def __init__(self) -> None:
        self.wall, self.now, self.load = FRIDAY_NOON, 50.0, 0.5
        self.bans = Bans(lambda: self.wall)
        self.penalties = Penalties(PenaltyRules.model_validate({"protocol_error": "5s"}))
        self.conditions = Conditions(
            Surroundings(self.bans, lambda: self.load, lambda: self.wall, lambda: self.now),
            self.penalties, Hours([parse_access_time("fri 08:00-18:00")], "UTC"), 4.0,
        )  # fmt: skip

    def refusal(self) -> str | None:
        return self.conditions.refusal(PEER, SOURCE)

    def told(self, after: float = 0.0) -> str | None:
        """The reason word of the first step that refuses, some seconds from now."""
        steps = self.conditions.steps(PEER, SOURCE, self.wall + after, self.now + after)
        return next((step["reason"] for step in steps if step["reason"]), None)


def test_each_condition_keeps_out_by_its_own_word() -> None:
    """In their order; what explains them tells the same."""
    scene = Scene()
    assert scene.refusal() is scene.told() is None
    scene.load = 4.0
    assert scene.refusal() == scene.told() == "load"
    scene.wall += 6 * 3600
    assert scene.refusal() == scene.told() == "time"
    scene.penalties.add(SOURCE, "protocol_error", scene.now)
    assert scene.refusal() == scene.told() == "banned"
    scene.now += 5
    assert scene.refusal() == scene.told() == "time"
    scene.bans.ban(parse_network("192.0.2.0/24"), scene.wall + 60)
    assert scene.refusal() == scene.told() == "banned"


def test_a_later_time_can_be_asked_about() -> None:
    """Bans and penalties have ended by then, and the hour is another."""
    scene = Scene()
    scene.penalties.add(SOURCE, "protocol_error", scene.now)
    scene.bans.ban(parse_network(PEER), scene.wall + 60)
    assert [scene.told(after) for after in (0, 59, 60, 6 * 3600)] == [
        "banned", "banned", None, "time",
    ]  # fmt: skip


def test_what_was_compared_is_told_as_plain_data() -> None:
    """For a program that shows it to somebody."""
    scene = Scene()
    scene.bans.ban(parse_network("192.0.2.0/24"), scene.wall + 60, "scans")
    scene.penalties.add(SOURCE, "protocol_error", scene.now)
    steps = scene.conditions.steps(PEER, SOURCE, scene.wall, scene.now + 2)
    assert [(step["rule"], step["verdict"], step["detail"]) for step in steps] == [
        ("bans", "refuse",
         {"network": "192.0.2.0/24", "until": scene.wall + 60, "why": "scans"}),
        ("penalties", "refuse", {"offences": 1, "left": 3.0}),
        ("access_times", "pass", {"clock": "fri 12:00"}),
        ("max_load", "pass", {"load": 0.5, "limit": 4.0}),
    ]  # fmt: skip


@pytest.mark.parametrize("peer", ["192.0.2.7", "uid=0"])
def test_without_any_nobody_is_kept_out(peer: str) -> None:
    """And the load of the machine is not even read."""

    def read() -> float:
        raise AssertionError

    conditions = Conditions(Surroundings(load=read), Penalties(PenaltyRules()), None, None)
    assert not conditions
    assert conditions.refusal(peer, peer) is None
    verdicts = [step["verdict"] for step in conditions.steps(peer, peer, 0.0, 0.0)]
    assert verdicts == ["pass", "pass", "off", "off"]
