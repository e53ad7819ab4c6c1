"""The YAML reader: values, places and faults, with libyaml and without."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from netd import document
from netd.document import Document, Mark, Path, Problem, parse

LOADERS: list[Any] = [yaml.BaseLoader]
if yaml.__with_libyaml__:
    LOADERS.append(yaml.CBaseLoader)
every_loader = pytest.mark.parametrize("loader", LOADERS)

TYPICAL = b"""\
control: {path: /run/netd/control.sock, mode: "0660", group: netd}
status:  {listen: "127.0.0.1:9464"}      # /metrics, /healthz
include: [conf.d/*.yaml]
defaults: {idle_timeout: 5m}
services:
  upper:
    protocol: upper
    listen: ["tcp://127.0.0.1:9000", "unix:/run/netd/upper.sock"]
    only_from:
    - 10.0.0.0/8
    - ::1
    max_connections: 10
    enabled: true
    options: {}
    banner: |
      Gr\xc3\xbc\xc3\x9f Gott
"""

TAB = "a tab stands where only spaces may (indent with spaces alone)"

# Faults that do not end the reading, and those that our own limits find.
FAULTS: list[tuple[bytes, list[str]]] = [
    (b"a: 1\nb: 2\na: 3\na: 4", [
        "3:1: the key 'a' stands in line 1 too (remove one)",
        "4:1: the key 'a' stands in line 1 too (remove one)"]),
    (b"a: {x: 1, x: 2}\nb: {x: 1}", ["1:11: the key 'x' stands in line 1 too (remove one)"]),
    (b"22: a\n'22': b", ["2:1: the key '22' stands in line 1 too (remove one)"]),
    (b'"\\e[0m": 1\n"\\e[0m": 2', ["2:1: the key '\\x1b[0m' stands in line 1 too (remove one)"]),
    (b"a: &x 1\nb: *x", [
        "1:4: the anchor &x is not accepted (write the value out; put text like &a in quotes)",
        "2:4: the alias *x is not accepted (write the value out; put text like *a in quotes)"]),
    (b"a: &a [*a]", [
        "1:4: the anchor &a is not accepted (write the value out; put text like &a in quotes)",
        "1:8: the alias *a is not accepted (write the value out; put text like *a in quotes)"]),
    (b"a: !!python/object/apply:os.system [id]", [
        "1:4: the tag !!python/object/apply:os.system is not accepted"
        " (remove it, or put it in quotes)"]),
    (b"a: !!binary aGk=\nb: !x 1\nc: ! 1", [
        "1:4: the tag !!binary is not accepted (remove it, or put it in quotes)",
        "2:4: the tag !x is not accepted (remove it, or put it in quotes)",
        "3:4: the tag ! is not accepted (remove it, or put it in quotes)"]),
    (b"a:\n  <<: {x: 1}", [
        "2:3: the merge key << is not accepted (write out what it stands for)"]),
    (b"? [a]\n: 1\nb: 2\n? {c: d}\n: 3", [
        "1:3: a key has to be text (put text that begins with [ { or * in quotes)",
        "4:3: a key has to be text (put text that begins with [ { or * in quotes)"]),
    (b"'': 1\na: {'': 2}", [
        "1:1: the key is empty (write a key before the colon)",
        "2:5: the key is empty (write a key before the colon)"]),
    (b"a: 1\n---\nb: 2", ["2:1: a second document begins (keep one document in a file)"]),
    (b"\xef\xbb\xbfa: 1\nb: &x 2", [
        "1:1: the file begins with a byte order mark (save it without one)",
        "2:4: the anchor &x is not accepted (write the value out; put text like &a in quotes)"]),
    ("a: ä".encode("utf-16"), ["1:1: the file is in UTF-16 (save it as UTF-8)"]),
    ("a: 1".encode("utf-16-be"), ["1:1: the file is in UTF-16 (save it as UTF-8)"]),
    ("a: 1".encode("utf-16-le"), ["1:1: the file is in UTF-16 (save it as UTF-8)"]),
    ("é: 1\r\nå: ü é".encode() + b"\xe9", [
        "2:7: the byte 0xe9 is not UTF-8 (save the file as UTF-8)"]),
    (b"a\rb: \xff", ["2:4: the byte 0xff is not UTF-8 (save the file as UTF-8)"]),
    (b"a\0: \x1b[0m\r\nb: \xe2\x80\xa8\xc2\x85", [
        "1:2: the character \\x00 is invisible (remove it, or escape it in double quotes)",
        "1:5: the character \\x1b is invisible (remove it, or escape it in double quotes)",
        "2:4: the character \\u2028 is invisible (remove it, or escape it in double quotes)",
        "2:5: the character \\x85 is invisible (remove it, or escape it in double quotes)"]),
    (b"#\r%TAG ! x\n--- 1", ["2:1: %TAG is not accepted (remove or indent it)"]),
    (b"a:\n\tb: 1", ["2:1: " + TAB]),
    (b"a:\n  b: 1\n \tc: 2", ["3:2: " + TAB]),
    (b"a\n\tb: 1", ["2:1: " + TAB]),
    (b"-\ta: 1", ["1:2: " + TAB]),
    (b"a: 1\na: 2\nb: 'x", [
        "2:1: the key 'a' stands in line 1 too (remove one)",
        "3:6: found unexpected end of stream (close the quote that opens in line 3)"]),
]  # fmt: skip

PLACE = "indent it right; write 'key: value'; put text with ': ' or '- ' in quotes"
BRACKET = "close the bracket of line 2; put text that holds [ ] { } , in quotes"

# The library's words differ between the parsers; the place and our hint do not.
SYNTAX = [
    (b"a:b\nc: 1", "2:2", PLACE),
    (b"a: - b", "1:4", PLACE),
    (b"a: 1\nb\nc: 2", "3:1", "write line 2 as 'key: value', with a space after the colon"),
    (b"a: 'x\nb: 1\n", "3:1", "close the quote that opens in line 1"),
    (b"a: 1\nb: [c, d\ne: 1", "3:2", BRACKET),
    (b"\na: [tcp://[::]:9000]", "2:11", BRACKET),
    (b"a: @x", "1:4", "put text that begins with this character in quotes"),
    (b"a: !x!y 1", "1:4", "put text that begins with this character in quotes"),
    (b"include: *.yaml", "1:11", "put text that begins with *, & or % in quotes"),
    (b"a: *\tb", "1:5", "put text that begins with *, & or % in quotes"),
    (b"a: ]", "1:4", "write a value; put text that begins with [ ] { } , : in quotes"),
    (b"a:\n  - b\n - c", "3:2", "begin it where line 1 begins; nothing may follow a quote"),
    (b"- a\nb: 1", "2:1", "begin it where line 1 begins; nothing may follow a quote"),
    (b"a: 'it's'", "1:8", "begin it where line 1 begins; nothing may follow a quote"),
    (b"  a: 1\nb: 2", "2:1", "begin all top keys in the same column; nothing may follow a quote"),
    (b"%YAML 2.0\n--- 1", "1:1", ""),
]

SCALARS: list[tuple[str, object]] = [
    ("", None), ("~", None), ("null", None), ("Null", None), ("NULL", None), ("nULL", "nULL"),
    ("true", True), ("True", True), ("TRUE", True), ("tRUE", "tRUE"),
    ("false", False), ("False", False), ("FALSE", False),
    *((word, word) for word in ("no", "yes", "on", "off", "y", "n", "No", "ON")),
    ("0", 0), ("-0", 0), ("22", 22), ("+5", 5), ("-17", -17), ("0o17", 15), ("0xfF", 255),
    ("0600", "0600"), ("-01", "-01"), ("00", "00"), ("0o8", "0o8"), ("0xg", "0xg"), ("0b1", "0b1"),
    ("-0x1", "-0x1"), ("1_000", "1_000"), ("٣", "٣"), ("22:22", "22:22"), ("1:30:00", "1:30:00"),
    ("2001-01-01", "2001-01-01"), ("10.0.0.0/8", "10.0.0.0/8"), ("5m", "5m"), ("::1", "::1"),
    ("1.5", 1.5), ("1.", 1.0), (".5", 0.5), ("-.5", -0.5), ("1e3", 1000.0), ("1.5E-3", 0.0015),
    ("06.5", "06.5"), ("1e", "1e"), (".", "."), ("+", "+"), ("1.2.3", "1.2.3"), (".infx", ".infx"),
    (".inf", math.inf), ("+.INF", math.inf), ("-.Inf", -math.inf), ("inf", "inf"), ("nan", "nan"),
    ("9" * 500, int("9" * 500)), ("9" * 501, "9" * 501), ("9" * 5000, "9" * 5000),
    ("0x" + "f" * 5000, "0x" + "f" * 5000), ("1." + "9" * 5000, "1." + "9" * 5000),
    ("'22'", "22"), ('"true"', "true"), ("''", ""), ("|-\n 22", "22"), (">-\n ~", "~"),
]  # fmt: skip


def texts(found: Document) -> list[str]:
    return [str(problem) for problem in found.problems]


def leaves(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """Every scalar and empty collection in a value, with its path."""
    if not isinstance(value, dict | list) or not value:
        return [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [leaf for key, part in items for leaf in leaves(part, (*path, key))]


@every_loader
@pytest.mark.parametrize(("data", "expected"), FAULTS)
def test_every_fault_is_told_with_place_and_remedy(
    data: bytes, expected: list[str], loader: Any
) -> None:
    """Each fault in a file is one sentence that begins with file, line and column."""
    assert texts(parse(data, "f", loader=loader)) == [f"f:{text}" for text in expected]


@every_loader
@pytest.mark.parametrize(("data", "place", "hint"), SYNTAX)
def test_a_fault_of_syntax_is_one_problem_with_a_hint(
    data: bytes, place: str, hint: str, loader: Any
) -> None:
    """What the library finds has its place, and a hint where its words are obscure."""
    found = parse(data, "f", loader=loader)
    assert [problem.hint for problem in found.problems] == [hint]
    assert str(found.problems[0]).startswith(f"f:{place}: ")
    assert not found.complete


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="the pure parser takes no tab at all")
def test_a_tab_is_not_blamed_for_another_fault() -> None:
    """Inside brackets tabs may stand, and a fault of such a line is told as what it is."""
    assert parse(b"a: [\n\tb\n]", "f").value == {"a": ["b"]}
    (problem,) = parse(b"a: [\n\t@x]", "f").problems
    assert (problem.mark.column, problem.what) == (2, "found character that cannot start any token")


@every_loader
@pytest.mark.parametrize("escape", ["\\q", "\\ud800", "\\UFFFFFFFF"])
def test_an_escape_that_means_nothing_is_a_problem(escape: str, loader: Any) -> None:
    """Unknown escapes, halves of characters and too large ones are refused by both parsers."""
    problems = parse(f'a: 1\nb:\n  "{escape}"'.encode(), "f", loader=loader).problems
    assert len(problems) == 1
    assert problems[0].mark.line in {2, 3}


@every_loader
def test_a_long_version_number_is_a_problem(loader: Any) -> None:
    """The parsers convert the number of %YAML themselves, and may fail at it in their own ways."""
    data = b"%YAML 1." + b"9" * 5000 + b"\n--- a"
    assert [problem.mark.line for problem in parse(data, "f", loader=loader).problems] == [1]


@every_loader
@pytest.mark.parametrize(("text", "expected"), SCALARS)
def test_scalars_mean_what_the_core_schema_says(text: str, expected: object, loader: Any) -> None:
    """Plain scalars follow YAML 1.2, quoted ones and blocks are text."""
    found = parse(f"a: {text}".encode(), "f", loader=loader)
    assert found.problems == []
    assert found.value == {"a": expected}
    assert isinstance(found.value, dict)
    assert type(found.value["a"]) is type(expected)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_is_a_number(text: str) -> None:
    """NaN has its three spellings."""
    value = parse(text.encode(), "f").value
    assert isinstance(value, float)
    assert math.isnan(value)


@every_loader
def test_a_typical_file_is_read_whole(loader: Any) -> None:
    """Mappings, lists, comments, both styles, quotes and blocks give plain values."""
    found = parse(TYPICAL, "f", loader=loader)
    assert found.problems == []
    assert found.complete
    assert found.value == {
        "control": {"path": "/run/netd/control.sock", "mode": "0660", "group": "netd"},
        "status": {"listen": "127.0.0.1:9464"},
        "include": ["conf.d/*.yaml"],
        "defaults": {"idle_timeout": "5m"},
        "services": {
            "upper": {
                "protocol": "upper",
                "listen": ["tcp://127.0.0.1:9000", "unix:/run/netd/upper.sock"],
                "only_from": ["10.0.0.0/8", "::1"],
                "max_connections": 10,
                "enabled": True,
                "options": {},
                "banner": "Grüß Gott\n",
            }
        },
    }


@every_loader
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"'<<': 1", {"<<": 1}),
        (b"null: 1\n22: 2\ntrue: ~", {"null": 1, "22": 2, "true": None}),
        (b"a: b %TAG", {"a": "b %TAG"}),
        (b'a: "\\0\\e\\ufeff"', {"a": "\0\x1b\ufeff"}),
        (b"a: '*x &y !z <<'", {"a": "*x &y !z <<"}),
        (b"--- a\n...\n", "a"),
        ("é: 😀".encode(), {"é": "😀"}),
    ],
)
def test_what_only_resembles_a_fault_is_accepted(
    data: bytes, expected: object, loader: Any
) -> None:
    """Quotes and escapes let every text be written; keys are text whatever they look like."""
    found = parse(data, "f", loader=loader)
    assert found.problems == []
    assert found.value == expected


@every_loader
def test_marks_name_the_place_of_values_and_keys(loader: Any) -> None:
    """A value, its key and an item of a list are found; a missing one gives what is around it."""
    found = parse(TYPICAL, "f", loader=loader)
    upper = ("services", "upper")
    assert found.mark(()) == Mark("f", 1, 1)
    assert found.mark(("control", "mode")) == Mark("f", 1, 47)
    assert found.key_mark(("control", "mode")) == Mark("f", 1, 41)
    assert found.mark(upper) == Mark("f", 7, 5)
    assert found.key_mark(upper) == Mark("f", 6, 3)
    assert found.mark((*upper, "only_from", 1)) == Mark("f", 11, 7)
    assert found.key_mark((*upper, "only_from", 1)) == Mark("f", 11, 7)
    assert found.mark((*upper, "listen", 1)) == Mark("f", 8, 38)
    assert found.mark((*upper, "listen", 2, "x")) == found.mark((*upper, "listen"))
    assert found.mark((*upper, "protocol", "x")) == found.mark((*upper, "protocol"))
    assert found.key_mark((*upper, "absent")) == found.key_mark(upper)
    assert found.key_mark(("absent",)) == found.mark(()) == found.key_mark(())


@every_loader
@pytest.mark.parametrize("data", [b"", b"\n\n", b"# no\n", b"---\n", b"~", b"%YAML 1.2\n---\n"])
def test_an_empty_file_is_none(data: bytes, loader: Any) -> None:
    """A file without a value is no fault, and has a place all the same."""
    found = parse(data, "f", loader=loader)
    assert (found.value, found.problems, found.complete) == (None, [], True)
    assert found.mark(("a", 0)).line in {1, 2, 3}


def test_a_wrong_value_does_not_hide_the_others() -> None:
    """After faults the value holds what could be read, and of duplicate keys the first."""
    found = parse(b"a: 1\na: 2\nb: *x\nc: !t 3\n", "f")
    assert found.complete
    assert found.value == {"a": 1, "b": None, "c": 3}
    assert found.mark(("a",)) == Mark("f", 1, 4)


def test_too_many_bytes_are_not_parsed() -> None:
    """The size is looked at before anything else; at the limit a file is read."""
    found = parse(b"#" * (document.MAX_BYTES + 1), "f", loader=None)
    assert texts(found) == ["f:1:1: the file has over 1 MiB (split it into several)"]
    assert parse(b"#" * document.MAX_BYTES, "f").problems == []


def test_tag_directives_are_not_parsed() -> None:
    """Sixty thousand of them would hold libyaml for seconds."""
    data = b"".join(b"%%TAG !%x! x\n" % number for number in range(60_000))
    assert not parse(data, "f", loader=None).complete


@every_loader
@pytest.mark.parametrize("opening", ["[", "{a: ", "[{a: ", "- ", "- ? ", "? "])
def test_reading_stops_at_the_depth_limit(opening: str, loader: Any) -> None:
    """A depth of 100,000 is one problem after a few events, as deep as it is."""
    taken = 0

    class Counting(loader):  # type: ignore[misc]
        def get_event(self) -> object:
            nonlocal taken
            taken += 1
            return super().get_event()

    found = parse(opening.encode() * 100_000, "f", loader=Counting)
    assert found.problems[-1].what == "lists and mappings are nested over 32 deep"
    assert not found.complete
    assert taken < 3 * document.MAX_DEPTH


@every_loader
def test_the_depth_limit_itself_is_accepted(loader: Any) -> None:
    """As many levels as the limit are read; a wide file is not a deep one."""
    depth = document.MAX_DEPTH
    assert parse(b"[" * depth + b"]" * depth, "f", loader=loader).problems == []
    assert parse(b"- [[a], {b: {}}]\n" * 1000, "f", loader=loader).problems == []


@every_loader
@pytest.mark.parametrize("line", [b"- a\n", b"- []\n"])
def test_reading_stops_at_too_many_values(line: bytes, loader: Any) -> None:
    """The number of values is bounded, so that the time is; at the limit a file is read."""
    found = parse(line * document.MAX_NODES, "f", loader=loader)
    what = f"the file has over {document.MAX_NODES} keys and values"
    assert [problem.what for problem in found.problems] == [what]
    assert parse(line * (document.MAX_NODES - 1), "f", loader=loader).problems == []


@every_loader
@pytest.mark.parametrize("data", [b"- *a\n" * 1000, b"a: 1\n" * 1000, b"- \0\n" * 1000])
def test_reading_stops_at_too_many_problems(data: bytes, loader: Any) -> None:
    """An alias bomb, or a file without sense, is told in so many lines and one more."""
    found = parse(data, "f", loader=loader)
    assert len(found.problems) == document.MAX_PROBLEMS + 1
    assert found.problems[-1].what == "more problems follow"
    assert not found.complete


def test_what_is_shown_is_short_and_printable() -> None:
    """No text of the file, nor its name, reaches the terminal raw or at length."""
    key = '"\\e]0;' + "x" * 500 + '"'
    (text,) = texts(parse(f"{key}: 1\n{key}: 2".encode(), "a\n\udcff.yaml"))
    assert text.startswith("a\\n\\udcff.yaml:2:1: the key '\\x1b]0;xxx")
    assert text.isprintable()
    assert len(text) < 200
    assert str(Problem(Mark("f", 1, 2), "it is so")) == "f:1:2: it is so"


def test_an_error_without_a_place_is_told_at_the_start() -> None:
    """Whatever the library raises becomes one line."""

    class Broken(yaml.BaseLoader):
        def get_event(self) -> Any:
            raise yaml.YAMLError("no\nmore")

    assert texts(parse(b"a: 1", "f", loader=Broken)) == ["f:1:1: no\\nmore"]


YAMLISH = st.text(st.sampled_from("ab01 \n\t\r:-?[]{},&*!|>'\"%@`#<~.\\xuU\0\ufeffé\x85"))


@every_loader
@given(st.one_of(st.binary(), YAMLISH.map(str.encode)), st.integers(0, len(TYPICAL)))
def test_no_bytes_raise(loader: Any, data: bytes, at: int) -> None:
    """Any bytes, alone or in the midst of a good file, give a value or printable problems."""
    for given_data in (data, TYPICAL[:at] + data + TYPICAL[at:]):
        found = parse(given_data, "f", loader=loader)
        assert found.complete or found.problems
        for problem in found.problems:
            assert str(problem).isprintable()
            # libyaml gives the end of a file without a last line break as the next line.
            assert 1 <= problem.mark.line <= len(re.split(b"[\r\n]", given_data)) + 1
            assert 1 <= problem.mark.column <= len(given_data) + 1


class Quoting(yaml.SafeDumper):
    """Quotes all text, since YAML 1.1 leaves some plain that 1.2 takes for numbers."""

    def ignore_aliases(self, _: object) -> bool:
        return True


Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


def nested(scalars: Any, keys: Any) -> Any:
    return st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(keys, v), max_leaves=20)


@every_loader
@given(nested(SCALAR, st.text(min_size=1)), st.booleans(), st.booleans())
def test_what_was_dumped_is_read_back(loader: Any, value: object, flow: bool, raw: bool) -> None:
    """Any nested value survives a dump in either style, with or without escapes."""
    dumped = yaml.dump(value, Dumper=Quoting, default_flow_style=flow, allow_unicode=raw)
    found = parse(dumped.encode(), "f", loader=loader)
    assert found.problems == []
    assert found.value == value


WORD = st.from_regex("w[a-zé😀]{0,5}", fullmatch=True)


@every_loader
@given(nested(WORD | st.integers(), WORD), st.booleans())
def test_marks_point_at_the_text(loader: Any, value: object, flow: bool) -> None:
    """The text at the mark of a value, or of a key, begins with that value or key."""
    dumped = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    found, lines = parse(dumped.encode(), "f", loader=loader), dumped.split("\n")
    for path, leaf in leaves(value):
        mark, key = found.mark(path), found.key_mark(path)
        assert lines[mark.line - 1].startswith(str(leaf), mark.column - 1)
        if path and isinstance(path[-1], str):
            assert lines[key.line - 1].startswith(path[-1], key.column - 1)
        assert found.mark((*path, "absent")) == mark
