"""Which answers go to the kernel together."""

from __future__ import annotations

import errno
import socket
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.segments import (
    ETHERNET_SEGMENT,
    LONGEST_RUN,
    LONGEST_SEGMENT,
    SEGMENTS,
    longest_after,
    longest_segment,
    runs,
    segment_control,
)

SIZES = st.none() | st.sampled_from([0, 1, 63, 64, 1000, 1452, 20_000, 40_000])
BATCHES = st.lists(st.tuples(st.sampled_from("abc"), SIZES), max_size=200)
LIMITS = st.sampled_from([0, 1, 64, 1452, LONGEST_SEGMENT])


def split(batch: list[tuple[str, int | None]], longest: int = LONGEST_SEGMENT) -> list[list[int]]:
    """The runs of answers of these sizes on these ways."""
    answers = [None if size is None else bytes(size) for _, size in batch]
    return runs([way for way, _ in batch], answers, longest)


@pytest.mark.parametrize(
    ("batch", "messages"),
    [
        ([], []),
        ([("a", None), ("a", None)], []),
        ([("a", 5)], [[0]]),
        ([("a", 5), ("a", 5), ("a", 5)], [[0, 1, 2]]),
        ([("a", 5), ("a", None), ("a", 5)], [[0, 2]]),
        ([("a", 5), ("b", 5), ("a", 5), ("b", 5)], [[0, 2], [1, 3]]),
        ([("a", 5), ("a", 4), ("a", 4), ("a", 4)], [[0, 1], [2, 3]]),
        ([("a", 4), ("a", 5), ("a", 5)], [[0], [1, 2]]),
        ([("a", 5), ("a", 0), ("a", 5)], [[0], [1], [2]]),
        ([("a", 0), ("a", 0)], [[0], [1]]),
        ([("a", 32_754), ("a", 32_754)], [[0], [1]]),
        ([("a", 32_753), ("a", 32_753), ("a", 1)], [[0, 1], [2]]),
    ],
)
def test_answers_of_one_size_on_one_way_go_together(
    batch: list[tuple[str, int | None]], messages: list[list[int]]
) -> None:
    """The last may be shorter; none may be empty."""
    assert split(batch) == messages


def test_a_message_holds_so_many_segments() -> None:
    """And so many bytes."""
    assert [len(run) for run in split([("a", 1)] * 150)] == [64, 64, 22]
    assert [len(run) for run in split([("a", 1452)] * 100)] == [45, 45, 10]


@given(BATCHES, LIMITS)
def test_every_run_is_one_that_the_kernel_takes(
    batch: list[tuple[str, int | None]], longest: int
) -> None:
    """On one way, of one size save the last, within the bounds."""
    for run in split(batch, longest):
        sizes = [batch[place][1] or 0 for place in run]
        assert len({batch[place][0] for place in run}) == 1
        if len(run) > 1:
            assert len(run) <= SEGMENTS
            assert sum(sizes) <= LONGEST_RUN
            assert set(sizes[:-1]) == {sizes[0]}
            assert 0 < sizes[-1] <= sizes[0] <= longest


@given(BATCHES, LIMITS)
def test_each_answer_goes_once_and_in_order(
    batch: list[tuple[str, int | None]], longest: int
) -> None:
    """Of one way, that is: what goes to another does not wait."""
    messages = split(batch, longest)
    for way in "abc":
        sent = [place for run in messages for place in run if batch[place][0] == way]
        assert sent == [i for i, (to, size) in enumerate(batch) if to == way and size is not None]


@given(BATCHES, LIMITS)
def test_no_message_could_have_taken_the_next(
    batch: list[tuple[str, int | None]], longest: int
) -> None:
    """On the same way: else it would have."""
    messages = split(batch, longest)
    for way in "abc":
        own = [run for run in messages if batch[run[0]][0] == way]
        for run, following in pairwise(own):
            first, last = batch[run[0]][1] or 0, batch[run[-1]][1] or 0
            more = batch[following[0]][1] or 0
            is_full = len(run) == SEGMENTS or (len(run) + 1) * first > LONGEST_RUN
            assert not first or first > longest or last < first or is_full or not 0 < more <= first


def test_the_size_of_the_segments_is_a_whole_control_message() -> None:
    """As cmsg(3) lays it out: length, level, kind, 16 bits, and what aligns the next."""
    assert segment_control(1452) == struct.pack("=QiiHHI", 18, 17, 103, 1452, 0, 0)


def test_only_a_socket_that_knows_segments_has_them() -> None:
    """The kernel says so, for a socket of UDP; one of another kind stands for an old kernel."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        assert longest_segment(other) == 0


@pytest.mark.parametrize(
    ("fault", "size", "longest"),
    [
        (errno.EINVAL, 9000, ETHERNET_SEGMENT),
        (errno.EMSGSIZE, 9000, ETHERNET_SEGMENT),
        (errno.EINVAL, 1400, 1399),
        (errno.EIO, 64, 0),
        (errno.ECONNREFUSED, 64, LONGEST_SEGMENT),
        (errno.ENETUNREACH, 64, LONGEST_SEGMENT),
    ],
)
def test_what_never_works_is_not_tried_again(fault: int, size: int, longest: int) -> None:
    """What failed for another reason is."""
    assert longest_after(fault, size, LONGEST_SEGMENT) == longest


@given(st.integers(1, LONGEST_SEGMENT), st.integers(0, LONGEST_SEGMENT))
def test_segments_never_grow(size: int, longest: int) -> None:
    """Whatever was refused, and however often."""
    for fault in (errno.EINVAL, errno.EMSGSIZE, errno.EIO):
        assert longest_after(fault, size, longest) <= min(longest, size - 1)
