"""daytime (RFC 867): the date and time, for people.

    server → one line and CR LF; then it closes

A datagram, empty ones included, is answered by one that holds the line. RFC 867 leaves the form
of the line open; it is that of inetd and ctime(3), `Fri Nov 20 05:44:07 2026`, unless configured.
"""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import AfterValidator, Field

from netd.handler import RequestHandler
from netd.replies import UNPROVEN_REPLY
from netd.stanza import Stanza

LONGEST = UNPROVEN_REPLY - len("\r\n")
"""The longest line, in characters: a datagram that holds it may answer any other."""

_DAY = 86_400
# 2028: a leap year, in which each month, weekday and two-digit day of the month comes up.
_SAMPLES = range(1_830_297_599, 1_830_297_599 + 366 * _DAY, _DAY)


def line(now: float, form: str, utc: bool) -> bytes:
    """The line for a time in seconds since 1970, with its CR LF."""
    moment = time.gmtime(now) if utc else time.localtime(now)
    return f"{time.strftime(form, moment)}\r\n".encode()


def check_form(form: str) -> str:
    """The form, if each line that it makes is one of printing ASCII that fits a datagram.

    Raises ValueError otherwise."""
    moments = [time.localtime(sample) for sample in _SAMPLES] if form.isprintable() else []
    made = max((time.strftime(form, moment) for moment in moments), key=len, default="")
    if not (made.isascii() and made.isprintable() and made.strip()):
        raise ValueError(f"{form!r} does not make one line of ASCII (see strftime(3))")
    if len(made) > LONGEST:
        raise ValueError(f"{form!r} makes {len(made)} characters (shorten it to {LONGEST})")
    # What strftime does not know it leaves as it is.
    if "%" in time.strftime(form.replace("%%", ""), moments[0]):
        raise ValueError(f"{form!r} makes {made!r}: not every directive of it is in strftime(3)")
    return form


class Options(Stanza):
    """How the time is told."""

    format: Annotated[str, Field(max_length=200), AfterValidator(check_form)] = (
        "%a %b %e %H:%M:%S %Y"
    )
    """The form of the line, in the directives of strftime(3); it may make at most 62 characters
    of ASCII, so that it fits the answer to any datagram."""
    utc: bool = False
    """Whether to tell UTC in place of local time."""


class DaytimeHandler(RequestHandler):
    """Tells the time and closes."""

    __slots__ = ()

    Options = Options

    def connection_made(self) -> None:
        self.send(self._line())
        self.close()

    def datagram_received(self, _data: bytes) -> None:
        self.reply(self._line())

    def _line(self) -> bytes:
        return line(time.time(), self.options.format, self.options.utc)
