"""Clients that show who they are in the handshake of TLS, by a key that the server has too
(TLS-PSK: RFC 8446, 4.2.11; RFC 4279).

OpenSSL asks for the key of a name, and finds out itself whether the client has it. A name that
nobody has is given a key that nobody has: so that such a client comes exactly as far as one with
a wrong key, and is told the same.
"""

from __future__ import annotations

import time
from collections.abc import Generator

from netd.auth import userfile
from netd.auth.keyring import Key, Keyring
from netd.auth.porter import Porter
from netd.auth.source import Source
from netd.prelude import Prelude


class Offer:
    """Who a client says that it is; OpenSSL calls it with that, from within the handshake."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._key: Key | None = None

    def __call__(self, name: str | None) -> bytes:
        """The key that a client of this name should have. One that says several names, or says
        hello twice (RFC 8446, 4.1.4), has to have that of the last one that this is called with."""
        self._key, secret = self._keyring.preshared(name or "", time.time())
        return secret

    @property
    def key(self) -> Key | None:
        """That of the user who it says it is, if there is such a user; once the handshake is
        over, it has shown that it has this key."""
        return self._key

    @property
    def user(self) -> str | None:
        """That user's name."""
        return None if self._key is None else self._key.user.name


class Preshared(Porter):
    """The users of `tls.psk`."""

    def __init__(self, service: str, source: Source) -> None:
        """Raises ConfigError when the keys cannot be had."""
        super().__init__(service, source, userfile.load)

    def offer(self, prelude: Prelude) -> Generator[int, None, Offer]:
        """What to begin a handshake with, by the keys in force."""
        return Offer((yield from self.keyring(prelude)))

    def settle(self, prelude: Prelude, offer: Offer) -> None:
        """Takes note of who the client is, now that the handshake is over. Raises Unauthenticated
        when it may not use the service, or its key is not in use."""
        key = offer.key
        assert key is not None, "nobody has the key of a name that nobody has"
        self.let_in(prelude, key.user, key)
