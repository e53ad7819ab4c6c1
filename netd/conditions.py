"""What keeps a client out for now, whatever room there is: bans, penalties, the hour, the load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from netd.bans import Bans
from netd.explanation import Step, off, step
from netd.hours import Hours
from netd.load import LoadAverage
from netd.penalties import Penalties


@dataclass(frozen=True)
class Surroundings:
    """What admission looks at that is no part of a service. All gates share one."""

    bans: Bans = field(default_factory=Bans)
    """The bans of the whole daemon."""
    load: Callable[[], float] = field(default_factory=LoadAverage)
    """The load average of the machine."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970: for hours of the day, and for bans."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds since some point: for rates and penalties."""


class Conditions:
    """The conditions on which a service takes clients in; for any thread."""

    def __init__(
        self,
        surroundings: Surroundings,
        penalties: Penalties,
        hours: Hours | None,
        max_load: float | None,
    ) -> None:
        self._surroundings = surroundings
        self._bans = surroundings.bans
        self._penalties = penalties
        self._hours = hours
        self._max_load = max_load

    def __bool__(self) -> bool:
        """Whether there are any of the service's own, beside bans and penalties."""
        return self._hours is not None or self._max_load is not None

    def refusal(self, peer: str, source: str) -> str | None:
        """The reason word why a peer, of a source of this name, may not come in; or None."""
        around = self._surroundings
        if self._bans.any and self._bans.find(peer) is not None:
            return "banned"
        if self._penalties.any and self._penalties.keeps_out(source, around.monotonic()):
            return "banned"
        if self._hours is not None and not self._hours.include(around.clock()):
            return "time"
        if self._max_load is not None and around.load() >= self._max_load:
            return "load"
        return None

    def steps(self, peer: str, source: str, at: float, now: float) -> Iterator[Step]:
        """What `refusal` would find at a point of time, which is `now` on the monotonic clock."""
        yield self._ban_step(peer, at)
        yield self._penalty_step(source, now)
        if self._hours is None:
            yield off("access_times")
        else:
            reason = None if self._hours.include(at) else "time"
            yield step("access_times", reason, clock=self._hours.clock(at))
        if self._max_load is None:
            yield off("max_load")
        else:
            load = self._surroundings.load()
            reason = "load" if load >= self._max_load else None
            yield step("max_load", reason, load=round(load, 2), limit=self._max_load)

    def _ban_step(self, peer: str, at: float) -> Step:
        ban = self._bans.find(peer, at)
        if ban is None:
            return step("bans", None, network=None)
        return step("bans", "banned", network=str(ban.network), until=ban.until, why=ban.why)

    def _penalty_step(self, source: str, now: float) -> Step:
        if not self._penalties.offences:
            return off("penalties")
        known = self._penalties.find(source, now)
        left = 0.0 if known is None else max(0.0, known.until - now)
        reason = "banned" if left > 0 else None
        offences = 0 if known is None else known.remaining(now)
        return step("penalties", reason, offences=offences, left=round(left, 3))
