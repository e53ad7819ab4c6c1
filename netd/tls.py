"""TLS: from a stanza of the configuration to contexts of OpenSSL, and what is wrong with its files.

What is offered is TLS 1.2 with forward secrecy and authenticated encryption, and TLS 1.3, as the
"intermediate" profile of Mozilla has it without its finite-field groups. Tickets let a client
resume a session without a key exchange; nothing is kept of it on this side.
"""

from __future__ import annotations

import platform
import re
import ssl
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from netd import pem
from netd.auth.source import KeySource
from netd.errors import ConfigError
from netd.pem import Fault, Pair
from netd.stanza import FilePath, Stanza
from netd.tlssocket import TlsSocket

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
PSK_CIPHERS = "kECDHEPSK+CHACHA20"  # netd.hello.SUITE
CAN_PSK = hasattr(ssl.SSLContext, "set_psk_server_callback") and getattr(ssl, "HAS_PSK", False)
"""Whether Python can ask for the keys of clients: 3.13 and later, unless OpenSSL cannot."""
FindsKey = Callable[[str | None], bytes]
"""The key of the user who a client says that it is."""
_OPTIONS = (
    ssl.OP_NO_COMPRESSION
    | ssl.OP_NO_RENEGOTIATION
    | ssl.OP_CIPHER_SERVER_PREFERENCE
    | ssl.OP_SINGLE_ECDH_USE
)  # fmt: skip
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


def parse_version(value: object) -> object:
    """Also `1.2` and `1.3`, as text or as the numbers that YAML takes them for."""
    return f"TLSv{value}" if str(value) in ("1.2", "1.3") else value


def check_server_name(name: str) -> str:
    """A name of a server in lower case, `www.example.org` or `*.example.org`, or ValueError."""
    if len(name) > 253 or not _NAME.fullmatch(name.lower()):
        raise ValueError(f"{name!r} is not the name of a server (write it like www.example.org)")
    return name.lower()


Version = Annotated[
    Literal["TLSv1.2", "TLSv1.3"],
    BeforeValidator(parse_version),
    WithJsonSchema({"enum": ["TLSv1.2", "TLSv1.3", "1.2", "1.3", 1.2, 1.3]}),
]
ServerName = Annotated[str, AfterValidator(check_server_name)]
Application = Annotated[str, Field(pattern="^[!-~]{1,255}$")]


class TlsStanza(Stanza):
    """TLS on all connections of the service."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["certificate"]}, {"required": ["psk"]}]}
    )

    certificate: FilePath | None = None
    """The certificate in PEM, and after it those that lead to its root; null: there is none, and
    clients come in by `psk` alone."""
    key: FilePath | None = None
    """Its key in PEM, which nobody else may read; null: it is in the certificate's file."""
    psk: KeySource | None = None
    """A file of users, as below `auth`, whose keys clients show in the handshake (TLS-PSK), with
    Python 3.13 and later. Whoever does needs no certificate, and sees none."""
    client_ca: FilePath | None = None
    """Roots in PEM, by which the certificates of clients are verified."""
    client_certificate: Literal["none", "optional", "required"] | None = None
    """Whether clients show a certificate; null: `required` with `client_ca`, else `none`. The
    common name in it becomes the session's user, unless `auth` finds out another."""
    min_version: Version = "TLSv1.2"
    """The oldest version that is spoken: TLSv1.2 or TLSv1.3."""
    alpn: list[Application] = []
    """Application protocols to agree upon, the best first (RFC 7301)."""
    sni: dict[ServerName, Pair] = {}
    """Other certificates (`certificate`, `key`), by the name that a client asks for:
    `www.example.org`, or `*.example.org` for all names of just one label more (RFC 6066)."""

    @property
    def pair(self) -> Pair | None:
        """The certificate and its key, if there are any."""
        if self.certificate is None:
            return None
        return Pair(certificate=self.certificate, key=self.key)

    @property
    def verification(self) -> ssl.VerifyMode:
        """Whether clients show a certificate."""
        wish = self.client_certificate or ("required" if self.client_ca else "none")
        return {
            "none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED,
        }[wish]  # fmt: skip


class Tls:
    """The TLS of one service. Sessions go on with the context that they began with."""

    def __init__(self, stanza: TlsStanza) -> None:
        """Reads the files. Raises ConfigError with all that is wrong with them."""
        self.stanza = stanza
        self.contexts = Contexts(stanza)
        _mind_server_names()

    def renew(self) -> None:
        """Reads the files anew, for clients that come from now on. Raises ConfigError, and what
        was read before stays in use. May be called from any thread."""
        self.contexts = Contexts(self.stanza)


class Contexts:
    """What OpenSSL needs for a stanza: a context for each pair of certificate and key."""

    def __init__(self, stanza: TlsStanza) -> None:
        """Raises ConfigError."""
        if faults := list(find_faults(stanza)):
            raise ConfigError(*map(str, faults))
        self._stanza = stanza
        self._certificates: dict[ssl.SSLContext, tuple[Path, bytes]] = {}
        self._default = None if stanza.pair is None else self._make(stanza.pair)
        self._by_name = {name: self._make(pair) for name, pair in stanza.sni.items()}
        if self._default is not None:
            self._default.sni_callback = self._choose

    def _make(self, pair: Pair) -> ssl.SSLContext:
        context = _certified(self._stanza, pair)
        self._certificates[context] = pair.certificate, pem.certificate_in(pair.certificate)
        return context

    def find(self, offer: FindsKey | None) -> ssl.SSLContext:
        """The context for a client that is to be shown a certificate, or whose key is found by
        an `offer`."""
        if offer is not None:
            return _by_key(self._stanza, offer)
        assert self._default is not None, "find_faults finds that there is no certificate"
        return self._default

    def certificate(self, context: ssl.SSLContext) -> bytes:
        """The certificate (DER) that a client with this context was shown; b"" for none."""
        return self._certificates[context][1] if context in self._certificates else b""

    def warnings(self, now: datetime | None = None) -> Iterator[str]:
        """What is not wrong with the certificates, but keeps clients from trusting them."""
        now = now or datetime.now(UTC)
        for file, certificate in self._certificates.values():
            begin, end = pem.validity(certificate)
            if now > end:
                yield (
                    f"the certificate {file} expired on {end:%Y-%m-%d %H:%M} UTC"
                    " (renew it, and reload)"
                )
            elif now < begin:
                yield (
                    f"the certificate {file} is not valid before {begin:%Y-%m-%d %H:%M} UTC"
                    " (is the clock right?)"
                )

    def _choose(self, sock: Any, name: str | None, default: ssl.SSLContext) -> None:
        """OpenSSL's call, in the middle of a handshake, with the name that the client asks for."""
        _note_name(sock, name, default)
        wildcard = f"*.{sock.server_name.partition('.')[2]}"
        context = self._by_name.get(sock.server_name) or self._by_name.get(wildcard)
        if context is not None:
            sock.context = context


def _note_name(sock: Any, name: str | None, _context: ssl.SSLContext) -> None:
    """OpenSSL's call where one certificate serves all names, or none."""
    if name is not None:
        sock.server_name = name.lower()


def find_faults(stanza: TlsStanza) -> Iterator[Fault]:
    """What is wrong with the files of a stanza, and with what it says of clients."""
    if stanza.psk is not None and not CAN_PSK:
        what = f"Python {platform.python_version()} cannot ask for shared keys (TLS-PSK)"
        hint = "run netd by Python 3.13 or later, or use client_ca or auth in place of psk"
        yield Fault(("psk",), what, hint)
    if stanza.pair is None:
        yield from _find_faults_without_certificate(stanza)
        return
    yield from pem.find_faults(stanza.pair, (), _context)
    for name, pair in stanza.sni.items():
        yield from pem.find_faults(pair, ("sni", name), _context)
    if stanza.client_ca is not None:
        yield from pem.find_faults_of_roots(stanza.client_ca, ("client_ca",), _context)
        if stanza.client_certificate == "none":
            what = "client_ca is there, but no certificate is asked for"
            yield Fault(("client_certificate",), what, "write optional or required")
    elif stanza.verification != ssl.CERT_NONE:
        what = "nothing says whose certificates are good"
        yield Fault(("client_certificate",), what, "add client_ca")


def _find_faults_without_certificate(stanza: TlsStanza) -> Iterator[Fault]:
    if stanza.psk is None:
        hint = "add certificate: server.pem, or psk: users.yaml"
        yield Fault(("certificate",), "tls has no certificate", hint)
        return
    asked = {
        "key": stanza.key, "client_ca": stanza.client_ca, "sni": stanza.sni,
        "client_certificate": stanza.client_certificate in ("optional", "required"),
    }  # fmt: skip
    for key in (key for key, value in asked.items() if value):
        yield Fault((key,), f"{key} is of no use without a certificate", "add certificate")


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = TlsSocket
    context.set_ciphers(CIPHERS)
    context.options |= _OPTIONS
    return context


def _begun(stanza: TlsStanza) -> ssl.SSLContext:
    context = _context()
    context.minimum_version = _VERSIONS[stanza.min_version]
    if stanza.alpn:
        context.set_alpn_protocols(stanza.alpn)
    return context


def _by_key(stanza: TlsStanza, offer: FindsKey) -> ssl.SSLContext:
    """A context for a single client, who can come in by its key alone: there is no certificate,
    and nothing to resume. In a context that several share, OpenSSL would let a client of TLS 1.2
    resume its session by the number of that, without asking for the key, and so without saying
    whose it is. Besides, it takes keys in TLS 1.3 only with ciphers that go with SHA-256, which it
    prefers where there is no certificate."""
    context: Any = _begun(stanza)  # Python's stubs know the callback from 3.13 on
    context.set_ciphers(PSK_CIPHERS)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.sni_callback = _note_name
    context.set_psk_server_callback(offer)
    return context  # type: ignore[no-any-return]


def _certified(stanza: TlsStanza, pair: Pair) -> ssl.SSLContext:
    context = _begun(stanza)
    context.load_cert_chain(pair.certificate, pair.key, "")
    if stanza.client_ca is not None:
        context.load_verify_locations(stanza.client_ca)
    context.verify_mode = stanza.verification
    return context


def _mind_server_names() -> None:
    """Has Python not write a traceback to standard error for a client that asks for a name which
    is not ASCII. It gets an alert all the same."""
    before: Any = sys.unraisablehook
    if getattr(before, "minds_server_names", False):
        return

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, UnicodeDecodeError) and error.object == unraisable.object):
            before(unraisable)

    hook.minds_server_names = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
