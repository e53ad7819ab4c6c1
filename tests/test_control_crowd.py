"""Who makes way when there are too many clients."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from netd.control.crowd import heaviest, surplus


@dataclass(frozen=True)
class Guest:
    """A client."""

    user: int
    active: float
    is_served: bool = False
    weight: int = 0


GUESTS = st.lists(
    st.builds(
        Guest, st.integers(0, 3), st.floats(0, 100), st.booleans(), st.integers(1, 1000)
    ),
    min_size=1, max_size=30,
)  # fmt: skip


def test_the_user_with_the_most_gives_up_the_one_that_was_silent_longest() -> None:
    """Others have theirs for as long as they like."""
    crowd = [Guest(1, 0.0), Guest(2, 5.0), Guest(2, 3.0), Guest(2, 4.0)]
    assert surplus(crowd, newcomer=1) == Guest(2, 3.0)


def test_the_newcomer_counts() -> None:
    """Whoever comes in with one more than the others makes way for itself."""
    crowd = [Guest(1, 2.0), Guest(1, 1.0), Guest(2, 0.0), Guest(2, 0.5)]
    assert surplus(crowd, newcomer=1) == Guest(1, 1.0)


def test_a_request_that_is_being_done_is_not_silence() -> None:
    """Those that wait for netd go last."""
    assert surplus([Guest(1, 0.0, True), Guest(1, 9.0)], newcomer=1) == Guest(1, 9.0)


def test_a_user_whose_clients_are_all_served_gets_no_more() -> None:
    """Those that were there come first; a newcomer of another user still comes in."""
    crowd = [Guest(1, 0.0, True), Guest(1, 9.0, True)]
    assert surplus(crowd, newcomer=1) is None
    assert surplus(crowd, newcomer=2) == Guest(1, 9.0, True)


@given(GUESTS, st.integers(0, 4))
def test_nobody_makes_way_for_a_user_who_has_more(crowd: list[Guest], newcomer: int) -> None:
    """Who goes belongs to a user who has at least as many as everybody else."""
    gone = surplus(crowd, newcomer)
    numbers = Counter(guest.user for guest in crowd)
    numbers[newcomer] += 1
    if gone is None:
        assert numbers[newcomer] == max(numbers.values())
        assert all(guest.is_served for guest in crowd if guest.user == newcomer)
    else:
        assert numbers[gone.user] == max(numbers.values())


@given(GUESTS)
def test_the_heaviest_is_of_the_user_for_whom_the_most_is_held(crowd: list[Guest]) -> None:
    """And none of that user's others has been silent for longer."""
    gone = heaviest(crowd)
    held: Counter[int] = Counter()
    for guest in crowd:
        held[guest.user] += guest.weight
    assert held[gone.user] == max(held.values())
    assert gone.active == min(guest.active for guest in crowd if guest.user == gone.user)
