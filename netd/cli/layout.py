"""Tables and labelled fields, laid out for a terminal of some width or for a pipe.

A pipe has no width: there every row is one line and every column is there, for grep and awk. On a
terminal what is too wide is laid out anew, since a line that the terminal breaks can hardly be
read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from netd.cli.figures import NOTHING

Cell = str | Text
_GAP = 2
# Narrower than this, text is no longer wrapped sensibly.
_NARROWEST = 10
# What is left for the last column of a table must be no less, if it is to go on in further lines.
_LEAST = 20


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    """Whether its cells stand on the right, as numbers do."""


def lines(*texts: Cell) -> list[Text]:
    """Each text as a line."""
    return [text if isinstance(text, Text) else Text(text) for text in texts]


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> list[Text]:
    """A heading and a line for each row. On a terminal columns without a value are left out, and
    what is too wide in the last one goes on in further lines; if there is no room for that
    either, each row becomes a block of fields."""
    if width is not None and rows:
        used = [i for i in range(len(columns)) if any(_is_filled(row[i]) for row in rows)]
        columns = [columns[i] for i in used]
        rows = [[row[i] for i in used] for row in rows]
    widths = _widths(columns, rows)
    heading = [Text(column.title.upper(), "bold") for column in columns]
    if width is None or _total(widths) <= width:
        return [_line(columns, row, widths) for row in [heading, *rows]]
    indent = _total([*widths[:-1], 0])
    if columns[-1].right or width - indent < _LEAST:
        return _blocks(columns, rows, width)
    found = [_line(columns, heading, widths)]
    for row in rows:
        (last,) = lines(row[-1])
        first, *more = wrapped(last, width, indent)
        found.append(_line(columns, [*row[:-1], first], widths))
        found += [Text(" " * indent) + part for part in more]
    return found


def fitting(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[Text]:
    """As `table`, with as many columns as fit, from the left, and every row on one line."""
    widths = _widths(columns, rows)
    number = len(columns)
    while number > 1 and _total(widths[:number]) > width:
        number -= 1
    return table(columns[:number], [row[:number] for row in rows], None)


def fields(
    pairs: Sequence[tuple[str, Cell | Sequence[Cell]]], width: int | None, label: int = 0
) -> list[Text]:
    """Values with their labels on the left, as systemctl shows them; those have room for `label`
    cells at least. A value of several lines is a sequence."""
    label = max([label, *(cell_len(name) for name, _ in pairs)])
    found = []
    for name, value in pairs:
        head = Text(f"{name}: ".rjust(label + _GAP))
        for text in lines(*([value] if isinstance(value, str | Text) else value)):
            for part in wrapped(text, width, label + _GAP):
                found.append(head + part)
                head = Text(" " * (label + _GAP))
    return found


def wrapped(text: Text, width: int | None, indent: int = 0) -> list[Text]:
    """A text in lines that fit beside an indent."""
    if width is None or text.cell_len + indent <= width:
        return [text]
    parts = text.wrap(Console(), max(_NARROWEST, width - indent), overflow="fold")
    for part in parts:
        part.rstrip()
    # A word that is broken may leave an empty line behind it.
    return [part for part in parts if part.plain] or [Text()]


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.plain


def _is_filled(cell: Cell) -> bool:
    return _plain(cell) not in ("", NOTHING)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[int]:
    titles = [cell_len(column.title) for column in columns]
    return [max([t, *(cell_len(_plain(row[i])) for row in rows)]) for i, t in enumerate(titles)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _line(columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int]) -> Text:
    parts: list[Cell] = []
    for column, cell, width in zip(columns, row, widths, strict=True):
        missing = " " * (width - cell_len(_plain(cell)))
        gap = " " * _GAP if parts else ""
        parts += [gap + missing, cell] if column.right else [gap, cell, missing]
    # Ten thousand lines of text without colours are joined ten times as fast like this.
    is_plain = all(isinstance(part, str) for part in parts)
    line = Text("".join(map(_plain, parts))) if is_plain else Text.assemble(*parts)
    line.rstrip()
    return line


def _blocks(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[Text]:
    found: list[Text] = []
    for row in rows:
        filled = [
            (column.title.strip(), cell)
            for column, cell in zip(columns, row, strict=True)
            if _is_filled(cell)
        ]
        found += [*([Text()] if found else []), *fields(filled, width)]
    return found
