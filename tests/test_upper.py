"""upper, over each transport."""

from __future__ import annotations

import socket

import pytest
from harness import DATAGRAMS, STREAMS, TRANSPORTS, ask, read_exactly, serve
from hypothesis import given
from hypothesis import strategies as st

from netd.protocols.upper import UpperHandler

ALL_BYTES = bytes(range(256))
LARGEST_DATAGRAM = 65_507

# (what is sent, what comes back)
EXCHANGES = [
    (b"hello", b"HELLO"),
    (b"Hello, World!\r\n", b"HELLO, WORLD!\r\n"),
    (b"\n", b"\n"),
    (b"\0", b"\0"),
    ("straße, déjà vu, ŉ".encode(), "STRAßE, DéJà VU, ŉ".encode()),
    (b"\xff\xfe caf\xc3", b"\xff\xfe CAF\xc3"),
    (ALL_BYTES, ALL_BYTES[:97] + b"ABCDEFGHIJKLMNOPQRSTUVWXYZ" + ALL_BYTES[123:]),
]


@pytest.mark.parametrize("transport", STREAMS)
def test_each_chunk_is_answered_at_once(transport: str) -> None:
    """No line end and no end of the stream is waited for, any number of times."""
    with serve(UpperHandler, transport) as served:
        client = served.connect()
        for sent, expected in EXCHANGES * 3:
            client.sendall(sent)
            assert read_exactly(client, len(expected)) == expected


@pytest.mark.parametrize("transport", DATAGRAMS)
@pytest.mark.parametrize(("sent", "expected"), [(b"", b""), *EXCHANGES])
def test_each_datagram_is_answered_by_one(transport: str, sent: bytes, expected: bytes) -> None:
    """An empty datagram by an empty one, any other by as many bytes."""
    with serve(UpperHandler, transport) as served:
        client = served.connect()
        client.send(sent)
        assert client.recv(65_536) == expected


@pytest.mark.parametrize("transport", DATAGRAMS)
def test_the_largest_datagram_comes_back_whole(transport: str) -> None:
    """As much as IPv4 can carry is neither cut nor dropped."""
    with serve(UpperHandler, transport) as served:
        client = served.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * LARGEST_DATAGRAM)
        client.send(b"netd " * (LARGEST_DATAGRAM // 5) + b"ab")
        assert client.recv(65_536) == b"NETD " * (LARGEST_DATAGRAM // 5) + b"AB"


@pytest.mark.parametrize("transport", DATAGRAMS)
def test_datagrams_are_answered_in_their_order(transport: str) -> None:
    """Answers go out as the requests came in, each by itself."""
    with serve(UpperHandler, transport) as served:
        client = served.connect()
        for first in range(0, 100, 5):
            numbers = range(first, first + 5)
            for number in numbers:
                client.send(b"number %d" % number)
            assert [client.recv(100) for _ in numbers] == [b"NUMBER %d" % n for n in numbers]


@pytest.mark.parametrize("transport", DATAGRAMS)
def test_answers_go_to_the_client_that_asked(transport: str) -> None:
    """Clients of one listener do not get each other's answers."""
    with serve(UpperHandler, transport) as served:
        clients = {b"client %d" % number: served.connect() for number in range(20)}
        for name, client in clients.items():
            client.send(name)
        for name, client in clients.items():
            assert client.recv(100) == name.upper()


@pytest.mark.parametrize("transport", STREAMS)
def test_a_half_closed_client_gets_all_its_answer(transport: str) -> None:
    """What was sent before the end of the client's side is answered after it."""
    with serve(UpperHandler, transport) as served:
        assert ask(served.connect(), b"netd " * 1_000_000) == b"NETD " * 1_000_000
        assert ask(served.connect(), b"") == b""


@pytest.mark.parametrize("transport", STREAMS)
def test_no_client_waits_for_another(transport: str) -> None:
    """The last of 200 clients is answered while all the others are in the midst of theirs."""
    with serve(UpperHandler, transport) as served:
        clients = [served.connect() for _ in range(200)]
        for number, client in reversed(list(enumerate(clients))):
            client.sendall(b"client %d, " % number)
            assert read_exactly(client, len(b"client %d, " % number)) == b"CLIENT %d, " % number
        for client in clients:
            client.sendall(b"again")
        assert {read_exactly(client, 5) for client in clients} == {b"AGAIN"}


@pytest.mark.parametrize("transport", STREAMS)
def test_a_reset_is_a_quiet_end(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that vanishes disturbs nobody, and is not a fault of ours."""
    with serve(UpperHandler, transport) as served:
        rude, other = served.connect(), served.connect()
        other.sendall(b"one ")
        assert read_exactly(other, 4) == b"ONE "
        rude.sendall(b"bye")
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
        rude.close()
        other.sendall(b"two")
        assert read_exactly(other, 3) == b"TWO"
        assert served.service.counters.errors == 0
    assert caplog.records == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_any_bytes_come_back_in_upper_case(transport: str) -> None:
    """Whatever bytes they are: as many come back, and only ASCII letters change."""
    with serve(UpperHandler, transport) as served:
        client = served.connect()

        @given(st.binary(min_size=1, max_size=2000))
        def check(data: bytes) -> None:
            client.sendall(data)
            assert read_exactly(client, len(data)) == data.upper()

        check()
