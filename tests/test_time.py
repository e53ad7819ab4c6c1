"""time, over each transport."""

from __future__ import annotations

from calendar import timegm
from time import time

import pytest
from harness import DATAGRAMS, STREAMS, read_all, serve
from hypothesis import given
from hypothesis import strategies as st

from netd.protocols.time import TimeHandler, stamp

# (a date in UTC, the number): the examples of RFC 868, then the wrap of the 32 bits.
EXAMPLES = [
    ((1970, 1, 1, 0, 0, 0), 2_208_988_800),
    ((1976, 1, 1, 0, 0, 0), 2_398_291_200),
    ((1980, 1, 1, 0, 0, 0), 2_524_521_600),
    ((1983, 5, 1, 0, 0, 0), 2_629_584_000),
    ((1858, 11, 17, 0, 0, 0), 2**32 - 1_297_728_000),
    ((1900, 1, 1, 0, 0, 0), 0),
    ((2036, 2, 7, 6, 28, 15), 2**32 - 1),
    ((2036, 2, 7, 6, 28, 16), 0),
]


@pytest.mark.parametrize(("date", "number"), EXAMPLES)
def test_a_date_has_the_number_of_the_rfc(date: tuple[int, ...], number: int) -> None:
    """Seconds since 1900 in four bytes, the greatest first."""
    assert stamp(timegm(date)) == number.to_bytes(4, "big")


@given(st.floats(-1e10, 1e12))
def test_any_clock_makes_four_bytes(now: float) -> None:
    """However wrong the clock is, the answer has its form, and its second."""
    assert len(stamp(now)) == 4
    assert (int.from_bytes(stamp(now), "big") - int(now) - 2_208_988_800) % 2**32 == 0


def check_answer(answer: bytes, before: float) -> None:
    assert len(answer) == 4
    assert int(before) <= int.from_bytes(answer, "big") - 2_208_988_800 <= time()


@pytest.mark.parametrize("transport", STREAMS)
def test_the_time_comes_unasked_and_the_stream_ends(transport: str) -> None:
    """Four bytes, the end, and neither waits for the client."""
    with serve(TimeHandler, transport) as served:
        before = time()
        check_answer(read_all(served.connect()), before)


@pytest.mark.parametrize("transport", DATAGRAMS)
@pytest.mark.parametrize("request_", [b"", b"x", b"what time is it?"])
def test_any_datagram_is_answered(transport: str, request_: bytes) -> None:
    """The empty one of RFC 868 as well as others."""
    with serve(TimeHandler, transport) as served:
        client = served.connect()
        before = time()
        client.send(request_)
        check_answer(client.recv(100), before)
