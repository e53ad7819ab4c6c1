"""The units that the configuration is written in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from netd.stanza import (
    Duration,
    FilePath,
    Mode,
    Rate,
    Size,
    Stanza,
    descriptions,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_mode,
    parse_rate,
    parse_size,
)

LONGEST_DURATION = 3650 * 86_400 * 10**6  # microseconds
UNITS = {"ms": 10**3, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86_400 * 10**6}
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.lists(st.integers(), max_size=2), st.from_regex(r"[0-9.]{1,12} ?[a-zA-Z/]{0,3}"),
)  # fmt: skip


class Everything(Stanza):
    """One key of each unit."""

    duration: Duration = 300.0
    size: Size = 65_536
    rate: Rate = 10.0
    mode: Mode = 0o660


# -- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5), ("10s", 10.0), ("5m", 300.0), ("1h", 3600.0), ("1d", 86_400.0),
        ("1h30m", 5400.0), ("1.5h", 5400.0), ("0.001ms", 0.000_001), ("3650d", 315_360_000.0),
        ("1s1s", 2.0), ("none", None), (None, None),
    ],
)  # fmt: skip
def test_a_duration_is_read_in_seconds(text: str | None, seconds: float | None) -> None:
    """Each unit counts what its name says, and several add up."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (10, "write 10s, 10m or 10h"),
        (1.5, "write 1.5s, 1.5m or 1.5h"),
        ("10", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("10S", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("10 s", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("10sec", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("10min", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("2w", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("-5s", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("1e3s", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("1.s", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("0.0001s", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("10s\n", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("\u0661s", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("", "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("None", "write it like 500ms, 10s, 5m, 1h or 1d"),
        (True, "write it like 500ms, 10s, 5m, 1h or 1d"),
        ([10], "write it like 500ms, 10s, 5m, 1h or 1d"),
        ("0s", "more than 0, at most 3650d; or none"),
        ("3651d", "more than 0, at most 3650d; or none"),
        ("3650d0.001ms", "more than 0, at most 3650d; or none"),
    ],
)
def test_a_wrong_duration_is_told_with_its_remedy(wrong: object, remedy: str) -> None:
    """The text says how a duration is written."""
    with pytest.raises(ValueError, match=re.escape(f"({remedy})")):
        parse_duration(wrong)


@given(st.integers(1, LONGEST_DURATION))
def test_every_duration_survives_being_written(microseconds: int) -> None:
    """What is written is read back as the same, to the microsecond."""
    seconds = microseconds / 10**6
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.lists(st.tuples(st.decimals(0, 40, places=3), st.sampled_from(sorted(UNITS))),
                min_size=1, max_size=4))  # fmt: skip
def test_a_duration_is_the_exact_sum_of_its_parts(parts: list[tuple[Any, str]]) -> None:
    """No part loses anything to binary fractions, and writing keeps the sum."""
    text = "".join(f"{number}{unit}" for number, unit in parts)
    microseconds = sum(number * UNITS[unit] for number, unit in parts)
    if microseconds == 0:
        with pytest.raises(ValueError, match="out of range"):
            parse_duration(text)
    else:
        seconds = parse_duration(text)
        assert seconds == int(microseconds) / 10**6
        assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "none"), (0.5, "500ms"), (10.0, "10s"), (300.0, "5m"), (5400.0, "90m"),
        (3600.0, "1h"), (86_400.0, "1d"), (1.5, "1s500ms"), (0.0015, "1.5ms"),
        (315_359_999.5, "315359999s500ms"),
    ],
)  # fmt: skip
def test_a_duration_is_written_in_the_largest_unit_that_fits(
    seconds: float | None, text: str
) -> None:
    """Nobody has to convert what is shown."""
    assert format_duration(seconds) == text


# -- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0), (512, 512), ("512", 512), ("512B", 512), ("1KB", 1000), ("64KiB", 65_536),
        ("10MB", 10_000_000), ("10 MB", 10_000_000), ("1GiB", 2**30), ("1GB", 10**9), ("0B", 0),
    ],
)  # fmt: skip
def test_a_size_is_read_in_bytes(text: object, size: int) -> None:
    """Decimal and binary units are what SI and IEC say."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "wrong",
    ["64K", "64kb", "64Kib", "10M", "1TB", "1.5MB", "-1", "MB", "", "10  MB", "10MB ", "\u0661MB",
     "1" * 16, 10**15, -1, 1.5, True, None, [1], b"1MB"],
)  # fmt: skip
def test_a_wrong_size_is_told_with_its_remedy(wrong: object) -> None:
    """The text says how a size is written."""
    with pytest.raises(ValueError, match=r"\(write it like 512B, 64KiB, 10MB or 1GiB\)"):
        parse_size(wrong)


@given(st.integers(0, 10**15 - 1))
def test_every_size_survives_being_written(size: int) -> None:
    """What is written is read back as the same."""
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**15 - 1), st.sampled_from(["B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_size_with_a_unit_survives_being_written(number: int, unit: str) -> None:
    """However large it is, another unit does not make it longer than what can be read."""
    size = parse_size(f"{number}{unit}")
    assert parse_size(format_size(size)) == size


# -- rates


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10/s", 10.0), ("600/m", 10.0), ("36000/h", 10.0), ("1/h", 1 / 3600), ("none", None),
     (None, None)],
)  # fmt: skip
def test_a_rate_is_read_in_events_per_second(text: str | None, rate: float | None) -> None:
    """Each unit counts what its name says."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "wrong",
    [10, 1.5, True, "10", "10/sec", "10/d", "10 / s", "0/s", "-1/s", "1.5/s", "/s", "", "10/s\n",
     "1" * 10 + "/s", ["10/s"]],
)  # fmt: skip
def test_a_wrong_rate_is_told_with_its_remedy(wrong: object) -> None:
    """The text says how a rate is written."""
    with pytest.raises(ValueError, match=r"\(write it like 10/s, 600/m or 100/h; or none\)"):
        parse_rate(wrong)


@given(st.integers(1, 10**9 - 1), st.sampled_from("smh"))
def test_every_rate_survives_being_written(number: int, unit: str) -> None:
    """What is written is read back as the same."""
    rate = parse_rate(f"{number}/{unit}")
    assert parse_rate(format_rate(rate)) == rate


def test_no_rate_is_written_as_none() -> None:
    """The absence of a limit has a word."""
    assert format_rate(None) == "none"


# -- modes


@given(st.integers(0, 0o777))
def test_every_mode_survives_being_written(mode: int) -> None:
    """Octal digits, with or without the zero that says so."""
    assert parse_mode(f"{mode:04o}") == parse_mode(f"{mode:03o}") == mode


@pytest.mark.parametrize(
    "wrong", [660, 0o660, "66", "0888", "0o660", "1770", "00660", "rw-rw----", "", " 660", None]
)
def test_a_wrong_mode_is_told_with_its_remedy(wrong: object) -> None:
    """The text says how a mode is written."""
    with pytest.raises(ValueError, match=r'\(write octal digits in quotes: "0660"\)'):
        parse_mode(wrong)


# -- all of them


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_rate, parse_mode])
@given(wrong=ANYTHING)
def test_whatever_stands_there_is_read_or_is_a_value_error(
    parse: Callable[[object], object], wrong: object
) -> None:
    """No value of a configuration makes a unit fail in another way."""
    try:
        found = parse(wrong)
    except ValueError as error:
        assert str(error).endswith(")")  # noqa: PT017 - or it is none
    else:
        assert found is None or found >= 0  # type: ignore[operator]


@given(
    st.integers(1, LONGEST_DURATION), st.integers(0, 10**15 - 1), st.integers(1, 10**9 - 1),
    st.integers(0, 0o777),
)  # fmt: skip
def test_a_stanza_survives_being_dumped(micros: int, size: int, rate: int, mode: int) -> None:
    """What a dump of the configuration shows can be used as a configuration."""
    stanza = Everything.model_validate(
        {"duration": f"{micros // 1000}ms" if micros % 1000 == 0 and micros < 10**12 else "1m",
         "size": size, "rate": f"{rate}/m", "mode": f"{mode:04o}"}
    )  # fmt: skip
    assert Everything.model_validate(stanza.model_dump(mode="json")) == stanza


def test_the_schema_knows_the_spelling_of_each_unit() -> None:
    """An editor that checks against the JSON Schema takes what netd takes."""
    properties = Everything.model_json_schema()["properties"]
    assert re.search(properties["duration"]["pattern"], "1h30m")
    assert not re.search(properties["duration"]["pattern"], "10")
    assert re.search(properties["rate"]["pattern"], "none")
    assert re.search(properties["mode"]["pattern"], "0660")
    assert re.search(properties["size"]["anyOf"][1]["pattern"], "512")


def test_a_stanza_cannot_be_changed_nor_hold_unknown_keys() -> None:
    """A misspelt key is no silent default."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Everything(), "size", 1)  # noqa: B010 - mypy knows it too
    with pytest.raises(ValidationError, match="not permitted"):
        Everything.model_validate({"siez": "1KB"})


# -- files


def test_a_relative_file_lies_beside_the_configuration() -> None:
    """The working directory of a daemon is nobody's business."""
    path = TypeAdapter(FilePath)
    assert path.validate_python("a.txt", context={"folder": "/etc/netd"}) == Path("/etc/netd/a.txt")
    assert path.validate_python("/b.txt", context={"folder": "/etc/netd"}) == Path("/b.txt")
    assert path.validate_python("a.txt") == Path("a.txt")


@pytest.mark.parametrize("wrong", ["", ".", "a\0b", 5, None, ["a"]])
def test_what_is_no_path_is_told_with_its_remedy(wrong: object) -> None:
    """The text says how a path is written."""
    with pytest.raises(ValidationError, match=r"\(write it like /etc/netd/name.txt\)"):
        TypeAdapter(FilePath).validate_python(wrong)


class _Described(Everything):
    """A stanza; this is about no key."""

    first: int = 1
    """One key,
    described in two lines."""
    second: int = 2
    third: int = 3
    """Another one."""

    class Inner(Stanza):
        """One that is declared further to the right."""

        key: int = 0
        """The only one."""


def test_a_key_is_described_by_the_docstring_below_it() -> None:
    """In one line; those of a stanza that it extends are among them."""
    own = {"first": "One key, described in two lines.", "third": "Another one."}
    assert descriptions(_Described) == own
    assert descriptions(_Described.Inner) == {"key": "The only one."}

    class Further(_Described):
        first: int = 5
        """Said anew."""

    assert descriptions(Further) == own | {"first": "Said anew."}


def test_a_stanza_without_its_source_is_not_described() -> None:
    """Nothing fails for want of words."""
    space: dict[str, Any] = {"Stanza": Stanza, "__name__": "made"}
    exec("class Made(Stanza):\n    key: int = 1\n    'A key.'\n", space)  # noqa: S102
    assert descriptions(space["Made"]) == {}
