"""What strangers wrote, as it is shown to people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.text import counted, printable


def test_printable_keeps_clean_text() -> None:
    """Text without anything to escape is returned as it is."""
    for text in ("", "plain text", "žluťoučký kůň 🐎 東京", 'quote " and \\ backslash'):
        assert printable(text) is text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"), ("\x7f", "\\x7f"), ("\x9b", "\\x9b"),
        ("\u2028\u2029", "\\u2028\\u2029"), ("\u202eevil", "\\u202eevil"), ("\u2066", "\\u2066"),
        ("\ud800", "\\ud800"), ("\0", "\\x00"), ("\U000e0041", "\\U000e0041"),
    ],
)  # fmt: skip
def test_printable_escapes(text: str, escaped: str) -> None:
    """What could move a cursor, break a line or reverse one is written as an escape."""
    assert printable(text) == escaped


@given(st.text(st.characters(exclude_categories=())))
def test_printable_is_one_line_that_can_be_encoded(text: str) -> None:
    """Whatever goes in, what comes out is printable, one line, and UTF-8."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert shown.encode().decode() == shown


def test_counts_are_in_words() -> None:
    """One is not several, and nothing is."""
    assert [counted(n, "line") for n in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]
