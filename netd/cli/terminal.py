"""Standard output, as whoever reads it wants it: a person at a terminal, or a pipe."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from netd.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

View = Callable[[Any, int | None], "list[Text]"]
"""Lays data out for a terminal of some width, or for a pipe (None)."""

# For terminals that do not speak UTF-8.
_PLAIN = {"●": "*", "○": "o", "×": "x", "→": ">", "…": "..."}


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in text), error.end


def set_up() -> None:
    """Has standard output and standard error take any text, whatever their encoding is."""
    codecs.register_error("plainer", _plainer)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="plainer")  # type: ignore[union-attr]


def console() -> Console:
    """Standard output as rich writes to it: no text is taken for markup, and no word is coloured
    for what it looks like. It obeys NO_COLOR, FORCE_COLOR, TERM and COLUMNS."""
    # Here, since it takes as long to load as all the rest, and a program that reads JSON, or
    # someone who asks for help, does not need it.
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def show(view: View, data: Any) -> None:
    """Writes data for people. What is not printable in it, since it comes from clients, is
    escaped."""
    from rich.text import Text

    from netd.cli.layout import wrapped

    output = console()
    width = output.width if sys.stdout.isatty() else None
    lines = [part for line in view(shown(data), width) for part in wrapped(line, width)]
    if output.is_terminal:
        output.print(Text("\n").join(lines), soft_wrap=True)
    else:
        write("".join(f"{line.plain}\n" for line in lines))


def show_json(data: Any) -> None:
    """Writes data as one JSON document, in ASCII, which is safe to show as well."""
    write(json.dumps(data, indent=2) + "\n")


def write(text: str) -> None:
    """Writes text as it is, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def tell(text: str) -> None:
    """Writes to standard error what is wrong, a line each."""
    for line in text.splitlines():
        sys.stderr.write(f"{printable(line)}\n")


def shown(data: Any) -> Any:
    """The data with all its text printable."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, list):
        return [shown(item) for item in data]
    if isinstance(data, dict):
        return {printable(key): shown(value) for key, value in data.items()}
    return data
