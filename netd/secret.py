"""What nobody may see: it shows itself in no log, no dump and no traceback."""

from __future__ import annotations

import hmac
import secrets
import string
from typing import Any, NoReturn

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

# RFC 2104, 3: a key shorter than the output of the hash weakens it; MD5's is the shorter one.
SHORTEST = 16
LONGEST = 256
# So that programs which look for secrets in what is published know one.
PREFIX = "netd_"
_LETTERS = string.ascii_letters + string.digits
_NUMBER = 43  # of 62 letters: 256 bits


class Secret:
    """A key. `reveal` alone gives it away, and whoever calls that sees to it what becomes of it."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The key itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written by itself")

    @classmethod
    def make(cls) -> Secret:
        """A new key, of 256 random bits, that can be written anywhere without quotes."""
        return cls((PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(_NUMBER))).encode())

    @classmethod
    def parse(cls, text: object) -> Secret:
        """A key as it stands in a file. Raises ValueError, which does not repeat it."""
        if isinstance(text, Secret):
            return text
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise ValueError("it is not a key (write printable ASCII characters, in quotes)")
        if not SHORTEST <= len(text) <= LONGEST:
            raise ValueError(
                f"a key of {len(text)} characters cannot be used (write {SHORTEST} to {LONGEST};"
                " `openssl rand -hex 32` makes a good one)"
            )
        return cls(text.encode())

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: Any, _handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(repr)
        )
