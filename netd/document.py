"""One YAML file as plain values, with the line and column of each, and every fault in it.

What is read is what a configuration needs of YAML 1.2: mappings, lists and the scalars of the
core schema (https://yaml.org/spec/1.2.2/#103-core-schema), in UTF-8. Whatever lets a file mean
something else than it shows is refused. The library gives events; the values are built from them
on a stack of our own, so that no nesting can exhaust Python's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import yaml

from netd.text import printable

MAX_BYTES: Final = 1 << 20  # far above any file written by hand; libyaml scans it in 10 ms
MAX_DEPTH: Final = 32  # four times what a service needs; some versions of the library know no limit
MAX_NODES: Final = 20_000  # keys and values; a thousand services, and what 100 ms suffice for
MAX_PROBLEMS: Final = 50  # nobody reads further before putting these right
MAX_NUMBER: Final = 500  # characters, else text; Python may refuse to print more than 640 digits
MAX_SHOWN: Final = 80  # characters of the file's text that a problem repeats
LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml is many times faster

Path = tuple[str | int, ...]  # keys and list indices, from the root
_Place = tuple[int, int]
_START: Final = (1, 1)
_WORDS: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{sign + inf: float(sign + "inf") for inf in (".inf", ".Inf", ".INF") for sign in ("", *"+-")},
}
_TOO_DEEP: Final = (f"lists and mappings are nested over {MAX_DEPTH} deep",
                    "nest less; look for brackets that are not closed")  # fmt: skip
_INT: Final = re.compile("[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # which libyaml refuses, the pure parser not
_INVISIBLE: Final = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
# By what the parsers say, libyaml or not. LINE is where the construct begins that they were in.
_HINTS: Final = {
    "are not allowed": "indent it right; write 'key: value'; put text with ': ' or '- ' in quotes",
    "expected ':'": "write line LINE as 'key: value', with a space after the colon",
    "end of stream": "close the quote that opens in line LINE",
    "expected ',' or": "close the bracket of line LINE; put text that holds [ ] { } , in quotes",
    "start any token|tag handle": "put text that begins with this character in quotes",
    "alphabetic or numeric": "put text that begins with *, & or % in quotes",
    "escape character": r"write \\ for a backslash, or use single quotes",
    "block end|expected key|'-' ind": "begin it where line LINE begins; nothing may follow a quote",
    "node content": "write a value; put text that begins with [ ] { } , : in quotes",
    "document start>": "begin all top keys in the same column; nothing may follow a quote",
    "int too large|chr[(]|4300": "an escape or a number after this is out of range",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; line and column count characters from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{printable(self.file)}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in a file, and the remedy where one can be told."""

    mark: Mark
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.mark}: {self.what}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says; `value` is to be used when `problems` is empty.

    None is the value of an empty file; all keys are text. After problems it is what could be
    understood; `complete` is False when the rest of the file was not read.
    """

    value: object
    problems: list[Problem]
    complete: bool
    _file: str
    _places: dict[Path, tuple[_Place, _Place]]

    def mark(self, path: Path) -> Mark:
        """Where the value at `path` begins, or else the nearest value around it."""
        return Mark(self._file, *self._find(path)[0])

    def key_mark(self, path: Path) -> Mark:
        """Where the key of that value begins; for the root or an item of a list, the value."""
        return Mark(self._file, *self._find(path)[1])

    def _find(self, path: Path) -> tuple[_Place, _Place]:
        path = (0, *path)
        while path and path not in self._places:
            path = path[:-1]
        return self._places.get(path, (_START, _START))


def parse(data: bytes, file: str, *, loader: Any = LOADER, nodes: int = MAX_NODES) -> Document:
    """Reads a whole file; `file` is its name in marks. Raises nothing: see `Document.problems`.

    A fault of encoding or syntax ends the reading, and so does passing a limit.
    """
    reader = _Reader(file)
    complete = True
    try:
        for event in reader.events(reader.decode(data), loader, nodes):
            reader.take(event)
    except _Stop:
        complete = False
    return Document(next(iter(reader.stream), None), reader.problems, complete, file, reader.places)


class _Stop(Exception):
    """The rest of the file is not read."""


@dataclass(slots=True)
class _Open:
    """A list or mapping that has begun and not ended; `key` is the one whose value comes next."""

    value: Any
    path: Path
    key: str | None = None
    key_place: _Place = _START


class _Reader:
    """Builds what YAML calls a stream, a list of documents; so all its paths begin with 0."""

    def __init__(self, file: str) -> None:
        self.stream: list[object] = []
        self.places: dict[Path, tuple[_Place, _Place]] = {}
        self.problems: list[Problem] = []
        self._file = file
        self._open = [_Open(self.stream, ())]

    def _add(self, place: _Place, what: str, hint: str) -> None:
        if len(self.problems) == MAX_PROBLEMS:
            what, hint = "more problems follow", "put those above right first"
        self.problems.append(Problem(Mark(self._file, *place), what, hint))
        if len(self.problems) > MAX_PROBLEMS:
            raise _Stop

    def _stop(self, place: _Place, what: str, hint: str) -> NoReturn:
        self._add(place, what, hint)
        raise _Stop

    def decode(self, data: bytes) -> str:
        """The text of the file, without what an editor does not show."""
        if len(data) > MAX_BYTES:
            self._stop(_START, f"the file has over {MAX_BYTES >> 20} MiB", "split it into several")
        wide = (data[0:3:2] == b"\0\0") != (data[1:4:2] == b"\0\0")
        if wide or data.startswith((b"\xff\xfe", b"\xfe\xff")):
            self._stop(_START, "the file is in UTF-16", "save it as UTF-8")
        if data.startswith(b"\xef\xbb\xbf"):
            self._add(_START, "the file begins with a byte order mark", "save it without one")
            data = data[3:]
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            what = f"the byte 0x{data[error.start]:02x} is not UTF-8"
            self._stop(_end(data[: error.start].decode()), what, "save the file as UTF-8")
        for found in _INVISIBLE.finditer(text):
            what = f"the character {printable(found[0])} is invisible"
            self._add(_end(text[: found.start()]), what, "remove it, or escape it in double quotes")
        if tag := re.search(r"(?<![^\r\n])%TAG", text):  # libyaml is quadratic in these
            self._stop(_end(text[: tag.start()]), "%TAG is not accepted", "remove or indent it")
        return _INVISIBLE.sub("_", text)

    def events(self, text: str, loader: Any, limit: int) -> Iterator[Any]:
        """What the library reads, up to the first fault in the syntax."""
        event, nodes = None, 0
        try:
            for event in yaml.parse(text, Loader=loader):
                nodes += isinstance(event, yaml.NodeEvent)
                if nodes > limit:
                    what = f"the file has over {limit} keys and values"
                    self._stop(_place(event.start_mark), what, "split it into several")
                yield event
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # int() and chr() in the pure
            self._stop(*_explain(error, text, event and event.end_mark))

    def take(self, event: Any) -> None:
        """Adds an event to what has been read."""
        place = _place(event.start_mark)
        if isinstance(event, yaml.NodeEvent):
            self._refuse_extras(event, place)
            self._take_node(event, place)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
        elif isinstance(event, yaml.DocumentStartEvent) and self.stream:
            self._stop(place, "a second document begins", "keep one document in a file")

    def _refuse_extras(self, event: Any, place: _Place) -> None:
        if event.anchor is not None:
            kind = "alias *" if isinstance(event, yaml.AliasEvent) else "anchor &"
            what = f"the {kind}{_shortened(event.anchor)} is not accepted"
            self._add(place, what, f"write the value out; put text like {kind[-1]}a in quotes")
        if (tag := getattr(event, "tag", None)) is not None:
            tag = _shortened(tag.replace("tag:yaml.org,2002:", "!!", 1))
            self._add(place, f"the tag {tag} is not accepted", "remove it, or put it in quotes")
        if getattr(event, "style", None) == '"' and _SURROGATE.search(event.value):
            self._add(place, "an escape stands for half a character", "write the character itself")

    def _take_node(self, event: Any, place: _Place) -> None:
        value: object = None
        if isinstance(event, yaml.ScalarEvent):
            value = event.value if event.style else _scalar(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
        parent = self._open[-1]
        if isinstance(parent.value, dict) and parent.key is None:
            parent.key, parent.key_place = self._key(event, place, parent), place
            path: Path = (*parent.path, parent.key)
        else:
            path = self._attach(value, place, parent)
        if isinstance(value, dict | list):
            if len(self._open) > MAX_DEPTH:
                self._stop(place, *_TOO_DEEP)
            self._open.append(_Open(value, path))

    def _key(self, event: Any, place: _Place, parent: _Open) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._add(place, "a key has to be text", "put text that begins with [ { or * in quotes")
            return ""
        key: str = event.value
        if not key:
            self._add(place, "the key is empty", "write a key before the colon")
        elif key == "<<" and not event.style:
            self._add(place, "the merge key << is not accepted", "write out what it stands for")
        elif key in parent.value:
            line = self.places[*parent.path, key][1][0]
            self._add(place, f"the key '{_shortened(key)}' stands in line {line} too", "remove one")
        return key

    def _attach(self, value: object, place: _Place, parent: _Open) -> Path:
        path: Path = (*parent.path, len(parent.value) if parent.key is None else parent.key)
        if parent.key is None:
            self.places[path] = place, place
            parent.value.append(value)
        else:  # of duplicate keys the first stays
            self.places.setdefault(path, (place, parent.key_place))
            parent.value.setdefault(parent.key, value)
            parent.key = None
        return path


def _scalar(text: str) -> object:
    """What plain text means; a number with a leading zero stays text, so that nobody guesses."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or len(text) > MAX_NUMBER:
        return text
    if _INT.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def _explain(error: Exception, text: str, last_mark: Any) -> tuple[_Place, str, str]:
    mark = getattr(error, "problem_mark", None) or last_mark
    line, column = place = _place(mark)
    problem = getattr(error, "problem", None) or str(error)
    if "nesting depth" in problem:  # libyaml reads ahead, to a limit of its own
        return place, *_TOO_DEEP
    text = [*text.splitlines(), ""][line - 1]
    tabbed = text.startswith("\t", column - 1) and re.search("any token|a tab", problem)
    if tabbed or (text.lstrip(" ").startswith("\t") and "mapping values" in problem):
        place = line, text.find("\t") + 1
        return place, "a tab stands where only spaces may", "indent with spaces alone"
    begin, _ = _place(getattr(error, "context_mark", None) or mark)
    hints = (hint for said, hint in _HINTS.items() if re.search(said, problem))
    return place, _shortened(problem), next(hints, "").replace("LINE", str(begin))


def _place(mark: Any) -> _Place:
    return (mark.line + 1, mark.column + 1) if mark else _START


def _end(text: str) -> _Place:
    line = 1 + text.count("\n") + text.count("\r") - text.count("\r\n")
    return line, len(text) - max(text.rfind("\n"), text.rfind("\r"))


def _shortened(text: str) -> str:
    return printable(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")
