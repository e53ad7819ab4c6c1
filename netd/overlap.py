"""Addresses of which only one can be bound, though two are listened on."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from netd.address import Address
from netd.document import Mark, Problem

_WILDCARDS = {"0.0.0.0", "::"}


@dataclass(frozen=True, slots=True)
class Claim:
    """An address that something listens on, and where the configuration says so."""

    address: Address
    mark: Mark
    device: str | None = None
    """The interface that it is bound to: those of two interfaces do not meet."""
    ipv6_only: bool = True
    reuse_port: bool = False


def find(claims: Iterable[Claim]) -> Iterator[Problem]:
    """A problem for each claim to what an earlier one holds."""
    earlier: dict[tuple[str, int, str | None], dict[str, Claim]] = defaultdict(dict)
    for claim in claims:
        address = claim.address
        if address.scheme in ("tcp", "udp") and address.port == 0:
            continue  # it is given a port of its own
        place, host = _place(claim)
        rivals = earlier[place]
        if (same := rivals.setdefault(host, claim)) is not claim:
            yield Problem(claim.mark, f"{address} is listened on already", f"see {same.mark}")
        elif rival := _covered_or_covering(host, rivals):
            what = f"{address} collides with {rival.address}"
            yield Problem(claim.mark, what, f"see {rival.mark}")


def _place(claim: Claim) -> tuple[tuple[str, int, str | None], str]:
    """What claims have in common that may collide, and the host, of which there may be several."""
    address = claim.address
    if address.scheme in ("unix", "unix-dgram"):
        return (os.path.realpath(address.host), 0, None), ""
    if address.scheme == "fd":
        return (f"fd:{address.host}", 0, None), ""
    return (address.scheme, address.port, claim.device), _host(address.host)


def _host(host: str) -> str:
    """The one form that all ways to write a host have in common."""
    try:
        parsed = ip_address(host)
    except ValueError:
        return host.lower()
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _covered_or_covering(host: str, rivals: dict[str, Claim]) -> Claim | None:
    """The first of the others that is a wildcard for this host, or that this one is one for."""
    claim = rivals[host]
    for other in rivals if host in _WILDCARDS else _WILDCARDS & rivals.keys():
        rival = rivals[other]
        # With reuse_port on both, the kernel prefers the socket whose address says more.
        shared = rival.reuse_port and claim.reuse_port
        covered = _covers(host, other, claim.ipv6_only) or _covers(other, host, rival.ipv6_only)
        if other != host and covered and not shared:
            return rival
    return None


def _covers(wide: str, narrow: str, ipv6_only: bool) -> bool:
    """Whether one host is a wildcard that the other one falls under."""
    if wide == "0.0.0.0":
        return ":" not in narrow
    return wide == "::" and (":" in narrow or not ipv6_only)
