"""Who may do what: from the user at the other end of the control socket to a level."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Collection
from dataclasses import dataclass

from netd.control.stanza import GROUP_MARK, ControlStanza
from netd.control.table import Level


@dataclass(frozen=True)
class Caller:
    """The process at the other end, as the kernel knows it (SO_PEERCRED): nobody can claim to be
    somebody else."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        name = self.name
        return f"{name or 'a user without a name'} (uid {self.uid}, pid {self.pid})"

    @property
    def name(self) -> str | None:
        """The name of the user, if there is one. It may be looked up over the network."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return None


class Privileges:
    """The level of each user. Users and groups are looked up each time, which may take a while
    where they come over the network: never on a serving thread."""

    def __init__(self, stanza: ControlStanza) -> None:
        self._stanza = stanza

    def level(self, caller: Caller) -> Level:
        """What a caller may do."""
        if caller.uid in (0, os.geteuid()):
            return Level.ADMIN
        name, groups = caller.name, _groups(caller)
        if _holds(self._stanza.admins, name, groups):
            return Level.ADMIN
        if _holds(self._stanza.operators, name, groups) or self._group() in groups:
            return Level.OPERATOR
        return Level.USER

    def _group(self) -> int:
        """The group of the socket."""
        group = self._stanza.group
        return os.getegid() if group is None else _gid(group)


def _groups(caller: Caller) -> set[int]:
    """The groups of a caller: the one that the process has, and all that the user is in."""
    try:
        account = pwd.getpwuid(caller.uid)
    except KeyError:
        return {caller.gid}
    return {caller.gid, *os.getgrouplist(account.pw_name, account.pw_gid)}


def _holds(names: Collection[str], user: str | None, groups: Collection[int]) -> bool:
    return any(
        _gid(name.removeprefix(GROUP_MARK)) in groups
        if name.startswith(GROUP_MARK)
        else name == user
        for name in names
    )


def _gid(group: str) -> int:
    """The number of a group; -1, which is nobody's, if it is no more."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return -1
