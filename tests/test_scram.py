"""SCRAM in frames of version 2: RFC 7677's example, both roles, and everything that is refused."""

from __future__ import annotations

import hashlib
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import certificates
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd import frames
from netd.challenge import HELLO
from netd.errors import Unauthenticated
from netd.scram import LONGEST_HEADER, SLOTS, Client, Denied, Exchange, Proven, Say, end_point
from netd.verifier import Verifier

KEY, OLD_KEY, OTHER_KEY = b"netd_the key of alice", b"netd_her key before", b"netd_another's key"
SALT, SEED = b"salt of 16 bytes", b"seed"
ALICE = [Verifier.of(KEY, SALT), Verifier.of(OLD_KEY, SALT)]


def verifiers(name: str) -> Sequence[Verifier]:
    """Those of alice, and decoys for everybody else."""
    if name == "alice":
        return ALICE
    return [Verifier.decoy(SEED, name, slot) for slot in range(SLOTS)]


def take(exchange: Exchange, stream: bytes, chunks: Iterable[int] = ()) -> tuple[Any, bytes]:
    """(the next event, what is left of the stream), with reads of these sizes at most, then a
    byte at a time."""
    sizes, position = iter(chunks), 0
    while (event := exchange.next_event()) is None:
        assert exchange.wanted > 0
        assert position < len(stream), "more is wanted than there is"
        size = min(exchange.wanted, max(1, next(sizes, 1)))
        exchange.receive_data(stream[position : position + size])
        position += size
    return event, stream[position:]


def whole(exchange: Exchange, stream: bytes) -> Any:
    """As `take`, with all bytes there at once, of which none are left."""
    event, left = take(exchange, stream, [LONGEST_HEADER] * 10)
    assert left == b""
    return event


def reply(data: bytes) -> frames.Header:
    """What the server has said."""
    return frames.decode(data, body_limit=0)[0]


def talk(
    client: Client, server: Exchange, chunks: Sequence[int] = (LONGEST_HEADER,) * 10,
    change: Callable[[bytes], bytes] = bytes, following: bytes = b"",
) -> Any:  # fmt: skip
    """The last event of a whole conversation; `change` is what becomes of the client's last
    message, and `following` comes at once behind it."""
    first, left = take(server, client.hello()[len(HELLO) :], chunks)
    assert left == b""
    if isinstance(first, Denied):
        return first
    last, left = take(server, change(client.final(reply(first.data))) + following, chunks)
    assert left == following
    if isinstance(last, Proven):
        client.check(reply(last.data))
    return last


# -- who is let in


@pytest.mark.parametrize(("key", "slot"), [(KEY, 0), (OLD_KEY, 1)])
@pytest.mark.parametrize("binding", [None, b"the certificate"])
def test_whoever_has_a_key_of_the_user_is_let_in(
    key: bytes, slot: int, binding: bytes | None
) -> None:
    """And has seen then that the server knows it too; with and without TLS."""
    done = talk(Client("alice", key, binding), Exchange(verifiers, binding))
    assert (done.user, done.slot) == ("alice", slot)
    assert reply(done.data).members["user"] == "alice"


@settings(max_examples=25)
@given(st.lists(st.integers(1, 60), max_size=40), st.binary(max_size=40))
def test_nothing_behind_the_last_message_is_taken(chunks: list[int], following: bytes) -> None:
    """However the bytes come in; the next message stays for the service."""
    done = talk(Client("alice", KEY), Exchange(verifiers), chunks, following=following)
    assert isinstance(done, Proven)


@pytest.mark.parametrize("taken", [0, 3, 4, 10])
def test_what_was_taken_with_the_hello_counts(taken: int) -> None:
    """The challenge takes 16 bytes before it knows what they are."""
    client = Client("alice", KEY)
    said = client.hello()[len(HELLO) :]
    exchange = Exchange(verifiers, begun=said[:taken])
    first = whole(exchange, said[taken:])
    assert isinstance(whole(exchange, client.final(reply(first.data))), Proven)


# -- who is not


@pytest.mark.parametrize(
    ("user", "key"),
    [("alice", OTHER_KEY), ("nobody", KEY), ("nobody", OTHER_KEY), ("alice,", KEY), ("Alice", KEY)],
)
def test_an_unknown_user_is_told_the_same_as_one_with_another_key(user: str, key: bytes) -> None:
    """So that nobody finds out which users there are."""
    done = talk(Client(user, key), Exchange(verifiers))
    assert isinstance(done, Denied)
    told = reply(done.data)
    assert told.members["ok"] is False
    assert told.members["error"] == "not-authenticated"
    assert told.members["message"] == "no such user, or not the key"
    assert done.user == user


def test_a_user_who_does_not_exist_has_a_salt_that_stays() -> None:
    """One that changed would tell that it was made up; each name has its own."""
    salts = []
    for name in ("nobody", "nobody", "anybody"):
        first = whole(Exchange(verifiers), Client(name, KEY).hello()[len(HELLO) :])
        parts = dict(p.split("=", 1) for p in str(reply(first.data).members["message"]).split(","))
        assert parts["i"] == "4096"
        assert len(b64decode(parts["s"])) == len(SALT)
        salts.append(parts["s"])
    assert salts[0] == salts[1] != salts[2]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(b"our certificate", b"another"), (None, b"another")], ids=["TLS", "plain"]
)
def test_somebody_between_with_another_certificate_is_seen(
    ours: bytes | None, theirs: bytes
) -> None:
    """The client has bound its proof to what it was shown, which is not ours."""
    done = talk(Client("alice", KEY, theirs), Exchange(verifiers, ours))
    assert isinstance(done, Denied)


def test_a_client_is_not_talked_out_of_the_binding() -> None:
    """One that could bind, and was made to believe that we cannot, says so (RFC 5802, 6)."""
    exchange = Exchange(verifiers, b"our certificate")
    message = {"v": 2, "id": 1, "cmd": "auth", "mechanism": "SCRAM-SHA-256"}
    done = whole(exchange, frames.encode({**message, "message": "y,,n=alice,r=abcdef"}))
    assert isinstance(done, Denied)
    assert "channel binding" in str(reply(done.data).members["message"])


def test_a_server_without_the_key_is_seen() -> None:
    """It can let everybody in, but cannot prove that it knows them."""
    client = Client("alice", OTHER_KEY)
    assert isinstance(talk(client, Exchange(verifiers)), Denied)
    for words in (
        frames.ok(2, message="v=" + "A" * 43 + "="),
        frames.ok(2),
        frames.ok(2, message=""),
    ):
        with pytest.raises(Unauthenticated, match="server"):
            client.check(reply(frames.encode(words)))
    with pytest.raises(Unauthenticated, match="not this time"):
        client.check(reply(frames.encode(frames.error(2, "not-authenticated", "not this time"))))


@given(st.data())
def test_a_proof_is_worth_nothing_with_a_byte_changed(data: st.DataObject) -> None:
    """Nor does one come through that is no message any more."""

    def change(message: bytes) -> bytes:
        forged = bytearray(message)
        forged[data.draw(st.integers(len(message) - 45, len(message) - 5))] ^= 0x11
        return bytes(forged)

    assert isinstance(talk(Client("alice", KEY), Exchange(verifiers), change=change), Denied)


def test_a_conversation_cannot_be_replayed() -> None:
    """The server has put its own nonce into it."""
    client, first = Client("alice", KEY), Exchange(verifiers)
    hello = client.hello()[len(HELLO) :]
    final = client.final(reply(whole(first, hello).data))
    assert isinstance(whole(first, final), Proven)
    second = Exchange(verifiers)
    assert isinstance(whole(second, hello), Say)
    assert isinstance(whole(second, final), Denied)


# -- what is no message


def request(**changes: Any) -> bytes:
    """The first message of a client, with other fields."""
    fields = {
        "v": 2, "id": 1, "cmd": "auth", "mechanism": "SCRAM-SHA-256",
        "message": "n,,n=alice,r=abcdef",
    }  # fmt: skip
    fields = {**fields, **changes}
    return frames.encode({key: value for key, value in fields.items() if value is not None})


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (request(v=1), "v"),
        (request(id=None), "id"),
        (request(cmd="run"), "cmd"),
        (request(mechanism=None), "mechanism"),
        (request(mechanism="SCRAM-SHA-1"), "mechanism"),
        (request(mechanism="SCRAM-SHA-256-PLUS"), "mechanism"),
        (request(message=5), "message"),
        (request(message=""), "message"),
        (request(message="n,,n=alice"), "message"),
        (request(message="n,a=bob,n=alice,r=abcdef"), "authzid"),
        (request(size=5), "size"),
        (b"\0\0\0\0", "header length"),
        (b"\xff\xff\xff\xff", "header length"),
        ((LONGEST_HEADER + 1).to_bytes(4, "little"), "header length"),
        (b"\x02\0\0\0[]", "object"),
        (b"\x02\0\0\0{{", "JSON"),
    ],
)
def test_what_is_no_message_is_denied_by_name(data: bytes, named: str) -> None:
    """Whole and byte by byte; what follows is not looked at."""
    for chunks in ([LONGEST_HEADER] * 9, []):
        done, left = take(Exchange(verifiers), data + b"...", chunks)
        assert isinstance(done, Denied)
        assert left == b"..."
        assert named in str(reply(done.data).members["message"])


@given(st.binary(min_size=LONGEST_HEADER + 4, max_size=LONGEST_HEADER + 100))
def test_whatever_comes_ends_soon(stream: bytes) -> None:
    """Of anything at all no more than one frame is held."""
    done, _ = take(Exchange(verifiers), stream, [100] * 100)
    assert isinstance(done, Denied)


@given(st.text(max_size=200))
def test_whatever_the_message_says_is_understood_or_denied(message: str) -> None:
    """Never a fault of ours."""
    try:
        data = request(message=message)
    except ValueError:
        return  # NUL and lone surrogates are refused before
    assert isinstance(whole(Exchange(verifiers), data), Denied | Say)


def test_more_than_is_wanted_cannot_be_given() -> None:
    """It would be lost to the service."""
    with pytest.raises(ValueError, match="more than was wanted"):
        Exchange(verifiers).receive_data(bytes(5))


# -- binding


@pytest.mark.skipif(bool(certificates.MISSING), reason=certificates.MISSING)
@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        (["-newkey", "rsa:2048", "-sha256"], "sha256"),
        (["-newkey", "rsa:2048", "-sha1"], "sha256"),
        (["-newkey", "rsa:2048", "-sha384"], "sha384"),
        (["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-sha512"], "sha512"),
        (["-newkey", "ed25519"], "sha512"),
    ],
    ids=["RSA", "SHA-1", "SHA-384", "ECDSA with SHA-512", "Ed25519"],
)
def test_the_binding_is_the_hash_that_the_signature_has(
    kind: list[str], digest: str, tmp_path: Path
) -> None:
    """RFC 5929, 4.1: SHA-256 in place of MD5 and SHA-1."""
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", *kind, "-subj", "/CN=localhost", "-outform", "DER",
         "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate = (tmp_path / "certificate").read_bytes()
    assert end_point(certificate) == hashlib.new(digest, certificate).digest()
