"""The PROXY protocol, versions 1 and 2: whom a proxy in front of netd speaks for.

    v1      = "PROXY " ("TCP4" / "TCP6") SP source SP target SP port SP port CRLF
            / "PROXY UNKNOWN" *any CRLF                              at most 107 bytes in all
    v2      = signature 1*byte(0x20 LOCAL / 0x21 PROXY) 1*byte(family) length addresses TLVs
    length  = 16 bits, big-endian: of addresses and TLVs

As https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt has it. A header stands before
anything else, once: a second one is the first message of the protocol. Only the proxies that are
named may send one, and they have to, or else any client could claim any address.

LOCAL (the proxy's own checks), UNKNOWN, UNSPEC and UNIX addresses name nobody whom a rule could
know: then the peer is the proxy itself. The TLVs are skipped: up to 64 KiB, of which PIECE bytes
are held at once.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from netd.errors import BrokenStream, RemoteError
from netd.networks import CIDR, unmapped
from netd.stanza import Stanza

if TYPE_CHECKING:
    from netd.prelude import Prelude, Steps

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct("!12sBBH")
_BEGINNING = b"PROXY "
_LONGEST_LINE = 107
# Bytes of the addresses, by family (the high half of the byte; the low one names the transport).
_INET, _INET6 = struct.Struct("!4s4sHH"), struct.Struct("!16s16sHH")
_SIZES = {0: 0, 1: _INET.size, 2: _INET6.size, 3: 216}
# No decision takes more of a header than this many bytes.
LOOK = _FIXED.size + max(_SIZES.values())
# TLVs are read and forgotten by pieces of this many bytes.
PIECE = 4096


class ProxyProtocol(Stanza):
    """The PROXY protocol: a proxy in front of netd tells whom it speaks for."""

    from_: Annotated[list[CIDR], Field(alias="from", min_length=1)]
    """The addresses of the proxies. Whoever else connects is turned away, and so is a proxy that
    sends no header. On a UNIX socket whoever may connect is trusted (`socket_mode`)."""
    versions: Annotated[list[Literal[1, 2]], Field(min_length=1)] = [1, 2]
    """The versions of the header that are understood."""


class ProxyError(RemoteError):
    """There is no header, or a wrong one, or it comes from a stranger."""

    reason = "proxy"


class Header(NamedTuple):
    """What a header says."""

    size: int
    """Its bytes in all."""
    peer: Any
    """The client's address as the socket module has it; None: the peer itself is meant."""


def parse(data: bytes) -> tuple[int, Header] | None:
    """(version, header) from the first bytes of a stream, of which LOOK are enough; None when more
    are needed. Raises ProxyError."""
    if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
        return None if len(data) < _FIXED.size else _parse_binary(data)
    if data[: len(_BEGINNING)] == _BEGINNING[: len(data)]:
        return _parse_line(data)
    raise ProxyError("there is no PROXY header")


# -- version 1


def _parse_line(data: bytes) -> tuple[int, Header] | None:
    end = data.find(b"\r\n", 0, _LONGEST_LINE)
    if end < 0:
        if len(data) >= _LONGEST_LINE:
            raise ProxyError(f"the line has more than {_LONGEST_LINE} bytes")
        return None
    words = data[:end].split(b" ")
    size = end + 2
    if words[1] == b"UNKNOWN":
        return 1, Header(size, None)
    if words[1] not in (b"TCP4", b"TCP6") or len(words) != 6:
        raise ProxyError("the line is not that of the protocol")
    make = IPv4Address if words[1] == b"TCP4" else IPv6Address
    source, _target = _address(make, words[2]), _address(make, words[3])
    port, _target_port = _port(words[4]), _port(words[5])
    return 1, Header(size, _peer(source, port))


def _address(make: Any, text: bytes) -> IPv4Address | IPv6Address:
    try:
        address: IPv4Address | IPv6Address = make(text.decode("ascii"))
    except ValueError:
        raise ProxyError("an address in the line is none") from None
    if getattr(address, "scope_id", None):
        raise ProxyError("an address in the line names an interface")
    return address


def _port(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or text != b"%d" % (port := int(text)) or port > 65_535:
        raise ProxyError("a port in the line is none")
    return port


def _peer(address: IPv4Address | IPv6Address, port: int) -> Any:
    return (str(address), port) if address.version == 4 else (str(address), port, 0, 0)


# -- version 2


def _parse_binary(data: bytes) -> tuple[int, Header] | None:
    _, command, kind, length = _FIXED.unpack_from(data)
    if command not in (0x20, 0x21):
        raise ProxyError("the command is neither LOCAL nor PROXY")
    size = _FIXED.size + length
    if command == 0x20:
        return 2, Header(size, None)
    family, transport = kind >> 4, kind & 0x0F
    if family not in _SIZES or transport > 2:
        raise ProxyError("the family of the addresses is unknown")
    if length < _SIZES[family]:
        raise ProxyError("the addresses are cut off")
    if kind == 0 or family not in (1, 2):
        return 2, Header(size, None)
    shape = _INET if family == 1 else _INET6
    if len(data) < _FIXED.size + shape.size:
        return None
    source, _, port, _ = shape.unpack_from(data, _FIXED.size)
    return 2, Header(size, _peer((IPv4Address if family == 1 else IPv6Address)(source), port))


# -- before admission


class Announcement:
    """The stage that reads the header, before anybody is admitted (`netd.prelude`)."""

    def __init__(self, rules: ProxyProtocol) -> None:
        self._rules = rules

    def __call__(self, prelude: Prelude) -> Steps:
        """Puts the client's address in place of the proxy's. Raises ProxyError."""
        if not self._trusts(prelude.client_address):
            raise ProxyError("the peer is none of the proxies")
        try:
            seen = yield from prelude.peek(LOOK)
            while (found := parse(seen)) is None:
                seen = yield from prelude.peek(LOOK, least=len(seen) + 1)
            version, header = found
            if version not in self._rules.versions:
                raise ProxyError(f"the header is of version {version}")
            left = header.size
            while left:
                left -= len((yield from prelude.receive_some(min(left, PIECE))))
        except BrokenStream:
            raise ProxyError("the stream ends in the header") from None
        if header.peer is not None:
            prelude.speaks_for(header.peer)

    def _trusts(self, peer: Any) -> bool:
        if not isinstance(peer, tuple):
            return True
        address = unmapped(peer[0].partition("%")[0])
        return any(address in block for block in self._rules.from_)
