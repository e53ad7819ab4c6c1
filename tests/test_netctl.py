"""The command `netctl`: its verbs against a real daemon, its exit statuses, and what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    AS_ROOT,
    PATIENCE,
    SOON,
    Netd,
    environment,
    new_folder,
    run_netd,
    slowness,
    wait_until,
    write_config,
)
from replies import REPLIES
from terminals import Terminal

from netd.control.table import COMMANDS

NETCTL = [sys.executable, "-c", "from netd.cli.netctl import main; main()"]
NOBODY = [
    # All is loaded before, since an ordinary user may not be let to this interpreter.
    sys.executable, "-c",
    "import encodings.idna, os; from netd import config; from netd.cli.netctl import main;"
    "config.load(config.BUILT_IN_FILE); os.setgroups([]); os.setresgid(*[65534] * 3);"
    "os.setresuid(*[65534] * 3); main()",
]  # fmt: skip
CONFIG = {
    "services": {
        "upper": {"protocol": "upper", "listen": ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"]},
        "echo": {"protocol": "echo", "listen": ["tcp://127.0.0.1:0", "unix:echo.sock"],
                 "max_connections_per_source": 1},
        "off": {"protocol": "echo", "listen": ["tcp://127.0.0.1:0"], "enabled": False},
    }
}  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder without a daemon."""
    with new_folder() as path:
        yield path


@pytest.fixture(scope="module")
def daemon() -> Iterator[Netd]:
    """A daemon for tests that leave it as it was."""
    with run_netd(CONFIG) as netd:
        yield netd


def netctl(
    folder: Path, *arguments: str, program: list[str] = NETCTL, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [*program, *arguments], cwd=folder, env=environment(folder) | {"TZ": "UTC"} | env,
        text=True, timeout=30, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip


def data(folder: Path, *arguments: str) -> Any:
    """What a verb says to a program."""
    done = netctl(folder, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def said(folder: Path, *arguments: str) -> str:
    """What a verb says to a person, when all is well."""
    done = netctl(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# -- without a daemon


def test_help_lists_every_verb_and_the_exit_statuses(folder: Path) -> None:
    """In the order of the table, under who may use it."""
    text = said(folder, "--help")
    found = re.findall(r"^  ([a-z][a-z-]*)  +[A-Z]", text, re.MULTILINE)
    assert sorted(found) == sorted([*COMMANDS, "users"])
    assert "0 done, 1 refused or failed, 2 wrong usage, 3 netd is not" in text
    assert text.index("use the control socket:") < text.index("operators") < text.index("  reload")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_explains_itself(folder: Path, name: str) -> None:
    """With all its parameters, from the table."""
    text = " ".join(said(folder, name, "--help").split())
    assert COMMANDS[name].summary in text
    for parameter in COMMANDS[name].parameters:
        assert parameter.summary in text
    assert "--json" in text


def test_help_needs_no_heavy_library() -> None:
    """So that it is there in a moment; the daemon's modules are of no use to netctl either."""
    program = (
        "import sys, netd.cli.netctl\n"
        "print({'rich', 'pydantic', 'yaml', 'netd.log', 'netd.config'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_version_is_printed(folder: Path) -> None:
    """`--version` is the distribution's."""
    assert re.fullmatch(r"netctl, version \d+\.\d+\.\d+\n", said(folder, "--version"))


@pytest.mark.parametrize(
    ("arguments", "told", "see"),
    [
        ([], "Missing command", "netctl --help"),
        (["statsu"], "No such command", "netctl --help"),
        (["--nonsense"], "No such option", "netctl --help"),
        (["kill"], "Missing argument 'ID...'", "netctl kill --help"),
        (["log-level", "loud"], "'loud' is not one of", "netctl log-level --help"),
        (["status", "a", "b"], "unexpected extra argument", "netctl status --help"),
        (["--timeout", "0", "list"], "not in the range", "netctl --help"),
        (["completion", "tcsh"], "'tcsh' is not one of", "netctl completion --help"),
    ],
)
def test_wrong_usage_is_2(folder: Path, arguments: list[str], told: str, see: str) -> None:
    """The fault is named, and where to read more."""
    done = netctl(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.endswith(f"(see `{see}`)\n")


ARGUMENTS = {
    "kill": ["1"], "explain": ["upper", "192.0.2.1"], "ban": ["192.0.2.1"], "unban": ["192.0.2.1"],
    **{verb: ["upper"] for verb in ("start", "stop", "drain", "enable", "disable")},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"check", "completion", "top"}))
def test_without_a_daemon_the_status_is_3(folder: Path, name: str) -> None:
    """And it is said where it was looked for, and what to do."""
    done = netctl(folder, name, *ARGUMENTS.get(name, []))
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"netd is not running: nobody listens on {folder}/run/control.sock" in done.stderr
    assert "systemctl start netd" in done.stderr
    assert "--socket" in done.stderr


def test_a_program_is_told_of_errors_in_json(folder: Path) -> None:
    """Beside the sentence on standard error, and the exit status."""
    done = netctl(folder, "list", "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert found["error"] == "not-running"
    assert found["problems"] == []
    assert done.stderr == f"netctl: {found['message']}\n"


def test_a_file_is_checked_without_a_daemon(folder: Path) -> None:
    """As netd itself would, by default the file that it would read."""
    write_config(folder, CONFIG)
    assert said(folder, "check", "netd.yaml") == (
        f"{folder}/netd.yaml: configuration OK, 3 services\n"
    )
    assert data(folder, "check", "netd.yaml") == {"file": f"{folder}/netd.yaml", "services": 3}
    assert "configuration OK" in said(folder, "check")


def test_all_faults_of_a_file_are_told(folder: Path) -> None:
    """One line each, with its place."""
    write_config(folder, "services:\n  a: {protokol: echo}\n  b: {listen: []}\n")
    done = netctl(folder, "check", "netd.yaml", "--json")
    assert done.returncode == 1
    first, *problems = done.stderr.splitlines()
    assert first == f"netctl: check: {folder}/netd.yaml cannot be used"
    assert len(problems) >= 3
    assert all(line.startswith(f"{folder}/netd.yaml:") for line in problems)
    assert json.loads(done.stdout)["problems"] == problems


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed(folder: Path, shell: str) -> None:
    """It names the command that it completes."""
    assert "_NETCTL_COMPLETE" in said(folder, "completion", shell)


# -- with a daemon


def test_status_shows_all_that_there_is(daemon: Netd) -> None:
    """The daemon, and each service, with the port that it was given."""
    shown = said(daemon.folder, "status")
    assert shown.startswith("● netd ")
    assert f"PID: {daemon.pid}\n" in shown
    assert str(daemon.addresses["upper"][0]) in shown
    assert "\n○ off (echo): disabled\n" in shown
    one = said(daemon.folder, "status", "upper")
    assert "● upper (upper): serving" in one
    assert "echo" not in one


def test_the_data_has_the_documented_keys(daemon: Netd) -> None:
    """Those which docs/netctl.md names, and which are shown."""
    with daemon.connect("upper") as client:
        client.sendall(b"x")
        assert client.recv(1) == b"X"
        for name, arguments in (
            ("status", []), ("list", []), ("sessions", []), ("stats", []), ("log-level", []),
            ("explain", ["upper", "192.0.2.1"]),
        ):  # fmt: skip
            assert_shape(data(daemon.folder, name, *arguments), REPLIES[name], name)


OPTIONAL = {"configuration"}
"""Keys that only a daemon with reload has."""


def assert_shape(found: Any, example: Any, path: str) -> None:
    """All keys of the example are there, with values of its types."""
    if isinstance(example, list):
        assert isinstance(found, list), path
        for item in found if example else []:
            assert_shape(item, example[0], f"{path}[]")
        return
    if not isinstance(example, dict):
        return
    assert isinstance(found, dict), path
    if path.endswith(".services"):
        for name, service in found.items():
            if "open" in service:
                assert_shape(service, example["upper"], f"{path}.{name}")
        return
    if path.rpartition(".")[2] in ("refused", "ended", "datagrams_dropped", "detail"):
        return
    for key, value in example.items():
        if key not in OPTIONAL:
            assert key in found, f"{path}.{key}"
            assert_shape(found[key], value, f"{path}.{key}")


def test_lists_can_be_cut_by_programs(daemon: Netd) -> None:
    """A line for each, columns without borders, no escape sequences."""
    lines = said(daemon.folder, "list").splitlines()
    assert lines[0].split() == ["SERVICE", "PROTOCOL", "STATE", "OPEN", "LISTEN"]
    assert sorted(line.split()[:4] for line in lines[1:]) == [
        ["echo", "echo", "serving", "0"],
        ["off", "echo", "disabled", "0"],
        ["upper", "upper", "serving", "0"],
    ]


def test_a_session_is_listed_and_killed(daemon: Netd) -> None:
    """By its id; the client is gone then."""
    with daemon.connect("upper") as client:
        client.sendall(b"abc")
        assert client.recv(3) == b"ABC"
        (session,) = data(daemon.folder, "sessions", "upper")
        assert session["peer"] == f"127.0.0.1:{client.getsockname()[1]}"
        assert (session["bytes_in"], session["state"]) == (3, "open")
        assert session["id"] in said(daemon.folder, "sessions")
        done = netctl(daemon.folder, "kill", session["id"], "nonsense")
        assert (done.returncode, done.stdout) == (1, "ended 1 session\n")
        assert done.stderr == "netctl: no such session: nonsense\n"
        assert client.recv(1) == b""
    done = netctl(daemon.folder, "kill", session["id"])
    assert (done.returncode, done.stdout) == (1, "")
    assert session["id"] in done.stderr


def test_a_ban_keeps_out_and_ends(daemon: Netd) -> None:
    """It is listed, it refuses, and `explain` tells of it."""
    folder = daemon.folder
    made = said(folder, "ban", "127.0.0.0/8", "--for", "1h", "--why", "a test")
    assert re.fullmatch(r"banned 127\.0\.0\.0/8 until .* \(a test\)\n", made)
    try:
        assert "127.0.0.0/8" in said(folder, "bans")
        shown = said(folder, "explain", "upper", "127.0.0.1:5000")
        assert re.search(r"^→ bans +refuse +network 127\.0\.0\.0/8", shown, re.MULTILINE)
        assert shown.endswith("refused: banned (by bans)\n")
        with daemon.connect("upper") as client:
            assert client.recv(1) == b""
    finally:
        done = netctl(folder, "unban", "127.0.0.0/8", "192.0.2.1")
    assert (done.returncode, done.stdout) == (1, "unbanned 127.0.0.0/8\n")
    assert done.stderr == "netctl: not banned before: 1 of 2\n"
    assert said(folder, "bans") == "no bans\n"


def test_explain_looks_ahead(daemon: Netd) -> None:
    """To a time, and for a datagram."""
    shown = said(
        daemon.folder, "explain", "upper", "::1", "--at", "2030-01-01T00:00:00Z", "--datagram"
    )
    assert shown.startswith("upper, ::1, Tue 2030-01-01 00:00:00 UTC\n")
    assert shown.endswith("\nlet in\n")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["sessions", "uper"], 1, "'uper'"),
        (["explain", "upper", "nowhere"], 2, "nowhere"),
        (["ban", "0.0.0.0/0"], 1, "--force"),
        (["ban", "192.0.2.1", "--for", "soon"], 2, "duration"),
        (["unban", "192.0.2.1"], 1, "192.0.2.1"),
    ],
)
def test_what_the_daemon_refuses_is_told(
    daemon: Netd, arguments: list[str], status: int, told: str
) -> None:
    """In its own words."""
    done = netctl(daemon.folder, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("netctl: ")
    assert told in done.stderr


def test_the_log_level_is_shown_and_set(daemon: Netd) -> None:
    """And what it was before."""
    assert said(daemon.folder, "log-level") == "info\n"
    assert said(daemon.folder, "log-level", "debug") == "debug (was info)\n"
    assert data(daemon.folder, "log-level", "info") == {"level": "info", "was": "debug"}


def test_a_file_is_checked_beside_a_daemon(daemon: Netd, folder: Path) -> None:
    """Named from the folder of whoever asks, not from that of the daemon."""
    write_config(folder, {"services": {}})
    done = netctl(folder, "--socket", f"{daemon.runtime_folder}/control.sock", "check", "netd.yaml")
    assert done.stdout == f"{folder}/netd.yaml: configuration OK, 0 services\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_json_may_stand_before_the_verb(daemon: Netd) -> None:
    """Or after it; it is the same."""
    done = netctl(daemon.folder, "--json", "list")
    assert json.loads(done.stdout) == data(daemon.folder, "list")


def test_a_named_socket_is_asked(daemon: Netd, folder: Path) -> None:
    """Whatever the environment says."""
    path = str(daemon.runtime_folder / "control.sock")
    assert "serving" in said(folder, "--socket", path, "list")


def test_a_stopped_daemon_is_not_waited_for_without_end(daemon: Netd) -> None:
    """The sentence names the socket, and the option for those who have more patience."""
    daemon.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = netctl(daemon.folder, "--timeout", "0.5", "list")
        assert 0.5 <= time.monotonic() - began < SOON * slowness()
    finally:
        daemon.send_signal(signal.SIGCONT)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"netd does not answer on {daemon.runtime_folder}/control.sock within 0.5 s" in (
        done.stderr
    )
    assert "serving" in said(daemon.folder, "list")


@pytest.mark.skipif(not AS_ROOT, reason="only root can ask as somebody else")
def test_without_permission_the_status_is_4() -> None:
    """Everybody may look who can open the socket, and no more."""
    config = {**CONFIG, "control": {"mode": "0666"}, "user": "daemon"}
    with run_netd(config) as netd:
        assert netctl(netd.folder, "list", "--json", program=NOBODY).returncode == 0
        done = netctl(netd.folder, "ban", "192.0.2.1", program=NOBODY)
        assert (done.returncode, done.stdout) == (4, "")
        assert done.stderr.startswith("netctl: ")
        assert netctl(netd.folder, "shutdown", program=NOBODY).returncode == 4
        (netd.runtime_folder / "control.sock").chmod(0o660)
        done = netctl(netd.folder, "list", program=NOBODY)
        assert done.returncode == 4
        assert "is for the group daemon" in done.stderr
        assert "usermod -aG daemon" in done.stderr
        write_config(netd.folder, CONFIG)
        done = netctl(netd.folder, "check", "netd.yaml", "--json", program=NOBODY)
        assert json.loads(done.stdout)["services"] == 3


def test_shutdown_ends_the_daemon() -> None:
    """After a drain, with the exit status 0."""
    with run_netd(CONFIG) as netd:
        assert said(netd.folder, "shutdown").startswith("netd drains: ")
        assert netd.wait() == 0
        assert netctl(netd.folder, "status").returncode == 3


# -- standard output


def on_terminal(folder: Path, *arguments: str, width: int = 80, **env: str) -> str:
    """What a verb writes to a terminal."""
    variables = environment(folder) | {"TERM": "xterm-256color"} | env
    variables.pop("NO_COLOR", None) if "NO_COLOR" not in env else None
    with Terminal([*NETCTL, *arguments], variables, width=width) as terminal:
        assert terminal.wait() == 0
        return terminal.written


def test_a_terminal_gets_colours(daemon: Netd) -> None:
    """A green dot for what serves."""
    assert "\x1b[32m●\x1b[0m" in on_terminal(daemon.folder, "status")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_declined(daemon: Netd, env: dict[str, str]) -> None:
    """By NO_COLOR, and by a terminal that has none."""
    shown = on_terminal(daemon.folder, "status", **env)
    assert "●" in shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("verb", ["status", "list", "stats"])
def test_nothing_is_wider_than_the_terminal(daemon: Netd, verb: str, width: int) -> None:
    """However narrow it is."""
    shown = on_terminal(daemon.folder, verb, width=width, NO_COLOR="1")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "").split("\n")
    assert max(map(len, lines)) <= width


def test_a_pipe_that_closes_is_no_fault(daemon: Netd) -> None:
    """As in `netctl stats | head -1`."""
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; echo "${PIPESTATUS[0]}"', "-", *NETCTL, "stats"],
        env=environment(daemon.folder), capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout in ("0\n", "141\n")  # 128 + SIGPIPE


def test_a_full_disk_is_told(daemon: Netd) -> None:
    """Without a traceback."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*NETCTL, "list"], env=environment(daemon.folder), stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "netctl: cannot write to standard output: No space left on device\n"


def test_a_terminal_without_utf_8_gets_plain_dots(daemon: Netd) -> None:
    """In place of an error."""
    done = netctl(daemon.folder, "status", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("* netd")


def test_the_interrupt_key_ends_it_quietly(daemon: Netd) -> None:
    """While it waits for a daemon that hangs."""
    daemon.send_signal(signal.SIGSTOP)
    try:
        process = subprocess.Popen(
            [*NETCTL, "list"], env=environment(daemon.folder), stderr=subprocess.PIPE, text=True
        )
        waits = Path(f"/proc/{process.pid}/wchan")
        wait_until(lambda: "poll" in waits.read_text() or "sleep" in waits.read_text())
        os.kill(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    finally:
        daemon.send_signal(signal.SIGCONT)
    assert (process.returncode, told) == (-signal.SIGINT, "")
