"""What a client's hello tells before OpenSSL has read it: whether it has a key."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Sequence

import certificates
import pytest
from harness import PATIENCE, read_exactly
from hypothesis import given
from hypothesis import strategies as st

from netd.hello import SUITE, TLS13, Hello

TLS12 = 0x0303
numbers = st.lists(st.integers(0, 0xFFFF), max_size=20)
names = st.lists(st.binary(min_size=1, max_size=300), max_size=4)


def vector(size: int, data: bytes) -> bytes:
    """Bytes behind their length."""
    return len(data).to_bytes(size) + data


def joined(values: Sequence[int]) -> bytes:
    """Numbers of 16 bits."""
    return b"".join(value.to_bytes(2) for value in values)


def written(suites: Sequence[int], versions: Sequence[int], keys: Sequence[bytes]) -> bytes:
    """The record of a hello."""
    identities = b"".join(vector(2, name) + bytes(4) for name in keys)
    binders = b"".join(vector(1, bytes(32)) for _ in keys)
    extensions = [(0, b"any"), (43, vector(1, joined(versions)))]
    if keys:
        extensions.append((41, vector(2, identities) + vector(2, binders)))
    body = joined([TLS12]) + bytes(32) + vector(1, bytes(32)) + vector(2, joined(suites))
    body += vector(1, b"\0")
    body += vector(2, b"".join(joined([kind]) + vector(2, data) for kind, data in extensions))
    return b"\x16\x03\x01" + vector(2, b"\x01" + vector(3, body))


@given(numbers, numbers, names, st.binary(max_size=50))
def test_a_hello_is_read_whatever_follows_it(
    suites: list[int], versions: list[int], keys: list[bytes], more: bytes
) -> None:
    """What comes in the same piece is none of it."""
    record = written(suites, versions, keys)
    expected = Hello(frozenset(suites), frozenset(versions), tuple(keys))
    assert Hello.parse(record) == Hello.parse(record + more) == expected


@given(numbers, numbers, names, st.data())
def test_a_hello_that_is_cut_off_is_none(
    suites: list[int], versions: list[int], keys: list[bytes], data: st.DataObject
) -> None:
    """Wherever that is."""
    record = written(suites, versions, keys)
    with pytest.raises(ValueError, match="cut off"):
        Hello.parse(record[: data.draw(st.integers(0, len(record) - 1))])


def test_each_beginning_of_a_hello_is_none() -> None:
    """Byte by byte, until it is whole."""
    record = written([SUITE], [TLS13, TLS12], [b"alice"])
    for size in range(len(record)):
        with pytest.raises(ValueError, match="cut off"):
            Hello.parse(record[:size])
    assert Hello.parse(record).names == (b"alice",)


@given(st.binary(max_size=300), st.integers(0, 10))
def test_anything_else_is_no_hello(data: bytes, kept: int) -> None:
    """Also where it begins like one."""
    record = written([SUITE], [TLS13], [b"alice"])
    try:
        found = Hello.parse(record[:kept] + data)
    except ValueError:
        return
    assert isinstance(found.offers_a_key, bool)


@given(st.data())
def test_a_damaged_hello_is_read_or_none(data: st.DataObject) -> None:
    """A length that is wrong leads to no other error."""
    record = bytearray(written([SUITE], [TLS13], [b"alice", b"bob"]))
    record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(Hello.parse(bytes(record)).offers_a_key, bool)
    except ValueError:
        return


def test_a_hello_in_several_records_is_none() -> None:
    """It is left to OpenSSL."""
    record = written([SUITE], [TLS13], [b"alice"])
    cut = record[:3] + vector(2, record[5:60]) + record[:3] + vector(2, record[60:])
    with pytest.raises(ValueError, match="cut off"):
        Hello.parse(cut)


def test_a_hello_may_have_no_extensions() -> None:
    """As those of old clients."""
    body = joined([TLS12]) + bytes(32) + vector(1, b"") + vector(2, joined([SUITE])) + b"\x01\0"
    assert Hello.parse(b"\x16\x03\x01" + vector(2, b"\x01" + vector(3, body))).offers_a_key


@pytest.mark.parametrize(
    ("suites", "versions", "keys", "offers"),
    [
        ([SUITE], [], [], True),
        ([0xC02F], [], [], False),
        ([SUITE], [TLS12], [], True),
        ([SUITE], [TLS13, TLS12], [], False),
        ([0x1301], [TLS13, TLS12], [b"alice"], True),
        ([0x1301], [TLS13], [b"\x8f" * 200], False),
        ([0x1301], [TLS13], [b"\x8f" * 200, b"alice"], True),
        ([0x1301], [TLS13], [b"\0"], False),
        ([0x1301], [TLS12], [b"alice"], False),
    ],
)
def test_a_key_is_told_from_a_ticket(
    suites: list[int], versions: list[int], keys: list[bytes], offers: bool
) -> None:
    """In TLS 1.3 by its name, in TLS 1.2 by the suite."""
    assert Hello.parse(written(suites, versions, keys)).offers_a_key is offers


@pytest.mark.skipif(bool(certificates.MISSING), reason=certificates.MISSING)
@pytest.mark.parametrize("version", [(), ("-tls1_2",), ("-tls1_3",)])
@pytest.mark.parametrize("key", [(), ("-psk", "abcdef" * 8, "-psk_identity", "alice")])
def test_what_openssl_says_is_understood(version: tuple[str, ...], key: tuple[str, ...]) -> None:
    """A client with a key, and one without, as they are."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        command = ["openssl", "s_client", "-connect", target, *version, *key]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            listener.settimeout(PATIENCE)
            client, _ = listener.accept()
            with client:
                client.settimeout(PATIENCE)
                head = read_exactly(client, 5)
                record = head + read_exactly(client, int.from_bytes(head[3:]))
            process.wait(PATIENCE)
    assert Hello.parse(record).offers_a_key is bool(key)


def test_what_python_says_is_understood() -> None:
    """A client without a key, as it is."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="localhost"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    found = Hello.parse(outgoing.read())
    assert TLS13 in found.versions
    assert not found.offers_a_key
