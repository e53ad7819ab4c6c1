"""Hours of access: how they are written, and what the clock on the wall says."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.admission import Admission
from netd.hours import DAYS, AccessTime, Hours, check_time_zone, parse_access_time

MINUTES = st.integers(0, 24 * 60)
TIMES = st.builds(
    AccessTime,
    st.frozensets(st.integers(0, 6), min_size=1),
    MINUTES.filter(lambda minute: minute < 24 * 60),
    MINUTES,
).filter(lambda time: time.start != time.end)
ZONES = st.sampled_from(["UTC", "Europe/Vienna", "America/New_York", "Australia/Lord_Howe"])


def hours(*texts: str, zone: str | None = "UTC") -> Hours:
    return Hours([parse_access_time(text) for text in texts], zone)


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    """The point of time at which a clock shows this."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def minutes_of(time: AccessTime) -> set[int]:
    """All minutes of a week that lie in it, one after the other from its beginnings."""
    length = (time.end - time.start) % (24 * 60) or 24 * 60
    week = len(DAYS) * 24 * 60
    return {
        (day * 24 * 60 + time.start + minute) % week
        for day in time.days
        for minute in range(length)
    }


# -- as they are written


@pytest.mark.parametrize(
    ("text", "days", "start", "end"),
    [
        ("08:00-18:00", {*range(7)}, 480, 1080),
        ("8:00-9:30", {*range(7)}, 480, 570),
        ("mon-fri 08:00-18:00", {0, 1, 2, 3, 4}, 480, 1080),
        ("sat 10:00-12:00", {5}, 600, 720),
        ("mon,wed-fri,sun 00:00-24:00", {0, 2, 3, 4, 6}, 0, 1440),
        ("sat-mon 22:00-06:00", {5, 6, 0}, 1320, 360),
        ("sun 23:00-00:00", {6}, 1380, 0),
        ("fri-thu 01:00-02:00", {*range(7)}, 60, 120),
    ],
)
def test_a_time_is_read(text: str, days: set[int], start: int, end: int) -> None:
    """Days by name, alone, in ranges that may go over the end of the week, and in lists."""
    assert parse_access_time(text) == AccessTime(frozenset(days), start, end)


@given(TIMES)
def test_a_time_is_read_as_it_was_written(time: AccessTime) -> None:
    """What a dump of the configuration shows means the same again."""
    assert parse_access_time(str(time)) == time
    rules = Admission.model_validate({"access_times": [str(time)], "time_zone": "Europe/Vienna"})
    assert rules.access_times == [time]
    assert Admission.model_validate(rules.model_dump(mode="json")) == rules


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("always", "'always' is not a time of access (write it like mon-fri 08:00-18:00,"),
        ("mon-fri", "is not a time of access"),
        ("08:00", "is not a time of access"),
        ("mon-fri  08:00-18:00", "is not a time of access"),
        ("08.00-18.00", "is not a time of access"),
        ("", "is not a time of access"),
        (800, "800 is not a time of access"),
        (None, "None is not a time of access"),
        ("mo-fr 08:00-18:00",
         "'mo' is not a day of the week (write mon, tue, wed, thu, fri, sat, sun)"),
        ("Mon 08:00-18:00", "'Mon' is not a day of the week"),
        ("mon- 08:00-18:00", "'' is not a day of the week"),
        ("mon,,tue 08:00-18:00", "'' is not a day of the week"),
        ("mon-tue-wed 08:00-18:00", "'tue-wed' is not a day of the week"),
        ("25:00-26:00", "'25:00' is not a time of day (write 00:00 to 24:00)"),
        ("08:00-24:01", "'24:01' is not a time of day"),
        ("08:60-09:00", "'08:60' is not a time of day"),
        ("08:00-08:00", "ends when it begins (for the whole day write 00:00-24:00)"),
        ("24:00-06:00", "begins when the day is over (write 00:00-06:00)"),
    ],
)  # fmt: skip
def test_a_wrong_time_is_told_with_its_remedy(wrong: object, text: str) -> None:
    """So that nobody has to guess, and nobody is let in or kept out by mistake."""
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_access_time(wrong)
    with pytest.raises(ValidationError, match=re.escape(text)):
        Admission.model_validate({"access_times": [wrong]})


@given(st.one_of(st.text(), st.from_regex(r"\A[a-z,-]{0,9} ?[0-9:]{3,5}-[0-9:]{3,5}\Z")))
def test_whatever_stands_for_a_time_is_one_or_a_value_error(text: str) -> None:
    """No value of a configuration makes the parser fail in another way."""
    try:
        time = parse_access_time(text)
    except ValueError as error:
        assert str(error).endswith(")")  # noqa: PT017 - or it is none
    else:
        assert parse_access_time(str(time)) == time


@pytest.mark.parametrize("name", ["UTC", "Europe/Vienna", "America/Argentina/Buenos_Aires"])
def test_a_time_zone_is_known(name: str) -> None:
    """By its name in the database of time zones."""
    assert check_time_zone(name) == name


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("Europe/Wien", "'Europe/Wien' is not a time zone (write Europe/"),
        ("Europe/Viena", "'Europe/Viena' is not a time zone (write Europe/Vienna)"),
        ("Europe", "is not a time zone"), ("../../etc/passwd", "is not a time zone"),
        ("/etc/localtime", "is not a time zone"), ("", "write one like Europe/Vienna"),
        ("a\0b", "is not a time zone"), (1, "1 is not a time zone"), ("x" * 5000, "time zone"),
    ],
)  # fmt: skip
def test_an_unknown_time_zone_is_told_with_one_like_it(wrong: object, text: str) -> None:
    """No file outside the database is looked at."""
    with pytest.raises(ValueError, match=re.escape(text)):
        check_time_zone(wrong)


# -- the clock


@given(TIMES, st.integers(0, 7 * 24 * 60 - 1))
def test_a_minute_lies_in_a_time_or_not(time: AccessTime, minute: int) -> None:
    """As counted one minute after the other from each of its beginnings."""
    day, of_day = divmod(minute, 24 * 60)
    assert time.includes(day, of_day) == (minute in minutes_of(time))


@given(
    st.lists(TIMES, max_size=3), ZONES, st.datetimes(datetime(1980, 1, 1), datetime(2037, 12, 31))
)
def test_what_counts_is_the_clock_in_the_time_zone(
    times: list[AccessTime], zone: str, moment: datetime
) -> None:
    """Whatever the zone, and whether it has summer time then."""
    moment = moment.replace(tzinfo=UTC)
    wall = moment.astimezone(ZoneInfo(zone))
    minute = (wall.weekday() * 24 + wall.hour) * 60 + wall.minute
    expected = any(minute in minutes_of(time) for time in times)
    assert Hours(times, zone).include(moment.timestamp()) == expected


def test_its_ends_are_kept_to_the_second() -> None:
    """The first minute is in, the last is that before the end."""
    office = hours("mon-fri 08:00-18:00")
    assert not office.include(at("2026-11-20 07:59:59"))
    assert office.include(at("2026-11-20 08:00:00"))
    assert office.include(at("2026-11-20 17:59:59"))
    assert not office.include(at("2026-11-20 18:00:00"))
    assert not office.include(at("2026-11-21 12:00:00"))
    assert office.clock(at("2026-11-21 12:00:00")) == "sat 12:00"


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    """That of Friday ends on Saturday, and there is none from Thursday."""
    night = hours("fri 22:00-06:00")
    assert not night.include(at("2026-11-20 05:00"))
    assert night.include(at("2026-11-20 23:00"))
    assert night.include(at("2026-11-21 05:59"))
    assert not night.include(at("2026-11-21 06:00"))
    assert not night.include(at("2026-11-21 23:00"))


def test_when_the_clocks_go_forward_an_hour_is_missing() -> None:
    """In Vienna 02:00 became 03:00 on 29 March 2026."""
    early = hours("02:00-03:00", zone="Europe/Vienna")
    later = hours("03:00-04:00", zone="Europe/Vienna")
    before = at("2026-03-29 01:59", "Europe/Vienna")
    assert early.clock(before + 60) == "sun 03:00"
    assert [early.include(before + 60 * n) for n in range(62)] == [False] * 62
    assert [later.include(before + 60 * n) for n in range(62)] == [False] + [True] * 60 + [False]


def test_when_the_clocks_go_back_an_hour_comes_twice() -> None:
    """In Vienna 03:00 became 02:00 on 25 October 2026."""
    early = hours("02:00-03:00", zone="Europe/Vienna")
    first = at("2026-10-25 02:00", "Europe/Vienna")
    assert at("2026-10-25 02:00", "Europe/Vienna", fold=1) - first == 3600
    inside = [early.include(first + 60 * n) for n in range(-1, 121)]
    assert inside == [False] + [True] * 120 + [False]


def test_without_a_time_zone_it_is_the_clock_of_the_machine() -> None:
    """As the user sees it who types `date`."""
    now = datetime(2026, 11, 20, 12, 0)
    soon = now + timedelta(minutes=1)
    noon = hours(f"{now:%H:%M}-{soon:%H:%M}", zone=None)
    assert noon.include(now.timestamp())
    assert not noon.include(soon.timestamp())
