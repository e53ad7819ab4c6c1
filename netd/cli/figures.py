"""Figures as people read them: spans of time, moments, sizes, counts."""

from __future__ import annotations

import time
from collections.abc import Mapping

NOTHING = "-"
"""Stands for what is not there, so that every column of a table has a word in every row."""

_SPANS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
_SIZES = ("KiB", "MiB", "GiB", "TiB", "PiB")


def span(seconds: float | None) -> str:
    """A span of time in its two largest units, as systemctl writes it: `2h 5min`."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms" if seconds < 0.9995 else "1s"
    left = max(0, round(seconds))
    for index, (unit, size) in enumerate(_SPANS):
        if left >= size:
            number, rest = divmod(left, size)
            lower, lower_size = _SPANS[min(index + 1, len(_SPANS) - 1)]
            second = rest // lower_size
            return f"{number}{unit} {second}{lower}" if second else f"{number}{unit}"
    return "0s"


def moment(at: float | None) -> str:
    """A point of time, given in seconds since 1970, in the zone of this machine."""
    if at is None:
        return NOTHING
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(at))


def clock(at: float) -> str:
    """A point of time of these days, for lists of them."""
    return time.strftime("%m-%d %H:%M:%S", time.localtime(at))


def size(number: float | None) -> str:
    """Bytes in three digits or so: `12.3 KiB`."""
    if number is None:
        return NOTHING
    unit, shown = "B", float(number)
    for larger in _SIZES:
        if shown < 999.5:
            break
        unit, shown = larger, shown / 1024
    return f"{shown:.0f} {unit}" if unit == "B" else f"{shown:.1f} {unit}"


def short_span(seconds: float | None) -> str:
    """As `span`, for a narrow column: `2h5m`."""
    return span(seconds).replace("in", "").replace(" ", "")


def short_size(number: float | None) -> str:
    """As `size`, for a narrow column: `12.3K`."""
    return size(number).removesuffix(" B").replace(" ", "").removesuffix("iB")


def of(number: object, limit: object) -> str:
    """A number and its limit, where there is one: `5 of 200`."""
    shown = NOTHING if number is None else str(number)
    return shown if limit is None else f"{shown} of {limit}"


def reasons(counts: Mapping[str, int]) -> str:
    """Counts by reason word, the most frequent first: `rate 5, address 2`."""
    found = sorted(counts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{reason} {number}" for reason, number in found if number)


def rate(number: float) -> str:
    """Events per second: `0`, `0.4`, `12`."""
    return f"{number:.0f}" if number >= 9.95 or number == 0 else f"{number:.1f}"
