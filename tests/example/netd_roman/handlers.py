"""roman, and roman-steps: they convert numbers to Roman numerals, and back.

    client → question CR LF             server → answer CR LF           as often as the client likes
    client → a question in a datagram   server → an answer in a datagram

What cannot be converted is answered by `error: …`, and the connection stays open. A line that is
too long ends it. `netd_roman.numerals` has the grammar.

The two are the same on the wire. A real distribution would offer one of them: the conversation
where an answer may have to be waited for, the steps where it never has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from netd.errors import Refused
from netd.handler import RequestHandler
from netd.lines import LineReader
from netd_roman.numerals import Options, convert

LINE_LIMIT = 80
"""Bytes of a line: more than any question has, so that a slip is refused and does not end it."""


class _Converting(RequestHandler):
    """What the two have in common: the options, the answers, the datagrams."""

    __slots__ = ()

    Options = Options

    def datagram_received(self, data: bytes) -> None:
        self.reply(self._answer(data))

    def _answer(self, question: bytes) -> bytes:
        try:
            return convert(question, self.options)
        except Refused as error:
            return self.error_reply(error)


class RomanHandler(_Converting):
    """A conversation: it has a thread, and waits in `read_line`."""

    __slots__ = ()

    def handle(self) -> None:
        while (line := self.read_line(LINE_LIMIT)) is not None:
            self.send(self._answer(line))


class RomanStepsHandler(_Converting):
    """Steps: the serving loop runs them for all connections in turn, and none of them waits.

    A read of 64 KiB may hold 30,000 questions from a client that reads no answers. So they are
    made as it takes them (`send_from`), and it is not read from meanwhile."""

    __slots__ = ("_lines",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._lines = LineReader(LINE_LIMIT)

    def data_received(self, data: bytes) -> None:
        self._lines.receive_data(data)
        self.send_from(self._answers())

    def eof_received(self) -> None:
        self._lines.receive_data(b"")
        self.send_from(self._answers())

    def _answers(self) -> Iterator[bytes]:
        while (line := self._lines.next_line()) is not None:
            yield self._answer(line)
