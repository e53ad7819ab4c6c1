"""The HMAC challenge of the tutorials, as both sides see it. Pure: no socket and no clock.

    challenge   = nonce tag                    32 bytes, from the server
    nonce       = 16 random bytes
    tag         = HMAC-SHA256(K, "netd-srv-1" listener certificate nonce)[:16]
    listener    = "tcp:" port / "unix:" path   where the client has connected to
    certificate = SHA-256 of the server's certificate (DER); without TLS 32 zeros
    answer      = md5 / sha256 / hello         from the client; no reply, the service begins
    md5         = HMAC-MD5(K, challenge)       16 bytes
    sha256      = HMAC-SHA256(K, challenge)    32 bytes
    hello       = "NETD2 " …                   version 2, which goes on as netd.scram says

To a classic client the challenge is 32 opaque bytes. One that knows how they are made sees by them
that the server has K, and that no other listener, and nobody between with another certificate,
has relayed them.

How long is an answer, when it may be of 16 or 32 bytes, and the next message may follow it at once?
Waiting would tell nothing, so the bytes themselves have to. The server takes 16, the least that any
answer has (a hello is longer). They are half of it if they begin the SHA-256 of a key, and then
exactly 16 more are taken; they are all of it if they are the MD5 of a key; they are a hello if they
begin with "NETD2 ", which is looked at last, since a digest may begin so by chance. Else no key
fits, and nothing more is read. So the service finds its first message untouched, however the bytes
came in.

Why it holds:

- All keys are tried on any answer, with one hash after the other, and all comparisons are whole: a
  wrong answer takes the same time whatever is wrong with it.
- A replayed answer is one to another nonce.
- A challenge that is reflected, to the server or to another client, makes nobody compute a tag:
  that is over more than 58 bytes, and clients sign 32.
- What a tag is over can be read in one way only, as what follows the listener has a fixed length.
- Over plain TCP a classic client can be relayed, and what follows can be changed: it does not look
  at the tag, and the answer is bound to nothing. Hence `auth` wants TLS, a UNIX socket or loopback.
- The tag shows strangers something that was made with K. A key that can be guessed can be guessed
  from it, without the server's noticing; those that netd makes have 256 bits.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from netd.errors import Unauthenticated

SIZE: Final = 32
"""Bytes of a challenge."""
NONCE_SIZE: Final = 16
HELLO: Final = b"NETD2 "
"""How a client of version 2 answers."""

Digest = Literal["auto", "md5", "sha256"]

_LABEL: Final = b"netd-srv-1"
_HALF: Final = 16


class SharedKey:
    """A key that client and server have, ready to sign with: what an HMAC does with the key alone
    is done once, which is a third of it."""

    __slots__ = ("_begun", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._begun: dict[str, hmac.HMAC] = {}

    def sign(self, message: bytes, digest: Literal["md5", "sha256"] = "sha256") -> bytes:
        """The HMAC of a message."""
        begun = self._begun.get(digest)
        if begun is None:  # only now: there are systems without MD5
            begun = self._begun[digest] = hmac.new(self._secret, digestmod=digest)
        mac = begun.copy()
        mac.update(message)
        return mac.digest()


@dataclass(frozen=True, slots=True)
class Channel:
    """The way between a client and a server, as both know it."""

    listener: bytes
    certificate: bytes = bytes(32)

    @staticmethod
    @lru_cache(64)
    def to(address: tuple[Any, ...] | str, certificate: bytes | None = None) -> Channel:
        """The way to where a listener is: the client's `getpeername()`, and `getsockname()` of the
        server's listening socket; they are the same unless something in between has another port,
        such as a port that is forwarded. `certificate` is the server's (DER) under TLS."""
        if isinstance(address, tuple):
            listener = b"tcp:%d" % address[1]
        else:
            listener = b"unix:" + address.encode(errors="surrogateescape")
        if certificate is None:
            return Channel(listener)
        return Channel(listener, hashlib.sha256(certificate).digest())

    def tag(self, key: SharedKey, nonce: bytes) -> bytes:
        """What shows that the server at its end has a key."""
        return key.sign(_LABEL + self.listener + self.certificate + nonce)[: SIZE - NONCE_SIZE]


# -- the client


def verify(challenge: bytes, key: bytes, channel: Channel) -> bool:
    """Whether a challenge came from a server that has the key, by this very way."""
    nonce, tag = challenge[:NONCE_SIZE], challenge[NONCE_SIZE:]
    return hmac.compare_digest(tag, channel.tag(SharedKey(key), nonce))


def answer(challenge: bytes, key: bytes, digest: Literal["md5", "sha256"]) -> bytes:
    """What a classic client answers."""
    return hmac.digest(key, challenge, digest)


# -- the server


class Known(NamedTuple):
    """The answer was made with the key of this index."""

    key: int


class Hello(NamedTuple):
    """The client speaks version 2; this much of what it goes on with was taken too."""

    begun: bytes


class Challenge:
    """Judges the answer to one challenge.

    For the caller: send it; then read at most `wanted` bytes and `judge` them, until that returns
    something else than None. Nothing but the answer is ever wanted. A client that leaves before
    has answered nothing."""

    __slots__ = ("_digest", "_expected", "_keys", "_taken", "_text", "wanted")

    def __init__(self, text: bytes, keys: Sequence[SharedKey], digest: Digest = "auto") -> None:
        """`text` is a nonce with its tag; any of the `keys` lets the client in."""
        self._text = text
        self._keys = keys
        self._digest = digest
        self._taken = b""
        self._expected: tuple[int, bytes] | None = None
        """After the first half of an answer: its key, and all of it."""
        self.wanted = _HALF
        """How many bytes may be read next."""

    def judge(self, data: bytes) -> Known | Hello | None:
        """What the answer is, of which these bytes come next, `wanted` of them at most; None when
        more of it is needed. Raises Unauthenticated."""
        left = self.wanted - len(data)
        if left < 0:
            raise ValueError("more than was wanted")
        self._taken += data
        self.wanted = left
        if left:
            return None
        if self._expected is None:
            return self._judge_half()
        key, whole = self._expected
        if hmac.compare_digest(self._taken, whole):
            return Known(key)
        raise Unauthenticated("no key fits the answer")

    def _judge_half(self) -> Known | Hello | None:
        """What 16 bytes are: the whole of an answer, or a hello, or, None, half of an answer."""
        self._expected = self._find("sha256")
        if self._expected is not None:
            self.wanted = _HALF
            return None
        short = self._find("md5")
        if short is not None:
            return Known(short[0])
        if self._taken.startswith(HELLO):
            return Hello(self._taken[len(HELLO) :])
        raise Unauthenticated("no key fits the answer")

    def _find(self, digest: Literal["md5", "sha256"]) -> tuple[int, bytes] | None:
        """The last key whose answer begins so, and that answer."""
        found = None
        if self._digest in ("auto", digest):
            for index, key in enumerate(self._keys):
                whole = key.sign(self._text, digest)
                if hmac.compare_digest(whole[:_HALF], self._taken):
                    found = index, whole
        return found
