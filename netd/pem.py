"""PEM files: certificates and the keys that belong to them, and what is wrong with them."""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from netd.stanza import FilePath, Stanza

# The largest file that is read; all roots of Debian together have 220 KB.
LARGEST_FILE = 2**20
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_KEY = re.compile(rb"-----BEGIN ([A-Z0-9]+ )?PRIVATE KEY-----")
_ENCRYPTED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")

Context = Callable[[], ssl.SSLContext]
"""Makes a context to try files with."""


class Pair(Stanza):
    """A certificate and its key."""

    certificate: FilePath
    """The certificate in PEM, and after it those that lead to its root."""
    key: FilePath | None = None
    """Its key in PEM, which nobody else may read; null: it is in the certificate's file."""

    @property
    def key_file(self) -> Path:
        """The file that holds the key."""
        return self.key or self.certificate


class Fault(NamedTuple):
    """What is wrong with the files of a stanza."""

    path: tuple[str, ...]
    """The key, below `tls`."""
    what: str
    hint: str

    def __str__(self) -> str:
        return f"{'.'.join(('tls', *self.path))}: {self.what} ({self.hint})"


def certificate_in(file: Path) -> bytes:
    """The first certificate of a file (DER), which is the server's own. Raises OSError, and
    ValueError when there is none."""
    return _first(_read(file))


def validity(der: bytes) -> tuple[datetime, datetime]:
    """From when until when a certificate is valid. Raises ValueError when it is damaged."""
    # Here, since it takes some 25 ms, which a netd without TLS need not spend.
    from asn1crypto.x509 import Certificate  # type: ignore[import-untyped]

    try:
        found = Certificate.load(der)
        return found.not_valid_before, found.not_valid_after
    except (TypeError, KeyError) as error:
        raise ValueError(f"the certificate is damaged: {error}") from None


def find_faults_of_roots(file: Path, path: tuple[str, ...], context: Context) -> Iterator[Fault]:
    """What is wrong with a file of roots."""
    try:
        _read(file)
        context().load_verify_locations(file)
    except (OSError, ValueError) as error:
        yield Fault(path, f"{file}: {_why(error)}", _remedy(error))


def find_faults(pair: Pair, base: tuple[str, ...], context: Context) -> Iterator[Fault]:
    """What is wrong with a certificate, its key, or the two together."""
    at_certificate = (*base, "certificate")
    at_key = at_certificate if pair.key is None else (*base, "key")
    found = True
    for path, file, look in (
        (at_certificate, pair.certificate, _check_certificate),
        (at_key, pair.key_file, _check_key),
    ):
        try:
            look(file)
        except (OSError, ValueError) as error:
            found = False
            yield Fault(path, f"{file}: {_why(error)}", _remedy(error))
    if not found:
        return
    try:
        context().load_cert_chain(pair.certificate, pair.key, "")
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            what = f"{pair.key_file}: the key is not that of {pair.certificate}"
            yield Fault(at_key, what, "name the two that belong together")
        else:
            what = f"{pair.certificate}: OpenSSL does not take it: {_why(error)}"
            yield Fault(at_certificate, what, "make another pair")


def _check_certificate(file: Path) -> None:
    data = _read(file)
    validity(_first(data))


def _check_key(file: Path) -> None:
    data = _read(file)
    if _ENCRYPTED.search(data):
        raise ValueError("the key has a password, which nobody is there to type")
    if not _KEY.search(data):
        raise ValueError("there is no key in it")
    if file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise PermissionError(0, "others can read the key")


def _read(file: Path) -> bytes:
    """A file as it is; a FIFO would hang us, and a device has no end."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a file")
        data = opened.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
    return data


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)


def _remedy(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "chmod it to 0640 or less" if not error.errno else "let the user of netd read it"
    return "name a PEM file"


def _first(data: bytes) -> bytes:
    if _BEGIN not in data:
        raise ValueError("there is no certificate in it")
    text = data[data.index(_BEGIN) :].partition(_END)[0] + _END
    return ssl.PEM_cert_to_DER_cert(text.decode("ascii"))
