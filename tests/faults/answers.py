"""Clients that do not show who they are: mute, slow, guessing, with what they have seen before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from harness import COMMAND, PATIENCE, environment, new_folder, read_all, read_exactly, wait_until
from knowing import by_hmac, by_scram

from faults.fault import ANY, Fault, LateError, Refusals, Sessions, Setup, ends_in_time
from faults.setups import config, running, service
from faults.target import Target
from netd.auth.userfile import SHARED
from netd.challenge import SIZE, Channel, answer, verify
from netd.errors import Unauthenticated

KEY = b"linhaifeng bang bang bang"
_MANY = 1000
_HELD = 5000
_WARM = 500
_MOST_MEMORY = 8192
"""Bytes for a client that has not shown who it is."""


def _asking(protocol: str, **keys: Any) -> dict[str, Any]:
    """The stanza of a service that asks its clients, and is lenient unless told otherwise."""
    return service(protocol, auth={"key": "key"}, **{"penalties": {"auth": "none"}, **keys})


@contextmanager
def _running() -> Iterator[Target]:
    services = {
        "upper": _asking("upper"),
        "other": _asking("upper"),
        "lines": _asking("Lines"),
        "mute": _asking("upper", handshake_timeout="2s"),
        "patient": _asking("upper", handshake_timeout="2m"),
        "guessed": _asking(
            "upper", penalties={"auth": "300ms", "max": "1s"}, banner_fail="{reason}\r\n"
        ),
    }
    with new_folder() as folder:
        (folder / "key").write_bytes(KEY)
        (folder / "key").chmod(0o600)
        with running(config(services), folder=folder) as target:
            yield target


GUARDED = Setup(_running)
"""Asks its clients."""


# -- what they send


def _say_nothing(target: Target, number: int) -> None:
    """Comes in and waits; while all of them do, one who knows the key is let in at once."""
    clients = [target.connect("mute") for _ in range(number)]
    for client in clients:
        read_exactly(client, SIZE)
    began = monotonic()
    known = target.connect("mute")
    by_hmac(known, KEY, more=b"abc")
    assert read_exactly(known, 3) == b"ABC"
    ends_in_time(began, 0, 0.25)
    known.close()
    for client in clients:
        assert read_all(client) == b""
    ends_in_time(began, 1, 3.5)


def _hold(target: Target, number: int) -> None:
    """Comes in with so many that what each costs is seen, and has each begin an answer of the kind
    that is kept longest."""
    before = 0
    for held in range(number):
        client = target.connect("patient")
        read_exactly(client, SIZE)
        client.sendall(b"NETD2 " + (2048).to_bytes(4, "little") + bytes(2000))
        if held == _WARM:
            before = target.memory()
    known = target.connect("patient")
    by_hmac(known, KEY, more=b"abc")
    assert read_exactly(known, 3) == b"ABC"
    each = (target.memory() - before) / (number - _WARM)
    print(f"{each:,.0f} bytes of memory for a client in the middle of an answer")
    assert each <= _MOST_MEMORY


def _trickle(target: Target) -> None:
    """Answers a byte every tenth of a second, for as long as it can."""
    client = target.connect("mute")
    right = answer(read_exactly(client, SIZE), KEY, "sha256")
    began = monotonic()
    client.settimeout(0.1)
    for byte in right * 10:
        try:
            client.sendall(bytes([byte]))
            if client.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    ends_in_time(began, 1.9, 3)


def _answer_by_bytes(target: Target, name: str) -> None:
    """Answers right, a byte at a time, with the next message at once behind it."""
    client = target.connect(name)
    for byte in answer(read_exactly(client, SIZE), KEY, "sha256") + b"abc\n":
        client.sendall(bytes([byte]))
    expected = {"upper": b"ABC\n", "lines": b"cba\n"}[name]
    assert read_exactly(client, 4) == expected


def _send_on_at_once(target: Target, name: str, user: str) -> None:
    """Has the next messages follow the answer in one piece, by each of the three ways."""
    expected = {"upper": b"ABC\nDEF\n", "lines": b"cba\nfed\n"}[name]
    for way in ("md5", "sha256", "version 2"):
        client = target.connect(name)
        if way == "version 2":
            by_scram(client, user, KEY, more=b"abc\ndef\n")
        else:
            by_hmac(client, KEY, "md5" if way == "md5" else "sha256", more=b"abc\ndef\n")
        assert read_exactly(client, 8) == expected
        client.close()


def _replay(target: Target) -> None:
    """Answers with what somebody else has answered."""
    first = target.connect("upper")
    seen = answer(read_exactly(first, SIZE), KEY, "sha256")
    first.close()
    client = target.connect("upper")
    read_exactly(client, SIZE)
    client.sendall(seen)
    assert read_all(client) == b""


def _reflect(target: Target) -> None:
    """Answers with the challenge, and with the challenge of another connection."""
    one, other = target.connect("upper"), target.connect("upper")
    challenges = [read_exactly(client, SIZE) for client in (one, other)]
    one.sendall(challenges[0])
    other.sendall(challenges[0])
    assert read_all(one) == read_all(other) == b""


def _relay(target: Target) -> None:
    """Shows the challenge of one service to whoever came for another: who knows how it is made
    sees by it where it comes from."""
    client, meant = target.connect("upper"), target.connect("other")
    relayed = read_exactly(client, SIZE)
    assert relayed != read_exactly(meant, SIZE)
    assert verify(relayed, KEY, Channel.to(client.getpeername()))
    assert not verify(relayed, KEY, Channel.to(meant.getpeername()))


def _guess(target: Target) -> None:
    """Tries keys from one address, and is kept out for longer each time; another comes in."""
    stays_out = []
    for number in range(4):
        guesser = target.connect("guessed", "127.0.0.2")
        read_exactly(guesser, SIZE)
        guesser.sendall(bytes([number]) * 32)
        assert read_all(guesser) == b"auth\r\n"
        began = monotonic()
        wait_until(lambda: _is_asked(target), 4)
        stays_out.append(monotonic() - began)
        known = target.connect("guessed", "127.0.0.3")
        by_hmac(known, KEY, more=b"abc")
        assert read_exactly(known, 3) == b"ABC"
        known.close()
    for stayed, expected in zip(stays_out, (0.3, 0.6, 1, 1), strict=True):
        assert stayed >= 0.8 * expected
        if stayed > expected + 0.5:
            raise LateError(f"kept out for {stayed:.3f} s in place of {expected:g} s")


def _is_asked(target: Target) -> bool:
    """Whether the guesser's address may come in; it leaves without an answer."""
    client = target.connect("guessed", "127.0.0.2")
    began = client.recv(SIZE)
    client.close()
    return len(began) == SIZE


def _guess_by_name(target: Target) -> None:
    """Tries to be somebody, and anybody."""
    told = set()
    for user in (SHARED, "root", "alice peer=192.0.2.1:5 reason=done"):
        try:
            by_scram(target.connect("upper"), user, b"not the key at all")
        except Unauthenticated as error:
            told.add(str(error))
    assert told == {"no such user, or not the key"}


def _babble(target: Target) -> None:
    """Sends what is no answer at all."""
    for words in (b"GET / HTTP/1.1\r\n\r\n", bytes(100_000), b"NETD2 " + b"\xff" * 50):
        client = target.connect("upper")
        read_exactly(client, SIZE)
        client.sendall(words)
        try:
            rest = read_all(client)
        except ConnectionResetError:
            continue  # it had sent more than anybody would have read
        assert not rest or b"not-authenticated" in rest


# -- keys that are none


def _check_key(target: Target, text: bytes, mode: int, expected: str) -> None:
    """Has `netd -t` look at a service with this key."""
    folder = target.netd.folder / "checked"
    folder.mkdir(exist_ok=True)
    key: Path = folder / "key"
    key.write_bytes(text)
    key.chmod(mode)
    file = folder / "netd.yaml"
    file.write_text(
        "services:\n  upper:\n    protocol: upper\n    listen: [tcp://127.0.0.1:9999]\n"
        "    auth: {key: key}\n"
    )
    ran = subprocess.run(
        [*COMMAND, "-t", "-c", str(file)],
        env=environment(folder), capture_output=True, text=True, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert ran.returncode == 78
    assert f"{file}:5:17: key: {key}" in ran.stderr
    assert expected in ran.stderr
    assert not text or text.decode() not in ran.stderr


_KEYS = {
    "readable by others": (KEY, 0o644, "mode is 0644"),
    "readable by a group": (KEY, 0o640, "mode is 0640"),
    "empty": (b"", 0o600, "0 keys"),
    "short": (b"fifteen letters", 0o600, "15 characters"),
}


def _refused(name: str, number: int) -> dict[str, int]:
    """What a service has counted of those that it asked and turned away."""
    return {f"{name}.admitted": number}


FAULTS = [
    Fault(
        "1,000 clients that never answer", GUARDED, partial(_say_nothing, number=_MANY),
        (Sessions("mute", _MANY, "handshake_timeout", 0, 0), Sessions("mute", 1, "eof", 3, 3)),
        alone=True,
    ),
    Fault(
        "an answer that never ends", GUARDED, _trickle,
        (Sessions("mute", 1, "handshake_timeout", 0, 0),),
    ),
    *(
        Fault(
            f"an answer byte by byte to {name}", GUARDED, partial(_answer_by_bytes, name=name),
            (Sessions(name, 1, "eof", 4, 4),),
        )
        for name in ("upper", "lines")
    ),
    *(
        Fault(
            f"an answer with more behind it to {name}", GUARDED,
            partial(_send_on_at_once, name=name, user=SHARED),
            (Sessions(name, 3, "eof", 24, 24),),
        )
        for name in ("upper", "lines")
    ),
    Fault(
        "a replayed answer", GUARDED, _replay,
        (Refusals("upper", 1, "auth"), Sessions("upper", 1, "eof", 0, 0)),
        counters=_refused("upper", 1),
    ),
    Fault(
        "a reflected challenge", GUARDED, _reflect, (Refusals("upper", 2, "auth"),),
        counters=_refused("upper", 2),
    ),
    Fault(
        "a challenge relayed to another listener", GUARDED, _relay,
        (Sessions("upper", 1, "eof", 0, 0), Sessions("other", 1, "eof", 0, 0)),
    ),
    Fault(
        "a key that is guessed", GUARDED, _guess,
        log={
            r"info +guessed: refused .* peer=127\.0\.0\.2:\S+ .* reason=auth$": 4,
            r"info +guessed: refused .* peer=127\.0\.0\.2:\S+ .* reason=banned$": ANY,
            r"info +guessed: session .* peer=127\.0\.0\.2:\S+ .* reason=eof$": 4,
            r"info +guessed: session .* peer=127\.0\.0\.3:\S+ user=shared .* reason=eof$": 4,
        },
        counters={
            "guessed.admitted": 12, "guessed.refused.auth": 4, "guessed.refused.banned": ANY,
            "guessed.ended.eof": 8, "guessed.bytes_in": 12, "guessed.bytes_out": 12,
        },
    ),
    Fault(
        "users that are guessed", GUARDED, _guess_by_name, (Refusals("upper", 3, "auth"),),
        counters=_refused("upper", 3),
    ),
    Fault(
        "no answer at all", GUARDED, _babble, (Refusals("upper", 3, "auth"),),
        counters=_refused("upper", 3),
    ),
    *(
        Fault(
            f"a key file that is {name}", GUARDED,
            partial(_check_key, text=text, mode=mode, expected=expected),
        )
        for name, (text, mode, expected) in _KEYS.items()
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""

SOAKS = [
    Fault(
        "5,000 clients in the middle of an answer",
        GUARDED,
        partial(_hold, number=_HELD),
        (Sessions("patient", _HELD + 1, "eof", 3, 3),),
    ),
]
"""Rows that take long."""
