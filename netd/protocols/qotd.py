"""qotd (RFC 865): a quote of the day.

    server → one quote of less than 512 bytes, each line ended by CR LF; then it closes

A datagram, empty ones included, is answered by one quote that the sender may be sent: where none
is short enough, by the beginning of the shortest. Quotes are UTF-8.

A file of quotes is one for fortune(6): quotes of any number of lines, between them lines that hold
a single `%`. It is read once, with the configuration.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Annotated, Literal

from pydantic import AfterValidator, PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from netd.handler import RequestHandler
from netd.stanza import Stanza, parse_path

LONGEST = 511
"""The longest quote, in bytes as they are sent."""
LARGEST_FILE = 4 * 2**20
"""Bytes. All of it is held in memory; the largest files of fortune(6) are a tenth of it."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# In the public domain, or our own; each fits the answer to any datagram.
BUILT_IN = [
    "Brevity is the soul of wit. (Shakespeare, Hamlet)",
    "Little strokes fell great oaks. (Benjamin Franklin)",
    "Make haste slowly. (Augustus)",
    "Measure twice, cut once. (proverb)",
    "Mr. Watson, come here, I want to see you. (A. G. Bell, 1876)",
    "Well begun is half done. (proverb)",
    "What hath God wrought! (the first telegram, 1844)",
    "A port is a promise: somebody will answer.",
    "Be patient with the far end: it may be on a slow link.",
    "Small services, well kept, outlive great ones.",
    "The packet that was lost knows the network best.",
]


def to_wire(quote: str) -> bytes:
    """A quote as it is sent. Raises ValueError for one that may not be."""
    text = quote.replace("\r\n", "\n").expandtabs().strip("\n").rstrip()
    if not text:
        raise ValueError("the quote is empty (write some words)")
    if found := _CONTROL.search(text):
        raise ValueError(f"the quote holds the control character {found[0]!r} (take it out)")
    data = b"".join(line.rstrip().encode() + b"\r\n" for line in text.split("\n"))
    if len(data) > LONGEST:
        raise ValueError(f"the quote takes {len(data)} bytes (RFC 865 allows {LONGEST})")
    return data


def check_quote(quote: str) -> str:
    """The quote itself, if it may be sent. Raises ValueError."""
    to_wire(quote)
    return quote


def parse(text: str) -> list[bytes]:
    """The quotes in a file's text, as they are sent; those that may not be sent are passed over."""
    quotes = []
    for quote in re.split(r"^%$", text.replace("\r\n", "\n"), flags=re.MULTILINE):
        try:
            quotes.append(to_wire(quote))
        except ValueError:
            continue
    return quotes


def choose(quotes: Sequence[bytes], limit: int, chance: Random) -> bytes:
    """One of those that fit in `limit` bytes, else the beginning of the shortest; the quotes are
    sorted by length."""
    fitting = bisect_right(quotes, limit, key=len)
    return quotes[chance.randrange(fitting)] if fitting else cut(quotes[0], limit)


def cut(quote: bytes, limit: int) -> bytes:
    """The beginning of a quote: whole characters and CR LF, at most `limit` bytes."""
    begin = quote[: max(0, limit - 2)].decode(errors="ignore").rstrip()
    return f"{begin}\r\n".encode()[:limit]


@dataclass(frozen=True)
class QuoteFile:
    """A file of quotes, as it was when the configuration was read."""

    path: Path
    quotes: list[bytes]


def read_file(given: object, info: ValidationInfo) -> QuoteFile:
    """Reads a file of quotes. Raises ValueError, naming it, when there are none to be had."""
    path = parse_path(given, info)
    quotes = parse(_read_text(path))
    if not quotes:
        raise ValueError(
            f"{path} has no quote of at most {LONGEST} bytes (separate them by lines with one %)"
        )
    return QuoteFile(path, quotes)


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a file (name one in the format of fortune(6))")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror} (see `ls -l`)") from None
    if len(data) > LARGEST_FILE:
        raise ValueError(f"{path} is larger than {LARGEST_FILE} bytes (split it)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 (convert it: iconv)") from None


class Options(Stanza):
    """Where the quotes come from."""

    quotes: list[Annotated[str, AfterValidator(check_quote)]] = []
    """Quotes of less than 512 bytes. With no quotes and no file there are some built in."""
    file: (
        Annotated[
            QuoteFile,
            PlainValidator(read_file),
            PlainSerializer(lambda source: str(source.path), return_type=str),
            WithJsonSchema({"type": "string", "examples": ["/usr/share/games/fortunes/fortunes"]}),
        ]
        | None
    ) = None
    """A file with more quotes, separated by lines with a single `%`; a relative path begins in
    the folder of the configuration. Quotes that are too long are passed over."""
    pick: Literal["random", "daily"] = "random"
    """Which quote is sent: each time another, or the same for a day."""

    @cached_property
    def by_length(self) -> list[bytes]:
        """All the quotes as they are sent, the shortest first."""
        own = [to_wire(quote) for quote in self.quotes]
        found = own + (self.file.quotes if self.file else [])
        return sorted(found or map(to_wire, BUILT_IN), key=len)


_chance = Random()


class QotdHandler(RequestHandler):
    """Sends a quote and closes."""

    __slots__ = ()

    Options = Options

    def connection_made(self) -> None:
        self.send(self._quote(LONGEST))
        self.close()

    def datagram_received(self, _data: bytes) -> None:
        self.reply(self._quote(self.reply_limit))

    def _quote(self, limit: int) -> bytes:
        daily = self.options.pick == "daily"
        chance = Random(date.today().toordinal()) if daily else _chance
        return choose(self.options.by_length, limit, chance)
