"""`netctl top`, on a real terminal."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Netd, environment, run_netd, wait_until
from terminals import Terminal

NETCTL = [sys.executable, "-c", "from netd.cli.netctl import main; main()"]
TOP = [*NETCTL, "top"]
CONFIG = {
    "drain_timeout": "1s",
    "services": {
        "upper": {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"]},
        "echo": {"protocol": "echo", "listen": ["tcp://127.0.0.1:0"]},
    },
}
SCREEN, CURSOR = "\x1b[?1049l", "\x1b[?25h"
"""What brings back the screen that was there before, and the cursor."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Netd]:
    """A daemon for tests that leave it as it was."""
    with run_netd(CONFIG) as netd:
        yield netd


@contextmanager
def top(netd: Netd, *options: str, width: int = 80, height: int = 24) -> Iterator[Terminal]:
    """It runs, and shows something, for the time of a `with`."""
    env = environment(netd.folder) | {"TERM": "xterm-256color", "NO_COLOR": "1"}
    with Terminal([*NETCTL, *options, "top"], env, width, height) as terminal:
        terminal.wait_for("q leaves")
        yield terminal


@pytest.mark.parametrize("key", ["q", "Q", "\x03"])
def test_a_key_leaves(daemon: Netd, key: str) -> None:
    """q, or Ctrl-C; the terminal is then as it was."""
    env = environment(daemon.folder) | {"TERM": "xterm-256color"}
    script = 'stty -g; "$@"; echo "status $?"; stty -g'
    with Terminal(["bash", "-c", script, "-", *TOP], env) as terminal:
        before = terminal.wait_for(r"[0-9a-f:]{40,}").strip()
        terminal.wait_for("q leaves")
        terminal.type(key)
        left = terminal.wait_for("status 0")
        assert SCREEN in left
        assert CURSOR in left
        assert terminal.wait_for(r"[0-9a-f:]{40,}").strip() == before


def test_what_happens_is_seen(daemon: Netd) -> None:
    """Within a second or so."""
    with top(daemon) as terminal, daemon.connect("upper") as client:
        client.sendall(b"abc")
        assert client.recv(3) == b"ABC"
        terminal.wait_for(r"upper +serving +1 ")
    assert daemon.process.poll() is None


def test_it_takes_the_size_that_the_terminal_gets(daemon: Netd) -> None:
    """At once."""
    with top(daemon, width=100) as terminal:
        terminal.wait_for("DATAGRAMS/S")
        terminal.wait_for("q leaves")
        terminal.resize(38, 10)
        narrow = terminal.wait_for(r"NEW/S(\x1b\[0m)?\s*\r\n")
        assert "DATAGRAMS/S" not in narrow.rpartition("\x1b[H")[2]


def test_a_signal_leaves_the_terminal_in_order(daemon: Netd) -> None:
    """As when the session of the administrator is ended."""
    with top(daemon) as terminal:
        terminal.process.send_signal(signal.SIGTERM)
        terminal.wait_for(r"\x1b\[\?1049l")
        assert terminal.wait() == 0


def test_the_keys_work_though_the_daemon_hangs(daemon: Netd) -> None:
    """And it is told that it does."""
    with top(daemon, "--timeout", "0.3", width=200) as terminal:
        daemon.send_signal(signal.SIGSTOP)
        try:
            terminal.wait_for(r"does not answer on \S+ within 0.3 s")
            terminal.type("q")
            assert terminal.wait() == 0
        finally:
            daemon.send_signal(signal.SIGCONT)


def test_the_end_of_the_daemon_is_told_and_its_return_seen() -> None:
    """As in a restart; what is shown meanwhile is what was seen last."""
    with run_netd(CONFIG) as netd, top(netd) as terminal:
        assert netd.stop() == 0
        assert "upper" in terminal.wait_for("netd is not running|no answer from")
        with run_netd(CONFIG, folder=netd.folder) as again:
            terminal.wait_for(f"pid {again.pid}")
            terminal.wait_for("q leaves")
            terminal.type("q")
            assert terminal.wait() == 0


def refused(netd_folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What it says when it cannot begin."""
    return subprocess.run(
        [*TOP, *arguments], env=environment(netd_folder) | env, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=30,
    )  # fmt: skip


def test_without_a_terminal_it_says_what_to_do(daemon: Netd) -> None:
    """In a line, with the status of wrong usage."""
    done = refused(daemon.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "netctl: top: it needs a terminal (use `netctl status`, or --json)\n"
    done = refused(daemon.folder, "--json")
    assert done.returncode == 2
    assert "netctl stats --json" in done.stderr


def test_a_terminal_that_can_do_nothing_is_none(daemon: Netd) -> None:
    """Such as that of an editor."""
    env = environment(daemon.folder) | {"TERM": "dumb"}
    with Terminal(TOP, env) as terminal:
        assert terminal.wait() == 2
        assert "it needs a terminal" in terminal.written


def test_without_a_daemon_it_does_not_begin(tmp_path: Path) -> None:
    """And the terminal stays as it is."""
    env = environment(tmp_path) | {"TERM": "xterm-256color"}
    with Terminal(TOP, env) as terminal:
        assert terminal.wait() == 3
        assert "netd is not running" in terminal.written
        assert "\x1b[?1049h" not in terminal.written


def test_it_works_in_tmux(daemon: Netd) -> None:
    """And leaves the screen to the shell again."""
    if shutil.which("tmux") is None:
        pytest.skip("not installed: tmux")
    tmux = ["tmux", "-f", "/dev/null", "-S", str(daemon.folder / "tmux")]
    env = environment(daemon.folder) | {"LC_ALL": "C.UTF-8"}
    for name in ("COLUMNS", "LINES"):  # they come before the size that a window has
        env.pop(name, None)

    def run(*words: str) -> str:
        return subprocess.run(
            [*tmux, *words], env=env, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    run("new-session", "-d", "-x", "90", "-y", "20", f"{shlex.join(TOP)}; echo left $?; cat")
    try:
        wait_until(lambda: "q leaves" in run("capture-pane", "-p"), 20)
        shown = run("capture-pane", "-p").rstrip("\n").split("\n")
        assert shown[0].startswith("netd ")
        assert shown[-1] == "q leaves"
        assert len(shown) == 20
        run("send-keys", "q")
        wait_until(lambda: "left 0" in run("capture-pane", "-p"))
        assert "q leaves" not in run("capture-pane", "-p")
    finally:
        run("kill-server")
