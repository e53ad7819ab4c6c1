"""The base class of every protocol. A protocol is one class with one or two of these methods:

    handle()                    a conversation: it has a thread to itself and may block, in
                                `read_line`, `read_frame`, `read_exactly`, `read` and `send`,
                                each of which keeps a deadline
    data_received(data)         a set of steps that never block: the serving thread runs them for
                                thousands of connections; with `connection_made`,
                                `eof_received` and `connection_lost` as needed
    datagram_received(data)     answers a datagram, with `reply`

    class Upper(RequestHandler):
        def data_received(self, data: bytes) -> None:
            self.send(data.upper())

        def datagram_received(self, data: bytes) -> None:
            self.reply(data.upper())

A handler neither logs nor catches what it cannot mend: it raises, and the server turns a
`RemoteError` into a reply (`error_reply`), a counter and an info line, and anything else into an
error line with its traceback.
"""

from __future__ import annotations

import socketserver
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from netd.auth.rights import EVERYTHING, Rights
from netd.errors import RemoteError
from netd.frames import Header
from netd.stanza import Stanza

if TYPE_CHECKING:
    from netd.service import Service


class RequestHandler(socketserver.BaseRequestHandler):
    """One session, or the answers to one listener's datagrams.

    To be overridden: `handle`, or `data_received` and its companions; `datagram_received`;
    `setup`, `finish` (around `handle`); `error_reply`; `Options`; `may_block`.
    For the subclass: the methods that read and write, and the properties."""

    __slots__ = ("connection", "server")

    server: Any

    Options: ClassVar[type[Stanza]] = Stanza
    """The protocol's own options: the keys below `options:` in its YAML stanza."""

    may_block: ClassVar[bool] = False
    """Whether `datagram_received` may wait for something; it is then run on a thread."""

    def __init__(self, connection: Any, _client_address: Any, server: Any) -> None:
        # Not BaseRequestHandler.__init__, which does all the work of a session.
        self.connection = connection
        self.server = server

    # -- what is known

    @property
    def request(self) -> Any:
        """The connection, under the name that socketserver gives it."""
        return self.connection

    @property
    def client_address(self) -> Any:
        """The peer's address as the socket module gives it."""
        return self.connection.client_address

    @property
    def user(self) -> str | None:
        """Who the client has shown to be, by `auth` or its certificate; None without either."""
        user: str | None = self.connection.identity.user
        return user

    @property
    def rights(self) -> Rights:
        """What the client may do: which commands it may run, which folders it may use."""
        rights: Rights | None = self.connection.identity.rights
        return EVERYTHING if rights is None else rights

    @property
    def service(self) -> Service:
        """The service that this session belongs to."""
        service: Service = self.server.service
        return service

    @property
    def options(self) -> Any:
        """The protocol's options: an instance of `Options`."""
        return self.server.service.options

    # -- steps

    def connection_made(self) -> None:
        """A client came in."""

    def data_received(self, data: bytes) -> None:
        """The next bytes of the client, at least one and at most 65,536."""

    def eof_received(self) -> None:
        """The client has ended its side. What is sent here still goes out, then it ends."""

    def connection_lost(self, reason: str) -> None:
        """The session is over, by this reason word. Nothing can be sent any more."""

    def send(self, data: bytes) -> None:
        """Sends all of it. In a conversation this waits, at most `write_timeout`; a step's bytes
        wait in a buffer of 64 KiB, and what exceeds it is a BufferError."""
        self.connection.send(data)

    def send_from(self, chunks: Iterator[bytes]) -> None:
        """Sends what the iterator yields, as fast as the client takes it (steps alone)."""
        self.connection.send_from(chunks)

    def close(self) -> None:
        """Ends the session when all that was sent has gone out (steps alone)."""
        self.connection.close()

    # -- conversations: each read raises Overdue at its deadline, ProtocolError beyond its limit

    def read(self, size: int = 65_536, timeout: float | None = None) -> bytes:
        """At most `size` bytes, as soon as there are any; b"" at the end of the stream."""
        data: bytes = self.connection.read(size, timeout)
        return data

    def read_exactly(self, size: int, timeout: float | None = None) -> bytes:
        """Exactly `size` bytes."""
        data: bytes = self.connection.read_exactly(size, timeout)
        return data

    def read_line(self, limit: int = 65_536, timeout: float | None = None) -> bytes | None:
        """A line without its LF or CR LF; None at the end of the stream."""
        line: bytes | None = self.connection.read_line(limit, timeout)
        return line

    def read_frame(
        self, body_limit: int = 65_536, timeout: float | None = None
    ) -> tuple[Header, bytes] | None:
        """Header and body of a version 2 frame; None at the end of the stream."""
        frame: tuple[Header, bytes] | None = self.connection.read_frame(body_limit, timeout)
        return frame

    # -- datagrams

    def datagram_received(self, data: bytes) -> None:
        """A datagram came in."""

    def reply(self, data: bytes) -> None:
        """Sends a datagram to where the one in hand came from, if that may be answered."""
        self.connection.reply(data)

    @property
    def reply_limit(self) -> int:
        """The longest reply, in bytes, that the sender of the datagram in hand may be sent."""
        limit: int = self.connection.reply_limit
        return limit

    @property
    def proven(self) -> bool:
        """Whether the sender of the datagram in hand is who it says: over IP, it may be forged."""
        proven: bool = self.connection.proven
        return proven

    # -- errors

    def error_reply(self, error: RemoteError) -> bytes:
        """What the client is told before the session ends by a fault of its own."""
        return f"error: {error}\r\n".encode()


def overrides(handler: type, method: str) -> bool:
    """Whether a handler class defines one of the methods above."""
    return getattr(handler, method, None) is not getattr(RequestHandler, method)


def check(handler: type) -> None:
    """Raises TypeError when a class cannot serve as a handler, saying what it lacks."""
    name = f"{handler.__module__}:{handler.__qualname__}"
    if not issubclass(handler, RequestHandler):
        if not issubclass(handler, socketserver.BaseRequestHandler):
            raise TypeError(f"{name} is not a request handler class")
        return
    talks, steps = overrides(handler, "handle"), overrides(handler, "data_received")
    made, datagrams = overrides(handler, "connection_made"), overrides(handler, "datagram_received")
    if talks and (steps or made):
        raise TypeError(f"{name} defines handle and data_received (a conversation, or steps?)")
    if not (talks or steps or made or datagrams):
        raise TypeError(f"{name} defines none of handle, data_received and datagram_received")
