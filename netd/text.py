"""Text for people: what strangers wrote, made fit to be shown, and words for numbers."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with escapes for what Python calls not printable: controls, bidi, surrogates."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else ascii(c)[1:-1] for c in text])


def counted(number: int, noun: str) -> str:
    """So many of something: `1 service`, `2 services`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
