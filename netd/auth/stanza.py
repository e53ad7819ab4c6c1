"""The key `auth` of a service: what is asked of a client, and what can be wrong with that."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Literal

from netd.address import Address
from netd.auth.source import KeySource, Source
from netd.challenge import Digest
from netd.document import Mark, Problem
from netd.errors import ConfigError
from netd.stanza import Stanza
from netd.tls import TlsStanza

MarkOf = Callable[..., Mark]
"""Where a key of the service stands, by its path."""


class AuthStanza(Stanza):
    """Who has to show who it is before the protocol begins, and how. One of `users` and `key` is
    needed; each is a file of mode 0600, `credential:NAME` for what systemd passes, or `env:NAME`
    for a variable."""

    method: Literal["hmac", "peer", "certificate"] = "hmac"
    """By the challenge of `hmac`, which clients of version 2 answer by SCRAM; by being a certain
    user of this machine (`peer`, on UNIX sockets); or by a `certificate`, under TLS."""
    digest: Digest = "auto"
    """What classic clients answer the challenge with; `auto` takes both."""
    users: KeySource | None = None
    """The file of users, which `netctl users` writes. Changes of it hold from the next second."""
    key: KeySource | None = None
    """In place of `users`: a file with one key that all clients have, or with two on two lines
    while the one takes over from the other."""
    insecure: bool = False
    """Whether to use `hmac` beyond this machine without TLS: whoever is between can relay it."""


def find_problems(
    auth: AuthStanza, listen: list[Address], tls: TlsStanza | None, mark: MarkOf,
    proxied: bool = False,
) -> Iterator[Problem]:  # fmt: skip
    """What is wrong with the stanza, or with where it is to hold; whether behind a proxy."""
    needs_users = auth.method != "hmac"
    if (auth.users is None) == (auth.key is None) or (needs_users and auth.users is None):
        what = f"auth: method {auth.method} needs {'users' if needs_users else 'users, or a key'}"
        if auth.users is not None:
            what = "auth: a service has users or a key, not both"
        yield Problem(mark("auth"), what, "write users: /etc/netd/users.yaml below it")
    elif auth.users is not None:
        yield from find_key_problems("auth", "users", auth.users, mark)
    elif auth.key is not None:
        yield from find_key_problems("auth", "key", auth.key, mark)
    if proxied and auth.method == "peer":
        what = "auth: method peer knows the proxy, and would take each of its clients for that"
        yield Problem(mark("auth"), what, "use method: hmac, or leave out proxy_protocol")
    for index, address in enumerate(listen):
        if found := _fault_at(auth, address, tls, proxied):
            yield Problem(mark("listen", index), f"{address}: {found[0]}", found[1])


def find_key_problems(place: str, key: str, source: Source, mark: MarkOf) -> Iterator[Problem]:
    """What is wrong with the file of users, or with the key, that a stanza names: `place` is
    its key, and `key` the one in it."""
    # Here, as it costs some time and memory, which services without users are to be spared.
    from netd.auth import userfile

    load = userfile.load_shared if key == "key" else userfile.load
    try:
        load(source)
    except ConfigError as error:
        for problem in error.problems:
            yield Problem(mark(place, key), f"{key}: {problem}")


def _fault_at(
    auth: AuthStanza, address: Address, tls: TlsStanza | None, proxied: bool
) -> tuple[str, str] | None:
    """(what is wrong, what to do) with an address that is to be guarded so."""
    if address.scheme in ("udp", "unix-dgram"):
        return "nobody can be asked there who sends datagrams", "give them a service without auth"
    if auth.method == "peer" and address.scheme == "tcp":
        return "users of this machine are known on UNIX sockets alone", "use unix:NAME.sock"
    if auth.method == "certificate" and (tls is None or tls.verification is ssl.CERT_NONE):
        return "clients show no certificates there", "set tls.client_ca: ROOTS.pem"
    if auth.method != "hmac" or auth.insecure or tls is not None:
        return None
    if proxied:
        return (
            "a proxy brings clients from elsewhere, and a challenge in the clear can be relayed",
            "write tls: below the service, or, if the proxy speaks TLS with them, insecure: true"
            " below auth",
        )
    if _is_local(address):
        return None
    return (
        "a challenge in the clear can be relayed by whoever is between",
        "write tls: below the service, or listen on loopback or on unix:NAME.sock,"
        " or set insecure: true below auth",
    )


def _is_local(address: Address) -> bool:
    """Whether nobody but this machine can connect to an address."""
    if address.scheme == "unix" or address.host == "localhost":
        return True
    try:
        return address.scheme == "tcp" and ip_address(address.host).is_loopback
    except ValueError:
        return False
