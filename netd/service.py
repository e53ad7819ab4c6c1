"""One service as its listeners see it: what they share while they serve."""

from __future__ import annotations

import itertools
import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from netd import log
from netd.deadline import Timeouts
from netd.events import Events
from netd.gate import Gate
from netd.metrics import Counters
from netd.replies import OwnPorts

if TYPE_CHECKING:
    from netd.prelude import Stage

# Session numbers begin anew with each process; its own prefix keeps them apart in a log.
_RUN = f"{(int(time.time()) ^ os.getpid() << 12) & 0xFFFFF:05x}"

next_number = itertools.count(1).__next__
"""The number of a new session: no two in this process have the same."""


@dataclass(slots=True)
class Service:
    """The gate, the deadlines, the counters and the protocol's options of one service."""

    name: str = "service"
    protocol: str = ""
    """What it speaks, as the configuration has it: the name of a protocol, or of a class."""
    options: Any = None
    """The protocol's own options: an instance of its options class."""
    gate: Gate = field(default_factory=Gate)
    timeouts: Timeouts = field(default_factory=Timeouts)
    banner: bytes = b""
    """Sent to each client that was let in, before the protocol begins."""
    banner_fail: str = ""
    """Sent to each client that was turned away; `{reason}` stands for the reason word."""
    announcement: Stage | None = None
    """What happens on a connection before its admission; see `netd.prelude`."""
    stages: tuple[Stage, ...] = ()
    """What happens between admission and the handler; see `netd.prelude`."""
    own_ports: OwnPorts = field(default_factory=OwnPorts)
    """UDP ports that this daemon serves; nothing is ever sent to them."""
    counters: Counters = field(default_factory=Counters)
    events: Events | None = None
    """What keeps the last refusals, if anybody wants to see them."""

    def finish(
        self, number: int, peer: str, began: float, bytes_in: int, bytes_out: int, reason: str,
        user: str | None = None,
    ) -> None:  # fmt: skip
        """Counts and logs a session that has ended."""
        duration = time.monotonic() - began
        self.counters.add_session(bytes_in, bytes_out, reason, duration)
        log.access(
            "session", self.name, session_id(number), peer,
            duration, bytes_in, bytes_out, reason, user,
        )  # fmt: skip

    def log_refused(self, peer: str, reason: str, user: str | None = None) -> None:
        """Logs a client that is turned away, and who it says it is."""
        log.access("refused", self.name, "-", peer, 0.0, 0, 0, reason, user)
        if self.events is not None:
            self.events.refused(self.name, peer, reason)

    def fail_text(self, reason: str) -> bytes:
        """What a client that is turned away is told."""
        return self.banner_fail.replace("{reason}", reason).encode()


class QuietService(Service):
    """One of netd's own, such as the status page. Its sessions are counted, and logged when
    somebody looks for faults: those who ask come again and again."""

    __slots__ = ()

    def finish(
        self, number: int, peer: str, began: float, bytes_in: int, bytes_out: int, reason: str,
        _user: str | None = None,
    ) -> None:  # fmt: skip
        """Counts a session that has ended."""
        duration = time.monotonic() - began
        self.counters.add_session(bytes_in, bytes_out, reason, duration)
        self._logger.debug("session %d: %s %s", number, peer, reason)

    def log_refused(self, peer: str, reason: str, _user: str | None = None) -> None:
        """Logs a client that is turned away."""
        self._logger.debug("refused: %s %s", peer, reason)

    @property
    def _logger(self) -> logging.Logger:
        return logging.getLogger(f"netd.{self.name}")


def session_id(number: int) -> str:
    """A session's name in the log and in netctl."""
    return f"{_RUN}-{number}"
