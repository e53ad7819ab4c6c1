"""README.md: what it says to type is typed, and what it says one sees is seen.

Each `sh` block is pasted into a terminal, in the order of the page. Not repeated is the making of
the environment, since the tests run in one that was made so; and what a block's comment excuses."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import certificates
import pytest
from harness import CHECKOUT, wait_until
from pages import Block, blocks, pattern
from terminals import Terminal

from netd import config

README = CHECKOUT / "README.md"
BLOCKS = blocks(README)
SHELL = [block for block in BLOCKS if block.language == "sh"]
PASTED = [block for block in SHELL if block.excuse is None]
COMMAND_ONE = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/netd\n"
COMMAND_TWO = "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest\n"
SERVER = re.compile(r"(?:PYTHONPATH=\. )?\.venv/bin/netd(?: -c \S+)?\n")
"""A command that does not end by itself."""
EXCUSES = {
    "this is what runs the tests",
    "it takes long",
    "it needs root and systemd; tests/systemd does the same in a machine of its own",
    "it takes a minute; tests/test_bench.py has it run for a second",
}
PROGRAMS = ("bash", "curl", "nc", "socat", "telnet")
PORTS = (9000, 9007, 9009, 9011, 9013, 9017, 9019, 9037, 9100, 9464)


class Pasted(Terminal):
    """A terminal with bash in it, into which a block was pasted."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(["bash", "-c", command], environment, cwd=folder)

    @property
    def shown(self) -> str:
        """The lines so far."""
        return self.written.replace("\r", "")

    def wait_until_ready(self) -> None:
        """Waits until the daemon in it says that it is ready."""
        wait_until(lambda: "ready: " in self.shown or self.process.poll() is not None, 10)
        assert self.process.poll() is None, self.shown

    def interrupt(self) -> int:
        """Types Ctrl-C; returns the exit status."""
        self.type("\x03")
        return self.wait()


@contextmanager
def checkout() -> Iterator[Path]:
    """A folder with what the repository has, the files that the page has the reader write, and
    the environment that the tests run in as `.venv`."""
    with TemporaryDirectory(prefix="netd-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in CHECKOUT.iterdir():
            if not part.name.startswith("."):
                (folder / part.name).symlink_to(part)
        for block in BLOCKS:
            if block.file is not None:
                (folder / block.file).write_text(block.text)
        if (Path(sys.prefix) / "bin" / "netd").exists():
            (folder / ".venv").symlink_to(sys.prefix)
        else:  # the tests run in a checkout that is not installed
            for name in ("netd", "netctl"):
                install(folder / ".venv" / "bin" / name)
        yield folder


def install(script: Path) -> None:
    """Puts a command where pip would put it."""
    script.parent.mkdir(parents=True, exist_ok=True)
    program = f"import sys; sys.path.append('{CHECKOUT}'); from netd.cli.{script.name} import main"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}; main()" "$@"\n')
    script.chmod(0o755)


@pytest.fixture
def no_netd() -> None:
    """Nothing of another netd, which may be at work on this machine, gets in the way."""
    if config.DEFAULT_FILE.exists():
        pytest.skip(f"{config.DEFAULT_FILE} is there, and takes the place of the default")
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                pytest.skip(f"port {port}: {error.strerror}")


@pytest.mark.usefixtures("no_netd")
def test_every_command_shows_what_the_page_says() -> None:
    """A reader who pastes the page into two terminals, from its top to its end, sees all of it."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    server: Pasted | None = None
    with checkout() as folder, ExitStack() as closing:
        environment = os.environ | {
            "NETD_CONTROL": str(folder / "run" / "control.sock"), "TERM": "dumb", "LC_ALL": "C",
        }  # fmt: skip
        for block in PASTED:
            command = block.text.removeprefix(COMMAND_ONE.removesuffix(".venv/bin/netd\n"))
            if starts := SERVER.fullmatch(command):
                assert server is None or server.interrupt() == 0
            terminal = closing.enter_context(Pasted(command, folder, environment))
            if starts:
                server = terminal
                server.wait_until_ready()
            else:
                terminal.wait()
            if block.output is not None or not starts:
                said = pattern(block.output or "")
                seen = terminal.shown
                assert re.fullmatch(said, seen, re.DOTALL), f"line {block.line}: {seen}"
        assert server is not None
        assert server.interrupt() == 0


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "yaml"], ids=lambda b: f"line {b.line}"
)
def test_every_configuration_is_valid(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example can be read as it stands, with all its keys and names."""
    with checkout() as folder:
        monkeypatch.syspath_prepend(folder)
        file = folder / "example.yaml"
        file.write_text(block.text)
        users = folder / "users.yaml"  # which `netctl users add` makes
        users.touch(0o600)
        if "tls:" in block.text:
            if certificates.MISSING:
                pytest.skip(certificates.MISSING)
            certificates.lay_out(folder, "server")
        assert config.load(file).services


def test_the_two_commands_are_there() -> None:
    """One installs and runs netd, the other installs and runs the tests; CI calls the second."""
    assert SHELL[0].text == COMMAND_ONE
    assert COMMAND_TWO in [block.text for block in SHELL]
    assert COMMAND_TWO in (CHECKOUT / ".ci" / "run").read_text().splitlines(keepends=True)


def test_only_good_excuses_are_taken() -> None:
    """What is not pasted here is covered elsewhere, and the page says where."""
    assert {block.excuse for block in BLOCKS if block.excuse} == EXCUSES


def test_every_link_leads_somewhere() -> None:
    """A link within the repository names a file or a folder that is there."""
    for page in (README, *(CHECKOUT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
