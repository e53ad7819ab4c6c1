"""Users and groups of the machine that this runs on."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from netd import accounts
from netd.document import Mark

USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


def problems(user: str | None, group: str | None, prefix: str = "") -> list[str]:
    """What is wrong with a user and a group; the column tells the key."""
    keys = [f"{prefix}user", f"{prefix}group"]
    found = accounts.find_problems(
        (keys[0], user), (keys[1], group), lambda key: Mark("f", 1, keys.index(key) + 1)
    )
    return [str(problem) for problem in found]


@pytest.mark.parametrize(("user", "group"), [(None, None), (USER, GROUP), (USER, None)])
def test_what_exists_or_is_not_named_is_no_problem(user: str | None, group: str | None) -> None:
    """Also when only one is named."""
    assert not problems(user, group)


def test_what_does_not_exist_is_told() -> None:
    """With the way to find out what there is."""
    assert problems("no such", "nor:this", "socket_") == [
        "f:1:1: socket_user: this machine has no user 'no such' (`getent passwd` lists them)",
        "f:1:2: socket_group: this machine has no group 'nor:this' (`getent group` lists them)",
    ]


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "x" * 10_000, "ü", "1000000", "-1", "../etc"])
def test_no_name_is_too_strange(name: str) -> None:
    """Whatever is in the file, it is a name that there is not."""
    assert len(problems(name, name)) == 2
    assert not accounts.is_root(name)


def test_root_is_known() -> None:
    """By its number, not by its name."""
    assert accounts.is_root(pwd.getpwuid(0).pw_name)
    others = [account.pw_name for account in pwd.getpwall() if account.pw_uid != 0]
    assert not any(accounts.is_root(name) for name in others)
