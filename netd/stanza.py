"""The base of every configuration stanza, and the units that its keys are written in.

A key is declared once, as a field of a `Stanza` in the module that obeys it. The JSON Schema,
the reference page and the error texts all come from that declaration.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Durations are exact to the microsecond, so that what is read, written and read again is the same.
_MICROSECONDS = {"ms": 1000} | {unit: n * 10**6 for unit, n in _SECONDS.items()}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,3})?(?:ms|[smhd]))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|[smhd])")
_BYTES = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,15}) ?([A-Za-z]*)")
_RATE = re.compile(r"([0-9]{1,9})/(s|m|h)")
_LONGEST = 3650 * _MICROSECONDS["d"]
_LARGEST = 10**15 - 1


class Stanza(BaseModel):
    """A part of the configuration: immutable, without unknown keys, each value of its own type.

    A sequence is a `list`: what YAML writes as one, and strict validation takes for no other."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@cache
def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring below the declaration of each key says, each in one line.

    They are read from the source when somebody asks. pydantic would read those of all stanzas
    (`use_attribute_docstrings`) at each start, and take a fifth of it."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _docstrings(base)
    return found


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    try:
        source = inspect.getsource(model)
    except (OSError, TypeError):  # another distribution may have come without it
        return {}
    (declared,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for key, text in pairwise(declared.body):
        match key, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(words))):
                found[name] = " ".join(words.split())
    return found


def parse_duration(text: object) -> float | None:
    """Seconds in a duration such as `10s`, `500ms` or `1h30m`; None for `none`."""
    if text is None or text == "none":
        return None
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise ValueError(f"a duration needs a unit (write {text}s, {text}m or {text}h)")
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration (write it like 500ms, 10s, 5m, 1h or 1d)")
    parts = _DURATION_PART.findall(text)
    microseconds = sum(round(float(n) * _MICROSECONDS[unit]) for n, unit in parts)
    if not 0 < microseconds <= _LONGEST:
        raise ValueError(f"{text!r} is out of range (more than 0, at most 3650d; or none)")
    return microseconds / 10**6


def format_duration(seconds: float | None) -> str:
    """A short way to write a duration that `parse_duration` reads back as the same."""
    if seconds is None:
        return "none"
    microseconds = round(seconds * 10**6)
    for unit in ("d", "h", "m", "s"):
        if microseconds % _MICROSECONDS[unit] == 0:
            return f"{microseconds // _MICROSECONDS[unit]}{unit}"
    whole, rest = divmod(microseconds, 10**6)
    milliseconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return (f"{whole}s" if whole else "") + f"{milliseconds}ms"


def parse_size(text: object) -> int:
    """Bytes in a size such as `64KiB` or `10MB`; a bare number counts bytes."""
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= _LARGEST:
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match[2] and match[2] not in _BYTES):
        raise ValueError(f"{text!r} is not a size (write it like 512B, 64KiB, 10MB or 1GiB)")
    return int(match[1]) * _BYTES[match[2] or "B"]


def format_size(size: int) -> str:
    """The shortest exact way to write a size."""
    for unit in ("GiB", "GB", "MiB", "MB", "KiB", "KB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def parse_rate(text: object) -> float | None:
    """Events per second in a rate such as `10/s` or `600/m`; None for `none`."""
    if text is None or text == "none":
        return None
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a rate (write it like 10/s, 600/m or 100/h; or none)")
    return int(match[1]) / _SECONDS[match[2]]


def format_rate(rate: float | None) -> str:
    """The way to write a rate that `parse_rate` reads back."""
    if rate is None:
        return "none"
    for unit in ("s", "m", "h"):
        if (number := rate * _SECONDS[unit]) >= 1 and abs(number - round(number)) < 1e-6:
            return f"{number:.0f}/{unit}"
    return f"{rate * 3600:.0f}/h"


def parse_mode(text: object) -> int:
    """Permission bits from octal digits such as `"0660"`."""
    if isinstance(text, str) and re.fullmatch(r"0?[0-7]{3}", text):
        return int(text, 8)
    raise ValueError(f'{text!r} is not a file mode (write octal digits in quotes: "0660")')


def parse_path(text: object, info: ValidationInfo) -> Path:
    """The path of a file. A relative one begins in the `folder` of the validation context, which
    is that of the configuration; without one it stays relative to the working directory."""
    if not isinstance(text, str | Path) or str(text) in ("", ".") or "\0" in str(text):
        raise ValueError(f"{text!r} is not the path of a file (write it like /etc/netd/name.txt)")
    return Path((info.context or {}).get("folder", ""), text)


def _schema(pattern: str, example: str, **more: Any) -> WithJsonSchema:
    shape = {"type": "string", "pattern": f"^(?:{pattern})$", "examples": [example]}
    return WithJsonSchema(shape | more)


Duration = Annotated[
    float | None,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    _schema(_DURATION.pattern + "|none", "5m"),
]
"""Seconds; None when there is no limit."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": "^[0-9]{1,15} ?(B|KB|MB|GB|KiB|MiB|GiB)?$"},
            ],
            "examples": ["64KiB"],
        }
    ),
]
"""Bytes."""

Rate = Annotated[
    float | None,
    BeforeValidator(parse_rate),
    PlainSerializer(format_rate, return_type=str),
    _schema(_RATE.pattern + "|none", "10/s"),
]
"""Events per second; None when there is no limit."""

Mode = Annotated[
    int,
    BeforeValidator(parse_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str),
    _schema("0?[0-7]{3}", "0660"),
]
"""Permission bits."""

FilePath = Annotated[
    Path,
    BeforeValidator(parse_path),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["/etc/netd/name.txt"]}),
]
"""The path of a file; a relative one begins in the folder of the configuration."""
