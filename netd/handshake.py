"""The stage before the handler in which a connection comes to speak TLS (`netd.prelude`).

OpenSSL takes some 30 KiB for a connection, from the first byte on. So nobody is given that who has
not sent as much as begins a handshake, and who speaks no TLS at all is told so in a way that it
understands, where OpenSSL would have closed without a word.
"""

from __future__ import annotations

import ssl
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from netd.errors import BrokenStream, RemoteError
from netd.hello import Hello
from netd.prelude import READ, WRITE
from netd.tls import Contexts, Tls
from netd.tlssocket import TlsSocket

if TYPE_CHECKING:
    from netd.auth.preshared import Offer, Preshared
    from netd.prelude import Prelude, Steps

# The head of a record (RFC 8446, 5.1): its type, 22 for a handshake, a version and a length.
_HEAD = 5
_HANDSHAKE = b"\x16\x03"
# Bytes of a first record that are waited for; not its whole, which may not fit into the kernel's
# buffer: a UNIX socket has room for some 70 writes, were they of one byte each.
_FIRST = 48
# The same where it is to be seen whether the client has a key, by what is last in it.
_LONGEST = 4096
_METHODS = tuple(
    f"{method} ".encode()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
)
_HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: 33\r\n\r\nThis port speaks TLS (https://).\n"
)
_TEXT_ANSWER = b"this port speaks TLS\r\n"
# Fatal: unexpected_message (RFC 8446, 6.2), for a peer that is no person.
_ALERT = b"\x15\x03\x01\x00\x02\x02\x0a"
_LONGEST_NAME = 255


class HandshakeError(RemoteError):
    """The handshake came to nothing; the client has been told."""

    reason = "handshake"

    def __init__(self, what: str, last_words: bytes = b"", user: str | None = None) -> None:
        super().__init__(what)
        self.last_words = last_words
        self.user = user


class Handshake:
    """The stage."""

    def __init__(self, tls: Tls, preshared: Preshared | None = None) -> None:
        """`preshared` are the users of `tls.psk`."""
        self.tls = tls
        self.preshared = preshared
        """Who comes in by a key, if anybody does."""

    def __call__(self, prelude: Prelude) -> Steps:
        """Has the connection speak TLS, and takes note of what was agreed upon. Raises
        HandshakeError, and Unauthenticated for a user who may not use the service."""
        offer = yield from self._find_offer(prelude)
        contexts = self.tls.contexts
        sock = _wrap(prelude.request, contexts.find(offer))
        prelude.exchange(sock)
        while True:
            try:
                sock.do_handshake()
                break
            except ssl.SSLWantReadError:
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE
            except ssl.SSLEOFError:
                raise BrokenStream("eof") from None
            except ssl.SSLError as error:
                prelude.exchange(sock.plain())  # on it the alert is followed by a mere end
                user = None if offer is None else offer.user
                raise HandshakeError(error.reason or str(error), user=user) from None
        _take_note(prelude, sock, contexts)
        if self.preshared is not None and offer is not None:
            self.preshared.settle(prelude, offer)

    def _find_offer(self, prelude: Prelude) -> Generator[int, None, Offer | None]:
        """Who a client is asked to be by its key; None for one that is shown a certificate."""
        if self.preshared is None:
            yield from _see_hello(prelude, _FIRST)
            return None
        begun = yield from _see_hello(prelude, _LONGEST)
        if self.tls.stanza.certificate is not None and not _offers_a_key(begun):
            return None
        return (yield from self.preshared.offer(prelude))


def _wrap(request: Any, context: ssl.SSLContext) -> TlsSocket:
    request.getpeername()  # an OSError when the client has left: wrap_socket would read then
    sock: Any = context.wrap_socket(
        request, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )
    return sock  # type: ignore[no-any-return]


def _see_hello(prelude: Prelude, limit: int) -> Generator[int, None, bytes]:
    """The beginning of a handshake: its first record, up to a limit, and maybe more. Raises
    HandshakeError when it is something else."""
    head = b""
    while len(head) < _HEAD:
        head = yield from prelude.peek(_HEAD + 3, least=len(head) + 1)
        if not head.startswith(_HANDSHAKE[: len(head)]):
            raise HandshakeError("no TLS", _answer(head))
    whole = _HEAD + int.from_bytes(head[3:_HEAD])
    return (yield from prelude.peek(limit, least=min(whole, limit)))


def _offers_a_key(begun: bytes) -> bool:
    """Whether a client has a key, or says so, as far as can be seen: what is wrong with its hello,
    or too long, OpenSSL is to judge."""
    try:
        return Hello.parse(begun).offers_a_key
    except ValueError:
        return False


def _answer(beginning: bytes) -> bytes:
    """What to tell a client that begins like this, in its own way."""
    if any(beginning.startswith(method[: len(beginning)]) for method in _METHODS):
        return _HTTP_ANSWER
    plain = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in beginning)
    return _TEXT_ANSWER if plain else _ALERT


def _take_note(prelude: Prelude, sock: TlsSocket, contexts: Contexts) -> None:
    cipher = sock.cipher()
    name = _certificate_name(sock)
    prelude.identity = replace(
        prelude.identity,
        user=prelude.user or name,
        tls=f"{sock.version()} {cipher[0] if cipher else '-'}",
        server_name=sock.server_name,
        application=sock.selected_alpn_protocol() or "",
        certificate_name=name,
        server_certificate=contexts.certificate(sock.context),
    )


def _certificate_name(sock: TlsSocket) -> str | None:
    """The common name in the client's certificate, which has been verified; None when there is
    none, or several, or one that is no name."""
    subject: Any = (sock.getpeercert() or {}).get("subject", ())
    names = [value for parts in subject for key, value in parts if key == "commonName"]
    if len(names) != 1 or not names[0].isprintable() or len(names[0]) > _LONGEST_NAME:
        return None
    return str(names[0]) or None
