"""Whose turn it is: what many users wait for is done one by one, to each as much as to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Turns(Generic[K, T]):
    """A queue for each key, say a user. The next turn is that of the key for which the least time
    was spent so far: however much somebody asks for, others wait for some of it, and not for all.

    Nobody saves time up: a key that asks for nothing is as good as the one that has its turn."""

    def __init__(self) -> None:
        self._queues: dict[K, deque[T]] = {}
        self._spent: dict[K, float] = {}
        self._floor = 0.0
        """The least that was spent for any key that has something waiting."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def put(self, key: K, item: T) -> None:
        """Has something wait for its turn."""
        if key not in self._queues:
            self._queues[key] = deque()
            self._spent[key] = max(self._floor, self._spent.get(key, 0.0))
        self._queues[key].append(item)

    def take(self) -> T | None:
        """What has its turn now; None if nothing waits."""
        if not self._queues:
            return None
        key = min(self._queues, key=self._spent.__getitem__)
        self._floor = self._spent[key]
        queue = self._queues[key]
        item = queue.popleft()
        if not queue:
            del self._queues[key]
        return item

    def spend(self, key: K, seconds: float) -> None:
        """Takes note of the time that was spent for a key."""
        self._spent[key] = self._spent.get(key, self._floor) + seconds

    def drop(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Takes out all for which `unwanted` is true."""
        dropped: list[T] = []
        for key, queue in list(self._queues.items()):
            dropped += filter(unwanted, queue)
            kept = deque(item for item in queue if not unwanted(item))
            if kept:
                self._queues[key] = kept
            else:
                del self._queues[key]
        return dropped
