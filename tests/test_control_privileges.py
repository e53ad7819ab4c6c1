"""Who may do what through the control socket."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest
from controls import ask_as, control, other_user, path_of, request
from harness import AS_ROOT, new_folder, run_netd, wait_until

from netd import config
from netd.control.privileges import Caller, Privileges
from netd.control.stanza import ControlStanza
from netd.control.table import Level
from netd.errors import ConfigError

as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become other users")
NOBODY_HERE = 54_321
"""A number that no user has."""
KEYS: dict[str, Any] = {
    "mode": "0666", "group": "games", "operators": ["bin", "%news"], "admins": ["sys", "%man"],
}  # fmt: skip


def caller(name: str, gid: int | None = None) -> Caller:
    """A process of a user; in a group of its own if one is given."""
    user = pwd.getpwnam(name)
    return Caller(1, user.pw_uid, user.pw_gid if gid is None else gid)


# -- levels


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("root", Level.ADMIN),
        ("sys", Level.ADMIN),
        ("man", Level.ADMIN),
        ("games", Level.OPERATOR),
        ("bin", Level.OPERATOR),
        ("news", Level.OPERATOR),
        ("daemon", Level.USER),
    ],
)
def test_the_level_comes_from_the_user_and_its_groups(name: str, level: Level) -> None:
    """Admins and operators by name or group; members of the socket's group are operators."""
    assert Privileges(ControlStanza(**KEYS)).level(caller(name)) == level
    # Whatever group the process has at the moment, the user is in its own.
    assert Privileges(ControlStanza(**KEYS)).level(caller(name, gid=NOBODY_HERE)) == level


def test_the_group_of_the_process_counts() -> None:
    """As for a file: newgrp(1), or SupplementaryGroups= of a unit."""
    games = grp.getgrnam("games").gr_gid
    privileges = Privileges(ControlStanza(**KEYS))
    assert privileges.level(caller("daemon", gid=games)) == Level.OPERATOR
    assert privileges.level(Caller(1, NOBODY_HERE, games)) == Level.OPERATOR


def test_the_user_of_netd_may_do_everything() -> None:
    """It could anyway: the socket is its own."""
    assert Privileges(ControlStanza()).level(Caller(1, os.geteuid(), 0)) == Level.ADMIN


def test_members_of_a_group_are_known_though_the_process_is_not_in_it() -> None:
    """The supplementary groups of a user are those of the database."""
    named = [(g.gr_name, user) for g in grp.getgrall() for user in g.gr_mem if user != "root"]
    if not named:
        pytest.skip("no group of this machine has members")
    group, user = named[0]
    found = Privileges(ControlStanza(group=group)).level(caller(user, gid=NOBODY_HERE))
    assert found == Level.OPERATOR


def test_without_a_group_it_is_that_of_netd() -> None:
    """Whoever has no name, and is in no such group, may look."""
    privileges = Privileges(ControlStanza())
    assert privileges.level(Caller(1, NOBODY_HERE, os.getegid())) == Level.OPERATOR
    assert privileges.level(Caller(1, NOBODY_HERE, os.getegid() + 1)) == Level.USER


def test_a_group_that_is_no_more_gives_nothing() -> None:
    """Nor does it fail."""
    stanza = ControlStanza(group="no-such-group", operators=["%none-such"], admins=["no-such-user"])
    assert Privileges(stanza).level(Caller(1, NOBODY_HERE, NOBODY_HERE)) == Level.USER


def test_a_caller_is_told_by_name_and_numbers() -> None:
    """As the log has it."""
    assert str(Caller(7, 0, 0)) == "root (uid 0, pid 7)"
    assert str(Caller(7, NOBODY_HERE, 0)) == f"a user without a name (uid {NOBODY_HERE}, pid 7)"


# -- the configuration


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{group: no-such}", "1:18: group: this machine has no group 'no-such'"),
        ("{operators: [root, no-such]}", "1:29: user: this machine has no user 'no-such'"),
        ("{admins: ['%no-such']}", "1:20: group: this machine has no group 'no-such'"),
        ("{operators: ['%']}", "1:23: operators[0]: '%' is not a user or a group (write "),
        ("{mode: 660}", "1:17: mode: 660 is not a file mode"),
        ("{path: control.sock}", "1:17: path: 'control.sock' is not an absolute path"),
    ],
)
def test_users_and_groups_that_there_are_not_are_told(tmp_path: Path, text: str, told: str) -> None:
    """With their place: a slip would keep somebody out who is needed at night."""
    file = tmp_path / "netd.yaml"
    file.write_text(f"control: {text}\nservices: {{}}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}:{told}")


# -- the socket


@pytest.mark.parametrize(("keys", "mode"), [({}, 0o660), ({"mode": "0600"}, 0o600)])
def test_the_socket_has_its_mode(keys: dict[str, Any], mode: int) -> None:
    """And the owner that netd becomes; it goes with netd."""
    with run_netd({"control": keys, "services": {}}) as netd:
        found = path_of(netd).stat()
        assert stat.S_IMODE(found.st_mode) == mode
        status = Path(f"/proc/{netd.pid}/status").read_text()
        ids = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert found.st_uid == int(ids["Uid"].split()[0])
        assert found.st_gid == int(ids["Gid"].split()[0])
        assert netd.stop() == 0
        assert not path_of(netd).exists()


@as_root
def test_nobody_is_let_in_before_the_socket_has_its_mode() -> None:
    """From the first instant that it can be seen, it never is open to more than that."""
    with new_folder() as folder:
        path, seen = folder / "run" / "control.sock", set[int]()

        def look() -> bool:
            try:
                seen.add(stat.S_IMODE(path.stat().st_mode))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return netd.log[-1:] != [] and "ready" in netd.log[-1]

        with run_netd({"services": {}}, folder=folder, ready=False) as netd:
            wait_until(look)
        assert seen <= {0o600, 0o660}


@as_root
def test_who_may_not_open_it_does_not_come_in() -> None:
    """The mode and the group of the socket decide, in the kernel."""
    with run_netd({"control": {"group": "games"}, "services": {}}) as netd:
        path, line = path_of(netd), request("list")
        assert ask_as(path, 2, 2, line)["error"] == "not permitted"
        assert ask_as(path, 5, 60, line)["data"] == []


@as_root
@pytest.mark.parametrize(
    ("uid", "gid", "allowed"),
    [
        (1, 1, {"list"}),
        (2, 2, {"list", "ban"}),
        (5, 60, {"list", "ban"}),
        (3, 3, {"list", "ban", "log-level"}),
        (0, 0, {"list", "ban", "log-level"}),
    ],
)
def test_another_user_may_do_what_its_level_says(uid: int, gid: int, allowed: set[str]) -> None:
    """Else it is told whom to ask; and the log has who it was, and what for."""
    name = pwd.getpwuid(uid).pw_name
    requests = {
        "list": request("list"),
        "ban": request("ban", source="192.0.2.1"),
        "log-level": request("log-level", level="info"),
    }
    with run_netd({"control": KEYS, "services": {}}) as netd:
        for command, line in requests.items():
            reply = ask_as(path_of(netd), uid, gid, line)
            if command in allowed:
                assert reply["ok"], reply
            else:
                assert reply["error"] == "permission"
                key = "admins" if command == "log-level" else "operators"
                assert f"add {name} to control.{key}" in reply["message"]
        if "ban" in allowed:
            netd.wait_for_log(rf"info    control: {name} \(uid {uid}, pid \d+\): ban 192.0.2.1/32$")
        else:
            netd.wait_for_log(rf"warning control: {name} \(uid {uid}, pid \d+\) may not do this: ")


@as_root
def test_what_is_refused_does_nothing() -> None:
    """A user without the level changes nothing by asking."""
    with run_netd({"control": KEYS, "services": {}}) as netd, control(netd) as client:
        ask_as(path_of(netd), 1, 1, request("ban", source="192.0.2.1"))
        ask_as(path_of(netd), 1, 1, request("shutdown"))
        assert client.data("bans") == []
        assert client.data("status")["daemon"]["state"] == "serving"


@as_root
def test_a_flood_of_denials_is_one_line_a_second() -> None:
    """Who may not, cannot fill the log either."""
    with run_netd({"control": KEYS, "services": {}}) as netd:
        with other_user(path_of(netd), 1, 1) as process:
            out, _ = process.communicate(request("shutdown") * 500, timeout=30)
        assert out.count(b'"permission"') == 500
        assert netd.stop() == 0
        assert len([line for line in netd.log if "may not do this" in line]) < 20
