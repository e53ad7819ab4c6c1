"""The commands `netctl users`: as they are typed, on real files, beside a daemon that follows."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from harness import AS_ROOT, CHECKOUT, Netd, new_folder, run_netd, wait_until, write_config
from knowing import by_scram

from netd.auth.userfile import parse
from netd.errors import Unauthenticated

_COMMAND = [sys.executable, "-c", "from netd.cli.users import users; users(prog_name='users')"]
KEY = re.compile(r"netd_[A-Za-z0-9]{43}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the users are."""
    return tmp_path / "users.yaml"


def run(
    *args: object, status: int = 0, given: str = "", **more: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    done = subprocess.run(
        [*_COMMAND, *map(str, args)], input=given, capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, **more,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def add(file: Path, name: str, *args: object) -> str:
    """Adds a user; returns the key."""
    return run("-f", file, "add", name, *args).stdout.strip()


def test_a_key_is_shown_once_and_alone_on_standard_output(file: Path) -> None:
    """So that it can be piped to where it is needed; the words are on standard error."""
    done = run("-f", file, "add", "alice")
    assert KEY.fullmatch(done.stdout.removesuffix("\n"))
    assert done.stderr == "This is the key of alice; it is not shown again.\n"
    listed = run("-f", file, "list")
    assert not KEY.search(listed.stdout + listed.stderr)
    rotated = run("-f", file, "rotate", "alice").stdout
    assert KEY.fullmatch(rotated.removesuffix("\n"))
    assert rotated != done.stdout


def test_the_list_shows_who_may_what_until_when(file: Path) -> None:
    """As a table, and as JSON."""
    file.write_text("roles: {staff: {services: [upper]}}\nusers: {}\n")
    file.chmod(0o600)
    add(file, "bob", "--role", "staff", "--uid", 1000, "--ends", "2099-01-01T00:00:00Z")
    add(file, "alice", "--certificate", "alice.example.org")
    lines = run("-f", file, "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["user", "roles", "keys", "ends", "uid", "certificate"],
        ["alice", "-", "1", "never", "-", "alice.example.org"],
        ["bob", "staff", "1", "2099-01-01T00:00:00Z", "1000", "-"],
    ]
    shown = json.loads(run("-f", file, "list", "--json").stdout)
    assert shown["file"] == str(file)
    assert [user["user"] for user in shown["users"]] == ["alice", "bob"]
    assert shown["users"][1]["keys"][0]["end"] == "2099-01-01T00:00:00Z"


def test_a_key_is_tested_without_being_typed_on_the_command_line(file: Path) -> None:
    """It is read from standard input; the answer says what it is good for."""
    key = add(file, "alice")
    assert run("-f", file, "test", "alice", given=key).stdout == (
        "alice: the key is right, and good for all services\n"
    )
    other = run("-f", file, "test", "alice", given="netd_something else", status=1)
    assert other.stderr == "netctl: alice has another key\n"
    assert "something" not in run("-f", file, "test", "alice", given="something", status=1).stderr
    assert "no user bob" in run("-f", file, "test", "bob", given=key, status=1).stderr


def test_a_key_is_asked_for_on_a_terminal_and_not_echoed(file: Path) -> None:
    """Nobody reads it over a shoulder."""
    key = add(file, "alice")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*_COMMAND, "-f", file, "test", "alice"], stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"Key: " not in shown:
        shown += os.read(ours, 1000)
    os.write(ours, key.encode() + b"\n")
    while b"good for" not in shown:
        shown += os.read(ours, 1000)
    assert process.wait(10) == 0
    os.close(ours)
    assert key.encode() not in shown


def test_rotation_leaves_time_to_change_over(file: Path) -> None:
    """A day, or as long as is said; with --keep 0 the old one ends at once."""
    old = add(file, "alice")
    new = run("-f", file, "rotate", "alice", "--keep", "2h").stdout.strip()
    first, second = parse(file.read_bytes(), "").users["alice"].keys
    assert first.end is None
    assert second.end is not None
    assert abs(second.end - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    for key in (old, new):
        run("-f", file, "test", "alice", given=key)
    assert "still in use" in run("-f", file, "rotate", "alice", status=1).stderr
    newest = run("-f", file, "rotate", "alice", "--keep", "0").stdout.strip()
    run("-f", file, "test", "alice", given=newest)
    run("-f", file, "test", "alice", given=new, status=1)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["add", "a b"], "letters, digits"),
        (["add", "../x"], "letters, digits"),
        (["add", "alice", "--ends", "tomorrow"], "not a duration"),
        (["add", "alice", "--ends", "2020-01-01T00:00:00Z"], "is over"),
        (["add", "alice", "--ends", "none"], "write a duration"),
        (["add", "alice", "--uid", "-1"], "uid"),
        (["add", "alice", "--certificate", ""], "1 to 255 characters"),
        (["add", "alice", "--certificate", "x" * 256], "1 to 255 characters"),
        (["rotate", "alice", "--keep", "long"], "not a duration"),
        (["add", "alice", "netd_a_key_on_the_command_line"], "unexpected extra argument"),
    ],
)
def test_what_is_typed_wrong_is_told(file: Path, args: list[str], expected: str) -> None:
    """Exit status 2, and nothing is made."""
    assert expected in run("-f", file, *args, status=2).stderr
    assert not file.exists()


def test_what_cannot_be_done_is_told_in_a_line(file: Path) -> None:
    """Exit status 1, and the file as it was."""
    for verb in ("list", "remove", "rotate", "test"):
        args = [] if verb == "list" else ["alice"]
        told = run("-f", file, verb, *args, status=1).stderr
        assert (
            told
            == f"netctl: {file}: No such file or directory (`netctl users add NAME` makes it)\n"
        )
    add(file, "alice")
    assert "there already" in run("-f", file, "add", "alice", status=1).stderr
    assert "no such role" in run("-f", file, "add", "bob", "--role", "boss", status=1).stderr
    before = file.read_bytes()
    file.chmod(0o644)
    for verb in ("list", "add", "remove"):
        args = [] if verb == "list" else ["carol"]
        assert f"chmod 600 {file}" in run("-f", file, verb, *args, status=1).stderr
    assert file.read_bytes() == before


def stanza(*files: str) -> dict[str, Any]:
    """A configuration with a service for each file of users."""
    return {
        "services": {
            f"upper-{number}": {
                "protocol": "upper", "listen": ["tcp://127.0.0.1:0"], "auth": {"users": file},
            }
            for number, file in enumerate(files)
        }
    }  # fmt: skip


def test_the_configuration_names_the_file() -> None:
    """Also when that is not there yet, so that netd could not read the configuration."""
    with new_folder() as folder:
        config = write_config(folder, stanza("users.yaml", "users.yaml"))
        run("-c", config, "add", "alice")
        assert (folder / "users.yaml").stat().st_mode & 0o777 == 0o600
        write_config(folder, stanza("users.yaml", "others.yaml"))
        told = run("-c", config, "list", status=2).stderr
        assert "several files of users" in told
        assert "choose by --file" in told
        write_config(folder, {"services": {}})
        assert "names no files of users" in run("-c", config, "list", status=2).stderr


@pytest.mark.skipif(not AS_ROOT, reason="root gives files away")
def test_a_file_that_root_makes_is_for_the_user_that_netd_becomes() -> None:
    """Else netd could not follow it."""
    with new_folder() as folder:
        config = write_config(folder, {"user": "nobody", **stanza("users.yaml")})
        run("-c", config, "add", "alice")
        assert (folder / "users.yaml").stat().st_uid == 65534


def test_a_running_daemon_follows() -> None:
    """Whoever is added comes in, and whoever is removed does not."""
    with new_folder() as folder:
        keys: dict[str, Any] = {"user": "nobody"} if AS_ROOT else {}
        keys["defaults"] = {"penalties": {"auth": "none"}}
        config = write_config(folder, {**keys, **stanza("users.yaml")})
        alice = run("-c", config, "add", "alice").stdout.strip().encode()
        with run_netd({**keys, **stanza("users.yaml")}, folder=folder) as netd:
            assert comes_in(netd, "alice", alice)
            run("-c", config, "remove", "alice")
            bob = run("-c", config, "add", "bob").stdout.strip().encode()
            wait_until(lambda: comes_in(netd, "bob", bob))
            assert not comes_in(netd, "alice", alice)
            netd.wait_for_log("users have changed: <Keyring 1 users, 1 keys>")
            netd.wait_for_log("refused .* reason=auth")
            assert netd.stop() == 0
        assert not KEY.search("\n".join(netd.log))


@pytest.mark.skipif(not AS_ROOT, reason="root reads what netd cannot")
def test_a_file_that_cannot_be_followed_is_told_of_at_the_start() -> None:
    """Root has read it, and netd, which is root no more, would never see who is taken out."""
    with new_folder() as folder:
        keys = {"user": "nobody", **stanza("users.yaml")}
        config = write_config(folder, keys)
        run("-c", config, "add", "alice")
        os.chown(folder / "users.yaml", 0, 0)
        with run_netd(keys, folder=folder) as netd:
            netd.wait_for_log("warning upper-0: .*users.yaml cannot be read by the user that netd")
            assert netd.stop() == 0
        os.chown(folder / "users.yaml", 65534, 65534)
        with run_netd(keys, folder=folder) as netd:
            assert netd.stop() == 0
        assert not [line for line in netd.log if "warning" in line]


def comes_in(netd: Netd, user: str, key: bytes) -> bool:
    """Whether a user is let in."""
    with netd.connect("upper-0") as client:
        try:
            by_scram(client, user, key)
        except Unauthenticated:
            return False
        client.sendall(b"abc")
        return client.recv(3) == b"ABC"
