"""Roman numerals, and what is answered to a question about one. Pure: no socket in sight.

question = number / numeral        4, 1999; IV, mcmxcix
answer   = numeral / number        each by the other
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from netd.errors import Refused
from netd.stanza import Stanza

LONGEST = 15
"""Bytes of the longest question worth reading: MMMDCCCLXXXVIII, which is 3888."""
LARGEST = 3999
"""There is no sign for 5000, and no four alike stand in a row."""

_SIGNS = [
    ("M", 1000), ("CM", 900), ("D", 500), ("CD", 400), ("C", 100), ("XC", 90),
    ("L", 50), ("XL", 40), ("X", 10), ("IX", 9), ("V", 5), ("IV", 4), ("I", 1),
]  # fmt: skip


class Options(Stanza):
    """How numerals are written."""

    case: Literal["upper", "lower"] = "upper"
    """The case of the numerals in answers; questions may be in either."""
    largest: Annotated[int, Field(ge=1, le=LARGEST)] = LARGEST
    """The largest number that is converted."""


def to_roman(number: int) -> str:
    """The numeral of a number from 1 to 3999. Raises ValueError."""
    if not 1 <= number <= LARGEST:
        raise ValueError(f"{number} has no numeral")
    numeral = ""
    for sign, value in _SIGNS:
        count, number = divmod(number, value)
        numeral += sign * count
    return numeral


def from_roman(numeral: str) -> int:
    """The number of a numeral in upper case. Raises ValueError for one that nobody would write,
    such as IIII."""
    number, rest = 0, numeral
    for sign, value in _SIGNS:
        while rest.startswith(sign):
            number, rest = number + value, rest[len(sign) :]
    if rest or to_roman(number) != numeral:
        raise ValueError(f"{numeral!r} is no numeral")
    return number


def convert(question: bytes, options: Options) -> bytes:
    """The answer to a question. Raises Refused when there is none."""
    text = question.strip().decode("ascii", "replace").upper()
    if len(text) > LONGEST:
        raise Refused("no number is that long")
    try:
        number = int(text) if text.isdecimal() else from_roman(text)
    except ValueError:
        raise Refused("neither a number nor a Roman numeral") from None
    if not 1 <= number <= options.largest:
        raise Refused(f"the numbers go from 1 to {options.largest}")
    answer = to_roman(number) if text.isdecimal() else str(number)
    if options.case == "lower":
        answer = answer.lower()
    return answer.encode() + b"\r\n"
