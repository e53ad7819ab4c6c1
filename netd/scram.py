"""SCRAM-SHA-256, by which clients of version 2 show who they are (RFC 5802, 7677).

A client that answers the challenge (netd.challenge) with a hello goes on in frames of version 2,
without a body, with headers of at most 2048 bytes; none before the one before is answered:

    "NETD2 " {"v":2, "id":…, "cmd":"auth", "mechanism":M, "message":client-first-message}
             {"v":2, "id":…, "ok":true, "message":server-first-message}
             {"v":2, "id":…, "cmd":"auth", "message":client-final-message}
             {"v":2, "id":…, "ok":true, "message":server-final-message, "user":NAME}

M is SCRAM-SHA-256, or under TLS SCRAM-SHA-256-PLUS, bound to `tls-server-end-point` (RFC 5929):
then nobody with another certificate can be between the two. The password is the key as it is
written. What is wrong is answered by `{…, "ok":false, "error":"not-authenticated", …}`, and the
connection is closed. An unknown user is answered like one with another key, after the same work,
and is shown a salt that stays the same.

What the messages mean is left to the library scramp. As it costs some time and memory, this module
is imported only where there are users.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

from asn1crypto.x509 import Certificate  # type: ignore[import-untyped]
from scramp import ScramClient, ScramException, ScramMechanism  # type: ignore[import-untyped]

from netd import frames
from netd.challenge import HELLO
from netd.errors import ProtocolError, Refused, Unauthenticated
from netd.verifier import MECHANISM, Verifier

LONGEST_HEADER: Final = 2048
SLOTS: Final = 2
"""Keys that a user has at most, while the one takes over from the other. As many are tried for
each client, whoever it says it is."""
CODE: Final = "not-authenticated"

_LENGTH: Final = struct.Struct("<i")
_TELLING: Final = ("invalid-proof", "unknown-user")


@lru_cache(64)
def end_point(certificate: bytes) -> bytes:
    """What binds to a server by its certificate (DER): `tls-server-end-point`, RFC 5929, 4.1. Where
    the signature has no hash of its own, as with Ed25519, it is SHA-512, as in OpenSSL."""
    try:
        name = Certificate.load(certificate).hash_algo
    except ValueError:
        name = "sha512"
    return hashlib.new("sha256" if name in ("md5", "sha1") else name, certificate).digest()


# -- the server


@dataclass(frozen=True, slots=True)
class Say:
    """To be sent; the client goes on."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Proven:
    """The client is this user, by the key in this slot; `data` is to be sent."""

    user: str
    slot: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Denied:
    """The client is nobody; `data` is to be sent, `why` is for the log, and `user` who it said it
    is."""

    why: str
    user: str | None
    data: bytes


class Exchange:
    """What a server does with one client.

    For the caller: read at most `wanted` bytes, `receive_data`, `next_event`, until that is Proven
    or Denied; what it says in between is to be sent. Nothing but the frames is ever wanted."""

    def __init__(
        self,
        verifiers: Callable[[str], Sequence[Verifier]],
        binding: bytes | None = None,
        begun: bytes = b"",
    ) -> None:
        """`verifiers` gives those of a user, in SLOTS slots, whether there is such a user or not;
        `binding` is the `end_point` of our certificate under TLS; `begun` was received already."""
        self._verifiers = verifiers
        self._binding = None if binding is None else ("tls-server-end-point", binding)
        self._taken = begun
        self._id: frames.Id = None
        self._user: str | None = None
        self._found: Sequence[Verifier] = ()
        self._servers: list[Any] = []

    @property
    def wanted(self) -> int:
        """How many bytes may be read next."""
        held = len(self._taken)
        if held < _LENGTH.size:
            return _LENGTH.size - held
        (length,) = _LENGTH.unpack_from(self._taken)
        # What cannot be a frame is looked at as it is.
        return max(0, _LENGTH.size + length - held) if length <= LONGEST_HEADER else 0

    def receive_data(self, data: bytes) -> None:
        """Adds what the client sent, at most `wanted` bytes."""
        if len(data) > self.wanted:
            raise ValueError("more than was wanted")
        self._taken += data

    def next_event(self) -> Say | Proven | Denied | None:
        """What comes next; None when more is needed."""
        try:
            if self.wanted:
                return None
            frame, self._taken = self._taken, b""
            (length,) = _LENGTH.unpack_from(frame)
            if not 1 <= length <= LONGEST_HEADER:
                expected = f"expected 1 to {LONGEST_HEADER} before authentication"
                raise ProtocolError(f"header length: {expected}, not {length}")
            header, _ = frames.decode(frame, body_limit=0)
            self._id = header.id
            header.check_request()
            return self._take(header)
        except (ScramException, ProtocolError, Refused) as error:
            return self._deny(error)

    def _take(self, header: frames.Header) -> Say | Proven | Denied:
        if header.text("cmd", limit=16) != "auth":
            raise Refused("cmd: expected auth: nothing else is done before")
        message = header.text("message", limit=LONGEST_HEADER)
        if not self._servers:
            return self._begin(header, message)
        return self._finish(header, message)

    def _begin(self, header: frames.Header, message: str) -> Say:
        plus = f"{MECHANISM}-PLUS"
        mechanism = header.text("mechanism", limit=32)
        if mechanism not in ((MECHANISM,) if self._binding is None else (MECHANISM, plus)):
            raise Refused(f"mechanism: expected {MECHANISM}, or under TLS {plus}")
        nonce, reply = secrets.token_urlsafe(18), ""
        for slot in range(SLOTS):
            look_up = partial(self._look_up, slot)
            server = ScramMechanism(mechanism).make_server(look_up, self._binding, nonce)
            server.set_client_first(message)
            reply = server.get_server_first()
            self._servers.append(server)
        return Say(frames.encode(frames.ok(header.id, message=reply)))

    def _look_up(self, slot: int, name: str) -> tuple[bytes, bytes, bytes, int]:
        if slot == 0:
            self._user, self._found = name, self._verifiers(name)
        found = self._found[slot]
        return found.salt, found.stored, found.server, found.iterations

    def _finish(self, header: frames.Header, message: str) -> Proven | Denied:
        fitting, fault = None, None
        for slot, server in enumerate(self._servers):
            try:
                server.set_client_final(message)
                fitting = slot
            except ScramException as error:
                fault = error
        if fitting is None or self._user is None:
            return self._deny(fault)
        reply = self._servers[fitting].get_server_final()
        done = frames.encode(frames.ok(header.id, message=reply, user=self._user))
        return Proven(self._user, fitting, done)

    def denial(self, why: str = "no such user, or not the key") -> bytes:
        """What tells the client that it may not come in; as a rule it is not told why."""
        return frames.encode(frames.error(self._id, CODE, why))

    def _deny(self, error: Exception | None) -> Denied:
        code = getattr(getattr(error, "server_error", None), "value", "")
        told = self.denial() if code in _TELLING else self.denial(str(error))
        return Denied(str(error), self._user, told)


# -- the client


class Client:
    """What a client does: send `hello`, and `final` for the reply to that; `check` the reply to
    `final`, and the server too has shown that it knows the key."""

    def __init__(self, user: str, key: bytes, binding: bytes | None = None) -> None:
        """`binding` is the `end_point` of the server's certificate under TLS."""
        mechanisms = [MECHANISM] if binding is None else [MECHANISM, f"{MECHANISM}-PLUS"]
        bound = None if binding is None else ("tls-server-end-point", binding)
        self._scram = ScramClient(mechanisms, user, key.decode(), bound)

    def hello(self) -> bytes:
        """The answer to the challenge."""
        first = self._scram.get_client_first()
        mechanism = self._scram.mechanism_name
        return HELLO + self._request(1, mechanism=mechanism, message=first)

    def final(self, reply: frames.Header) -> bytes:
        """What shows that we have the key. Raises Unauthenticated."""
        try:
            self._scram.set_server_first(self._message(reply))
            return self._request(2, message=self._scram.get_client_final())
        except ScramException as error:
            raise Unauthenticated(f"the server does not keep to SCRAM: {error}") from None

    def check(self, reply: frames.Header) -> None:
        """Raises Unauthenticated unless the server has let us in, and has the key too."""
        try:
            self._scram.set_server_final(self._message(reply))
        except ScramException as error:
            raise Unauthenticated(f"the server does not know the key: {error}") from None

    @staticmethod
    def _request(identity: int, **fields: object) -> bytes:
        return frames.encode({"v": frames.VERSION, "id": identity, "cmd": "auth", **fields})

    @staticmethod
    def _message(reply: frames.Header) -> str:
        try:
            if not reply.flag("ok"):
                raise Unauthenticated(reply.text("message", limit=4096))
            return reply.text("message", limit=LONGEST_HEADER)
        except Refused as error:
            raise Unauthenticated(f"the server does not keep to SCRAM: {error}") from None
