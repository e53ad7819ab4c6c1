"""The stage at which a client shows who it is (netd.prelude)."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from netd.auth import userfile
from netd.auth.keyring import Keyring
from netd.auth.porter import Porter
from netd.auth.stanza import AuthStanza
from netd.challenge import NONCE_SIZE, Challenge, Channel, Known
from netd.connection import CHUNK, peer_credentials
from netd.errors import Unauthenticated
from netd.prelude import READ, Prelude, Steps
from netd.scram import Denied, Exchange, Proven, end_point

NONCES = 64
"""Nonces that are drawn at once."""


class Authentication(Porter):
    """What a service with the key `auth` asks of each client; it is a stage."""

    def __init__(self, service: str, stanza: AuthStanza) -> None:
        """Raises ConfigError when the keys cannot be had."""
        source = stanza.users or stanza.key
        assert source is not None, "netd.auth.stanza finds this problem"
        load = userfile.load_shared if stanza.users is None else userfile.load
        super().__init__(service, source, load)
        self._digest = stanza.digest
        self._nonces: list[bytes] = []
        """Drawn beforehand: one call of the kernel brings many."""
        ways = {"hmac": self._by_challenge, "peer": self._by_uid, "certificate": self._by_name}
        self._find = ways[stanza.method]

    def __call__(self, prelude: Prelude) -> Steps:
        """Raises Unauthenticated when the client is nobody, or may not use the service."""
        return self._find(prelude)

    def _by_uid(self, prelude: Prelude) -> Steps:
        keyring = yield from self.keyring(prelude)
        uid = peer_credentials(prelude.request)[1]
        self.let_in(prelude, keyring.user_of_uid(uid))

    def _by_name(self, prelude: Prelude) -> Steps:
        keyring = yield from self.keyring(prelude)
        name = prelude.identity.certificate_name
        if name is None:
            raise Unauthenticated("the client has shown no certificate")
        self.let_in(prelude, keyring.user_of_certificate(name))

    def _by_challenge(self, prelude: Prelude) -> Steps:
        keyring = self.keys.current() or (yield from self.keyring(prelude))
        certificate = prelude.identity.server_certificate or None
        channel = Channel.to(prelude.listener, certificate)
        nonce = self._nonce()
        text = nonce + channel.tag(keyring.own_key(time.time()), nonce)
        challenge, event = Challenge(text, keyring.shared, self._digest), None
        yield from prelude.write(text)
        if prelude.interest != READ:
            yield READ  # nobody can have answered yet
        try:
            while event is None:
                if (data := prelude.take(challenge.wanted)) is None:
                    yield READ
                else:
                    event = challenge.judge(data)
            if isinstance(event, Known):
                key = keyring.classic(event.key)
                self.let_in(prelude, key.user, key)
                return
        except Unauthenticated:
            _forget(prelude)
            raise
        binding = None if certificate is None else end_point(certificate)
        exchange = Exchange(keyring.verifiers, binding, event.begun)
        yield from self._by_scram(prelude, keyring, exchange)

    def _nonce(self) -> bytes:
        try:
            return self._nonces.pop()
        except IndexError:
            drawn = os.urandom(NONCES * NONCE_SIZE)
        first, *self._nonces = (drawn[n * NONCE_SIZE :][:NONCE_SIZE] for n in range(NONCES))
        return first

    def _by_scram(self, prelude: Prelude, keyring: Keyring, exchange: Exchange) -> Steps:
        while not isinstance(event := exchange.next_event(), Proven | Denied):
            if event is None:
                exchange.receive_data((yield from prelude.receive_some(exchange.wanted)))
            else:
                yield from prelude.write(event.data)
        try:
            if isinstance(event, Denied):
                known = event.user if event.user in keyring.users else None
                raise Unauthenticated(event.why, known)
            key = keyring.key(event.user, event.slot)
            self.let_in(prelude, key.user, key)
        except Unauthenticated as error:
            error.last_words = event.data if isinstance(event, Denied) else exchange.denial()
            raise
        yield from prelude.write(event.data)


def _forget(prelude: Prelude) -> None:
    """Takes what a client had sent behind a wrong answer: closed with that unread, its connection
    would be reset, where the tutorials' clients expect its end."""
    with suppress(OSError):
        prelude.request.recv(CHUNK)
