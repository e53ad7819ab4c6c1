"""Completion of netctl, in real shells, at a key."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import CHECKOUT, PATIENCE, Netd, environment, new_folder, run_netd
from terminals import Terminal

CONFIG = {
    "services": {
        "upper": {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"]},
        "users": {"protocol": "users", "listen": ["tcp://127.0.0.1:0"]},
        "echo": {"protocol": "echo", "listen": ["tcp://127.0.0.1:0"]},
    }
}
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
# zsh completes nothing without its own set-up.
FIRST = {"zsh": "autoload -U compinit && compinit -u -D\n"}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Netd]:
    """A netd whose folder has a program named netctl, too."""
    with run_netd(CONFIG) as netd:
        install(netd.folder)
        yield netd


def install(folder: Path) -> None:
    """Puts netctl into a folder, as pip would."""
    program = folder / "netctl"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(CHECKOUT)!r})\n"
        "from netd.cli.netctl import main\nmain()\n"
    )
    program.chmod(0o755)


@contextmanager
def shell(name: str, folder: Path) -> Iterator[Terminal]:
    """A shell that completes netctl, for the time of a `with`."""
    if shutil.which(name) is None:
        pytest.skip(f"not installed: {name}")
    env = variables(folder) | {"TERM": "dumb", "PS1": "$ ", "PROMPT": "$ "}
    with Terminal(SHELLS[name], env, width=200, cwd=folder) as found:
        # Not written as it is read, since the terminal shows what is typed.
        found.type(f"{FIRST.get(name, '')}eval \"$(netctl completion {name})\"; echo re''ady\n")
        found.wait_for("ready")
        yield found


def variables(folder: Path) -> dict[str, str]:
    """An environment in which there is netctl, and no set-up of whoever runs the tests."""
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return environment(folder) | {"PATH": path, "HOME": str(folder)}


def test_bash_completes_what_is_typed(daemon: Netd) -> None:
    """Verbs, options, their values, and the names of services."""
    with shell("bash", daemon.folder) as bash:
        for typed, completed in (
            ("netctl expl\t", "netctl explain "),
            ("up\t", "upper "),
            ("--da\t", "--datagram "),
            ("\x15netctl log-level warn\t", "netctl log-level warning "),
            ("\x15netctl drain upper us\t", "netctl drain upper users "),
            ("\x15netctl --json stat\t\t", r"status +stats"),
        ):
            bash.type(typed)
            bash.wait_for(completed)


def test_bash_completes_sessions(daemon: Netd) -> None:
    """By their ids."""
    with daemon.connect("echo") as client, shell("bash", daemon.folder) as bash:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        bash.type("netctl kill \t")
        bash.wait_for(r"netctl kill [0-9a-f]+-\d+ ")


def test_zsh_completes_what_is_typed(daemon: Netd) -> None:
    """And tells what each is for."""
    with shell("zsh", daemon.folder) as zsh:
        zsh.type("netctl stat\t\t")
        zsh.wait_for("status +-- Show what netd and its services do")
        zsh.type("\x15netctl drain u\t\t")
        zsh.wait_for("upper +-- serving")


def fish(folder: Path, line: str) -> list[str]:
    """What fish offers at the end of a line."""
    if shutil.which("fish") is None:
        pytest.skip("not installed: fish")
    done = subprocess.run(
        ["fish", "--no-config", "-c",
         f"eval (netctl completion fish | string collect); complete -C {line!r}"],
        env=variables(folder),
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_fish_completes_what_is_typed(daemon: Netd) -> None:
    """And tells what each is for."""
    # The script that click gives to fish ends a description at its first comma.
    assert fish(daemon.folder, "netctl ex") == ["explain\tTell whether a client would be let in"]
    assert fish(daemon.folder, "netctl drain us") == ["users\tserving"]


def offered(folder: Path, *words: str) -> list[str]:
    """What the mechanism behind all shells offers for the last word."""
    install(folder)
    done = subprocess.run(
        [folder / "netctl"],
        env=environment(folder) | {
            "_NETCTL_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["netctl", *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_without_a_daemon_there_is_silence() -> None:
    """Names are left out, verbs are there."""
    with new_folder() as folder:
        assert offered(folder, "drain", "u") == []
        assert offered(folder, "kill", "") == []
        assert offered(folder, "dra") == ["drain"]


def test_a_daemon_that_hangs_is_not_waited_for_long(daemon: Netd) -> None:
    """Somebody waits for the key to do something."""
    daemon.send_signal(signal.SIGSTOP)
    try:
        assert offered(daemon.folder, "drain", "u") == []
    finally:
        daemon.send_signal(signal.SIGCONT)


def test_what_is_typed_already_is_not_offered_again(daemon: Netd) -> None:
    """Nobody drains a service twice."""
    assert offered(daemon.folder, "drain", "upper", "") == ["echo", "users"]


def test_the_socket_that_is_typed_is_asked(daemon: Netd) -> None:
    """Not that of the environment."""
    other = str(daemon.folder / "none.sock")
    assert offered(daemon.folder, "--socket", other, "drain", "u") == []
