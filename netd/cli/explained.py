"""What `netctl explain` shows: each rule in its order, and the one that decides."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from netd.cli import paint
from netd.cli.figures import NOTHING, moment, span
from netd.cli.layout import Column, lines, table, wrapped

_COLUMNS = [Column("  rule"), Column("verdict"), Column("compared")]
_SENTENCES = {"admit": "let in", "delay": "let in, after a wait", "refuse": "refused"}
_SPANS = ("left", "wait")


def explained(data: Any, width: int | None) -> list[Text]:
    """The rules with what they compared, then the decision."""
    deciding = _deciding(data)
    rows = [
        [
            ("→ " if step is deciding else "  ") + step["rule"],
            paint.verdict(step["verdict"]), _compared(step["detail"]) or NOTHING,
        ]
        for step in data["steps"]
    ]  # fmt: skip
    head = f"{data['service']}, {data['peer']}, {_when(data['at'])}"
    said = _SENTENCES.get(data["decision"], data["decision"])
    if data["reason"]:
        said += f": {data['reason']}"
    if deciding is not None:
        said += f" (by {deciding['rule']})"
    return [*lines(head, ""), *table(_COLUMNS, rows, width), Text(),
            *wrapped(paint.verdict(data["decision"], said), width)]  # fmt: skip


def _deciding(data: Any) -> dict[str, Any] | None:
    """The rule for which a client is not simply let in: the first that says what is decided."""
    steps: list[dict[str, Any]] = data["steps"]
    return next((step for step in steps if step["verdict"] == data["decision"]), None)


def _when(at: Any) -> str:
    return "now" if at is None else moment(at) if isinstance(at, int | float) else str(at)


def _compared(detail: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_shown(key, value)}" for key, value in detail.items() if value != "")


def _shown(key: str, value: Any) -> str:
    if key == "until":
        return "unban" if value is None else moment(value)
    if value is None:
        return "none"
    if key in _SPANS:
        return span(value)
    # Not with an exponent, as %g has it for a million.
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
