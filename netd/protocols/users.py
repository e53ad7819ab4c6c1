"""users (RFC 866, "active users"): who is logged in on this machine.

    server → NAME CR LF  NAME CR LF  …  each user once, by the alphabet; then it closes

A datagram, empty ones included, is answered by one with as many whole lines as may be sent. Nobody
logged in is an empty list.

The names are those of utmp(5). Where the system keeps no such file, as the newest do not, the list
is empty too. It tells strangers which accounts there are: mind `only_from`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from netd.handler import RequestHandler
from netd.stanza import FilePath, Stanza

# struct utmp in glibc's bits/utmp.h: its times have 32 bits, except on 64-bit ARM. They come after
# the fields that are of interest here: ut_type, then (at 44) ut_user, of 32 bytes.
RECORD_SIZE = 400 if os.uname().machine == "aarch64" else 384
MOST_RECORDS = 1024
"""Logins that are looked at: reading as many holds up the serving loop for 0.3 ms."""
LONGEST_DATAGRAM = 65_507

_BEGIN = struct.Struct("=h42x32s")
_USER_PROCESS = 7
# A login program may write anything; a client shows it on a terminal.
_SAFE = bytes(byte if 0x20 < byte < 0x7F else ord("?") for byte in range(256))


def parse(utmp: bytes, record_size: int = RECORD_SIZE) -> list[bytes]:
    """The users in the bytes of a utmp file, sorted; what follows its last whole record does not
    count. Characters that are not printing ASCII become `?`."""
    found = set()
    for start in range(0, len(utmp) - record_size + 1, record_size):
        kind, user = _BEGIN.unpack_from(utmp, start)
        name = user.partition(b"\0")[0].translate(_SAFE)
        if kind == _USER_PROCESS and name:
            found.add(name)
    return sorted(found)


def listing(names: Iterable[bytes], limit: int) -> bytes:
    """A line for each name, as many as fit in `limit` bytes."""
    lines = b""
    for name in names:
        if len(lines) + len(name) + 2 > limit:
            break
        lines += name + b"\r\n"
    return lines


def read(file: Path) -> list[bytes]:
    """The users in a utmp file; none when there is no such file. Raises OSError."""
    try:
        with file.open("rb") as utmp:
            return parse(utmp.read(MOST_RECORDS * RECORD_SIZE))
    except FileNotFoundError:
        return []


def check_file(path: Path) -> Path:
    """The path, unless there is something else than a file. Raises ValueError."""
    # os.path, since Path.exists raises when it may not look.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is not a file (name one in the format of utmp(5))")
    return path


class Options(Stanza):
    """Where the users are found."""

    file: Annotated[FilePath, AfterValidator(check_file)] = Path("/run/utmp")
    """The file that login programs keep, in the format of utmp(5)."""


class UsersHandler(RequestHandler):
    """Sends the list and closes."""

    __slots__ = ()

    Options = Options

    def connection_made(self) -> None:
        names = read(self.options.file)
        self.send(listing(names, LONGEST_DATAGRAM))
        self.close()

    def datagram_received(self, _data: bytes) -> None:
        names = read(self.options.file)
        self.reply(listing(names, min(self.reply_limit, LONGEST_DATAGRAM)))
