"""When a service may be used: hours of the day and days of the week, on the clock on the wall.

A time such as 02:30 that the clocks leave out in spring does not come on that day, and one that
they show twice in autumn comes twice: what counts is what a clock in the time zone shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WHOLE_DAY = 24 * 60
_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
_TIME = "(?:[01]?[0-9]|2[0-3]):[0-5][0-9]|24:00"
_RANGE = f"{_DAY}(?:-{_DAY})?"
_PATTERN = f"(?:{_RANGE}(?:,{_RANGE})* )?(?:{_TIME})-(?:{_TIME})"
_SHAPE = re.compile(r"(?:([A-Za-z,-]+) )?([0-9]{1,2}:[0-9]{2})-([0-9]{1,2}:[0-9]{2})")
_EXAMPLES = "mon-fri 08:00-18:00, sat 10:00-12:00 or 22:00-06:00"


@dataclass(frozen=True)
class AccessTime:
    """A stretch of the day, on some days of the week."""

    days: frozenset[int]
    """The days on which it begins; Monday is 0."""
    start: int
    """Its first minute of the day."""
    end: int
    """The minute at which it is over. If that is no later than `start`, it is one of the day
    after."""

    def __str__(self) -> str:
        """As it is written in a configuration."""
        days = f"{_written_days(self.days)} " if len(self.days) < len(DAYS) else ""
        return f"{days}{_written(self.start)}-{_written(self.end)}"

    def includes(self, weekday: int, minute: int) -> bool:
        """Whether a minute of a day lies in it."""
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        began_today = weekday in self.days and minute >= self.start
        return began_today or ((weekday - 1) % len(DAYS) in self.days and minute < self.end)


def parse_access_time(text: object) -> AccessTime:
    """A stretch such as `mon-fri 08:00-18:00`; without days it is every day's."""
    if isinstance(text, AccessTime):
        return text
    match = _SHAPE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a time of access (write it like {_EXAMPLES})")
    days = range(len(DAYS)) if match[1] is None else _parse_days(match[1])
    start, end = _parse_minute(match[2]), _parse_minute(match[3])
    if start == end:
        raise ValueError(f"{text!r} ends when it begins (for the whole day write 00:00-24:00)")
    if start == _WHOLE_DAY:
        raise ValueError(f"{text!r} begins when the day is over (write 00:00-{match[3]})")
    return AccessTime(frozenset(days), start, end)


def _parse_days(text: str) -> set[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin = _parse_day(first)
        end = _parse_day(last) if "-" in part else begin
        days |= {(begin + n) % len(DAYS) for n in range((end - begin) % len(DAYS) + 1)}
    return days


def _parse_day(text: str) -> int:
    if text not in DAYS:
        raise ValueError(f"{text!r} is not a day of the week (write {', '.join(DAYS)})")
    return DAYS.index(text)


def _parse_minute(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    if minute > 59 or hour * 60 + minute > _WHOLE_DAY:
        raise ValueError(f"{text!r} is not a time of day (write 00:00 to 24:00)")
    return hour * 60 + minute


def _written(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _written_days(days: frozenset[int]) -> str:
    """Days that follow each other as a range, which may go over the end of the week."""
    parts = []
    for first in sorted(day for day in days if (day - 1) % len(DAYS) not in days):
        last = first
        while (last + 1) % len(DAYS) in days:
            last = (last + 1) % len(DAYS)
        parts.append(DAYS[first] if first == last else f"{DAYS[first]}-{DAYS[last]}")
    return ",".join(parts)


def check_time_zone(name: object) -> str:
    """The name of a time zone that this machine knows."""
    if isinstance(name, str):
        try:
            ZoneInfo(name)
        except (ValueError, LookupError, OSError):
            pass  # what to write in its place is said below
        else:
            return name
    known = available_timezones()
    if not known:
        raise ValueError(f"{name!r}: this machine knows no time zones (install tzdata)")
    close = get_close_matches(str(name)[:60], known, n=1, cutoff=0.6)
    raise ValueError(
        f"{name!r} is not a time zone (write {close[0] if close else 'one like Europe/Vienna'})"
    )


AccessTimeText = Annotated[
    AccessTime,
    BeforeValidator(parse_access_time),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": f"^(?:{_PATTERN})$", "examples": ["mon-fri 08:00-18:00"]}
    ),
]

TimeZone = Annotated[
    str,
    BeforeValidator(check_time_zone),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["Europe/Vienna"]}),
]


class Hours:
    """The hours at which a service may be used."""

    def __init__(self, times: Sequence[AccessTime], time_zone: str | None = None) -> None:
        """`time_zone` is that of the machine if it is None."""
        self._times = tuple(times)
        self._zone = None if time_zone is None else ZoneInfo(time_zone)

    def include(self, at: float) -> bool:
        """Whether a point of time, in seconds since 1970 (UTC), lies in them."""
        local = datetime.fromtimestamp(at, self._zone)
        weekday, minute = local.weekday(), local.hour * 60 + local.minute
        return any(time.includes(weekday, minute) for time in self._times)

    def clock(self, at: float) -> str:
        """What the clock on the wall shows at that point: `sat 10:30`."""
        local = datetime.fromtimestamp(at, self._zone)
        return f"{DAYS[local.weekday()]} {local:%H:%M}"
