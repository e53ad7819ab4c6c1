"""Addresses to listen on, as they are written: `tcp://127.0.0.1:9000`, `unix:upper.sock`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

# sun_path holds 108 bytes with its closing NUL (unix(7)).
UNIX_PATH_LIMIT = 107
_INET = re.compile(r"(tcp|udp)://(\[[^\[\]]*\]|[^\[\]/]*?)(?::([^:/]*))?")
_UNIX = re.compile(r"(unix|unix-dgram):(.+)", re.DOTALL)
_INHERITED = re.compile(r"fd:([!-9;-~]{1,255})")
_BRACKETED = re.compile(r"\[([!-~]*)\]")
_NUMERIC = re.compile(r"[0-9.]+")
_NAME = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_FORMS = "tcp://HOST:PORT, udp://HOST:PORT, tcp://[IPV6]:PORT, unix:PATH, unix-dgram:PATH, fd:NAME"
_STREAM = {"tcp", "unix"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `scheme` is one of tcp, udp, unix, unix-dgram and fd."""

    scheme: str
    host: str
    """The host; or the path of a UNIX socket; or the name of an inherited one."""
    port: int = 0

    def __str__(self) -> str:
        if self.scheme in ("tcp", "udp"):
            return f"{self.scheme}://{bracketed(self.host)}:{self.port}"
        return f"{self.scheme}:{self.host}"

    @property
    def is_stream(self) -> bool:
        """Whether it takes connections (tcp, unix) and not datagrams."""
        return self.scheme in _STREAM


def bracketed(host: str) -> str:
    """A host as it stands before `:PORT`."""
    return f"[{host}]" if ":" in host else host


def parse_address(text: object) -> Address:
    """Reads `tcp://127.0.0.1:9000` and its like; ValueError says what is wrong and what is not."""
    if isinstance(text, Address):
        return text
    if isinstance(text, str):
        if match := _INET.fullmatch(text):
            scheme, host, port = match.groups()
            return Address(scheme, _checked_host(host), _checked_port(port))
        if match := _UNIX.fullmatch(text):
            return Address(match[1], _checked_path(match[2]))
        if match := _INHERITED.fullmatch(text):
            return Address("fd", match[1])
    raise ValueError(f"{text!r} is not an address (write {_FORMS})")


def _checked_host(host: str) -> str:
    if match := _BRACKETED.fullmatch(host):
        try:
            IPv6Address(match[1])
        except ValueError:
            raise ValueError(f"{host} is not an IPv6 address (write it like [::1])") from None
        return match[1]
    if ":" in host:
        raise ValueError(f"{host!r}: an IPv6 address stands in brackets (like tcp://[::1]:9000)")
    if host in ("", "*"):
        raise ValueError("no host (write 0.0.0.0 or [::] for every address of this machine)")
    if _NUMERIC.fullmatch(host):
        try:
            IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host} is not an IPv4 address (write it like 127.0.0.1)") from None
    elif len(host) > 253 or not _NAME.fullmatch(host):
        raise ValueError(f"{host!r} is not the name of a host (letters, digits, `-` and `.`)")
    return host


def _checked_port(port: str) -> int:
    if not port:
        raise ValueError("no port (write it after a colon, like tcp://127.0.0.1:9000)")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"port {port} is out of range (0 to 65535; 0 picks a free one)")
    return int(port)


def _checked_path(path: str) -> str:
    if path.startswith("@"):
        raise ValueError("abstract sockets have no permissions and are not offered (write a path)")
    if not path.isprintable() or path != path.strip():
        raise ValueError(f"{path!r} has blanks around it, or what cannot be shown (write a path)")
    if (size := len(os.fsencode(path))) > UNIX_PATH_LIMIT:
        raise ValueError(f"the path has {size} bytes, and {UNIX_PATH_LIMIT} may be (shorten it)")
    return path


ListenAddress = Annotated[
    Address,
    BeforeValidator(parse_address),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^((tcp|udp)://(\[[^\[\]]+\]|[^\[\]:/]+):[0-9]{1,5}|unix(-dgram)?:.+|fd:.+)$",
            "examples": ["tcp://127.0.0.1:9000", "udp://[::1]:9000", "unix:upper.sock", "fd:upper"],
        }
    ),
]
