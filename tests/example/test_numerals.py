"""The example's pure part, tested without a socket."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netd_roman.numerals import Options, convert, from_roman, to_roman

from netd.errors import Refused


@given(st.integers(1, 3999))
def test_a_numeral_is_read_back_as_its_number(number: int) -> None:
    """Each of the two directions undoes the other."""
    assert from_roman(to_roman(number)) == number


@given(st.text("IVXLCDM", max_size=16))
def test_what_is_no_numeral_is_refused(text: str) -> None:
    """There is one way to write a number, and any other is a ValueError."""
    try:
        number = from_roman(text)
    except ValueError:
        assert text not in map(to_roman, range(1, 4000))
    else:
        assert to_roman(number) == text


@given(st.binary(max_size=100))
def test_any_question_is_answered_or_refused(question: bytes) -> None:
    """Nothing that a client sends is an error of ours, and each answer is a line."""
    with suppress(Refused):
        assert convert(question, Options()).endswith(b"\r\n")


@pytest.mark.parametrize("question", [b"0", b"4000", b"MMMM", b"IIII", b"", b"-1", b"1" * 99])
def test_what_has_no_numeral_is_refused(question: bytes) -> None:
    """The Romans had neither zero nor, in four letters, four thousand."""
    with pytest.raises(Refused):
        convert(question, Options())
