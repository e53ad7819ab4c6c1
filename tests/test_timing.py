"""An unknown user and a wrong key take the same work: nobody finds out by a clock who is known.

Welch's t-test over 100,000 samples of each, taken in turns, as in "Dude, is my code constant time?"
(Reparaz, Balasch, Verbauwhede 2016): below 4.5 nothing is to be seen. What the machine does
meanwhile lengthens some of them, which are left out at the same percentile for both.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
from base64 import b64encode
from collections.abc import Callable
from time import perf_counter_ns

import pytest

from netd import frames
from netd.auth.keyring import Key, Keyring, User
from netd.challenge import SIZE, Challenge, SharedKey, answer
from netd.errors import Unauthenticated
from netd.scram import Denied, Exchange, Say
from netd.verifier import MECHANISM, Verifier

SAMPLES = 100_000
LARGEST_T = 4.5
_CROPPED = 0.9
"""The part of the samples that is looked at."""

SEED = b"the seed of decoys, which stays"
NAMES = [f"user{number:04}" for number in range(200)]
STRANGERS = [f"none{number:04}" for number in range(200)]
"""As long, and nobody's."""


def keyring() -> Keyring:
    """Users, each with a key."""
    users = [User(name) for name in NAMES]
    keys = []
    for user in users:
        secret = f"netd_the key of {user.name}".encode()
        salt = Verifier.decoy(SEED, user.name).salt
        keys.append(Key(user, Verifier.of(secret, salt), secret))
    return Keyring(users, keys, SEED)


def t_of(one: list[int], other: list[int]) -> float:
    """How sure it is that the two differ, by Welch's t-test."""
    limit = sorted(one + other)[int(len(one + other) * _CROPPED)]
    first, second = ([s for s in samples if s < limit] for samples in (one, other))
    spread = statistics.variance(first) / len(first) + statistics.variance(second) / len(second)
    return (statistics.fmean(first) - statistics.fmean(second)) / math.sqrt(spread)


def measure(one: Callable[[], int], other: Callable[[], int], samples: int) -> float:
    """The t of two measurements, taken in random turns."""
    found: tuple[list[int], list[int]] = [], []
    kinds = [0, 1] * samples
    random.shuffle(kinds)
    gc.disable()
    try:
        for index, kind in enumerate(kinds):
            found[kind].append((one, other)[kind]())
            if index % 1000 == 0:
                gc.collect()
    finally:
        gc.enable()
    return t_of(*found)


def a_guess(known: Keyring, users: list[str]) -> Callable[[], int]:
    """Measures how long the last message of a client with a wrong key is judged, in ns, with all
    that has to do with the name before it."""

    def once() -> int:
        hello = request(
            mechanism=MECHANISM, message=f"n,,n={random.choice(users)},r=fyko+d2lbbFgONRv9qkxdawL"
        )
        exchange = Exchange(known.verifiers)
        began = perf_counter_ns()
        feed(exchange, hello)
        event = exchange.next_event()
        took = perf_counter_ns() - began
        assert isinstance(event, Say)
        nonce = str(frames.decode(event.data, body_limit=0)[0].members["message"]).split(",")[0]
        proof = b64encode(random.randbytes(32)).decode()
        last = request(message=f"c=biws,{nonce},p={proof}")
        began = perf_counter_ns()
        feed(exchange, last)
        event = exchange.next_event()
        took += perf_counter_ns() - began
        assert isinstance(event, Denied)
        return took

    return once


def request(**fields: str) -> bytes:
    """A message of a client, whose key need not be computed."""
    return frames.encode({"v": 2, "id": 1, "cmd": "auth", **fields})


def feed(exchange: Exchange, data: bytes) -> None:
    """As the stage does."""
    while data:
        size = exchange.wanted
        exchange.receive_data(data[:size])
        data = data[size:]


def a_classic_guess(secrets: list[bytes], near: bool) -> Callable[[], int]:
    """Measures how long a wrong answer is judged, in ns: one with a key that nobody has, or one
    that is right but for its last bit. Both are computed each time, as what has been done before
    shows in a measurement too."""

    shared = [SharedKey(secret) for secret in secrets]

    def once() -> int:
        text = random.randbytes(SIZE)
        right = answer(text, random.choice(secrets), "md5")
        answers = answer(text, b"netd_another key", "md5"), right[:15] + bytes([right[15] ^ 1])
        challenge, said = Challenge(text, shared), answers[near]
        began = perf_counter_ns()
        try:
            challenge.judge(said)
        except Unauthenticated:
            return perf_counter_ns() - began
        raise AssertionError(said)

    return once


@pytest.mark.soak
def test_the_test_would_see_a_difference() -> None:
    """One of a comparison that stops at the first byte that differs, over 20,000 samples."""
    secret = random.randbytes(4096)

    def compare(other: bytes) -> int:
        began = perf_counter_ns()
        assert secret != other
        return perf_counter_ns() - began

    early, late = bytes(4096), secret[:-1] + bytes([secret[-1] ^ 1])
    assert abs(measure(lambda: compare(early), lambda: compare(late), 20_000)) > LARGEST_T


@pytest.mark.soak
def test_an_unknown_user_takes_the_time_of_a_wrong_key() -> None:
    """By SCRAM, where the client says who it is."""
    known = keyring()
    t = measure(a_guess(known, NAMES), a_guess(known, STRANGERS), SAMPLES)
    print(f"SCRAM, unknown user against wrong key: t = {t:.2f}")
    assert abs(t) < LARGEST_T


@pytest.mark.soak
def test_a_wrong_answer_takes_the_same_time_however_wrong_it_is() -> None:
    """By the challenge of the tutorials, where all keys are tried."""
    secrets = [key.secret for key in keyring().keys[:20] if key.secret is not None]
    t = measure(a_classic_guess(secrets, False), a_classic_guess(secrets, True), SAMPLES)
    print(f"HMAC, one bit wrong against another key: t = {t:.2f}")
    assert abs(t) < LARGEST_T
