"""docs/configuration.md: its reference is that of the source, and its examples work."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from harness import CHECKOUT
from written import faults, loaded

from netd import catalog, stanza
from netd.address import parse_address
from netd.config import Config, ServiceStanza
from netd.control.stanza import ControlStanza
from netd.hours import parse_access_time
from netd.log import LogOptions
from netd.networks import SourcePrefix, parse_network
from netd.penalties import PenaltyRules
from netd.rates import ServiceRate, SourceRate

REGENERATE = "run: python -m docs.generate"
FOLDER = CHECKOUT / "docs"
PAGE = (FOLDER / "configuration.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
FAULTS = re.findall(r"```\n(netd\.yaml:.*?)```", PAGE, re.DOTALL)


def generator() -> Any:
    """The module that writes the page; it is no part of the package."""
    spec = spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(first: str) -> list[list[str]]:
    """The cells of the table whose heading begins with this word, without the quotes of code."""
    table = PAGE.partition(f"| {first} |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")[2:]]


def test_the_reference_is_that_of_the_source() -> None:
    """A key that was added, or described better, is so on the page too."""
    assert generator().page() == PAGE, REGENERATE


@pytest.mark.parametrize(
    "model",
    [
        Config,
        ControlStanza,
        LogOptions,
        ServiceStanza,
        SourcePrefix,
        SourceRate,
        ServiceRate,
        PenaltyRules,
    ],
)
def test_every_key_has_a_row(model: type[stanza.Stanza]) -> None:
    """With something in each of its cells."""
    for key in model.model_fields:
        found = re.findall(rf"^\| `{key}` \| (.+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
        assert found
        assert all(cell.strip() for cells in found for cell in cells)


@pytest.mark.parametrize("name", catalog.own_names())
def test_every_protocol_has_its_section(name: str) -> None:
    """With all of its options."""
    section = PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    assert section
    for key in catalog.find(name).Options.model_fields:
        assert f"| `{key}` |" in section


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_can_be_loaded(tmp_path: Path, example: str) -> None:
    """As they stand on the page."""
    assert loaded(tmp_path, example) is not None


def test_the_faults_are_those_that_are_told(tmp_path: Path) -> None:
    """Word by word."""
    (shown,) = FAULTS
    text = "services:\n  s:\n    protocol: upper\n    idle_timout: 5m\n    idle_timeout: 5\n"
    assert faults(tmp_path, f"{text}    listen: [fd:s]") == shown.splitlines()


def test_the_addresses_are_addresses() -> None:
    """Each row of the table."""
    written = [cells[0].strip("`") for cells in rows("written")]
    assert len(written) >= 10
    assert {parse_address(text).scheme for text in written} == {
        "tcp", "udp", "unix", "unix-dgram", "fd",
    }  # fmt: skip


def test_the_units_are_those_that_are_read() -> None:
    """Each that the table shows."""
    readers: dict[str, Any] = {
        "duration": stanza.parse_duration, "size": stanza.parse_size, "rate": stanza.parse_rate,
        "file mode": lambda text: stanza.parse_mode(text.strip('"')), "network": parse_network,
        "time of access": parse_access_time,
    }  # fmt: skip
    shown = {kind: re.findall("`(.+?)`", cell) for kind, cell in rows("kind")}
    assert {*readers} < {*shown}
    for kind, read in readers.items():
        assert len(shown[kind]) >= 1
        for text in shown[kind]:
            read(text)
