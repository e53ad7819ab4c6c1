"""The HMAC challenge: which answers let in, how many bytes they are, and what cannot be reused."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.challenge import (
    HELLO,
    NONCE_SIZE,
    SIZE,
    Challenge,
    Channel,
    Digest,
    Hello,
    Known,
    SharedKey,
    answer,
    verify,
)
from netd.errors import Unauthenticated

KEYS = [b"linhaifeng bang bang bang", b"Jedan has a big key!", b"sixteen bytes ok"]
SHARED = [SharedKey(key) for key in KEYS]
TEXT = bytes(range(100, 100 + SIZE))
TCP = Channel.to(("192.0.2.1", 9999))

digests: Any = st.sampled_from(["md5", "sha256"])
keys = st.integers(0, len(KEYS) - 1)


def judge(stream: bytes, chunks: Iterable[int], digest: Digest = "auto", text: bytes = TEXT) -> Any:
    """(what the server finds, what it has left of the stream), with reads of these sizes at most,
    then a byte at a time."""
    challenge, sizes, position = Challenge(text, SHARED, digest), iter(chunks), 0
    event = None
    while event is None:
        size = min(challenge.wanted, max(1, next(sizes, 1)))
        assert size > 0
        event = challenge.judge(stream[position : position + size])
        position += size
    return event, stream[position:]


def whole(stream: bytes, digest: Digest = "auto", text: bytes = TEXT) -> Any:
    """As `judge`, with all bytes there at once."""
    return judge(stream, [SIZE, SIZE], digest, text)


@given(keys, digests, st.binary(max_size=100), st.lists(st.integers(1, 40)))
def test_an_answer_is_taken_to_its_last_byte_and_no_further(
    key: int, digest: Literal["md5", "sha256"], following: bytes, chunks: list[int]
) -> None:
    """Whole, in pieces and byte by byte, with the next message behind it: that stays."""
    stream = answer(TEXT, KEYS[key], digest) + following
    for sizes in ([SIZE, SIZE], chunks, []):
        assert judge(stream, sizes) == (Known(key), following)
        assert judge(stream, sizes, digest) == (Known(key), following)


@given(st.binary(max_size=60), st.lists(st.integers(1, 40)))
def test_a_hello_is_known_from_16_bytes(following: bytes, chunks: list[int]) -> None:
    """With the beginning of what the client goes on with, which is never shorter."""
    stream = HELLO + bytes(NONCE_SIZE - len(HELLO)) + following
    for sizes in ([SIZE, SIZE], chunks, []):
        assert judge(stream, sizes) == (Hello(stream[len(HELLO) : NONCE_SIZE]), following)


@given(st.binary(min_size=16, max_size=100), st.lists(st.integers(1, 40)))
def test_no_bytes_but_the_right_ones_let_in(stream: bytes, chunks: list[int]) -> None:
    """Whatever they are, and however they come in."""
    for sizes in ([SIZE, SIZE], chunks, []):
        if not stream.startswith(HELLO):
            with pytest.raises(Unauthenticated, match="no key fits"):
                judge(stream, sizes)


@given(keys, digests, st.integers(0, 31), st.integers(1, 255))
def test_each_byte_counts(
    key: int, digest: Literal["md5", "sha256"], index: int, change: int
) -> None:
    """One that differs is as good as all of them."""
    right = bytearray(answer(TEXT, KEYS[key], digest))
    right[index % len(right)] ^= change
    with pytest.raises(Unauthenticated, match="no key fits"):
        whole(bytes(right) + b"the next message")


@given(keys, digests, st.integers(0, 31))
def test_half_an_answer_is_none(key: int, digest: Literal["md5", "sha256"], held: int) -> None:
    """Exactly what is missing is wanted."""
    full = answer(TEXT, KEYS[key], digest)
    held %= len(full)
    challenge = Challenge(TEXT, SHARED)
    for byte in full[:held]:
        assert challenge.judge(bytes([byte])) is None
    assert challenge.wanted == 16 - held % 16


def test_a_long_answer_whose_second_half_is_wrong_is_refused() -> None:
    """It was begun by somebody who knew."""
    right = answer(TEXT, KEYS[1], "sha256")
    with pytest.raises(Unauthenticated, match="no key fits"):
        whole(right[:16] + bytes(16))


@pytest.mark.parametrize(("allowed", "used"), [("md5", "sha256"), ("sha256", "md5")])
def test_the_other_digest_is_refused(allowed: Digest, used: Literal["md5", "sha256"]) -> None:
    """Where one digest alone is to be used."""
    with pytest.raises(Unauthenticated, match="no key fits"):
        whole(answer(TEXT, KEYS[0], used) + bytes(32), allowed)


def test_classic_answers_are_those_of_the_hmac_module() -> None:
    """As the tutorials' clients compute them."""
    assert answer(TEXT, KEYS[0], "md5") == hmac.new(KEYS[0], TEXT, "md5").digest()
    assert answer(TEXT, KEYS[0], "sha256") == hmac.new(KEYS[0], TEXT, hashlib.sha256).digest()


@given(st.binary(max_size=200), st.lists(st.tuples(st.binary(max_size=200), digests), max_size=4))
def test_a_shared_key_signs_as_the_hmac_module_does(
    key: bytes, messages: list[tuple[bytes, Literal["md5", "sha256"]]]
) -> None:
    """One message after the other, as though there had been none before."""
    shared = SharedKey(key)
    for message, digest in messages:
        assert shared.sign(message, digest) == hmac.digest(key, message, digest)


def test_more_than_is_wanted_cannot_be_given() -> None:
    """It would be lost to the service."""
    with pytest.raises(ValueError, match="more than was wanted"):
        Challenge(TEXT, SHARED).judge(bytes(17))


# -- what a knowing client sees


def challenge_by(channel: Channel, key: bytes = KEYS[0], nonce: bytes = bytes(16)) -> bytes:
    return nonce + channel.tag(SharedKey(key), nonce)


def test_the_tag_is_made_as_written_down() -> None:
    """Byte for byte, since others than netc may look at it."""
    nonce, certificate = bytes(range(16)), b"a certificate"
    message = b"netd-srv-1" + b"tcp:9999" + hashlib.sha256(certificate).digest() + nonce
    tag = hmac.new(KEYS[0], message, "sha256").digest()[:16]
    assert Channel.to(("::1", 9999, 0, 0), certificate).tag(SHARED[0], nonce) == tag
    message = b"netd-srv-1" + b"unix:/run/netd/upper.sock" + bytes(32) + nonce
    tag = hmac.new(KEYS[0], message, "sha256").digest()[:16]
    assert Channel.to("/run/netd/upper.sock").tag(SHARED[0], nonce) == tag


@pytest.mark.parametrize(
    "other",
    [
        Channel.to(("192.0.2.1", 9998)),
        Channel.to(("192.0.2.1", 99990)),
        Channel.to(("192.0.2.1", 9999), b"a certificate"),
        Channel.to("9999"),
    ],
    ids=["another port", "a longer port", "another certificate", "a UNIX socket"],
)
def test_a_relayed_challenge_is_seen(other: Channel) -> None:
    """It was made by a server with the right key, for another listener."""
    assert verify(challenge_by(TCP), KEYS[0], TCP)
    assert not verify(challenge_by(other), KEYS[0], TCP)
    assert not verify(challenge_by(TCP), KEYS[0], other)


def test_a_server_without_the_key_is_seen() -> None:
    """It sends random bytes, as the tutorials' server does, or has another key."""
    assert not verify(TEXT, KEYS[0], TCP)
    assert not verify(challenge_by(TCP, KEYS[1]), KEYS[0], TCP)


@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_no_bit_of_a_challenge_can_be_changed(index: int, change: int) -> None:
    """Nonce and tag belong together."""
    forged = bytearray(challenge_by(TCP))
    forged[index] ^= change
    assert not verify(bytes(forged), KEYS[0], TCP)


def test_an_answer_is_worth_nothing_a_second_time() -> None:
    """Replay: the next challenge has another nonce."""
    seen = answer(challenge_by(TCP), KEYS[0], "sha256")
    with pytest.raises(Unauthenticated, match="no key fits"):
        whole(seen, text=challenge_by(TCP, nonce=bytes(range(16))))


def test_a_challenge_is_no_answer() -> None:
    """Reflection: neither as it is, nor what can be cut from it."""
    text = challenge_by(TCP)
    for stream in (text, text[16:], text[16:] + text[:16], text[16:] * 2):
        with pytest.raises(Unauthenticated, match="no key fits"):
            whole(stream, text=text)


@given(st.text("abc:/9", max_size=12), st.booleans())
def test_no_client_can_be_made_to_sign_a_tag(path: str, secure: bool) -> None:
    """A classic client signs whatever 32 bytes it is sent, and a tag is over more than that."""
    channel = Channel.to(path, b"a certificate" if secure else None)
    signed = b"netd-srv-1" + channel.listener + channel.certificate + bytes(16)
    assert len(signed) > SIZE
    assert answer(signed[-SIZE:], KEYS[0], "sha256")[:16] != channel.tag(SHARED[0], bytes(16))


@given(st.text("ab:", max_size=4), st.text("ab:", max_size=4))
def test_no_two_listeners_have_the_same_tag(one: str, other: str) -> None:
    """What it is over can be read in one way only."""
    tags = [Channel.to(path).tag(SHARED[0], bytes(16)) for path in (one, other)]
    assert (tags[0] == tags[1]) == (one == other)
