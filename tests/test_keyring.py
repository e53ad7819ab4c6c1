"""The key of a user in a handshake of TLS, where one alone can be tried."""

from __future__ import annotations

import pytest

from netd.auth.keyring import Key, Keyring, User
from netd.verifier import Verifier

ALICE, BOB, CAROL = User("alice"), User("bob"), User("carol")
SEED = b"the seed of decoys, which stays"
NOW = 1000.0


def key(
    user: User, secret: bytes | None, start: float | None = None, end: float | None = None
) -> Key:
    """A key whose verifier does not matter here."""
    return Key(user, Verifier.decoy(SEED, user.name), secret, start, end)


def chosen(*keys: Key, name: str = "alice") -> bytes | None:
    """The secret of the key that is taken for a user now, if there is one."""
    found, secret = Keyring([ALICE, BOB, CAROL], keys, SEED).preshared(name, NOW)
    assert found is None or found.secret == secret
    return None if found is None else secret


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([key(ALICE, b"one")], b"one"),
        ([key(ALICE, b"new", NOW), key(ALICE, b"old", None, NOW + 7)], b"old"),
        ([key(ALICE, b"old", None, NOW + 7), key(ALICE, b"new", NOW, NOW + 99)], b"old"),
        ([key(ALICE, b"new", NOW - 7), key(ALICE, b"old", None, NOW)], b"new"),
        ([key(ALICE, b"new", NOW + 1), key(ALICE, b"old")], b"old"),
        ([key(ALICE, b"over", None, NOW)], b"over"),
        ([key(BOB, b"his"), key(ALICE, b"hers")], b"hers"),
        ([key(ALICE, None), key(ALICE, b"one")], b"one"),
    ],
)
def test_the_key_in_use_that_ends_first_is_taken(keys: list[Key], expected: bytes) -> None:
    """Then the one that follows it; one that is not in use only when there is no other."""
    assert chosen(*keys) == expected


@pytest.mark.parametrize("name", ["dave", "", "ALICE", "alice ", "é" * 100])
def test_nobody_has_a_key_that_nobody_has(name: str) -> None:
    """It is as long as others, stays the same, and differs from name to name."""
    for known in (Keyring([ALICE], [key(ALICE, b"one")], SEED), Keyring([], [], SEED)):
        found, secret = known.preshared(name, NOW)
        assert found is None
        assert len(secret) == 48
        assert known.preshared(name, NOW + 1) == (None, secret)
        assert known.preshared(f"{name}x", NOW)[1] != secret


def test_a_user_without_a_secret_is_nobody() -> None:
    """From a verifier no key can be made."""
    assert chosen(key(ALICE, None), key(BOB, b"his")) is None
    assert chosen(key(BOB, b"his"), name="carol") is None
