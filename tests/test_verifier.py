"""Verifiers: computed, written, read, and those that nothing fits."""

from __future__ import annotations

from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.verifier import Verifier

KEY, SALT, SEED = b"netd_the key of alice", b"salt of 16 bytes", b"seed"
ALICE = Verifier.of(KEY, SALT)


def test_the_example_of_the_rfc_is_followed() -> None:
    """RFC 7677, 3: from password, salt and iterations to what the server keeps, and its proof."""
    salt = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    found = Verifier.of(b"pencil", salt)
    expected = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert str(found) == expected


def test_a_decoy_beside_a_key_has_its_salt() -> None:
    """A user with one key is not to be told from a user with two."""
    beside = Verifier.decoy(SEED, "alice", 1, ALICE)
    assert (beside.salt, beside.iterations) == (SALT, ALICE.iterations)
    assert beside.stored != ALICE.stored


@given(st.binary(min_size=12, max_size=64), st.binary(min_size=64, max_size=64))
def test_verifiers_are_read_as_they_are_written(salt: bytes, keys: bytes) -> None:
    """In the form of PostgreSQL."""
    verifier = Verifier(salt, keys[:32], keys[32:], 5000)
    assert Verifier.parse(str(verifier)) == verifier


@pytest.mark.parametrize(
    "text",
    [
        5, None, "", "x", "SCRAM-SHA-1$4096:c2FsdHNhbHRzYWx0$AA==:AA==", str(ALICE)[:-4],
        str(ALICE).replace("4096", "4095"), str(ALICE).replace("4096", "99999999"),
        str(ALICE).replace("4096", "many"), str(ALICE) + ":AA==", "SCRAM-SHA-256$4096:$:",
    ],
)  # fmt: skip
def test_what_is_no_verifier_is_refused_unsaid(text: object) -> None:
    """The reason tells how one looks, not what stands there."""
    with pytest.raises(ValueError, match="not a verifier") as caught:
        Verifier.parse(text)
    assert str(ALICE)[30:60] not in str(caught.value)


def test_a_verifier_does_not_show_itself() -> None:
    """It lets nobody in, but a guess could be checked with it."""
    assert "stored" not in repr(ALICE)
