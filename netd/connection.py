"""What is known of a connection while it is served: the record behind the access line.

`netd.steps` adds the non-blocking reads and writes of the serving loop, `netd.conversation` the
blocking ones of a handler that has a thread. Handlers reach both through `netd.handler` alone.
"""

from __future__ import annotations

import errno
import socket
import struct
from abc import abstractmethod
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from netd.errors import BrokenStream, RemoteError
from netd.identity import NOBODY, Identity
from netd.service import next_number, session_id

if TYPE_CHECKING:
    from netd.service import Service

# One read from a peer. Larger ones gain nothing on loopback, and glibc serves this size from its
# heap, without a system call.
CHUNK = 65_536
# One read from a peer that has never sent more than this at once: with its header the largest
# `bytes` that Python's own allocator has room for, at a third of glibc's price.
MORSEL = 512 - bytes.__basicsize__
# Where bytes go that nobody wants. They need no object of their own: of many that are made as
# large as CHUNK and shrunk to what came, the heap keeps megabytes.
WASTE = bytearray(CHUNK)
# How long a peer may take, in seconds, to read the last words and close its side.
LINGER = 2.0
# What ends a session and no more: a handler that asks to exit ends itself, not the service.
FAULTS = (Exception, SystemExit)
# Beside what Python calls a ConnectionError: the way to the peer is gone.
_NO_WAY = {
    errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
}  # fmt: skip
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def peer_text(request: socket.socket, client_address: Any) -> str:
    """A peer as the log names it: `192.0.2.1:5000`, `[2001:db8::1]:5000`, `unix:uid=0,pid=17`."""
    if isinstance(client_address, tuple):
        host, port = client_address[0], client_address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    pid, uid, _gid = peer_credentials(request)
    return f"unix:uid={uid},pid={pid}"


def origin_of(request: socket.socket, client_address: Any) -> str:
    """A peer as the gate knows it: its address, or the user at the other end of a UNIX socket."""
    if isinstance(client_address, tuple):
        return str(client_address[0])
    return f"uid={peer_credentials(request)[1]}"


def peer_credentials(request: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the process at the other end of a UNIX socket (SO_PEERCRED)."""
    packed = request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", packed)


def abandon(request: socket.socket) -> None:
    """Has its close be a reset. The kernel would keep what the peer does not take, some megabytes
    for each connection, for minutes after that (seen as FIN-WAIT-1 with a Send-Q)."""
    with suppress(OSError):
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def end_reason(error: BaseException) -> str | None:
    """Why a session ends by this error: a reason word; None when the fault is our own."""
    if isinstance(error, RemoteError | BrokenStream):
        return error.reason
    if isinstance(error, TimeoutError):
        return "idle_timeout"  # a stock handler's own time-out, or TCP_USER_TIMEOUT
    if isinstance(error, ConnectionError):
        return "reset"
    return "reset" if isinstance(error, OSError) and error.errno in _NO_WAY else None


class Connection:
    """One session, from admission to its access line."""

    __slots__ = (
        "_peer",
        "active",
        "began",
        "bytes_in",
        "bytes_out",
        "client_address",
        "identity",
        "number",
        "origin",
        "reason",
        "request",
        "service",
    )

    def __init__(
        self,
        request: Any,
        client_address: Any,
        service: Service,
        origin: str = "",
        peer: str | None = None,
    ) -> None:
        """`origin` is the peer as the gate knows it, `peer` as the log does."""
        self.request = request
        self.client_address = client_address
        self.service = service
        self.origin = origin
        self.number = next_number()
        self.began = self.active = monotonic()
        self.bytes_in = 0
        self.bytes_out = 0
        self.identity: Identity = NOBODY
        """What the client has shown of itself."""
        self.reason: str | None = None
        """The reason word, once it is known."""
        if peer is None and not isinstance(client_address, tuple):
            # It can be asked for while the socket is open, and a handler may close that.
            peer = peer_text(request, client_address)
        self._peer = peer

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.service.name} {self.id} {self.peer}"
            f" in={self.bytes_in} out={self.bytes_out}>"
        )

    @property
    def id(self) -> str:
        """The session's name in the log."""
        return session_id(self.number)

    @property
    def peer(self) -> str:
        """The peer's address, as the log names it."""
        return self._peer or peer_text(self.request, self.client_address)

    def follow(self, earlier: Connection) -> None:
        """Becomes the same session as `earlier`, which was this connection before its handler."""
        self.number, self.began = earlier.number, earlier.began
        self.identity = earlier.identity

    def overdue(self, now: float) -> str | None:
        """The reason word of a deadline that has passed, or None."""
        timeouts = self.service.timeouts
        if timeouts.idle_timeout is not None and now - self.active >= timeouts.idle_timeout:
            return "idle_timeout"
        if timeouts.session_timeout is not None and now - self.began >= timeouts.session_timeout:
            return "session_timeout"
        return None

    @abstractmethod
    def cut(self, reason: str) -> None:
        """Ends the session from outside, for this reason word."""

    @property
    def outcome(self) -> str:
        """The reason word for a handler that has come to its end by itself."""
        return "done"

    def finish(self, reason: str) -> None:
        """Counts and logs the session; its socket is still open."""
        bytes_in, bytes_out = self.bytes_in, self.bytes_out
        # From now on they are in the totals, and whoever adds up open sessions finds them once.
        self.bytes_in = self.bytes_out = 0
        self.service.finish(
            self.number, self.peer, self.began, bytes_in, bytes_out, reason, self.identity.user
        )


class ThreadConnection(Connection):
    """A connection whose handler has a thread; any other thread may cut it."""

    __slots__ = ("at_end", "was_cut")

    def __init__(
        self, request: socket.socket, client_address: Any, service: Service, origin: str
    ) -> None:
        super().__init__(request, client_address, service, origin)
        self.at_end = False
        """Whether the peer has ended its side."""
        self.was_cut: str | None = None
        """The reason word, once it was cut."""

    def cut(self, reason: str) -> None:
        """The handler's next read finds the stream at its end, and its next write fails."""
        if self.was_cut is None:
            self.was_cut = reason
        try:
            self.request.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the handler's thread was faster

    @property
    def outcome(self) -> str:
        """Cut, or ended by the peer, or else by the handler."""
        return self.was_cut or ("eof" if self.at_end else "done")
