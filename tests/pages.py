"""Pages of documentation: their blocks of code, and what the text promises about them.

A block is what stands in a fence. The paragraph before it may name the file that it is

    `name.py`:

and a comment may say why no test runs it

    <!-- not run: it needs root -->

A block of the language `text` is the output of the block before it; `…` stands for anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<excuse>[^\n]+) -->\n\n?)?"
    r"(?:^`(?P<file>[^`\n]+)`:\n\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code."""

    language: str
    text: str
    line: int
    """Where it stands in its page."""
    file: str | None
    """What the text calls it."""
    excuse: str | None
    """Why no test runs it."""
    output: str | None = None
    """What it prints, as the page says."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, each with its output."""
    text = page.read_text()
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        if match["language"] == "text":
            last = found.pop()
            assert last.output is None, f"{page.name}:{line}: a second output"
            found.append(Block(**{**vars(last), "output": match["text"]}))
        else:
            found.append(
                Block(match["language"], match["text"], line, match["file"], match["excuse"])
            )
    return found


def pattern(output: str) -> str:
    """A regular expression for an output: `…` is anything, and a time is any time."""
    expression = re.escape(output).replace("…", ".*")
    for time in (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"[A-Z]\w\w [A-Z]\w\w [ \d]\d [\d:]{8} \d{4}"):
        for example in re.findall(time, output):
            expression = expression.replace(re.escape(example), time)
    return expression
