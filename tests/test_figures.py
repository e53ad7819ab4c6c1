"""Figures as people read them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.cli import figures


@pytest.fixture
def vienna(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine in some time zone."""
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"), (0, "0s"), (-5, "0s"), (0.0004, "0ms"), (0.25, "250ms"), (0.9996, "1s"),
        (1, "1s"), (59.4, "59s"), (59.6, "1min"), (60, "1min"), (125, "2min 5s"),
        (3600, "1h"), (7500, "2h 5min"), (86_400, "1d"), (90_000, "1d 1h"), (86_430, "1d"),
        (1e9, "11574d 1h"),
    ],
)  # fmt: skip
def test_a_span_has_its_two_largest_units(seconds: float | None, said: str) -> None:
    """As systemctl writes it."""
    assert figures.span(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "-"), (7500, "2h5m"), (125, "2m5s"), (0.25, "250ms"), (60, "1m")]
)
def test_a_short_span_has_no_space(seconds: float | None, said: str) -> None:
    """So that it is one field to awk, and narrow."""
    assert figures.short_span(seconds) == said


@pytest.mark.parametrize(
    ("number", "said", "short"),
    [
        (None, "-", "-"), (0, "0 B", "0"), (999, "999 B", "999"), (1000, "1.0 KiB", "1.0K"),
        (12_600, "12.3 KiB", "12.3K"), (1_023_000, "999.0 KiB", "999.0K"),
        (1_048_576, "1.0 MiB", "1.0M"), (4_718_592, "4.5 MiB", "4.5M"), (2**60, "1024.0 PiB",
        "1024.0P"), (0.4, "0 B", "0"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits_or_so(number: float | None, said: str, short: str) -> None:
    """With the units of 1024."""
    assert (figures.size(number), figures.short_size(number)) == (said, short)


@given(st.floats(0, 1e15))
def test_any_size_is_short(number: float) -> None:
    """So that columns stay narrow."""
    assert len(figures.short_size(number)) <= 6


@given(st.floats(0, 86_400 * 3650))
def test_any_span_is_short(seconds: float) -> None:
    """So that columns stay narrow."""
    assert len(figures.short_span(seconds)) <= 8


@pytest.mark.usefixtures("vienna")
def test_moments_are_those_of_the_clock_on_the_wall() -> None:
    """With the name of the zone, as systemctl shows it."""
    assert figures.moment(1_795_514_400) == "Tue 2026-11-24 11:00:00 CET"
    assert figures.clock(1_795_514_400) == "11-24 11:00:00"
    assert figures.moment(None) == "-"


def test_counts_are_in_words() -> None:
    """With their limit, or their reasons."""
    assert [figures.of(1, 5), figures.of(1, None), figures.of(None, 5)] == ["1 of 5", "1", "- of 5"]
    assert figures.reasons({"a": 1, "b": 0, "c": 9}) == "c 9, a 1"
    assert [figures.rate(n) for n in (0, 0.44, 9.9, 12.3, 1234)] == [
        "0", "0.4", "9.9", "12", "1234",
    ]  # fmt: skip
