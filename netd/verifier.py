"""What a server has to know of a key, to see by SCRAM whether a client has it (RFC 5802, 3)."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Final

from scramp import ScramMechanism  # type: ignore[import-untyped]

MECHANISM: Final = "SCRAM-SHA-256"
ITERATIONS: Final = 4096
"""The least that RFC 7677 allows: more would slow down guessing, and what netd makes cannot be
guessed."""

_SALT_SIZE: Final = 16
_SHORTEST_SALT: Final = 12
_MOST_ITERATIONS: Final = 10**6


@dataclass(frozen=True, slots=True, repr=False)
class Verifier:
    """What a server has to know of a key to see by SCRAM whether a client has it; the key itself
    cannot be found from it."""

    salt: bytes
    stored: bytes
    server: bytes
    iterations: int = ITERATIONS

    @classmethod
    def of(cls, key: bytes, salt: bytes) -> Verifier:
        """That of a key. This takes a millisecond, or several."""
        info = ScramMechanism(MECHANISM).make_auth_info(key.decode(), ITERATIONS, salt)
        return cls(salt, info[1], info[2])

    @classmethod
    def decoy(cls, seed: bytes, name: str, slot: int = 0, like: Verifier | None = None) -> Verifier:
        """One that no key fits, always the same for a name; with the salt of another one, if it
        is to stand beside that."""
        stream = hmac.digest(seed, b"%d %s" % (slot, name.encode()), "sha512")
        salt = hmac.digest(seed, name.encode(), "sha256")[:_SALT_SIZE]
        if like is None:
            return cls(salt, stream[:32], stream[32:])
        return cls(like.salt, stream[:32], stream[32:], like.iterations)

    @classmethod
    def parse(cls, text: object) -> Verifier:
        """One from what PostgreSQL writes too: `SCRAM-SHA-256$4096:SALT$STORED:SERVER`, the last
        three in base64. Raises ValueError, which does not repeat it."""
        if isinstance(text, Verifier):
            return text
        try:
            mechanism, numbers, keys = text.split("$")  # type: ignore[attr-defined]
            iterations, salt = numbers.split(":")
            parts = [b64decode(part, validate=True) for part in (salt, *keys.split(":"))]
            found = cls(parts[0], parts[1], parts[2], int(iterations))
            sizes = [len(part) for part in parts[1:]]
            fits = sizes == [32, 32] and len(found.salt) >= _SHORTEST_SALT
            if (
                not fits
                or mechanism != MECHANISM
                or not ITERATIONS <= found.iterations <= _MOST_ITERATIONS
            ):
                raise ValueError(mechanism)
        except (AttributeError, ValueError, IndexError):
            raise ValueError(
                f"it is not a verifier (write it like {MECHANISM}${ITERATIONS}:SALT$STORED:SERVER,"
                " or write the key in place of it)"
            ) from None
        return found

    def __str__(self) -> str:
        salt, stored, server = (
            b64encode(part).decode() for part in (self.salt, self.stored, self.server)
        )
        return f"{MECHANISM}${self.iterations}:{salt}${stored}:{server}"
