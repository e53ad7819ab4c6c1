"""Who may come in: access rules and limits of one service.

Each connection passes `Gate.admit_within` once on its way in (`Gate.admit` where it cannot wait)
and `Gate.release` once on its way out, whatever its transport. A datagram that is answered in place
opens nothing, so it passes `Gate.judge` alone, and `Gate.judge_datagrams` where more than its
address matters; what may answer it is decided in `netd.replies`.

Every refusal has one reason word, the same in the log, in the counters and in `banner_fail`. The
rules in their order, as `Gate.explain` shows them:

    address             only_from, no_access
    banned              the bans of the daemon; penalties
    time                access_times
    load                max_load
    service_limit       max_connections; the limit over all services may have its own word
    per_source_limit    max_connections_per_source
    rate                rate_per_source; rate
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from netd.admission import Admission
from netd.conditions import Conditions, Surroundings
from netd.explanation import Step, off, step
from netd.hours import Hours
from netd.networks import AccessList
from netd.penalties import Penalties
from netd.rates import Rates

# Judging an address costs some microseconds, remembering it about 200 bytes.
REMEMBERED_SOURCES = 4096
# The longest that a connection waits for its turn, in seconds; few clients wait for longer.
MAX_DELAY = 10.0


class Total:
    """The limit over all services, and the lock that all gates share.

    One lock serves all: it is held for some additions, and it makes the total exact."""

    def __init__(self, limit: int | None = None, surroundings: Surroundings | None = None) -> None:
        self.lock = threading.Lock()
        self.limit = limit
        self.reason = "service_limit"
        """The reason word of those whom the limit keeps out."""
        self.open = 0
        self.surroundings = surroundings or Surroundings()


class Gate:
    """Admission to one service, shared by all its listeners."""

    def __init__(self, rules: Admission | None = None, total: Total | None = None) -> None:
        self._total = total or Total()
        self._lock = self._total.lock
        self._per_source: dict[str, int] = {}
        self.open = 0
        """Connections that are in."""
        self.admitted = 0
        """Connections that ever came in."""
        self.refused: Counter[str] = Counter()
        """Connections and datagrams turned away, by reason word."""
        self._around = self._total.surroundings
        self._bans = self._around.bans
        self._waiting: set[Callable[[], None]] = set()
        self.rules = rules or Admission()
        self._penalties = Penalties(self.rules.penalties)
        now = self._around.monotonic()
        self._rates = Rates(self.rules.rate_per_source, self.rules.rate, now)
        self._datagram_rates = Rates(self.rules.rate_per_source, self.rules.rate, now)
        self._derive()

    def _derive(self) -> None:
        """Sets what follows from the rules."""
        rules = self.rules
        self._limit = rules.max_connections
        self._source_limit = rules.max_connections_per_source
        self._access = AccessList(rules.only_from, rules.no_access, rules.source_prefix)
        self.judge = lru_cache(REMEMBERED_SOURCES)(self._access.judge)
        """(`address` or None, the source's name) for a peer."""
        hours = Hours(rules.access_times, rules.time_zone) if rules.access_times else None
        self._conditions = Conditions(self._around, self._penalties, hours, rules.max_load)
        self._has_conditions = bool(self._conditions)
        self._is_plain = not self._has_conditions and not self._rates.any
        self.delays = rules.rate_per_source is not None and rules.rate_per_source.action == "delay"
        """Whether a connection that comes too early may wait: `admit_within` is for those."""
        self.offences = self._penalties.offences
        """The reason words by which a connection must not end: `penalise`."""
        self.queues = rules.over_limit == "queue"
        """Whether listeners wait while the service is full: `wait_for_room`."""

    def obey(self, rules: Admission, sources: Iterable[str]) -> None:
        """Goes on under other rules, on the thread that admits. Who is in stays in, and counts:
        `sources` are the peers of the open connections. What has to do with rules that are the
        same goes on as it was, such as a penalty, or how often a source has come."""
        if rules == self.rules:
            return
        waiting, self._waiting = self._waiting, set()
        with self._lock:
            before, self.rules = self.rules, rules
            if rules.penalties != before.penalties:
                self._penalties = self._penalties.under(rules.penalties)
            if (rules.rate_per_source, rules.rate) != (before.rate_per_source, before.rate):
                now = self._around.monotonic()
                self._rates = Rates(rules.rate_per_source, rules.rate, now)
                self._datagram_rates = Rates(rules.rate_per_source, rules.rate, now)
            self._derive()
            self._per_source = {}
            if self._source_limit is not None:
                self._per_source |= Counter(self.judge(source)[1] for source in sources)
        for call in waiting:
            call()

    def recheck(self, source: str) -> str | None:
        """The reason word why a peer that is in would not be let in now, were there room; None
        when it would."""
        reason, name = self.judge(source)
        return reason or self._conditions.refusal(source, name)

    @property
    def is_plain(self) -> bool:
        """Whether the addresses of datagrams are all that matters, and so can be remembered."""
        return self._is_plain and not self._bans.any and not self._penalties.any

    # -- connections

    def admit(self, source: str) -> str | None:
        """Lets a connection in that cannot wait: None; or the reason word why not. Never blocks."""
        return self.admit_within(source)[0]

    def admit_datagram(self, source: str) -> str | None:
        """As `admit`, for a datagram whose handler has a thread."""
        return self.admit_within(source, datagram=True)[0]

    def admit_within(
        self, source: str, longest: float = 0.0, datagram: bool = False
    ) -> tuple[str | None, float]:
        """Lets a connection in: None, and the seconds, `longest` at most, that it has to wait
        before it is served; or the reason word why not, and 0. It is in from now on, and counts."""
        reason, name = self.judge(source)
        if reason is None and (self._has_conditions or self._bans.any or self._penalties.any):
            reason = self._conditions.refusal(source, name)
        rates = self._datagram_rates if datagram else self._rates
        total, delay = self._total, 0.0
        with self._lock:
            most = self._source_limit
            if reason is not None:
                pass
            elif self._limit is not None and self.open >= self._limit:
                reason = "service_limit"
            elif total.limit is not None and total.open >= total.limit:
                reason = total.reason
            elif most is not None and (here := self._per_source.get(name, 0)) >= most:
                reason = "per_source_limit"
            elif rates.any:
                wait = rates.take(name, self._around.monotonic(), longest)
                reason, delay = ("rate", 0.0) if wait is None else (None, wait)
            if reason is not None:
                self.refused[reason] += 1
                return reason, 0.0
            if most is not None:
                self._per_source[name] = here + 1
            self.open += 1
            self.admitted += 1
            total.open += 1
        return None, delay

    def judge_datagrams(self, source: str, number: int) -> tuple[str | None, int]:
        """How many of a source's next datagrams are taken, `number` at most; their tokens are
        spent. The reason word why not all are, or None. Counts nothing."""
        reason, name = self.judge(source)
        if reason is None and (self._has_conditions or self._bans.any or self._penalties.any):
            reason = self._conditions.refusal(source, name)
        if reason is not None:
            return reason, 0
        taken, rates = number, self._datagram_rates
        if rates.any:
            with self._lock:
                taken = rates.take_some(name, self._around.monotonic(), number)
        return (None if taken == number else "rate"), taken

    def lend(self, source: str, most: int) -> int:
        """Takes tokens for datagrams to come, of a source that is let in now: few of those that
        there are, and `most` at most. How many that is; without a rate `most`."""
        name, rates = self.judge(source)[1], self._datagram_rates
        with self._lock:
            return rates.take_part(name, self._around.monotonic(), most) if rates.any else most

    def take_back(self, source: str, number: int) -> None:
        """Puts back what was lent and not used."""
        name = self.judge(source)[1]
        with self._lock:
            self._datagram_rates.give_back(name, self._around.monotonic(), number)

    def release(self, source: str) -> None:
        """Takes note that an admitted connection has ended."""
        with self._lock:
            self.open -= 1
            self._total.open -= 1
            if self._source_limit is not None:
                name = self.judge(source)[1]
                here = self._per_source.pop(name, 0) - 1
                if here > 0:
                    self._per_source[name] = here
            if not self._waiting:
                return
            waiting, self._waiting = self._waiting, set()
        for call in waiting:
            call()

    def revoke(self, source: str, reason: str) -> None:
        """Takes back an admission that came to nothing, such as for want of a thread."""
        self.release(source)
        with self._lock:
            self.admitted -= 1
            self.refused[reason] += 1

    def turn_out(self, source: str, reason: str) -> None:
        """Takes note that a connection that had come in was turned away after all, which may be an
        offence. It stays counted as admitted: a total that shrinks misleads who reads it."""
        self.release(source)
        self.count_refused(reason)
        self.penalise(source, reason)

    def count_refused(self, reason: str, number: int = 1) -> None:
        """Counts refusals that are decided elsewhere, such as `threads` and `descriptors`."""
        with self._lock:
            self.refused[reason] += number

    def wait_for_room(self, call: Callable[[], None]) -> bool:
        """Whether the service is full. Then it is called, once, when a connection has ended; on
        the thread that ended it."""
        with self._lock:
            if self._limit is None or self.open < self._limit:
                return False
            self._waiting.add(call)
            return True

    def penalise(self, source: str, reason: str) -> None:
        """Takes note of how a connection of a source ended, which may be an offence."""
        self._penalties.add(self.judge(source)[1], reason, self._around.monotonic())

    # -- for whoever asks why

    def explain(self, source: str, at: float | None = None, datagram: bool = False) -> list[Step]:
        """What each rule says of a peer, in order, and what it compared; nothing is counted or
        spent by it. `at` is a point of time in seconds since 1970, by default now: bans,
        penalties, hours and rates are shown as they will be then if nobody comes until then. The
        first step that refuses is why the peer is turned away."""
        clock = self._around.clock()
        at = clock if at is None else at
        now = self._around.monotonic() + at - clock
        name = self.judge(source)[1]
        steps = [self._access.step(source), *self._conditions.steps(source, name, at, now)]
        with self._lock:
            steps += self._limit_steps(name)
            longest = MAX_DELAY if self.delays and not datagram else 0.0
            rates = self._datagram_rates if datagram else self._rates
            steps += rates.steps(name, now, longest)
        return steps

    def _limit_steps(self, name: str) -> Iterator[Step]:
        total, mine = self._total, self._per_source.get(name, 0)
        for rule, reason, number, limit in (
            ("max_connections", "service_limit", self.open, self._limit),
            ("max_connections of all services", total.reason, total.open, total.limit),
            ("max_connections_per_source", "per_source_limit", mine, self._source_limit),
        ):
            if limit is None:
                yield off(rule)
                continue
            found = step(rule, reason if number >= limit else None, open=number, limit=limit)
            if self.queues and rule == "max_connections" and number >= limit:
                found |= {"verdict": "delay", "reason": None}  # see `wait_for_room`
            yield found
