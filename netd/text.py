"""Text for people: what strangers wrote, made fit to be shown, and words for numbers."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii


def printable(text: str) -> str:
    """The text with escapes for what Python calls not printable: controls, bidi, surrogates."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else ascii(c)[1:-1] for c in text])


def field(text: str) -> str:
    """The text with escapes for spaces too: what follows it does not pass for a field of ours."""
    if text.isprintable() and " " not in text:
        return text
    return printable(text).replace(" ", "\\x20")


def quoted(text: str) -> str:
    """The text as JSON has it, in ASCII."""
    if not text.isascii():  # strict readers of JSON refuse a lone surrogate, even as an escape
        text = text.encode(errors="backslashreplace").decode()
    return encode_basestring_ascii(text)


def counted(number: int, noun: str) -> str:
    """So many of something: `1 service`, `2 services`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
