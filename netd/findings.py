"""What is wrong with a configuration, each fault as `FILE:LINE:COLUMN: what (hint)`.

pydantic finds the faults and says where in the values they are; here they are put in words for
the person who wrote the file, with the place in it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from netd.document import Document, Mark, Path, Problem
from netd.stanza import descriptions, format_duration, format_size

MAX_LISTED: Final = 12  # names that a hint lists; more than these nobody reads in a terminal
MAX_FAULTS: Final = 100  # of one stanza; nobody reads further before putting these right
MAX_VALUE: Final = 60  # characters of a value that are repeated
MAX_TEXT: Final = 400  # characters of what a validator says

# Where a value of the configuration was written: the file, and the path in it.
Origin = Callable[[Path], tuple[Document, Path]]

M = TypeVar("M", bound=BaseModel)

_YES_NO: Final = {
    **dict.fromkeys(("yes", "on", "y"), "true"),
    **dict.fromkeys(("no", "off", "n"), "false"),
    **{word: word for word in ("true", "false")},
}


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint at the name that was meant: `did you mean …?`, or else which names there are."""
    known = sorted(words)
    if close := difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    return f"there are: {', '.join(known)}"


def _nearest_key(word: str, keys: Collection[str]) -> str:
    if not keys:
        return "take it out: no key can stand here"
    hint = nearest(word, keys)
    many = len(keys) > MAX_LISTED and hint.startswith("there are")
    return "`netd --schema` lists all keys" if many else hint


def shown(value: object) -> str:
    """A value of the file, as it may have been written there, and not too long."""
    if isinstance(value, str):
        return f"'{_clipped(value, MAX_VALUE)}'"
    return _clipped(json.dumps(value, default=str, ensure_ascii=False), MAX_VALUE)


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def said(mark: Mark, key: str, error: Exception, value: object, hint: str = "") -> Problem:
    """A problem in the words of a validator, which repeat the value as Python writes it."""
    text = str(error).replace(repr(value), shown(value))
    return Problem(mark, f"{key}: {_clipped(text, MAX_TEXT)}", hint)


def validate(
    model: type[M], values: dict[str, Any], context: dict[str, Any], spare: dict[str, Any]
) -> tuple[M, list[ErrorDetails], set[str]]:
    """A stanza of those values that have no fault, the faults, and the keys that are left out.

    `spare` holds values for the keys that the stanza cannot be without. A fault of the stanza as
    a whole leaves out all keys."""
    try:
        return model.model_validate(values, context=context), [], set()
    except ValidationError as error:
        faults = error.errors(include_url=False)
    faulty = {str(fault["loc"][0]) for fault in faults if fault["loc"]}
    try:
        good = {key: value for key, value in values.items() if key not in faulty}
        return model.model_validate(spare | good, context=context), faults, faulty
    except ValidationError:
        return model.model_validate(spare, context=context), faults, set(model.model_fields)


def of_validation(
    faults: Sequence[ErrorDetails], model: type[BaseModel], origin: Origin
) -> Iterator[Problem]:
    """The faults that pydantic found in the values of a model."""
    for fault in faults[:MAX_FAULTS]:
        document, path = origin(fault["loc"])
        # What is missing may stand in the part that could not be read.
        if document.complete or fault["type"] not in ("missing", "too_short"):
            yield _problem(fault, model, document, _written(document.value, path))
    if more := faults[MAX_FAULTS:]:
        document, path = origin(more[0]["loc"])
        what = f"{len(more)} more faults follow"
        yield Problem(document.mark(path), what, "put those above right first")


def _problem(
    fault: ErrorDetails, model: type[BaseModel], document: Document, path: Path
) -> Problem:
    loc = fault["loc"]
    match fault["type"]:
        case "extra_forbidden":
            hint = _nearest_key(str(loc[-1]), fields_at(model, loc[:-1]))
            return Problem(document.key_mark(path), f"unknown key {shown(loc[-1])}", hint)
        case "missing":
            what = f"{_key(path)}: the key {loc[-1]} is missing"
            meanings = (descriptions(kind).get(str(loc[-1])) for kind in _kinds_at(model, loc[:-1]))
            hint = _clipped(next(filter(None, meanings), ""), MAX_TEXT)
            return Problem(document.key_mark(path), what, hint)
        case "value_error":
            return said(document.mark(path), _key(path), fault["ctx"]["error"], fault["input"])
    what, hint = _in_words(fault, fields_at(model, loc))
    return Problem(document.mark(path), f"{_key(path)}: {what}", hint)


def _written(value: Any, path: Path) -> Path:
    """Those parts of a path that stand in the file: pydantic names the types of a union too."""
    found: list[str | int] = []
    for part in path:
        if isinstance(value, dict):
            there = part in value
        else:
            there = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if there:
            value = value[part]
            found.append(part)
    return tuple(found)


def fields_at(model: type[BaseModel], path: Path) -> dict[str, FieldInfo]:
    """The keys that may stand at a path below a stanza of this kind, and what is declared of
    them."""
    fields = [entry for kind in _kinds_at(model, path) for entry in kind.model_fields.items()]
    return {field.alias or name: field for name, field in fields}


def _kinds_at(model: type[BaseModel], path: Path) -> list[type[BaseModel]]:
    """The stanzas of which one may stand at a path below one of this kind."""
    kinds = [model]
    for part in path:
        fields = [kind.model_fields[str(part)] for kind in kinds if part in kind.model_fields]
        if fields:  # else it is the index of a list, or the name of a type
            kinds = [kind for field in fields for kind in models_in(field.annotation)]
    return kinds


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that the value of a field may be, or hold as its items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


def _key(path: Path) -> str:
    """The key at the end of a path, as people write it: `listen[1]`, `source_prefix`."""
    text = ""
    for part in reversed(path):
        if isinstance(part, str):
            return _clipped(part, MAX_VALUE) + text
        text = f"[{part}]{text}"
    return "the file" + text


def _in_words(fault: ErrorDetails, keys: Collection[str]) -> tuple[str, str]:
    """(what is wrong, what to write) for one of pydantic's kinds of fault."""
    value, context = fault["input"], fault.get("ctx", {})
    match fault["type"]:
        case "bool_type":
            meant = _YES_NO.get(value.lower()) if isinstance(value, str) else None
            return f"expected true or false, not {shown(value)}", f"write {meant}" if meant else ""
        case "int_type" | "int_from_float" | "float_type":
            return f"expected a number, not {shown(value)}", _as_number(value)
        case "string_type":
            plain = isinstance(value, int | float)
            return f"expected text, not {shown(value)}", "put it in quotes" if plain else ""
        case "list_type":
            return expected_list(value)
        case "dict_type":
            return expected_keys(value)
        case "model_type":
            return expected_keys(value, keys)
        case "literal_error":
            choices = context["expected"].replace("'", "").replace(" or ", ", ")
            return f"{shown(value)} is not one of {choices}", ""
        case "greater_than_equal":
            return f"{shown(value)} is too small", f"at least {_limit(context['ge'], value)}"
        case "less_than_equal":
            return f"{shown(value)} is too large", f"at most {_limit(context['le'], value)}"
        case "too_short":
            return "it is empty", f"write at least {context['min_length']}"
        case "string_too_long":
            return f"{shown(value)} is too long", f"at most {context['max_length']} characters"
    return f"{shown(value)} cannot be used", _clipped(fault["msg"], MAX_TEXT)


def _limit(limit: float, value: object) -> str:
    """A limit in the unit of the value: of what is written as text, sizes are whole numbers."""
    if not isinstance(value, str):
        return str(limit)
    return format_size(limit) if isinstance(limit, int) else format_duration(limit)


def expected_keys(value: object, keys: Collection[str] = ()) -> tuple[str, str]:
    """(what is wrong, what to write) where a value stands in place of `keys` with values."""
    if value is None:
        return "nothing stands below it", "write keys below it, or take it out"
    hint = _nearest_key("", keys) if keys else ""
    return f"expected keys with values, not {shown(value)}", hint


def expected_list(value: object) -> tuple[str, str]:
    """(what is wrong, what to write) where a value stands in place of a list."""
    if value is None:
        return "nothing stands below it", "write items below it, or take it out"
    text = json.dumps([value], ensure_ascii=False)
    short = len(text) <= MAX_VALUE and text.isprintable() and not isinstance(value, dict)
    hint = f"write {text}" if short else "write a list: [a, b]"
    return f"expected a list, not {shown(value)}", hint


def _as_number(value: object) -> str:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < MAX_VALUE:
        return f"write {value.lstrip('0') or 0}, without quotes or leading zeros"
    return "write a whole number" if isinstance(value, float) else ""
