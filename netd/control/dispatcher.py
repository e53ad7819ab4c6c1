"""What is done when, and on which thread: nobody's request makes others wait for long.

There are three lanes:

    look     what changes nothing, and takes some milliseconds: on the serving thread of the
             control socket itself
    act      bans, sessions, the level of the log: on a thread
    change   what alters services, which may take seconds: on another thread, one at a time. Two
             at once would undo each other. The second one waits, rather than being refused, as
             most take so little that nobody notices; if it has to wait too long it is told `busy`

Who may do something is looked up on the threads, since that may take a while too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from netd.control.commands import Commands
from netd.control.lane import Client, Job, Lane
from netd.control.privileges import Caller, Privileges
from netd.control.request import CommandError, Request, refusal, reply
from netd.control.table import Level
from netd.loop import Loop
from netd.pool import NoThreadError, Pool
from netd.throttle import Throttle

logger = logging.getLogger("netd.control")

_WHO = {Level.OPERATOR: "operators", Level.ADMIN: "admins"}
_denied = Throttle()


class Dispatcher:
    """Has requests done, and answers them. `submit` and `sweep` are for the serving thread."""

    def __init__(
        self, commands: Commands, privileges: Privileges, count_error: Callable[[], None]
    ) -> None:
        """`count_error` is called for each fault of our own."""
        self._commands, self._privileges = commands, privileges
        self._count_error = count_error
        self._pool = Pool(2)
        self._loop: Loop | None = None
        self._look = Lane(self._begin_look)
        self._act = Lane(lambda job: self._begin_work(self._act, job))
        self._change = Lane(lambda job: self._begin_work(self._change, job))

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer; for any thread."""
        return self._look.is_busy or self._act.is_busy or self._change.is_busy

    def submit(self, client: Client, request: Request | CommandError, loop: Loop) -> None:
        """Has a request done, and its client answered, on the loop that serves it."""
        self._loop = loop
        self._lane_of(request).put(Job(client, request))

    def _lane_of(self, request: Request | CommandError) -> Lane:
        if isinstance(request, CommandError) or request.command.level == Level.USER:
            return self._look
        return self._change if request.command.name in self._commands.changing else self._act

    def sweep(self, now: float) -> None:
        """Tells those who have waited too long."""
        for lane in (self._look, self._act, self._change):
            lane.give_up(now)

    def close(self, timeout: float) -> None:
        """Begins nothing any more, and waits up to `timeout` seconds for what is under way."""
        self._pool.close(timeout)

    def _soon(self, call: Callable[[], None]) -> None:
        assert self._loop is not None  # that of the first request
        self._loop.call_soon(call)

    # -- on the serving thread

    def _begin_look(self, job: Job) -> None:
        # One in each round of the loop, which reads and sends in between.
        self._soon(lambda: self._look.end(job, self._do(job)))

    def _begin_work(self, lane: Lane, job: Job) -> None:
        try:
            self._pool.submit(partial(self._work, lane, job), "control")
        except NoThreadError as error:
            why = f"there is no thread to do it: {error} (raise TasksMax in netd.service)"
            line = job.refuse(CommandError("busy", why))
            self._soon(lambda: lane.end(job, line))

    # -- on a thread of the pool

    def _work(self, lane: Lane, job: Job) -> None:
        line = self._do(job)
        self._soon(lambda: lane.end(job, line))

    # -- on either

    def _do(self, job: Job) -> bytes:
        """Does what was asked for; the line of the reply."""
        request = job.request
        if isinstance(request, CommandError):
            return refusal(request)
        try:
            if request.command.level > Level.USER:
                return self._do_logged(request, job.client.caller)
            return reply(request.id, self._commands.do(request))
        except CommandError as error:
            return job.refuse(error)
        except Exception:
            self._count_error()
            logger.exception("%.300s has failed", request)
            text = f"{request.command.name} has failed by a fault of netd (its log tells more)"
            return job.refuse(CommandError("internal", text))

    def _do_logged(self, request: Request, caller: Caller) -> bytes:
        """As `_do`, for what not everybody may do: the log tells who has done what."""
        who = str(caller)
        self._check(request, caller, who)
        logger.info("%s: %.300s", who, request)
        try:
            return reply(request.id, self._commands.do(request))
        except CommandError as error:
            logger.info("%s: %.300s: not done: %s", who, request, error)
            raise

    def _check(self, request: Request, caller: Caller, who: str) -> None:
        """Raises CommandError for somebody who may not do it."""
        needed, command = request.command.level, request.command.name
        if self._privileges.level(caller) >= needed:
            return
        if times := _denied.due():
            logger.warning("%s may not do this: %.300s (%d times)", who, request, times)
        key = "control.admins" if needed == Level.ADMIN else "control.operators"
        raise CommandError(
            "permission",
            f"{command} is for {_WHO[needed]}, and {who} is none of them (run it as root, or add"
            f" {caller.name or 'a user of yours'} to {key} and restart netd)",
        )
