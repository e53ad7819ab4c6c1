"""Where the control socket lies, and who may do what through it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from netd import accounts
from netd.address import UNIX_PATH_LIMIT
from netd.document import Mark, Problem
from netd.listener import SocketOptions
from netd.stanza import Mode, Stanza

GROUP_MARK = "%"


def check_control_path(path: str) -> str:
    """The path, if a control socket can lie there. Raises ValueError."""
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"{path!r} is not an absolute path (write /run/netd/control.sock)")
    if len(os.fsencode(path)) > UNIX_PATH_LIMIT:
        raise ValueError(
            f"{path!r} is too long (a socket's path has at most {UNIX_PATH_LIMIT} bytes)"
        )
    return path


ControlPath = Annotated[
    str, AfterValidator(check_control_path), Field(json_schema_extra={"pattern": "^/"})
]


def check_account(name: str) -> str:
    """The name, if it can be one of a user, or after `%` of a group. Raises ValueError."""
    if not name.removeprefix(GROUP_MARK):
        raise ValueError(f"{name!r} is not a user or a group (write alice, or %wheel)")
    return name


Account = Annotated[str, AfterValidator(check_account)]
"""A user, or a group after `%`."""


class ControlStanza(Stanza):
    """The control socket: where it is, who may open it, and who may do what. Root, and the user
    that netd runs as, may do everything."""

    path: ControlPath | None = None
    """The control socket; its folder holds relative UNIX sockets too. null: /run/netd/control.sock
    for root, else $XDG_RUNTIME_DIR/netd/control.sock or /tmp/netd-UID/control.sock."""
    mode: Mode = 0o660
    """Its permission bits: who may open it, and so look at everything."""
    group: str | None = None
    """Its group, whose members may also start and stop services, end sessions and ban; null: the
    group that netd runs as."""
    operators: list[Account] = []
    """Others who may do that: users, and groups as `%group`. They have to be able to open the
    socket."""
    admins: list[Account] = []
    """Users and `%group`s who may do everything. They have to be able to open the socket."""

    @property
    def socket_options(self) -> SocketOptions:
        """How the kernel treats the socket."""
        own = {"socket_mode": self.mode, "socket_group": self.group}
        return SocketOptions().model_copy(update=own)


def find_problems(stanza: ControlStanza, mark: Callable[..., Mark]) -> Iterator[Problem]:
    """What is wrong with a stanza beyond its single keys: users and groups that there are not.
    `mark` tells the place of a key, and of an item in it."""
    yield from accounts.find_problems(("user", None), ("group", stanza.group), mark)
    for key, names in (("operators", stanza.operators), ("admins", stanza.admins)):
        for index, name in enumerate(names):
            group = name.removeprefix(GROUP_MARK) if name.startswith(GROUP_MARK) else None
            user = name if group is None else None
            yield from accounts.find_problems(
                ("user", user), ("group", group), partial(_mark_of_item, mark, key, index)
            )


def _mark_of_item(mark: Callable[..., Mark], key: str, index: int, _kind: str) -> Mark:
    return mark(key, index)
