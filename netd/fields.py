"""The JSON object of a header: parsed with bounds, read by name and type. Pure.

A text that is not sound JSON (RFC 8259, at most 32 deep, no key twice, no NaN, no NUL, no lone
surrogate, no endless number) is a ProtocolError. A sound object that lacks a field, or has one of
another type than it should, is Refused by the typed getters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Final, TypeVar

from netd.errors import ProtocolError, Refused

DEEPEST = 32
"""Objects and arrays within each other: json.loads recurses, and a thread's stack is small."""
LONGEST_NUMBER = 64
"""Characters. A double or 64 bits need 24; int() is quadratic, and raises above 4,300 digits."""

_MARK = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)
_UNFIT = re.compile("[\0\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")

T = TypeVar("T")
D = TypeVar("D")


class _Required(Enum):
    REQUIRED = "the field has no default"


REQUIRED: Final = _Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Fields:
    """The members of a JSON object, read by name and type.

    A getter raises Refused, naming the field, when it is missing or not what it should be.
    With a `default` it may be missing; with a default of None it may also be null.
    """

    members: dict[str, object]
    path: str = ""

    def text(self, name: str, *, limit: int, default: D | _Required = REQUIRED) -> str | D:
        """A string of at most `limit` bytes in UTF-8. It holds no NUL and no lone surrogate."""
        expected = f"text of at most {limit} bytes"
        return self._read(name, default, expected, (str,), lambda s: len(s.encode()) <= limit)

    def integer(
        self, name: str, *, minimum: int, maximum: int, default: D | _Required = REQUIRED
    ) -> int | D:
        """A number without fraction and exponent; true and 1.0 are none."""
        span = f"{minimum} to {maximum}"
        expected = f"a whole number from {span}" if minimum < maximum else str(minimum)
        return self._read(name, default, expected, (int,), lambda n: minimum <= n <= maximum)

    def number(
        self, name: str, *, minimum: float, maximum: float, default: D | _Required = REQUIRED
    ) -> float | D:
        """A number, whole or not; true is none."""
        expected = f"a number from {minimum} to {maximum}"
        return self._read(name, default, expected, (int, float), lambda n: minimum <= n <= maximum)

    def flag(self, name: str, *, default: D | _Required = REQUIRED) -> bool | D:
        """True or false; 0 and 1 are neither."""
        return self._read(name, default, "true or false", (bool,), lambda _: True)

    def _read(
        self,
        name: str,
        default: D | _Required,
        expected: str,
        types: tuple[type[T], ...],
        fits: Callable[[T], bool],
    ) -> T | D:
        value = self.members.get(name, REQUIRED)
        if not isinstance(default, _Required) and (value is REQUIRED or value is default is None):
            return default
        # By exact type: to isinstance, True is an int.
        for exactly in types:
            if type(value) is exactly and fits(value):
                return value
        found = "but it is missing" if value is REQUIRED else f"not {describe(value)}"
        raise Refused(f"{_join(self.path, name)}: expected {expected}, {found}")

    # Last, because its name hides the type `object` from the annotations below it.
    def object(self, name: str, *, default: D | _Required = REQUIRED) -> Fields | D:
        """An object; its own fields go by the name of `name.field` in errors."""
        found = self._read(name, default, "an object", (dict,), lambda _: True)
        return Fields(found, _join(self.path, name)) if isinstance(found, dict) else found


def parse_object(encoded: bytes, name: str = "header") -> Fields:
    """The object in a JSON text in UTF-8. Raises ProtocolError, naming the field at fault, or the
    whole by `name`."""
    try:
        _check_depth(encoded)
        # Surrogates pass here because the walk can name the field that holds them.
        members = _settle(_DECODER.decode(encoded.decode("utf-8", "surrogatepass")), "")
    except UnicodeDecodeError as fault:
        raise ProtocolError(f"{name}: not UTF-8 at byte {fault.start}") from None
    except json.JSONDecodeError as fault:
        raise ProtocolError(f"{name}: not JSON: {fault.msg} (character {fault.pos})") from None
    except _UnfitError as fault:
        raise ProtocolError(f"{fault.path or name}: {fault.what}") from None
    if not isinstance(members, dict):
        raise ProtocolError(f"{name}: expected an object, not {describe(members)}")
    return Fields(members)


def describe(value: object) -> str:
    """What an error says was found. A string may be a secret of the peer, and is not repeated."""
    if isinstance(value, str):
        return f"text of {len(value.encode())} bytes"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    return json.dumps(value)


class _Pairs(list[tuple[str, object]]):
    """An object as it was written, where a key may stand twice."""


class _UnfitError(Exception):
    """Something in the text is not to be had; `path` is its field, empty for the whole."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path, self.what = path, what


class _Fault(str):
    """Stands for a number that is refused, until the walk knows the path of its field."""


def _number(text: str) -> object:
    if len(text) > LONGEST_NUMBER:
        return _Fault(f"a number of {len(text)} characters (at most {LONGEST_NUMBER})")
    if text.removeprefix("-").isdigit():
        return int(text)
    number = float(text)
    return number if isfinite(number) else _Fault(f"{text} is not a finite number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_number, parse_float=_number, parse_constant=_number
)


def _check_depth(encoded: bytes) -> None:
    if encoded.count(b"[") + encoded.count(b"{") <= DEEPEST:
        return
    depth, quoted = 0, False
    for match in _MARK.finditer(encoded):
        mark = match[0]
        if mark == b'"':
            quoted = not quoted
        elif not quoted:
            depth += (mark in b"[{") - (mark in b"]}")
        if depth > DEEPEST:
            raise _UnfitError("", f"objects and arrays more than {DEEPEST} deep")


def _settle(value: object, path: str) -> object:
    if isinstance(value, _Fault):
        raise _UnfitError(path, value)
    if isinstance(value, _Pairs):
        return _settle_object(value, path)
    if isinstance(value, list):
        return [_settle(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, str) and (unfit := _UNFIT.search(value)):
        what = "NUL" if unfit[0] == "\0" else "a lone surrogate"
        raise _UnfitError(path, f"holds {what}")
    return value


def _settle_object(pairs: _Pairs, path: str) -> dict[str, object]:
    members: dict[str, object] = {}
    for key, value in pairs:
        field = _join(path, key)
        _settle(key, field)
        if key in members:
            raise _UnfitError(field, "given twice")
        members[key] = _settle(value, field)
    return members


def _join(path: str, key: str) -> str:
    # Ends in logs and on terminals: what is not a plain name is quoted, escaped and cut.
    name = key if _PLAIN_KEY.fullmatch(key) else ascii(key[:40])
    return f"{path}.{name}" if path else name
