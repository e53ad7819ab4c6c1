"""The stage at which a client shows who it is (netd.prelude)."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import suppress

from netd.auth import userfile
from netd.auth.keyring import Keyring, User
from netd.auth.porter import Porter, identify
from netd.auth.stanza import AuthStanza
from netd.challenge import NONCE_SIZE, Challenge, Channel, Known
from netd.connection import CHUNK, peer_credentials
from netd.errors import Unauthenticated
from netd.prelude import READ, Prelude, Steps
from netd.scram import Denied, Exchange, Proven, end_point

Finds = Generator[int, None, User]
"""A stage that finds out who the client is."""


class Authentication(Porter):
    """What a service with the key `auth` asks of each client; it is a stage."""

    def __init__(self, service: str, stanza: AuthStanza) -> None:
        """Raises ConfigError when the keys cannot be had."""
        source = stanza.users or stanza.key
        assert source is not None, "netd.auth.stanza finds this problem"
        load = userfile.load_shared if stanza.users is None else userfile.load
        super().__init__(service, source, load)
        self._method = stanza.method
        self._digest = stanza.digest

    def __call__(self, prelude: Prelude) -> Steps:
        """Raises Unauthenticated when the client is nobody, or may not use the service."""
        keyring = yield from self.keyring(prelude)
        if self._method == "hmac":
            user = yield from self._by_challenge(prelude, keyring)
        elif self._method == "peer":
            uid = peer_credentials(prelude.request)[1]
            user = self.let_in(prelude, keyring.user_of_uid(uid))
        else:
            name = prelude.identity.certificate_name
            if name is None:
                raise Unauthenticated("the client has shown no certificate")
            user = self.let_in(prelude, keyring.user_of_certificate(name))
        prelude.identity = identify(prelude.identity, user)

    def _by_challenge(self, prelude: Prelude, keyring: Keyring) -> Finds:
        certificate = prelude.identity.server_certificate or None
        channel = Channel.to(prelude.request.getsockname(), certificate)
        nonce = os.urandom(NONCE_SIZE)
        text = nonce + channel.tag(keyring.own_secret(time.time()), nonce)
        challenge = Challenge(text, keyring.secrets, self._digest)
        yield from prelude.send(text)
        if prelude.interest != READ:
            yield READ  # nobody can have answered yet
        try:
            while (event := challenge.next_event()) is None:
                challenge.receive_data((yield from prelude.receive_some(challenge.wanted)))
            if isinstance(event, Known):
                key = keyring.classic(event.key)
                return self.let_in(prelude, key.user, key)
        except Unauthenticated:
            _forget(prelude)
            raise
        binding = None if certificate is None else end_point(certificate)
        exchange = Exchange(keyring.verifiers, binding, event.begun)
        return (yield from self._by_scram(prelude, keyring, exchange))

    def _by_scram(self, prelude: Prelude, keyring: Keyring, exchange: Exchange) -> Finds:
        while not isinstance(event := exchange.next_event(), Proven | Denied):
            if event is None:
                exchange.receive_data((yield from prelude.receive_some(exchange.wanted)))
            else:
                yield from prelude.send(event.data)
        try:
            if isinstance(event, Denied):
                known = event.user if event.user in keyring.users else None
                raise Unauthenticated(event.why, known)
            key = keyring.key(event.user, event.slot)
            user = self.let_in(prelude, key.user, key)
        except Unauthenticated as error:
            error.last_words = event.data if isinstance(event, Denied) else exchange.denial()
            raise
        yield from prelude.send(event.data)
        return user


def _forget(prelude: Prelude) -> None:
    """Takes what a client had sent behind a wrong answer: closed with that unread, its connection
    would be reset, where the tutorials' clients expect its end."""
    with suppress(OSError):
        prelude.request.recv(CHUNK)
