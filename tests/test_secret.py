"""Secrets: nothing shows them but what asks for them."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.secret import LONGEST, SHORTEST, Secret
from netd.stanza import Stanza

TEXT = "netd_this would be a key"


class Holder(Stanza):
    """A stanza with a key in it."""

    key: Secret


def test_a_secret_shows_itself_nowhere() -> None:
    """Neither printed nor formatted, nor in what holds it, nor in the dump of a stanza."""
    secret = Secret.parse(TEXT)
    holder = Holder(key=secret)
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret!s:>20}", repr([secret]), repr(holder),
        str(holder), holder.model_dump_json(), json.dumps(holder.model_dump(mode="json")),
        str(holder.model_dump()),
    ]  # fmt: skip
    assert all("Secret(***)" in text and "would" not in text for text in shown)
    assert secret.reveal() == TEXT.encode()


def test_a_secret_is_in_no_traceback() -> None:
    """Not even where the value itself is at fault."""
    try:
        Holder.model_validate({"key": TEXT * 20})
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]["msg"]
        assert "would" not in fault
    try:
        raise ValueError(Secret.parse(TEXT))
    except ValueError:
        assert "would" not in traceback.format_exc()


def test_a_secret_is_not_written_by_itself() -> None:
    """Neither pickled nor copied: there is one of it."""
    secret = Secret.parse(TEXT)
    for write in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not written"):
            write(secret)


def test_secrets_are_equal_by_what_they_are() -> None:
    """And to nothing else."""
    assert Secret.parse(TEXT) == Secret(TEXT.encode())
    assert Secret.parse(TEXT) != Secret.parse(TEXT + "!")
    assert Secret.parse(TEXT) != TEXT


def test_made_secrets_are_long_and_differ() -> None:
    """Of 256 random bits, in characters that mean nothing to a shell or to YAML."""
    made = {Secret.make().reveal() for _ in range(100)}
    assert len(made) == 100
    assert {len(key) for key in made} == {48}
    assert all(key.startswith(b"netd_") and key[5:].isalnum() for key in made)
    assert all(Secret.parse(key.decode()).reveal() == key for key in made)


@pytest.mark.parametrize("value", ["", "p4ss", "x" * 15, "x" * 257, "x" * 20 + "\n", "é" * 20, 5])
def test_what_is_no_key_is_refused_unsaid(value: object) -> None:
    """The reason names the fault, and not the value."""
    with pytest.raises(ValueError, match="key") as caught:
        Secret.parse(value)
    assert value in ("", 5) or str(value) not in str(caught.value)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_keys_are_printable_and_of_a_length(text: str) -> None:
    """What has 16 to 256 characters of ASCII is a key."""
    if SHORTEST <= len(text) <= LONGEST:
        assert Secret.parse(text).reveal() == text.encode()
    else:
        with pytest.raises(ValueError, match="cannot be used"):
            Secret.parse(text)
