"""docs/protocols.md: every block of it does what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from harness import CHECKOUT, ask, read_exactly, run_netd
from pages import Block, blocks, pattern

BLOCKS = blocks(Path(__file__).parents[1] / "docs" / "protocols.md")
ANSWERS = {"length.yaml": (b"hello\n", b"5\r\n"), "greet.yaml": (b"", b"good morning\r\n" * 2)}
"""What its services say, by file: question and answer."""


def of(language: str) -> pytest.MarkDecorator:
    """A test for each block of a language."""
    found = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", found, ids=lambda block: f"line {block.line}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the files that the page names."""
    folder = tmp_path_factory.mktemp("protocols")
    for block in BLOCKS:
        if block.file is not None:
            (folder / block.file).write_text(block.text)
    return folder


@of("python")
def test_the_python_runs(folder: Path, block: Block) -> None:
    """Each block is a whole program, or a module, or a file of tests that pass."""
    program = ["-c", block.text]
    if block.file is not None and block.file.startswith("test_"):
        program = ["-m", "pytest", "-q", "-p", "no:cacheprovider", block.file]
    done = subprocess.run(
        [sys.executable, "-W", "error", *program], cwd=folder, timeout=60, text=True,
        env={"PYTHONPATH": f"{folder}:{CHECKOUT}"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    if block.output is not None:
        assert re.fullmatch(pattern(block.output), done.stdout)


@of("yaml")
def test_the_configurations_serve(folder: Path, block: Block) -> None:
    """The daemon takes them, but for the port, and their services answer."""
    assert block.file is not None
    question, answer = ANSWERS[block.file]
    config = re.sub(r":9\d\d\d\b", ":0", block.text)
    (name,) = yaml.safe_load(config)["services"]
    with run_netd(config, env={"PYTHONPATH": f"{folder}:{CHECKOUT}"}) as netd:
        assert ask(netd.connect(name), question) == answer
        assert netd.stop() == 0


@pytest.mark.parametrize(
    ("handler", "scheme", "question", "answer"),
    [
        ("rot13:Rot13Handler", "tcp", b"Hello!", b"Uryyb!"),
        ("rot13:Rot13Handler", "udp", b"Hello!", b"Uryyb!"),
        ("count:CountHandler", "tcp", b"", b"".join(b"%d\r\n" % n for n in range(50_000))),
        ("help:HelpHandler", "udp", b"", (b"There is no help for that.\n" * 3)[:64]),
        ("help:HelpHandler", "tcp", b"", b"There is no help for that.\n" * 100),
        ("half:HalfHandler", "tcp", b"8\n", b"4\r\n"),
        ("mine:MyHandler", "tcp", b"stressed\n", b"desserts\n"),
    ],
)
def test_the_handlers_answer(
    folder: Path, handler: str, scheme: str, question: bytes, answer: bytes
) -> None:
    """Each class of the page serves, as the text around it says."""
    stanza = {"handler": handler, "listen": [f"{scheme}://127.0.0.1:0"]}
    env = {"PYTHONPATH": f"{folder}:{CHECKOUT}"}
    with run_netd({"services": {"page": stanza}}, env=env) as netd:
        with netd.connect("page", scheme) as client:
            client.send(question)
            said = client.recv(100) if scheme == "udp" else read_exactly(client, len(answer))
        assert said == answer
        assert netd.stop() == 0


@of("ini")
def test_the_entry_point_names_a_class_of_the_page(folder: Path, block: Block) -> None:
    """A reader who copies it has written that class already."""
    parser = ConfigParser()
    parser.read_string(block.text)
    (line,) = parser["options.entry_points"]["netd.protocols"].strip().splitlines()
    module, _, name = line.partition("=")[2].strip().partition(":")
    assert f"class {name}(" in (folder / f"{module}.py").read_text()


def test_nothing_stands_untested() -> None:
    """A block in another language would be one that no test here runs."""
    shells = [block.text for block in BLOCKS if block.language == "sh"]
    assert shells == ["PYTHONPATH=. netd -c length.yaml\n"]
    assert {block.language for block in BLOCKS} == {"python", "yaml", "ini", "sh"}
