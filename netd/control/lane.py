"""A lane: requests that are done one after the other, with as much time for each user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from netd.control.privileges import Caller
from netd.control.request import CommandError, Request, refusal
from netd.control.turns import Turns
from netd.text import printable

# How long a request waits for those before it, in seconds: less than netctl waits for an answer.
PATIENCE = 8.0
# Characters of a request that are repeated.
_SHOWN = 100


class Client(Protocol):
    """Who asked, and is to be answered."""

    @property
    def caller(self) -> Caller:
        """Who that is."""

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""

    def answer(self, line: bytes) -> None:
        """Sends a reply; on the serving thread."""


@dataclass(frozen=True, eq=False)
class Job:
    """A request that waits to be done, or is under way."""

    client: Client
    request: Request | CommandError
    """What is asked for; or why that cannot be done, which is told in its turn too."""
    asked: float = field(default_factory=monotonic)

    @property
    def kind(self) -> tuple[int, str]:
        """Whose it is, and what: a thousand long ones do not keep a short one of the same user."""
        wanted = self.request
        name = "" if isinstance(wanted, CommandError) else wanted.command.name
        return self.client.caller.uid, name

    def refuse(self, error: CommandError) -> bytes:
        """The reply that says why it is not done."""
        error.id = self.request.id
        return refusal(error)


class Lane:
    """Jobs that are done one after the other; for the serving thread alone."""

    def __init__(self, begin: Callable[[Job], None]) -> None:
        """`begin` has a job done; when it is, `end` is to be called. It does not raise."""
        self._begin = begin
        self._waiting: Turns[tuple[int, str], Job] = Turns()
        self._current: Job | None = None
        self._began = 0.0

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way whose client has not been answered; for any thread."""
        return self._current is not None

    def put(self, job: Job) -> None:
        """Has a job done in its turn."""
        self._waiting.put(job.kind, job)
        if self._current is None:
            self._go_on()

    def end(self, job: Job, line: bytes) -> None:
        """A job is done: its client is told, and the next one begins."""
        self._waiting.spend(job.kind, monotonic() - self._began)
        job.client.answer(line)
        self._go_on()

    def _go_on(self) -> None:
        while (job := self._waiting.take()) is not None and job.client.is_gone:
            continue
        self._current, self._began = job, monotonic()
        if job is not None:
            self._begin(job)

    def give_up(self, now: float) -> None:
        """Tells those who have waited too long what they have waited for."""
        if self._current is None:
            return
        what = printable(str(self._current.request))[:_SHOWN]
        for job in self._waiting.drop(lambda job: now - job.asked >= PATIENCE):
            text = f"busy for {PATIENCE:g} s, now with this: {what} (try again later)"
            job.client.answer(job.refuse(CommandError("busy", text)))
