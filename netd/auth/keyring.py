"""The keys that a service knows, and whose they are."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, NoReturn

from netd.auth.rights import EVERYTHING, Rights, allows
from netd.challenge import SharedKey
from netd.errors import Unauthenticated
from netd.identity import Identity
from netd.scram import SLOTS
from netd.verifier import Verifier

MAX_KEYS: Final = 2000
"""Keys that one file may hold: a classic client names no user, so that all of them are tried, in
some 5 ms."""
_PRESHARED_SIZE: Final = 48
"""Bytes of a secret that nobody has: as many as have those that netd makes."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may come in."""

    name: str
    rights: Rights = EVERYTHING
    uid: int | None = None
    """Its number on this machine, by which it is known on UNIX sockets."""
    certificate: str | None = None
    """The name in its certificate, by which it is known under TLS."""
    identity: Identity = field(init=False, repr=False, compare=False)
    """What is known of a client that has shown to be this user, and nothing else."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", Identity(self.name, self.rights))

    def check(self, service: str) -> None:
        """Raises Unauthenticated unless it may use a service."""
        if not allows(self.rights.services, service):
            raise Unauthenticated(f"{self.name} may not use {service}", self.name)


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A key of a user."""

    user: User
    verifier: Verifier
    secret: bytes | None = None
    """The key itself; without it, it is of no use to classic clients."""
    start: float | None = None
    """When it begins to be one, in seconds since 1970."""
    end: float | None = None
    """When it is one no more."""

    def check(self, now: float) -> None:
        """Raises Unauthenticated unless it is in use at a point of time."""
        if self.start is not None and now < self.start:
            self._refuse("begins to be used", self.start)
        if self.end is not None and now >= self.end:
            self._refuse("has ended", self.end)

    def is_in_use(self, now: float) -> bool:
        """Whether it can be used at a point of time."""
        return (self.start is None or now >= self.start) and (self.end is None or now < self.end)

    def _refuse(self, what: str, moment: float) -> NoReturn:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
        raise Unauthenticated(f"the key of {self.user.name} {what} on {when}", self.user.name)


class Keyring:
    """Users and their keys. It does not change: another one takes its place."""

    def __init__(
        self, users: Iterable[User], keys: Iterable[Key], seed: bytes | None = None
    ) -> None:
        """`keys` has those of one user in the order of their slots. `seed` is what decoys are made
        of, so that they stay the same when netd is restarted."""
        self.keys: Sequence[Key] = [*keys]
        self.users = {user.name: user for user in users}
        self._seed = seed or os.urandom(32)
        self._classic = [key for key in self.keys if key.secret is not None]
        self.shared = [SharedKey(key.secret) for key in self._classic if key.secret is not None]
        """What the answer of a classic client may have been made with."""
        owners = {key.user.name for key in self.keys}
        # A tag can be made with one key only. Where there are several users it is made with one
        # that nobody has: then clients who want to know the server have to speak version 2.
        self._sole = [*zip(self._classic, self.shared, strict=True)] if len(owners) == 1 else []
        self._nobodys = SharedKey(os.urandom(32))
        self._slots: dict[str, list[Key]] = {}
        for key in self.keys:
            self._slots.setdefault(key.user.name, []).append(key)
        self._preshared: dict[str, list[Key]] = {}
        for key in self._classic:
            self._preshared.setdefault(key.user.name, []).append(key)
        self._preshared_names = [*self._preshared]
        # Made beforehand: what is done for one name is done for all.
        self._known = {name: self._slots_of(name) for name in self._slots}
        self._names = [*self._known]
        self._by_uid = {user.uid: user for user in self.users.values() if user.uid is not None}
        self._by_certificate = {
            user.certificate: user for user in self.users.values() if user.certificate is not None
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.users)} users, {len(self.keys)} keys>"

    def own_key(self, now: float) -> SharedKey:
        """What the server shows that it has: the first key in use of a sole user."""
        for key, shared in self._sole:
            if key.is_in_use(now):
                return shared
        return self._nobodys

    def classic(self, index: int) -> Key:
        """The key that is the one of this index in `shared`."""
        return self._classic[index]

    def verifiers(self, name: str) -> Sequence[Verifier]:
        """Those of a user in SLOTS slots, or those of nobody, in which decoys fill the rest.

        The work is the same for all names, down to the memory that is looked at: what was not in
        the processor's cache for a user who exists would be seen in a hundred thousand tries."""
        decoys = self._decoys(name)
        if not self._known:
            return decoys
        others = self._names[int.from_bytes(decoys[0].stored[:4]) % len(self._names)]
        found = self._known.get(name)
        looked_at = self._known[others] if found is None else found
        b"".join([part for each in looked_at for part in (each.salt, each.stored, each.server)])
        return decoys if found is None else found

    def _decoys(self, name: str, like: Verifier | None = None) -> tuple[Verifier, ...]:
        return tuple(Verifier.decoy(self._seed, name, slot, like) for slot in range(SLOTS))

    def _slots_of(self, name: str) -> tuple[Verifier, ...]:
        own = [key.verifier for key in self._slots[name]]
        return (*own, *self._decoys(name, own[0]))[:SLOTS]

    def key(self, name: str, slot: int) -> Key:
        """The key of a user in one of the slots that `verifiers` has shown."""
        return self._slots[name][slot]

    def preshared(self, name: str, now: float) -> tuple[Key | None, bytes]:
        """The key by which a user is known in the handshake of TLS at a point of time, where one
        alone can be tried: of those in use the one that ends first, so that a new one takes over
        when the old one ends. Without one in use it is one that is not, which `Key.check` tells.
        For nobody, and for a user without a secret, None and a secret that nobody has.

        The work is the same for all names."""
        decoy = hmac.digest(self._seed, b"psk " + name.encode(), "sha512")[:_PRESHARED_SIZE]
        found = self._preshared.get(name)
        known = self._preshared_names
        stand_in = known[int.from_bytes(decoy[:4]) % len(known)] if known else ""
        keys = self._preshared.get(stand_in, []) if found is None else found
        # False comes first: those in use.
        chosen = min(keys, key=lambda key: (not key.is_in_use(now), key.end or inf), default=None)
        if found is None or chosen is None or chosen.secret is None:
            return None, decoy
        return chosen, chosen.secret

    def user_of_uid(self, uid: int) -> User:
        """Who a user of this machine is. Raises Unauthenticated."""
        if uid not in self._by_uid:
            raise Unauthenticated(f"no user has the uid {uid}")
        return self._by_uid[uid]

    def user_of_certificate(self, name: str) -> User:
        """Who has a certificate with this name. Raises Unauthenticated."""
        if name not in self._by_certificate:
            raise Unauthenticated("no user has a certificate of this name")
        return self._by_certificate[name]
