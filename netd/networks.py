"""Blocks of addresses: how they are written, which of them hold an address, what one source is."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from netd.explanation import Step, off, step
from netd.stanza import Stanza

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Bits of the prefix ::ffff:0:0/96 of an IPv4 address in the form of an IPv6 one.
_MAPPED = 96


def parse_network(text: object) -> Network:
    """An address or a CIDR block such as `192.0.2.0/24` or `2001:db8::/32`."""
    if isinstance(text, Network):
        return text
    written = _interface(text)
    if written is None:
        raise ValueError(
            f"{text!r} is not an address or CIDR block (write it like 192.0.2.0/24 or ::1)"
        )
    if zone := getattr(written, "scope_id", None):
        raise ValueError(f"{text!r} names an interface, which no rule heeds (omit %{zone})")
    block = written.network
    mapped = getattr(block.network_address, "ipv4_mapped", None)
    if mapped is not None and block.prefixlen >= _MAPPED:
        block = ipaddress.ip_network((mapped, block.prefixlen - _MAPPED))
        raise ValueError(f"{text!r} stands for peers that have IPv4 addresses (write {block})")
    if written.ip != block.network_address:
        raise ValueError(f"{text!r} has host bits set (write {block}, or {written.ip})")
    return block


def _interface(text: object) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    try:
        return ipaddress.ip_interface(text) if isinstance(text, str) else None
    except ValueError:
        return None


CIDR = Annotated[
    Network,
    BeforeValidator(parse_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["192.0.2.0/24", "::1"]}),
]


class SourcePrefix(Stanza):
    """How many leading bits of an address make one source."""

    ipv4: Annotated[int, Field(ge=0, le=32)] = 32
    """Bits of an IPv4 address."""
    ipv6: Annotated[int, Field(ge=0, le=128)] = 64
    """Bits of an IPv6 address: a single host usually owns a whole /64."""


def unmapped(address: str) -> Address:
    """The address that a peer has; an IPv4 peer of a dual-stack socket is an IPv4 peer. Raises
    ValueError for what is no address, such as the user of a UNIX socket."""
    parsed = ipaddress.ip_address(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed


def most_specific(address: Address, networks: Iterable[Network]) -> Network | None:
    """The smallest block that holds the address; None when none does."""
    holding = (network for network in networks if address in network)
    return max(holding, key=lambda network: network.prefixlen, default=None)


def source_prefix(address: Address, prefix: SourcePrefix) -> str:
    """The source that an address belongs to, as text."""
    bits = prefix.ipv4 if address.version == 4 else prefix.ipv6
    return str(ipaddress.ip_network((address.packed, bits), strict=False))


class AccessList:
    """Which addresses may come in, and what source each belongs to."""

    def __init__(
        self, only_from: Sequence[Network], no_access: Sequence[Network], prefix: SourcePrefix
    ) -> None:
        self._only, self._never = only_from, no_access
        self._prefix = prefix

    def judge(self, peer: str) -> tuple[str | None, str]:
        """(`address` or None, the source's name) for a peer's address.

        What is not an IP address, such as the user of a UNIX socket, is its own source."""
        try:
            address = unmapped(peer)
        except ValueError:
            return None, peer
        name = source_prefix(address, self._prefix)
        allowed, refused = self._matches(address)
        if allowed is None:
            return ("address" if self._only or refused else None), name
        if refused is not None and refused.prefixlen >= allowed.prefixlen:
            return "address", name
        return None, name

    def step(self, peer: str) -> Step:
        """What `judge` finds, and the blocks that it found it by."""
        rule = "only_from, no_access"
        if not self._only and not self._never:
            return off(rule)
        try:
            blocks = self._matches(unmapped(peer))
        except ValueError:
            return step(rule, None)
        allowed, refused = (None if block is None else str(block) for block in blocks)
        return step(rule, self.judge(peer)[0], only_from=allowed, no_access=refused)

    def _matches(self, address: Address) -> tuple[Network | None, Network | None]:
        return most_specific(address, self._only), most_specific(address, self._never)
