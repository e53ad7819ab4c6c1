"""Faults in words: what they say, and the place that they name."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from typing_extensions import TypedDict

from netd import document, findings
from netd.document import Document, Mark, Path
from netd.stanza import Duration, FilePath, Mode, Size, Stanza, parse_duration


def check_even(number: int) -> int:
    """Refuses odd numbers, in the words of a validator."""
    if number % 2:
        raise ValueError(f"{number!r} is odd (write {number + 1})")
    return number


class Rule(Stanza):
    """A stanza within others."""

    name: str
    """What it is called,
    in a word."""
    weight: Annotated[int, Field(ge=1, le=9)] = 1


class Other(Stanza):
    """The other member of a union."""

    kind: Literal["other"]


class Typed(TypedDict):
    """Keys that are declared in another way."""

    name: str


class Nothing(Stanza):
    """A stanza without keys."""


class Sample(Stanza):
    """Every kind of key that there may be."""

    flag: bool = False
    number: Annotated[int, Field(ge=0, le=10)] = 0
    part: Annotated[float, Field(gt=0, lt=1)] = 0.5
    even: Annotated[int, AfterValidator(check_even)] = 0
    text: Annotated[str, Field(max_length=5)] = ""
    pattern: Annotated[str, Field(pattern="^a+$")] = "a"
    choice: Literal["first", "second", "third"] = "first"
    words: list[str] = []
    some: Annotated[list[int], Field(min_length=1)] = [1]
    rule: Rule | None = None
    rules: list[Rule] = []
    by_name: dict[str, Rule] = {}
    nothing: Nothing = Nothing()
    typed: Typed | None = None
    either: Rule | Other | None = None
    both: int | str = 0
    wait: Duration = None
    size: Size = 0
    small: Annotated[Size, Field(le=2**20)] = 0
    short: Annotated[float, BeforeValidator(parse_duration), Field(ge=0.5, le=90.0)] = 1.0
    mode: Mode = 0o600
    file: FilePath | None = None


class Whole(Stanza):
    """A stanza that looks at all of its keys."""

    first: int = 0
    last: int = 0

    @model_validator(mode="after")
    def _check_order(self) -> Whole:
        if self.first > self.last:
            raise ValueError(f"first is {self.first}, and last {self.last} (exchange them)")
        return self


def faults(text: str, model: type[Stanza] = Sample, base: Path = ()) -> list[str]:
    """The faults in a file that holds a stanza at a path, without the file's name."""
    found = document.parse(text.encode(), "f")
    assert not found.problems
    value: Any = found.value
    for part in base:
        value = value[part]

    def origin(path: Path) -> tuple[Document, Path]:
        return found, (*base, *path)

    spare = {"name": ""} if model is Rule else {}
    _, errors, _ = findings.validate(model, value, {}, spare)
    problems = findings.of_validation(errors, model, origin)
    return [str(problem).removeprefix("f:") for problem in problems]


WORDS = [
    ("flag: yes", "1:7: flag: expected true or false, not 'yes' (write true)"),
    ("flag: No", "1:7: flag: expected true or false, not 'No' (write false)"),
    ("flag: 'true'", "1:7: flag: expected true or false, not 'true' (write true)"),
    ("flag: 1", "1:7: flag: expected true or false, not 1"),
    ("flag: [1]", "1:7: flag: expected true or false, not [1]"),
    ("number: '7'", "1:9: number: expected a number, not '7'"
     " (write 7, without quotes or leading zeros)"),
    ("number: 0600", "1:9: number: expected a number, not '0600'"
     " (write 600, without quotes or leading zeros)"),
    ("number: 00", "1:9: number: expected a number, not '00'"
     " (write 0, without quotes or leading zeros)"),
    ("number: 1.5", "1:9: number: expected a number, not 1.5 (write a whole number)"),
    ("number: ²", "1:9: number: expected a number, not '²'"),
    ("number: ten", "1:9: number: expected a number, not 'ten'"),
    ("number: true", "1:9: number: expected a number, not true"),
    ("number: null", "1:9: number: expected a number, not null"),
    ("number: {a: b}", '1:9: number: expected a number, not {"a": "b"}'),
    ("number: -1", "1:9: number: -1 is too small (at least 0)"),
    ("number: 11", "1:9: number: 11 is too large (at most 10)"),
    ("part: 2", "1:7: part: 2 cannot be used (Input should be less than 1)"),
    ("even: 3", "1:7: even: 3 is odd (write 4)"),
    ("text: 5", "1:7: text: expected text, not 5 (put it in quotes)"),
    ("text: true", "1:7: text: expected text, not true (put it in quotes)"),
    ("text: [a]", '1:7: text: expected text, not ["a"]'),
    ("text:", "1:6: text: expected text, not null"),
    ("text: abcdef", "1:7: text: 'abcdef' is too long (at most 5 characters)"),
    ("pattern: b", "1:10: pattern: 'b' cannot be used (String should match pattern '^a+$')"),
    ("choice: fist", "1:9: choice: 'fist' is not one of first, second, third"),
    ("choice: 1", "1:9: choice: 1 is not one of first, second, third"),
    ("words: a", '1:8: words: expected a list, not \'a\' (write ["a"])'),
    ("words: tcp://[::1]:9", "1:8: words: expected a list, not 'tcp://[::1]:9'"
     ' (write ["tcp://[::1]:9"])'),
    ("words: {a: b}", '1:8: words: expected a list, not {"a": "b"} (write a list: [a, b])'),
    ("words:", "1:7: words: nothing stands below it (write items below it, or take it out)"),
    ("words: [a, 5]", "1:12: words[1]: expected text, not 5 (put it in quotes)"),
    ("some: []", "1:7: some: it is empty (write at least 1)"),
    ("rule: 5", "1:7: rule: expected keys with values, not 5 (there are: name, weight)"),
    ("rules: [{name: a}, {name: b, weight: 10}]",
     "1:38: weight: 10 is too large (at most 9)"),
    ("rules: [{name: a}, 7]", "1:20: rules[1]: expected keys with values, not 7"
     " (there are: name, weight)"),
    ("by_name: 5", "1:10: by_name: expected keys with values, not 5"),
    ("by_name: {x: {name: a, weight: 0}}", "1:32: weight: 0 is too small (at least 1)"),
    ("wait: 5", "1:7: wait: a duration needs a unit (write 5s, 5m or 5h)"),
    ("wait: [a]", '1:7: wait: ["a"] is not a duration'
     " (write it like 500ms, 10s, 5m, 1h or 1d)"),
    ("size: 64kb", "1:7: size: '64kb' is not a size (write it like 512B, 64KiB, 10MB or 1GiB)"),
    ("small: 2MiB", "1:8: small: '2MiB' is too large (at most 1MiB)"),
    ("small: 2000000", "1:8: small: 2000000 is too large (at most 1048576)"),
    ("short: 2m", "1:8: short: '2m' is too large (at most 90s)"),
    ("short: 1ms", "1:8: short: '1ms' is too small (at least 500ms)"),
    ("mode: 600", "1:7: mode: 600 is not a file mode"
     ' (write octal digits in quotes: "0660")'),
    ("mode:", '1:6: mode: null is not a file mode (write octal digits in quotes: "0660")'),
    ("file: ''", "1:7: file: '' is not the path of a file (write it like /etc/netd/name.txt)"),
    ("nmber: 5", "1:1: unknown key 'nmber' (did you mean number?)"),
    ("Number: 5", "1:1: unknown key 'Number' (did you mean number?)"),
    ("qqqq: 5", "1:1: unknown key 'qqqq' (`netd --schema` lists all keys)"),
    ("by_name: {x: {name: a}, y: {name: b, x: 1}}",
     "1:38: unknown key 'x' (there are: name, weight)"),
    ("typed: {}", "1:1: typed: the key name is missing"),
    ("nothing: {x: 1}", "1:11: unknown key 'x' (take it out: no key can stand here)"),
    ("rule: {name: a, flag: 3}", "1:17: unknown key 'flag' (there are: name, weight)"),
    ("rules: [{name: a, wieght: 3}]", "1:19: unknown key 'wieght' (did you mean weight?)"),
    ("by_name: {x: {name: a, nam: 3}}", "1:24: unknown key 'nam' (did you mean name?)"),
    ("rule: {weight: 3}", "1:1: rule: the key name is missing (What it is called, in a word.)"),
    ("rules:\n- {name: a}\n- weight: 3", "3:3: rules[1]: the key name is missing"
     " (What it is called, in a word.)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WORDS)
def test_a_fault_is_told_with_place_and_remedy(text: str, said: str) -> None:
    """One line: where, which key, what is wrong, and what to write instead."""
    assert faults(text) == [said]


def test_the_place_is_that_in_the_whole_file() -> None:
    """A stanza deep in a file has its faults reported where they are in that file."""
    text = "log: 1\nservices:\n  a:\n    name: b\n    weight: 0\n    size: 1"
    assert faults(text, Rule, ("services", "a")) == [
        "5:13: weight: 0 is too small (at least 1)",
        "6:5: unknown key 'size' (there are: name, weight)",
    ]


def test_a_fault_of_the_whole_stanza_stands_at_its_beginning() -> None:
    """What concerns several keys is told in the words of the validator, at the stanza."""
    assert faults("x:\n  first: 2\n  last: 1", Whole, ("x",)) == [
        "2:3: x: first is 2, and last 1 (exchange them)"
    ]


def test_the_types_of_a_union_are_no_part_of_the_place() -> None:
    """pydantic names the member of a union that it tried; the file knows nothing of it."""
    found = faults("text: a\neither:\n  name: a\n  weight: 0")
    assert "4:11: weight: 0 is too small (at least 1)" in found
    assert all(line[0] in "234" for line in found)
    assert faults("both: [x]")[0] == '1:7: both: expected a number, not ["x"]'


def test_a_flood_of_faults_is_cut_off() -> None:
    """A file that is something else altogether is told so in a moment."""
    began = time.process_time()
    found = faults("\n".join(f"key-number-{n}: {n}" for n in range(9_000)))
    assert time.process_time() - began < 1
    assert len(found) == findings.MAX_FAULTS + 1
    assert found[-1] == "101:17: 8900 more faults follow (put those above right first)"


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ((), set(Sample.model_fields)),
        (("rule",), {"name", "weight"}),
        (("rules", 3), {"name", "weight"}),
        (("by_name", "anything"), {"name", "weight"}),
        (("either",), {"name", "weight", "kind"}),
        (("either", "Rule"), {"name", "weight", "kind"}),
        (("number",), set()),
        (("rule", "weight", "deeper"), set()),
    ],
)
def test_the_keys_at_a_path_are_known(path: Path, keys: set[str]) -> None:
    """Through lists, mappings and unions."""
    assert set(findings.fields_at(Sample, path)) == keys


@pytest.mark.parametrize(
    ("word", "words", "hint"),
    [
        ("uper", ["echo", "upper"], "did you mean upper?"),
        ("UPPER", ["echo", "upper"], "did you mean upper?"),
        ("xyz", ["upper", "echo"], "there are: echo, upper"),
    ],
)
def test_the_nearest_name_is_hinted_at(word: str, words: list[str], hint: str) -> None:
    """Or else all that there are."""
    assert findings.nearest(word, words) == hint


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("x" * 61, f"'{'x' * 60}…'"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ([1, "a"], '[1, "a"]'),
        ({"ü": [None]}, '{"ü": [null]}'),
        (["x" * 100], '["' + "x" * 58 + "…"),
    ],
)
def test_values_are_shown_as_they_may_be_written(value: object, text: str) -> None:
    """In the notation of YAML, and never longer than a line."""
    assert findings.shown(value) == text


def test_what_a_validator_repeats_is_shortened() -> None:
    """A value of a megabyte leaves a line that can be read."""
    (line,) = faults(f"wait: {'x' * 100_000}")
    assert line == (
        f"1:7: wait: '{'x' * 60}…' is not a duration (write it like 500ms, 10s, 5m, 1h or 1d)"
    )
    mark = Mark("f", 1, 1)
    problem = findings.said(mark, "key", ValueError("y" * 100_000), "x", "a hint")
    assert (problem.what, problem.hint) == (f"key: {'y' * findings.MAX_TEXT}…", "a hint")


def test_what_has_no_fault_is_kept() -> None:
    """The rest of a stanza can be looked at although some of its keys have a fault."""
    values = {"number": 99, "text": "abc", "rules": [{"name": 1}], "unknown": 1}
    stanza, errors, left_out = findings.validate(Sample, values, {}, {})
    assert (stanza.number, stanza.text, stanza.rules) == (0, "abc", [])
    assert left_out == {"number", "rules", "unknown"}
    assert [error["loc"] for error in errors] == [
        ("number",), ("rules", 0, "name"), ("unknown",)
    ]  # fmt: skip


def test_spare_values_stand_in_for_what_is_needed() -> None:
    """Also when the key is missing."""
    stanza, errors, left_out = findings.validate(Rule, {"weight": 0}, {}, {"name": "spare"})
    assert (stanza.name, stanza.weight) == ("spare", 1)
    assert left_out == {"name", "weight"}
    assert {error["type"] for error in errors} == {"missing", "greater_than_equal"}


def test_a_fault_of_the_whole_leaves_out_all() -> None:
    """Which of the keys is to blame, nobody can tell."""
    stanza, errors, left_out = findings.validate(Whole, {"first": 2, "last": 1}, {}, {})
    assert (stanza, left_out) == (Whole(), {"first", "last"})
    assert [error["loc"] for error in errors] == [()]


def test_missing_keys_of_a_file_that_was_not_read_to_its_end_are_no_fault() -> None:
    """They may stand in the part that could not be read."""
    found = document.parse(b"rule:\n  weight: 3\n  x: 'open", "f")
    _, errors, _ = findings.validate(Sample, {"rule": {"weight": 3}}, {}, {})
    assert not found.complete
    assert not [*findings.of_validation(errors, Sample, lambda path: (found, path))]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*Sample.model_fields, "name", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*Sample.model_fields, "x"]), VALUES))
def test_any_fault_can_be_told(values: dict[str, Any]) -> None:
    """Whatever a stanza is made from, its faults have a text, and none is a Python object."""
    empty = document.parse(b"", "f")
    _, errors, _ = findings.validate(Sample, values, {}, {})
    problems = [*findings.of_validation(errors, Sample, lambda path: (empty, path))]
    assert len(problems) >= len({error["loc"][0] for error in errors if error["type"] != "missing"})
    assert all(problem.what and " object at 0x" not in str(problem) for problem in problems)
