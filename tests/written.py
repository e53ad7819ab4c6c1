"""Configurations for tests, as the files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from netd import config
from netd.config import Config
from netd.errors import ConfigError

MAIN = "netd.yaml"


def write(folder: Path, text: str, others: Mapping[str, str] | None = None) -> Path:
    """Writes netd.yaml, and further files by name; each text may be indented as a whole."""
    for name, content in {**(others or {}), MAIN: text}.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(dedent(content))
    return folder / MAIN


def loaded(folder: Path, text: str, others: Mapping[str, str] | None = None) -> Config:
    """The configuration in those files."""
    return config.load(write(folder, text, others))


def faults(folder: Path, text: str, others: Mapping[str, str] | None = None) -> list[str]:
    """All that is wrong with it, a line for each fault; the folder is written as `~`."""
    return faults_of(write(folder, text, others))


def faults_of(file: Path) -> list[str]:
    """All that is wrong with a file and those that it includes."""
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    lines = str(caught.value).split("\n")
    assert lines == [*caught.value.problems]
    return [line.replace(f"{file.parent}/", "~/").removeprefix("~/") for line in lines]
