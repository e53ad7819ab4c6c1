"""docs/netctl.md: its reference is that of the table, and what it promises of the data is true."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, get_args

import pytest
from harness import CHECKOUT
from replies import REPLIES

from netd.cli import paint
from netd.client import control
from netd.control.sessions import state_of
from netd.control.table import COMMANDS, ErrorCode

FOLDER = CHECKOUT / "docs"
PAGE = (FOLDER / "netctl.md").read_text()


def generator() -> Any:
    """The module that writes the page; it is no part of the package."""
    spec = spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(first: str) -> dict[str, str]:
    """The second cells of the table whose heading begins with this word, by the first."""
    table = PAGE.partition(f"| {first} |")[2].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ", 1) for line in table.split("\n")[2:]]
    return {cell[0].strip("`"): cell[1] for cell in cells}


def keys(data: Any) -> set[str]:
    """All keys, but those of mappings whose keys are names."""
    if isinstance(data, list):
        return set().union(*map(keys, data))
    if not isinstance(data, dict):
        return set()
    return set(data).union(*(keys(value) for value in data.values()))


def test_the_reference_is_that_of_the_table() -> None:
    """A command that was added, or described better, is so on the page too."""
    assert generator().manual() == PAGE, "run: python -m docs.generate"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_has_its_section(name: str) -> None:
    """With all of its arguments."""
    section = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert COMMANDS[name].summary in section
    for parameter in COMMANDS[name].parameters:
        assert parameter.summary in section


def test_the_data_of_every_verb_is_described() -> None:
    """By its keys: those on the page are in the examples, whose keys are those of the daemon."""
    described = rows("verb")
    changing = described.pop("start`, `stop`, `drain`, `enable`, `disable")
    described |= dict.fromkeys(["start", "stop", "drain", "enable", "disable"], changing)
    assert {*described} == {*REPLIES}
    for name, text in described.items():
        example = REPLIES[name]
        found = set(re.findall(r'"(\w+)"', text)) - {"admit", "delay", "refuse", "now", "drain"}
        assert found <= keys(example), name
        top = example[0] if isinstance(example, list) else example
        assert set(top) <= found, name


def test_every_code_is_described() -> None:
    """Of the daemon, and of the way to it."""
    told = set(re.findall(r"`([a-z-]+)`", rows("key")["error"]))
    assert told == {code for part in get_args(control.Fault) for code in get_args(part) or [part]}
    assert {*get_args(ErrorCode)} < told


def test_every_state_is_described() -> None:
    """Of services, and of sessions."""
    text = " ".join(PAGE.split())
    services = text.partition("The state of a service is")[2].partition("That of a session")[0]
    assert set(re.findall(r"`(\w+)`", services)) == paint.STATES
    sessions = text.partition("That of a session is")[2].partition(". ")[0]
    for word in re.findall(r"open|delayed|ending", state_of.__doc__ or ""):
        assert f"`{word}`" in sessions


def test_every_exit_status_is_described() -> None:
    """With those that netctl has."""
    assert [*rows("status")] == ["0", "1", "2", "3", "4"]
