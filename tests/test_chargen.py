"""chargen, over each transport."""

from __future__ import annotations

import socket

import pytest
from harness import STREAMS, read_exactly, serve, wait_until
from hypothesis import given
from hypothesis import strategies as st

from netd.protocols.chargen import CHUNK, CYCLE, LONGEST, ChargenHandler, line, text

# Lines of the example in RFC 864: the first two, those where the pattern wraps round, the last.
RFC_864 = {
    0: rb""" !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg""",
    1: rb"""!"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefgh""",
    23: rb"""789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~""",
    24: rb"""89:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~ """,
    94: rb"""~ !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdef""",
}


def stream(size: int) -> bytes:
    """The first bytes of the stream, made character by character."""
    made = bytearray()
    for number in range(size // 74 + 1):
        made += bytes(0x20 + (number + column) % 95 for column in range(72)) + b"\r\n"
    return bytes(made[:size])


@pytest.mark.parametrize("number", RFC_864)
def test_lines_are_those_of_the_rfc(number: int) -> None:
    """Each begins one character further on, and after the last printing one comes the first."""
    assert line(number) == RFC_864[number] + b"\r\n"
    assert line(number + 95) == line(number)


def test_a_cycle_holds_each_line_once() -> None:
    """95 lines of 74 bytes; a chunk is made of whole cycles and fits what a step may send."""
    assert stream(7030) == CYCLE
    assert len(CHUNK) % len(CYCLE) == 0
    assert len(CYCLE) <= len(CHUNK) <= 65_536


@given(st.integers(0, LONGEST))
def test_a_text_is_the_beginning_of_the_stream(length: int) -> None:
    """It depends on the length alone."""
    assert text(length) == stream(length)


@pytest.mark.parametrize("transport", STREAMS)
def test_the_stream_goes_on_until_the_client_closes(transport: str) -> None:
    """Megabytes come in sequence, without a seam between the chunks; closing ends the session."""
    size = 2_000_003
    with serve(ChargenHandler, transport) as served:
        client = served.connect()
        assert read_exactly(client, size) == stream(size)
        client.close()
        wait_until(lambda: served.service.counters.ended["reset"] == 1)
        assert served.service.counters.errors == 0


@pytest.mark.parametrize("transport", STREAMS)
def test_what_the_client_sends_is_ignored(transport: str) -> None:
    """Neither input nor the end of the client's side changes the stream."""
    with serve(ChargenHandler, transport) as served:
        client = served.connect()
        client.sendall(b"stop!\r\n" * 100)
        assert read_exactly(client, 500_000) == stream(500_000)
        client.shutdown(socket.SHUT_WR)
        assert read_exactly(client, 500_000) == stream(1_000_000)[500_000:]


def test_each_client_has_a_stream_of_its_own() -> None:
    """A client that does not read holds up nobody, and nobody's stream begins in the middle."""
    with serve(ChargenHandler) as served:
        deaf = served.connect()
        others = [served.connect() for _ in range(10)]
        for client in [*others, deaf]:
            assert read_exactly(client, 20_000) == stream(20_000)


@pytest.mark.parametrize("transport", ["udp", "udp6"])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 511, 512, 513, 9000])
def test_an_answer_is_never_longer_than_the_request(transport: str, size: int) -> None:
    """As long as the request, and at most 512 bytes: nothing is gained by forging a sender."""
    with serve(ChargenHandler, transport) as served:
        client = served.connect()
        client.send(b"x" * size)
        assert client.recv(65_536) == stream(min(size, 512))


def test_a_proven_sender_gets_a_random_length() -> None:
    """Over a UNIX socket RFC 864 is kept to: 0 to 512 characters, whatever was sent."""
    with serve(ChargenHandler, "unix-dgram") as served:
        client = served.connect()
        lengths = set()
        for _ in range(50):
            client.send(b"")
            answer = client.recv(65_536)
            assert answer == stream(len(answer))
            lengths.add(len(answer))
        assert max(lengths) <= 512
        assert len(lengths) > 10
