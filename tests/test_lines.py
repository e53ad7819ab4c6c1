"""The bounded line reader."""

from __future__ import annotations

from itertools import pairwise

import pytest
from harness import cheap
from hypothesis import given
from hypothesis import strategies as st

from netd.errors import ProtocolError
from netd.lines import LineReader

LIMIT = 8

# (what is sent, the lines in it, what is left of it)
STREAMS = [
    (b"", [], b""),
    (b"\n", [b""], b""),
    (b"\r\n", [b""], b""),
    (b"one\n", [b"one"], b""),
    (b"one\r\ntwo\n", [b"one", b"two"], b""),
    (b"\n\n\r\n", [b"", b"", b""], b""),
    (b"a\rb\r\n", [b"a\rb"], b""),
    (b"a\r\r\n", [b"a\r"], b""),
    (b"\0\xff\n", [b"\0\xff"], b""),
    (b"12345678\n", [b"12345678"], b""),
    (b"12345678\r\n", [b"12345678"], b""),
    (b"one\nrest", [b"one"], b"rest"),
    (b"12345678\r", [], b"12345678\r"),
]


def take(reader: LineReader) -> list[bytes]:
    return list(iter(reader.next_line, None))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@pytest.mark.parametrize(("sent", "lines", "rest"), STREAMS)
def test_lines_are_cut_at_their_endings(sent: bytes, lines: list[bytes], rest: bytes) -> None:
    """A stream that arrives at once gives its lines, and keeps the rest."""
    reader = LineReader(LIMIT)
    if sent:
        reader.receive_data(sent)
    assert take(reader) == lines
    assert reader.rest() == rest


@pytest.mark.parametrize(("sent", "lines", "rest"), STREAMS)
def test_lines_byte_by_byte(sent: bytes, lines: list[bytes], rest: bytes) -> None:
    """The same lines come out when each byte arrives by itself, a CR and its LF included."""
    reader = LineReader(LIMIT)
    found = []
    for i in range(len(sent)):
        reader.receive_data(sent[i : i + 1])
        found += take(reader)
    assert found == lines
    assert reader.rest() == rest


@given(
    lines=st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)),
    last=st.binary(max_size=20).filter(lambda line: b"\n" not in line),
    cuts=st.lists(st.integers(0, 200)),
)
def test_lines_do_not_depend_on_how_they_arrive(
    lines: list[bytes], last: bytes, cuts: list[int]
) -> None:
    """Wherever the stream is cut into pieces, each line comes out once, then the unended last."""
    reader = LineReader(20)
    found = []
    for piece in [*pieces(b"\n".join([*lines, last]), cuts), b""]:
        reader.receive_data(piece)
        found += take(reader)
    assert found == [line.removesuffix(b"\r") for line in lines] + ([last] if last else [])
    assert reader.cut == bool(last)
    assert reader.at_end


@given(chunks=st.lists(st.binary(min_size=1, max_size=40)))
def test_no_more_than_the_limit_and_a_chunk_is_held(chunks: list[bytes]) -> None:
    """Arbitrary bytes raise nothing but ProtocolError, and what stays held is bounded."""
    reader = LineReader(LIMIT)
    for chunk in chunks:
        reader.receive_data(chunk)
        try:
            found = take(reader)
        except ProtocolError:
            assert len(reader.rest()) <= LIMIT + 1 + len(chunk)
            return
        assert all(len(line) <= LIMIT for line in found)
        held = reader.rest()
        assert len(held) <= LIMIT + 1
        if held:
            reader.receive_data(held)


@pytest.mark.parametrize(
    "sent", [b"123456789", b"123456789\n", b"12345678\rx", b"12345678\r\r\n", b"1\n123456789\n"]
)
def test_line_above_the_limit_is_refused(sent: bytes) -> None:
    """A line one byte too long is refused, with or without its ending, and stays refused."""
    reader = LineReader(LIMIT)
    reader.receive_data(sent)
    with pytest.raises(ProtocolError, match=r"^line: longer than 8 bytes$"):
        take(reader)
    with pytest.raises(ProtocolError, match=r"^line: longer than 8 bytes$"):
        reader.next_line()


def test_line_above_the_limit_is_refused_as_soon_as_it_is_known() -> None:
    """The byte that makes the line too long is not waited beyond."""
    reader = LineReader(LIMIT)
    for byte in (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"):
        reader.receive_data(byte)
        assert reader.next_line() is None
    reader.receive_data(b"9")
    with pytest.raises(ProtocolError):
        reader.next_line()


def test_last_line_without_ending_is_returned_once_and_marked_as_cut() -> None:
    """A stream that ends inside a line gives that line once, and says that it was cut."""
    reader = LineReader()
    reader.receive_data(b"list\nrm a")
    assert take(reader) == [b"list"]
    assert not reader.cut
    reader.receive_data(b"")
    assert not reader.at_end
    assert reader.next_line() == b"rm a"
    assert reader.cut
    assert reader.at_end
    assert reader.next_line() is None
    assert reader.cut


def test_stream_that_ends_after_a_line_has_no_cut_line() -> None:
    """An ending before the end of the stream does not begin another, empty line."""
    reader = LineReader()
    reader.receive_data(b"quit\r\n")
    reader.receive_data(b"")
    reader.receive_data(b"")
    assert not reader.at_end
    assert take(reader) == [b"quit"]
    assert reader.at_end
    assert not reader.cut


def test_cr_at_the_end_of_the_stream_is_no_ending() -> None:
    """Half of a CR LF leaves the line cut, and counts against the limit."""
    reader = LineReader(LIMIT)
    reader.receive_data(b"quit\r")
    reader.receive_data(b"")
    assert reader.next_line() == b"quit\r"
    assert reader.cut
    reader = LineReader(LIMIT)
    reader.receive_data(b"12345678\r")
    assert reader.next_line() is None
    reader.receive_data(b"")
    with pytest.raises(ProtocolError):
        reader.next_line()


def test_data_after_the_end_is_our_mistake() -> None:
    """Bytes cannot follow the end of a stream: the caller mixed up two streams."""
    reader = LineReader()
    reader.receive_data(b"")
    with pytest.raises(ValueError, match="after the end"):
        reader.receive_data(b"x")


def test_rest_is_given_away_and_reading_can_begin_anew() -> None:
    """After `rest`, searching starts from the first byte of what comes next."""
    reader = LineReader()
    reader.receive_data(b"name\r\nbody without ending")
    assert reader.next_line() == b"name"
    assert reader.next_line() is None
    assert reader.rest() == b"body without ending"
    assert reader.rest() == b""
    reader.receive_data(b"a\n")
    assert reader.next_line() == b"a"


def test_what_was_searched_is_not_searched_again() -> None:
    """Single bytes after 8 MiB without an ending cost milliseconds, not a search of it all each."""
    reader = LineReader(2**24)
    reader.receive_data(b"x" * 2**23)
    assert reader.next_line() is None
    with cheap(1):
        for _ in range(20_000):
            reader.receive_data(b"x")
            assert reader.next_line() is None
    reader.receive_data(b"\n")
    assert reader.next_line() == b"x" * (2**23 + 20_000)
