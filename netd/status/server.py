"""The HTTP server of the status page: read-only, bounded, no burden on the services.

It is one of netd's own servers: its clients have deadlines, it has threads of its own, and so few
that they cannot take much from the services. When all are taken, the client that has been there
longest makes way for the one that comes: a thousand clients who say nothing keep nobody out.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import MappingProxyType
from typing import Any

from netd.connection import LINGER
from netd.deadline import Timeouts
from netd.listener import SocketOptions
from netd.pool import Pool
from netd.server import Server, TCPServer, UnixStreamServer
from netd.service import QuietService
from netd.status.site import HEADERS, TEXT, Answer, Site, refusal
from netd.unit import Unit

logger = logging.getLogger("netd.status")

# Clients at once. An answer takes some milliseconds.
CLIENTS = 16
# Threads: those who make way need theirs for another moment.
THREADS = 2 * CLIENTS
# Bytes of a request, from its first line to the empty one.
HEAD_LIMIT = 16_384
# No client is served for longer than this, in seconds.
TIMEOUT = 10.0
READING = ("GET", "HEAD")
# Reads, of what a client goes on sending whose request is refused.
_CHUNKS_WASTED = 64


class StatusHandler(BaseHTTPRequestHandler):
    """One request, one answer, and the end."""

    # HTTP/0.9 has answers without headers, which a browser may take for a page.
    default_request_version = "HTTP/1.0"
    error_content_type = TEXT
    error_message_format = "%(code)d %(message)s\n"
    _extra: Mapping[str, str] = MappingProxyType({})

    def handle(self) -> None:
        """Reads a request and answers it."""
        head = read_head(self.connection)
        if len(head) > HEAD_LIMIT:
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._send(refusal(status, f"the request has more than {HEAD_LIMIT} bytes"))
            self._see_off()
        elif head:
            self.rfile = BytesIO(head)
            self.raw_requestline = self.rfile.readline()
            if self.parse_request():
                self._send(self._answer())
            if self.command not in READING:
                self._see_off()

    def _answer(self) -> Answer:
        if self.command not in READING:
            text = "nothing can be changed here (use GET)"
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, text, Allow=", ".join(READING))
        hosts = self.headers.get_all("Host", [])
        if not hosts and self.request_version != "HTTP/1.0":
            return refusal(HTTPStatus.BAD_REQUEST, "the request has no Host header")
        assert isinstance(self.server, _StatusServing)
        return self.server.site.answer(self.path, hosts, self.headers.get("Accept", ""))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self._extra = answer.headers
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _see_off(self) -> None:
        """Lets a client that has more to say read why nobody listens: with bytes left unread, the
        close would be a reset, which may destroy the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER)
        for _ in range(_CHUNKS_WASTED):
            if not self.connection.recv(HEAD_LIMIT):
                break

    def end_headers(self) -> None:
        """Ends them with those that all answers have."""
        for name, value in {**HEADERS, **self._extra}.items():
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        """The name of the server, and nothing that tells how old it is."""
        return "netd"

    def log_message(self, format: str, *args: Any) -> None:
        """Logs a request when somebody looks for faults."""
        logger.debug(format, *args)


def read_head(connection: socket.socket) -> bytes:
    """What comes up to the empty line, and perhaps some more: up to HEAD_LIMIT, or one byte more
    if it is longer. Nothing if it does not come at all."""
    head = bytearray()
    while len(head) <= HEAD_LIMIT:
        chunk = connection.recv(HEAD_LIMIT + 1 - len(head))
        if not chunk:
            return b""
        head += chunk
        if b"\n\r\n" in head or b"\n\n" in head:
            return bytes(head[:HEAD_LIMIT])
    return bytes(head)


class _StatusServing:
    """What the two servers have in common."""

    site: Site
    sessions: dict[Any, Any]

    def verify_request(self, _request: Any, _client_address: Any) -> bool:
        """Has the client that has been there longest make way, when there are too many."""
        here = [session for session in list(self.sessions.values()) if session.was_cut is None]
        if len(here) >= CLIENTS:
            here[0].cut("displaced")
        return True


class StatusServer(_StatusServing, TCPServer, ThreadingHTTPServer):
    """The status page over TCP."""


class UnixStatusServer(_StatusServing, UnixStreamServer, ThreadingHTTPServer):
    """The status page over a UNIX socket."""


class StatusUnit(Unit):
    """The status page, from its bound listeners to its end."""

    def __init__(self, site: Site, timeout: float = TIMEOUT) -> None:
        """`timeout`, in seconds, is how long a client may take for everything."""
        timeouts = Timeouts().model_copy(update={"session_timeout": timeout})
        super().__init__(QuietService("status", timeouts=timeouts), [])
        self._site = site
        self._pool = Pool(THREADS)

    def make(self, family: int, sockaddr: Any, options: SocketOptions) -> Server:
        """A server, not bound yet."""
        server = (UnixStatusServer if family == socket.AF_UNIX else StatusServer)(
            sockaddr, StatusHandler, False,
            service=self.service, options=options, pool=self._pool,
        )  # fmt: skip
        server.site = self._site
        return server

    def close(self, end: float) -> None:
        """As that of Unit; the threads have ended too, if they can by then."""
        super().close(end)
        self._pool.close(max(0.0, end - time.monotonic()))
