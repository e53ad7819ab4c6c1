"""The keys about who may use a service, when, how many at once, and how often: `netd.gate` obeys
them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from netd.hours import AccessTimeText, TimeZone
from netd.networks import CIDR, SourcePrefix
from netd.penalties import PenaltyRules
from netd.rates import ServiceRate, SourceRate
from netd.stanza import Rate, Stanza

_Limit = Annotated[int, Field(ge=1, le=10_000_000)]


class Admission(Stanza):
    """Who may use a service, when, how many at once, and how often."""

    only_from: list[CIDR] = []
    """Addresses that may come in; empty: all. With `no_access` the most specific block wins, and
    a tie refuses. UNIX sockets are guarded by `socket_mode` instead."""
    no_access: list[CIDR] = []
    """Addresses that may not come in."""
    access_times: list[AccessTimeText] = []
    """When clients may come in, such as `mon-fri 08:00-18:00`; empty: at any time. Without days it
    is every day, and `22:00-06:00` ends on the day after. Sessions that are open go on."""
    time_zone: TimeZone | None = None
    """The time zone of `access_times`, such as `Europe/Vienna`; null: that of the machine."""
    max_load: Annotated[float, Field(ge=0.01, le=100_000)] | None = None
    """The load average over 1 minute, as `uptime` shows it, at which nobody is let in any more;
    null: no limit."""
    max_connections: _Limit | None = 16_384
    """Connections to this service at once; null: no limit."""
    over_limit: Literal["refuse", "queue"] = "refuse"
    """What becomes of those who come when there are `max_connections`: they are turned away, or
    wait in the kernel, at most `backlog` of them for each listener, until one of the others has
    gone. Only then are they looked at: a client that may not come in waits too."""
    max_connections_per_source: _Limit | None = None
    """Connections from one source at once; null: no limit. A source is an address prefix
    (`source_prefix`) or, on a UNIX socket, a user."""
    source_prefix: SourcePrefix = SourcePrefix()
    """How many leading bits of an address make one source."""
    rate_per_source: SourceRate | None = None
    """How often one source may come; null: no limit. Connections count, and datagrams apart from
    them, whose address may be forged; all senders to a `unix-dgram:` socket are one source."""
    rate: ServiceRate | None = None
    """How often clients may come, from all sources together; null: no limit. Datagrams count apart
    from connections."""
    penalties: PenaltyRules = PenaltyRules()
    """How long a source stays out that did what it may not do. Better not used behind a proxy,
    whose clients all are one source."""
    reply_rate: Rate = 1000.0
    """UDP answers per second to one source that is not on this machine; what exceeds it is
    dropped and counted as `rate`, for the address of such a source may be forged."""
