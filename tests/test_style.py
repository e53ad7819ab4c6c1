"""The house keeps its own rules: linter, formatter, types, and rooms of a size to live in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
MODULES = sorted((CHECKOUT / "netd").rglob("*.py"))
LONGEST_MODULE = 300
LONGEST_FUNCTION = 40
"""Lines, from `def` to the end."""

SOURCES = ["setup.py", "netd", "tests"]


@pytest.mark.parametrize(
    "tool",
    [
        ["ruff", "check", *SOURCES],
        ["ruff", "format", "--check", *SOURCES],
        ["mypy", "--strict"],  # setup.cfg says what; it looks in the working directory first
    ],
    ids=" ".join,
)
def test_tools_are_content(tool: list[str]) -> None:
    """The tools of this environment find nothing in the checkout, by its configuration."""
    done = subprocess.run(
        [sys.executable, "-m", *tool],
        cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def name(path: Path) -> str:
    """A module as one says it."""
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_modules_and_functions_are_short(module: Path) -> None:
    """What grows beyond this hides a noun that wants a module, or a function, of its own."""
    text = module.read_text()
    long = [
        f"{found.name} has {lines} lines"
        for found in ast.walk(ast.parse(text))
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (found.end_lineno or 0) - found.lineno + 1) > LONGEST_FUNCTION
    ]
    assert not long
    assert len(text.splitlines()) <= LONGEST_MODULE
