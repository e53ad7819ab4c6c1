"""What colours mean: green is well, yellow is for a while, red needs somebody."""

from __future__ import annotations

from rich.text import Text

_STATES = {
    "serving": "green",
    "paused": "yellow",
    "draining": "yellow",
    "stuck": "bold red",
    "stopped": "bright_black",
    "disabled": "bright_black",
}
STATES = frozenset(_STATES)
"""The words for the state of a service."""
_IDLE = {"stopped", "disabled"}
_LEVELS = {"warning": "yellow", "error": "bold red", "critical": "bold red"}
_VERDICTS = {
    "pass": "green", "admit": "green", "delay": "yellow", "refuse": "bold red",
    "off": "bright_black",
}  # fmt: skip


def state(word: str, text: str | None = None) -> Text:
    """The state of a service, or another text in its colour."""
    return Text(word if text is None else text, _STATES.get(word, ""))


def dot(word: str) -> Text:
    """The dot before a service, as systemctl has it: ● is at work, ○ is not."""
    return state(word, "○" if word in _IDLE else "●")


def event(word: str) -> Text:
    """The kind of an event."""
    return Text(word, _LEVELS.get(word, ""))


def verdict(word: str, text: str | None = None) -> Text:
    """What a rule says, or all of them together."""
    return Text(word if text is None else text, _VERDICTS.get(word, ""))


def added(text: str) -> Text:
    """What a change brings."""
    return Text(text, "green")


def removed(text: str) -> Text:
    """What a change takes away."""
    return Text(text, "red")


def changed(text: str) -> Text:
    """What a change alters."""
    return Text(text, "yellow")
