"""Time left, for every wait. Deadlines are absolute points of the monotonic clock, in seconds."""

from __future__ import annotations

from time import monotonic

from netd.errors import Overdue
from netd.stanza import Duration, Stanza


class Timeouts(Stanza):
    """How long a session may take; all absolute, so that a byte now and then buys no time."""

    handshake_timeout: Duration = 10.0
    """What comes before the protocol, the PROXY header, TLS and authentication together, has to be
    over within this time."""
    idle_timeout: Duration = 300.0
    """A session in which no byte has moved for this long is ended."""
    session_timeout: Duration = None
    """A session is ended this long after it began, however busy it is."""
    write_timeout: Duration = 30.0
    """What was sent has to be taken by the peer within this time."""


class Deadline:
    """A point in time after which a wait is given up.

    >>> deadline = Deadline(2.5, "idle_timeout")
    >>> sock.settimeout(deadline.left())        # raises Overdue once it has passed
    """

    __slots__ = ("_at", "reason")

    def __init__(self, seconds: float | None, reason: str) -> None:
        self._at = None if seconds is None else monotonic() + seconds
        self.reason = reason

    @property
    def at(self) -> float:
        """The point of the monotonic clock; infinity when there is no limit."""
        return float("inf") if self._at is None else self._at

    def left(self) -> float | None:
        """Seconds left, more than 0, or None without a limit. Raises Overdue when none are left."""
        if self._at is None:
            return None
        left = self._at - monotonic()
        if left <= 0:
            raise Overdue(self.reason)
        return left
