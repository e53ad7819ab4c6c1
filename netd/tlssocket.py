"""A connected socket that speaks TLS, and otherwise behaves as one that does not.

What waits is a BlockingIOError, an orderly end is b"", and whatever else OpenSSL finds is a
BrokenStream. TLS has an end of its own (close_notify): a stream that stops without it may have been
cut by anybody, and is `truncated`.
"""

from __future__ import annotations

import socket
import ssl
from select import POLLIN, POLLOUT
from typing import Any

from netd.errors import BrokenStream

# The payload of one record (RFC 8446, 5.1): no read returns more.
RECORD = 16_384
_NO_FLAGS = "a socket that speaks TLS takes no flags, such as MSG_PEEK"


class TlsSocket(ssl.SSLSocket):
    """The server's end of a TLS connection; not blocking, or with a time-out."""

    _sslobj: Any
    waits_for = POLLIN
    """What the latest BlockingIOError waits for: POLLIN or POLLOUT."""
    stalled = False
    """Whether a read waits for room to write: the peer has asked for other keys (RFC 8446, 4.6.3)
    and does not read."""
    server_name = ""
    """The name that the client has asked for."""
    _is_broken = False
    _has_parted = False

    def plain(self) -> socket.socket:
        """The connection without TLS; this socket is then none any more."""
        return socket.socket(fileno=self.detach())

    def getpeername(self) -> Any:
        """The peer's address. Where TLS begins, None when the peer has just left: `wrap_socket`
        would look for bytes of it, and close the socket. So the handshake meets its end."""
        try:
            return super().getpeername()
        except OSError:
            if self._sslobj is None:
                return None
            raise

    # -- reading

    def recv(self, buflen: int = RECORD, flags: int = 0) -> bytes:
        """At most `buflen` bytes and at most a record; b"" when the peer has ended its side."""
        if flags:
            raise ValueError(_NO_FLAGS)
        try:
            data: bytes = self._sslobj.read(buflen if buflen < RECORD else RECORD)
        except ssl.SSLError as error:
            return self._at_end(error, reading=True)
        return data

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As `recv`, into a buffer."""
        if flags:
            raise ValueError(_NO_FLAGS)
        try:
            size: int = self._sslobj.read(nbytes or len(buffer), buffer)
        except ssl.SSLError as error:
            return len(self._at_end(error, reading=True))
        return size

    def discard(self, buffer: Any) -> int:
        """Takes from the kernel what comes after our own end, as it is; 0 at the end of it."""
        return socket.socket.recv_into(self, buffer)

    def _at_end(self, error: ssl.SSLError, reading: bool = False) -> bytes:
        """b"" for an orderly end; else raises what an error of OpenSSL stands for."""
        if isinstance(error, ssl.SSLZeroReturnError):
            return b""
        if isinstance(error, ssl.SSLWantReadError):
            self.waits_for = POLLIN
            raise BlockingIOError from None
        if isinstance(error, ssl.SSLWantWriteError):
            self.waits_for, self.stalled = POLLOUT, reading
            raise BlockingIOError from None
        self._is_broken = True
        is_cut = isinstance(error, ssl.SSLEOFError)
        raise BrokenStream("truncated" if is_cut else "protocol_error") from None

    # -- writing

    def send(self, data: Any, flags: int = 0) -> int:
        """Sends what the kernel takes. What is not taken has to come again, at the head of the
        next send: a part of it may be on its way already, encrypted."""
        if flags:
            raise ValueError(_NO_FLAGS)
        size, sent = len(data), 0
        try:
            if size <= RECORD:
                return self._sslobj.write(data) if size else 0
            view = memoryview(data)
            while sent < size:
                sent += self._sslobj.write(view[sent : sent + RECORD])
        except ssl.SSLError as error:
            if not sent:
                self._at_end(error)
                raise BrokenStream("reset") from None
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Sends all of it, within the time-out for each record."""
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view[:RECORD], flags) :]

    # -- ending

    def part(self) -> bool:
        """Ends our side of TLS, in order; False when the kernel takes nothing just now."""
        if self._has_parted or self._is_broken or self._sslobj is None:
            return True
        timeout = socket.socket.gettimeout(self)
        socket.socket.settimeout(self, 0.0)
        try:
            self._sslobj.shutdown()
        except ssl.SSLWantWriteError:
            self.waits_for = POLLOUT
            return False
        except OSError:
            pass  # it waits for the peer's end, or finds something else: ours is sent
        finally:
            socket.socket.settimeout(self, timeout)
        self._has_parted = True
        return True

    def forsake(self) -> None:
        """Has the stream end without an end of TLS: the peer is to see that it was cut off."""
        self._has_parted = True

    def shutdown(self, how: int) -> None:
        """As that of a socket. With SHUT_WR our side of TLS ends before; any thread may cut the
        connection with SHUT_RDWR, and the one that uses it finds it cut."""
        if how == socket.SHUT_WR:
            self.part()
        socket.socket.shutdown(self, how)
