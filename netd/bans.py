"""Networks that may not come in for a time, to any service: what an administrator decides while
netd runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush
from ipaddress import ip_network
from typing import NamedTuple

from netd.errors import NetdError
from netd.networks import Address, Network, unmapped

# Each costs some 500 bytes. More than these are for a firewall.
MAX_BANS = 100_000
# Shorter prefixes than these are a continent, and hardly meant; they have to be forced.
_WIDE = {4: 8, 6: 16}


class BanError(NetdError):
    """A ban that is not made; the text says why, and what to do."""


class Ban(NamedTuple):
    """A network that may not come in."""

    network: Network
    until: float | None
    """When it ends, in seconds since 1970; None: never."""
    why: str = ""
    """What the administrator noted."""

    def holds(self, at: float) -> bool:
        """Whether it is in force at a point of time."""
        return self.until is None or at < self.until


class Bans:
    """The bans of the whole daemon; for any thread.

    For each length of prefix there is a table, so that to look an address up takes a step for each
    length in use, however many bans there are. Those that have ended are forgotten."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tables: dict[tuple[int, int], dict[int, Ban]] = {}
        self._ends: list[tuple[float, str]] = []
        self._count = 0
        self.any = False
        """Whether there may be one in force; to be asked before `find`, being quick."""

    def __len__(self) -> int:
        """How many are in force."""
        with self._lock:
            self._drop_ended()
            return self._count

    def ban(
        self, network: Network, until: float | None = None, why: str = "", force: bool = False
    ) -> Ban:
        """Bans a network until a point of time, in place of an earlier ban of the same one.

        Raises BanError for a network that holds half the world, unless it is forced, for a time
        that has passed, and beyond MAX_BANS."""
        ban = Ban(network, until, why)
        widest = _WIDE[network.version]
        if network.prefixlen < widest and not force:
            raise BanError(
                f"{network} is wider than a /{widest}: it would keep out more than is likely meant"
                " (repeat it with --force, or name a smaller network)"
            )
        if not ban.holds(self._clock()):
            raise BanError(f"the ban of {network} would have ended already (name a later time)")
        with self._lock:
            self._drop_ended()
            if self._count >= MAX_BANS:
                raise BanError(
                    f"there are {MAX_BANS} bans already (ban wider networks, or use a firewall)"
                )
            table = self._tables.setdefault(_kind(network), {})
            self._count += int(network.network_address) not in table
            table[int(network.network_address)] = ban
            self.any = True
            if until is not None:
                # By its text, since an IPv4 network and an IPv6 one cannot be compared.
                heappush(self._ends, (until, str(network)))
        return ban

    def unban(self, network: Network) -> bool:
        """Ends the ban of exactly this network; whether there was one."""
        with self._lock:
            self._drop_ended()
            found = self._tables.get(_kind(network), {}).get(int(network.network_address))
            if found is not None:
                self._remove(found)
        return found is not None

    def listed(self) -> list[Ban]:
        """Those in force, IPv4 first, by network."""
        with self._lock:
            self._drop_ended()
            found = [ban for table in self._tables.values() for ban in table.values()]
        return sorted(found, key=_order)

    def find(self, peer: str, at: float | None = None) -> Ban | None:
        """The most specific ban in force for a peer, now or at a point of time; None when there is
        none, or the peer has no address, such as the user of a UNIX socket."""
        try:
            address = unmapped(peer)
        except ValueError:
            return None
        at = self._clock() if at is None else at
        with self._lock:
            self._drop_ended()
            holding = [ban for ban in self._holding(address) if ban.holds(at)]
        return max(holding, key=lambda ban: ban.network.prefixlen, default=None)

    # -- with the lock held

    def _holding(self, address: Address) -> list[Ban]:
        number, size = int(address), address.max_prefixlen
        return [
            ban
            for (version, bits), table in self._tables.items()
            if version == address.version
            and (ban := table.get(number >> size - bits << size - bits)) is not None
        ]

    def _drop_ended(self) -> None:
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            network = ip_network(heappop(self._ends)[1])
            ban = self._tables.get(_kind(network), {}).get(int(network.network_address))
            if ban is not None and not ban.holds(now):  # else it was lifted, or lengthened
                self._remove(ban)

    def _remove(self, ban: Ban) -> None:
        kind = _kind(ban.network)
        table = self._tables[kind]
        del table[int(ban.network.network_address)]
        if not table:
            del self._tables[kind]
        self._count -= 1
        self.any = self._count > 0


def _kind(network: Network) -> tuple[int, int]:
    return network.version, network.prefixlen


def _order(ban: Ban) -> tuple[int, int, int]:
    return ban.network.version, int(ban.network.network_address), ban.network.prefixlen
