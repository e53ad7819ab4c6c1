"""How often one may come: a token bucket for each source, and one for all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from netd.explanation import Step, off, step
from netd.stanza import Rate, Stanza, format_rate

# Sources that have a bucket of their own, at some 400 bytes each. A bucket that is full again can
# be forgotten, so these are the sources that came lately.
BUSY_SOURCES = 16_384
# Buckets for those beyond. Which one is a matter of a hash that nobody outside can know, so that a
# flood from everywhere hits a bystander no more than one in so many.
SHARED_BUCKETS = 256
# Of the tokens that there are, one in so many may be taken ahead.
PART = 16

Burst = Annotated[int, Field(ge=1, le=1_000_000)]


class ServiceRate(Stanza):
    """How often clients may come, all together."""

    rate: Rate
    """Connections, or datagrams, per second, minute or hour."""
    burst: Burst | None = None
    """How many may come at once after a rest; null: as many as in one second, at least 1."""

    @property
    def size(self) -> float:
        """Tokens that its buckets hold."""
        return float(self.burst or max(1.0, self.rate or 0.0))


class SourceRate(ServiceRate):
    """How often one source may come."""

    action: Literal["refuse", "delay"] = "refuse"
    """What becomes of a connection that comes too early: it is turned away, or it waits for its
    turn, for 10 seconds at most. Datagrams cannot wait."""


class Bucket:
    """A token bucket: `rate` tokens a second, at most `burst` saved up."""

    __slots__ = ("_stamp", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self._tokens, self._stamp = burst, now

    def level(self, now: float) -> float:
        """Tokens that are there; fewer than none when some are promised."""
        tokens = self._tokens + (now - self._stamp) * self.rate
        return tokens if tokens < self.burst else self.burst

    def take(self, now: float) -> bool:
        """Takes a token, if there is one, at the given time in seconds."""
        return self.take_some(now, 1) == 1

    def take_some(self, now: float, number: int) -> int:
        """Takes as many tokens as there are, `number` at most: how many that is."""
        tokens = self._tokens + (now - self._stamp) * self.rate
        if tokens > self.burst:
            tokens = self.burst
        if tokens < number:
            number = int(tokens) if tokens > 0 else 0
        self._tokens, self._stamp = tokens - number, now
        return number

    def give_back(self, number: int) -> None:
        """Puts tokens back that were just taken."""
        self._tokens += number

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 when there is one."""
        return max(0.0, (1 - self.level(now)) / self.rate)

    def reserve(self, now: float, longest: float) -> float | None:
        """Takes a token that is there in `longest` seconds at most. Seconds until it is; None, and
        it is not taken, when that would be later."""
        # As `level` has it, without the call: each connection comes by here, for each rate.
        tokens = self._tokens + (now - self._stamp) * self.rate
        if tokens > self.burst:
            tokens = self.burst
        if tokens >= 1.0:
            wait = 0.0
        elif (wait := (1.0 - tokens) / self.rate) > longest:
            return None
        self._tokens, self._stamp = tokens - 1.0, now
        return wait

    def is_full(self, now: float) -> bool:
        """Whether all is saved up that can be, as in a new one."""
        return self._tokens + (now - self._stamp) * self.rate >= self.burst


class Buckets:
    """A bucket for each source, in bounded memory. To be called under a lock."""

    def __init__(self, rate: float, burst: float, limit: int, shared: int = 1) -> None:
        """At most `limit` sources have one of their own, the others share `shared` more."""
        self.rate, self.burst = rate, burst
        self._limit, self._number_shared = limit, shared
        self.own: OrderedDict[str, Bucket] = OrderedDict()
        """The buckets of those who have one, to be asked before `find`, being quick."""
        self._shared: dict[int, Bucket] = {}

    def __len__(self) -> int:
        return len(self.own) + len(self._shared)

    def find(self, name: str, now: float) -> Bucket:
        """The bucket of a source; it is new and full for one that has none yet."""
        if (bucket := self.own.get(name)) is not None:
            return bucket
        # So many at once are a flood. A bucket of its own for each, in the place of another,
        # would let a source come back to a full one, again and again.
        if len(self.own) >= self._limit and not self._forget_one(now):
            return self._shared.setdefault(self._share(name), self._new(now))
        bucket = self.own[name] = self._new(now)
        return bucket

    def look_up(self, name: str, now: float) -> Bucket:
        """As `find`, but nothing is remembered by it."""
        if (bucket := self.own.get(name)) is not None:
            return bucket
        shared = self._shared.get(self._share(name)) if len(self.own) >= self._limit else None
        return shared or self._new(now)

    def _new(self, now: float) -> Bucket:
        return Bucket(self.rate, self.burst, now)

    def _share(self, name: str) -> int:
        return hash(name) % self._number_shared

    def _forget_one(self, now: float) -> bool:
        """Forgets the source at the head of the queue, if its bucket is as good as a new one."""
        name, bucket = next(iter(self.own.items()))
        if bucket.is_full(now):
            del self.own[name]
            return True
        self.own.move_to_end(name)
        return False


class Rates:
    """How often clients of one service may come. To be called under a lock."""

    def __init__(
        self, per_source: SourceRate | None, overall: ServiceRate | None, now: float
    ) -> None:
        self._sources: Buckets | None = None
        self._all: Bucket | None = None
        if per_source is not None and (rate := per_source.rate) is not None:
            self._sources = Buckets(rate, per_source.size, BUSY_SOURCES, SHARED_BUCKETS)
        if overall is not None and (rate := overall.rate) is not None:
            self._all = Bucket(rate, overall.size, now)
        self.any = self._sources is not None or self._all is not None
        """Whether it matters how often anybody comes; to be asked before `take`, being quick."""

    def __len__(self) -> int:
        """Buckets that are held."""
        return len(self._sources or ()) + (self._all is not None)

    def take(self, name: str, now: float, longest: float = 0.0) -> float | None:
        """Lets a source come, or have it wait `longest` seconds at most. Seconds that it has to
        wait; None when it may not come. Then nothing is taken: neither does a source that comes
        too often use up what is there for all, nor a service that is too busy what is there for
        one source."""
        everybody = self._all
        if everybody is not None and everybody.reserve(now, 0.0) is None:
            return None
        if (sources := self._sources) is None:
            return 0.0
        mine = sources.own.get(name) or sources.find(name, now)
        wait = mine.reserve(now, longest)
        if wait is None and everybody is not None:
            everybody.give_back(1)
        return wait

    def take_some(self, name: str, now: float, number: int) -> int:
        """Lets a source come as often as it may, `number` times at most; how often that is."""
        everybody = self._all
        taken = number if everybody is None else everybody.take_some(now, number)
        if self._sources is None or not taken:
            return taken
        mine = self._sources.find(name, now).take_some(now, taken)
        if mine < taken and everybody is not None:
            everybody.give_back(taken - mine)
        return mine

    def take_part(self, name: str, now: float, most: int) -> int:
        """Takes tokens of a source and of all, as many, but a small part of what there is, and
        `most` at most; how many that is."""
        buckets = self._buckets_of(name, now)
        number = max(0, min(most, *(int(bucket.level(now) / PART) for bucket in buckets)))
        for bucket in buckets:
            bucket.take_some(now, number)
        return number

    def give_back(self, name: str, now: float, number: int) -> None:
        """Puts tokens back that were taken so."""
        for bucket in self._buckets_of(name, now):
            bucket.give_back(number)

    def _buckets_of(self, name: str, now: float) -> list[Bucket]:
        mine = None if self._sources is None else self._sources.find(name, now)
        return [bucket for bucket in (mine, self._all) if bucket is not None]

    def steps(self, name: str, now: float, longest: float) -> Iterator[Step]:
        """What `take` would find, and the level of the buckets."""
        if self._sources is None:
            yield off("rate_per_source")
        else:
            yield _step("rate_per_source", self._sources.look_up(name, now), now, longest)
        yield off("rate") if self._all is None else _step("rate", self._all, now, 0.0)


def _step(rule: str, bucket: Bucket, now: float, longest: float) -> Step:
    wait = bucket.wait(now)
    found = step(
        rule, "rate" if wait > longest else None,
        tokens=round(bucket.level(now), 3), burst=bucket.burst,
        rate=format_rate(bucket.rate), wait=round(wait, 3),
    )  # fmt: skip
    if 0 < wait <= longest:
        found["verdict"] = "delay"
    return found
