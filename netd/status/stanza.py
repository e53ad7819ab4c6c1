"""Where the status page is served, and to whom."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, StringConstraints, WithJsonSchema

from netd import accounts
from netd.address import UNIX_PATH_LIMIT, Address, bracketed, parse_address
from netd.document import Mark, Problem
from netd.listener import SocketOptions
from netd.stanza import Mode, Stanza

_NAME = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*"
_FORMS = "127.0.0.1:9464, [::1]:9464 or unix:status.sock"


def parse_place(text: object) -> Address:
    """Reads `127.0.0.1:9464` and its like; ValueError says what is wrong and what is not."""
    if isinstance(text, Address):
        return text
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not an address (write {_FORMS})")
    scheme = re.match(r"[a-z-]+:(?![0-9]+$)", text)
    address = parse_address(text if scheme else f"tcp://{text}")
    if address.scheme not in ("tcp", "unix"):
        raise ValueError(f"{text!r}: the status page is not served there (write {_FORMS})")
    return address


def written(address: Address) -> str:
    """An address as `parse_place` reads it."""
    if address.scheme == "tcp":
        return f"{bracketed(address.host)}:{address.port}"
    return str(address)


Place = Annotated[
    Address,
    BeforeValidator(parse_place),
    PlainSerializer(written, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^((tcp://)?(\[[^\[\]]+\]|[^\[\]:/]+):[0-9]{1,5}|unix:.+)$",
            "examples": ["127.0.0.1:9464", "[::1]:9464", "unix:status.sock"],
        }
    ),
]
HostName = Annotated[str, StringConstraints(pattern=f"^{_NAME}$", max_length=253)]


class StatusStanza(Stanza):
    """The status page, with `/metrics` for Prometheus and `/healthz`, over HTTP."""

    listen: Place | None = None
    """Where: HOST:PORT, [IPV6]:PORT or unix:PATH; null: nowhere. Nobody is asked for a password, so
    that it has to be an address of this machine alone, unless `allow_remote` is true."""
    allow_remote: bool = False
    """Whether other machines may reach it."""
    hosts: list[HostName] = []
    """Names by which browsers may ask for it, beside addresses and localhost. Other names are
    refused, lest a web page from elsewhere reads it by having its own name stand for this machine
    (DNS rebinding)."""
    socket_mode: Mode = 0o660
    """Permission bits of a UNIX socket: who may connect."""
    socket_user: str | None = None
    """Owner of a UNIX socket; null: the user that netd runs as."""
    socket_group: str | None = None
    """Group of a UNIX socket; null: the group that netd runs as."""

    @property
    def socket_options(self) -> SocketOptions:
        """How the kernel treats its sockets."""
        own = {
            "socket_mode": self.socket_mode,
            "socket_user": self.socket_user,
            "socket_group": self.socket_group,
        }
        return SocketOptions().model_copy(update=own)


def resolve(stanza: StatusStanza, control: Path) -> StatusStanza:
    """The stanza, a relative path in it resolved beside the control socket."""
    address = stanza.listen
    if address is None or address.scheme != "unix":
        return stanza
    path = Address("unix", str(control.parent / address.host))
    return stanza.model_copy(update={"listen": path})


def find_problems(
    stanza: StatusStanza, control: Path, mark: Callable[[str], Mark]
) -> Iterator[Problem]:
    """What is wrong with a resolved stanza beyond its single keys."""
    user, group = ("socket_user", stanza.socket_user), ("socket_group", stanza.socket_group)
    yield from accounts.find_problems(user, group, mark)
    address = stanza.listen
    if address is None:
        return
    if address.scheme == "unix":
        if len(os.fsencode(address.host)) > UNIX_PATH_LIMIT:
            what = f"{address.host}: a socket's path has at most {UNIX_PATH_LIMIT} bytes"
            yield Problem(mark("listen"), what, "choose a shorter one")
        if os.path.normpath(address.host) == os.path.normpath(control):
            what = f"{address}: the control socket lies there"
            yield Problem(mark("listen"), what, "choose another name")
    elif not stanza.allow_remote and not is_loopback(address.host):
        what = f"status: other machines can reach {written(address)}, without any password"
        hint = "write 127.0.0.1, or add allow_remote: true"
        yield Problem(mark("listen"), what, hint)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach a host by that name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
