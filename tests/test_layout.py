"""Tables and fields at any width."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from netd.cli.layout import Column, fields, fitting, lines, table, wrapped

COLUMNS = [Column("name"), Column("count", right=True), Column("note")]
ROWS = [["upper", "5", "one two three four five"], ["a-longer-name", "12345", "-"]]
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=0x3100).filter(str.isprintable),
                min_size=1, max_size=30)  # fmt: skip


def plain(found: list[Text]) -> list[str]:
    """The lines without their colours."""
    return [line.plain for line in found]


def test_columns_stand_below_each_other() -> None:
    """Words on the left, numbers on the right, and no blanks at the end of a line."""
    assert plain(table(COLUMNS, ROWS, None)) == [
        "NAME           COUNT  NOTE",
        "upper              5  one two three four five",
        "a-longer-name  12345  -",
    ]


def test_the_last_column_goes_on_below() -> None:
    """Where it is too wide, and there is some room."""
    assert plain(table(COLUMNS, ROWS, 42)) == [
        "NAME           COUNT  NOTE",
        "upper              5  one two three four",
        "                      five",
        "a-longer-name  12345  -",
    ]


def test_without_room_each_row_becomes_a_block() -> None:
    """Without what has no value."""
    assert plain(table(COLUMNS, ROWS, 30)) == [
        " name: upper",
        "count: 5",
        " note: one two three four five",
        "",
        " name: a-longer-name",
        "count: 12345",
    ]


def test_empty_columns_are_left_out_on_a_terminal() -> None:
    """A pipe has all of them, since a program counts on that."""
    rows = [["upper", "-", ""], ["echo", "-", "-"]]
    assert plain(table(COLUMNS, rows, 80)) == ["NAME", "upper", "echo"]
    assert plain(table(COLUMNS, rows, None))[0] == "NAME   COUNT  NOTE"


def test_wide_characters_take_two_cells() -> None:
    """And what follows them still stands below its title."""
    found = plain(table(COLUMNS, [["東京", "1", "a"], ["x", "2", "b"]], None))
    assert [cell_len(line) for line in found] == [17, 14, 14]
    assert found[1].startswith("東京      ")


def test_columns_that_do_not_fit_are_dropped_from_the_right() -> None:
    """Where a row must be one line."""
    assert plain(fitting(COLUMNS, ROWS, 24)) == [
        "NAME           COUNT", "upper              5", "a-longer-name  12345",
    ]  # fmt: skip
    assert plain(fitting(COLUMNS, ROWS, 1))[0] == "NAME"


def test_fields_have_their_labels_on_the_left() -> None:
    """A value of several lines, or a long one, is indented."""
    pairs = [("State", "serving"), ("Listen", ["a", "b"]), ("X", "one two three")]
    assert plain(fields(pairs, 18, label=7)) == [
        "  State: serving", " Listen: a", "         b", "      X: one two", "         three",
    ]  # fmt: skip
    assert fields([], 80) == []


def test_a_word_that_is_too_long_is_broken() -> None:
    """And nothing of it is lost."""
    assert plain(wrapped(Text("x" * 25), 10)) == ["x" * 10, "x" * 10, "x" * 5]
    assert plain(wrapped(Text(""), 10)) == [""]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=5), st.integers(20, 100))
def test_nothing_is_wider_than_the_terminal(rows: list[tuple[str, ...]], width: int) -> None:
    """Nor is anything lost, whatever is in the table."""
    found = plain(table(COLUMNS, rows, width))
    assert all(cell_len(line) <= width for line in found)
    whole = "".join("".join(line.split()) for line in found)
    for row in rows:
        for word in row:
            if word != "-":
                assert set(word) <= set(whole)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5))
def test_a_pipe_gets_a_line_for_each_row(rows: list[tuple[str, ...]]) -> None:
    """With all its fields, however long."""
    found = plain(table(COLUMNS, rows, None))
    assert len(found) == len(rows) + 1
    for row, line in zip(rows, found[1:], strict=True):
        assert line.split() == [*row]


def test_lines_take_text_with_colours_and_without() -> None:
    """As they are."""
    red = Text("red", "red")
    assert lines(red, "plain") == [red, Text("plain")]
