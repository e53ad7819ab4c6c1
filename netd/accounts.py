"""The users and groups that a configuration names: whether this machine knows them."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterator

from netd.document import Mark, Problem
from netd.findings import shown


def find_problems(
    user: tuple[str, str | None], group: tuple[str, str | None], mark: Callable[[str], Mark]
) -> Iterator[Problem]:
    """A problem for each that there is not; both are (key, name), None when none is named."""
    for (key, name), exists, database in (
        (user, _is_user, "passwd"),
        (group, _is_group, "group"),
    ):
        if name is not None and not exists(name):
            what = f"{key}: this machine has no {key.removeprefix('socket_')} {shown(name)}"
            yield Problem(mark(key), what, f"`getent {database}` lists them")


def is_root(user: str) -> bool:
    """Whether it is a user with all privileges."""
    return _is_user(user) and pwd.getpwnam(user).pw_uid == 0


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: there is a NUL in it
        return False
    return True


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except (KeyError, ValueError):
        return False
    return True
