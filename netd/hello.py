"""The first message of a TLS handshake, as far as it tells whether a client has a key that it
shares with the server. Pure.

    record     = 22 version[2] length[2] hello
    hello      = 1 length[3] version[2] random[32] session<1> suites<2> methods<1> extensions<2>
    extension  = type[2] content<2>
    versions   = 43: list<1> of version[2]
    keys       = 41: list<2> of (name<2> age[4]), and what shows that the client has them

as in RFC 8446, 4.1.2; `x<n>` is x behind its length in n bytes. In TLS 1.3 a client names its
keys, and the sessions that it would resume, which look like noise. In TLS 1.2 it merely has
a cipher suite for such keys in its list, and says the name later (RFC 4279).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SUITE: Final = 0xCCAC
"""ECDHE-PSK-CHACHA20-POLY1305 (RFC 7905), the one suite of TLS 1.2 with a shared key, forward
secrecy and authenticated encryption that OpenSSL has."""
TLS13: Final = 0x0304

_RECORD: Final = b"\x16\x03"
_HELLO: Final = 1
_VERSIONS, _KEYS = 43, 41
_PRINTABLE = frozenset(range(0x20, 0x7F))


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client begins with."""

    suites: frozenset[int]
    versions: frozenset[int]
    """None of these when it speaks no TLS 1.3."""
    names: tuple[bytes, ...]
    """The keys of TLS 1.3, and the tickets."""

    @classmethod
    def parse(cls, data: bytes) -> Hello:
        """One from the bytes that a connection begins with; others may follow. Raises ValueError
        when it is none, or not whole, or is cut into several records."""
        record = _Fields(data)
        if record.take(len(_RECORD)) != _RECORD:
            raise ValueError("no handshake")
        record.take(1)
        whole = _Fields(record.vector(2))
        if whole.number(1) != _HELLO:
            raise ValueError("no hello")
        hello = _Fields(whole.vector(3))
        hello.take(2 + 32)
        hello.vector(1)
        suites = _numbers(hello.vector(2))
        hello.vector(1)
        extensions = _extensions(hello.vector(2) if hello else b"")
        versions = _Fields(extensions.get(_VERSIONS, b"\0")).vector(1)
        return cls(suites, _numbers(versions), tuple(_names(extensions.get(_KEYS, b"\0\0"))))

    @property
    def offers_a_key(self) -> bool:
        """Whether the client shares a key with the server, or says so. What it names in TLS 1.3
        is taken for a key when it can be printed, and else for a ticket."""
        if TLS13 in self.versions:
            return any(name and _PRINTABLE.issuperset(name) for name in self.names)
        return SUITE in self.suites


class _Fields:
    """Bytes, taken from the front; ValueError when there are not as many."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, size: int) -> bytes:
        if len(self._data) < size:
            raise ValueError("it is cut off")
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """What stands behind its length in `size` bytes."""
        return self.take(self.number(size))


def _numbers(data: bytes) -> frozenset[int]:
    return frozenset(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))


def _extensions(data: bytes) -> dict[int, bytes]:
    fields, found = _Fields(data), {}
    while fields:
        kind = fields.number(2)
        found[kind] = fields.vector(2)
    return found


def _names(data: bytes) -> Iterator[bytes]:
    fields = _Fields(_Fields(data).vector(2))
    while fields:
        yield fields.vector(2)
        fields.take(4)
