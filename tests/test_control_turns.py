"""Turns: everybody gets as much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netd.control.turns import Turns

PUTS = st.lists(st.tuples(st.integers(0, 3), st.floats(0.001, 1.0)), max_size=60)


def test_one_key_is_served_in_order() -> None:
    """What came first is taken first."""
    turns: Turns[int, str] = Turns()
    for item in "abc":
        turns.put(1, item)
    assert len(turns) == 3
    assert [turns.take() for _ in range(4)] == ["a", "b", "c", None]


def test_who_asks_for_little_does_not_wait_for_who_asks_for_much() -> None:
    """A hundred requests of one key are worth no more than the first of another."""
    turns: Turns[int, str] = Turns()
    for _ in range(100):
        turns.put(1, "much")
    assert turns.take() == "much"
    turns.put(2, "little")
    turns.spend(1, 0.05)
    assert turns.take() == "little"


def test_time_counts_and_not_numbers() -> None:
    """While one long request of a key is done, many short ones of another are."""
    turns: Turns[int, int] = Turns()
    for _ in range(100):
        turns.put(1, 50)
        turns.put(2, 1)
    taken = []
    for _ in range(102):
        item = turns.take()
        assert item is not None
        taken.append(item)
        turns.spend(1 if item == 50 else 2, item)
    assert taken.count(50) <= 3


def test_nobody_saves_time_up() -> None:
    """A key that was away does not keep the others from their turns afterwards."""
    turns: Turns[int, str] = Turns()
    turns.put(1, "a")
    turns.take()
    turns.spend(1, 1.0)
    for _ in range(10):
        turns.put(2, "b")
        turns.take()
        turns.spend(2, 100.0)
    for item in ("a", "a", "a"):
        turns.put(1, item)
    turns.put(2, "b")
    taken = []
    for _ in range(3):
        taken.append(turns.take())
        turns.spend(1 if taken[-1] == "a" else 2, 1000.0)
    assert "b" in taken


@given(PUTS, st.integers(0, 3))
def test_nothing_is_lost_and_nothing_comes_twice(
    puts: list[tuple[int, float]], unwanted: int
) -> None:
    """Whatever is put is taken, or dropped, once; each key's in their order."""
    turns: Turns[int, tuple[int, int]] = Turns()
    for number, (key, seconds) in enumerate(puts):
        turns.put(key, (key, number))
        turns.spend(key, seconds)
    dropped = turns.drop(lambda item: item[0] == unwanted)
    taken = list(iter(turns.take, None))
    assert len(turns) == 0
    assert {key for key, _ in dropped} <= {unwanted}
    assert sorted(number for _, number in dropped + taken) == list(range(len(puts)))
    for key in range(4):
        mine = [number for found, number in taken if found == key]
        assert mine == sorted(mine)
