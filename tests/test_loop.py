"""The serving loop: descriptors, deadlines, timers, and calls from other threads."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import EPOLLIN, EPOLLOUT
from time import monotonic

import pytest
from harness import PATIENCE, wait_until

from netd.loop import SWEEP, Loop


class Peer:
    """One end of a pair of sockets, watched; it collects what comes."""

    def __init__(self, loop: Loop, act: Callable[[Peer], None] | None = None) -> None:
        self.loop = loop
        self.near, self.far = socket.socketpair()
        self.interest = 0
        self.received: list[bytes] = []
        self.masks: list[int] = []
        self._act = act
        loop.watch(self, EPOLLIN)

    def fileno(self) -> int:
        return self.near.fileno()

    def ready(self, events: int) -> None:
        self.masks.append(events)
        if events & EPOLLIN:
            self.received.append(self.near.recv(100))
        if self._act is not None:
            self._act(self)

    def close(self) -> None:
        self.loop.forget(self)
        self.near.close()
        self.far.close()


@contextmanager
def running(
    loop: Loop, tick: Callable[[], None] | None = None, interval: float = PATIENCE
) -> Iterator[threading.Thread]:
    """Runs a loop on a thread for the time of a `with`."""
    thread = threading.Thread(target=loop.run, args=(tick, interval), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        loop.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop, which gives all its descriptors back."""
    before = os.listdir("/proc/self/fd")
    made = Loop()
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_is_watched_is_told_when_it_is_ready(loop: Loop) -> None:
    """Each of many, and only those that something has come for."""
    peers = [Peer(loop) for _ in range(300)]  # more than one wake can tell of
    with running(loop):
        for number, peer in enumerate(peers[1:]):
            peer.far.send(b"%d" % number)
        wait_until(lambda: all(peer.received for peer in peers[1:]))
    assert [peer.received for peer in peers] == [[], *([b"%d" % n] for n in range(299))]
    for peer in peers:
        peer.close()


def test_interest_can_change_and_end(loop: Loop) -> None:
    """For writing, for reading, for nothing, and for reading again."""

    def then_only_read(peer: Peer) -> None:
        if peer.interest == EPOLLOUT:
            loop.watch(peer, EPOLLIN)

    peer = Peer(loop, then_only_read)
    loop.watch(peer, EPOLLOUT)
    with running(loop):
        wait_until(lambda: peer.masks == [EPOLLOUT])
        peer.far.send(b"a")
        wait_until(lambda: peer.received == [b"a"])
        run_in(loop, lambda: loop.watch(peer, 0))
        peer.far.send(b"b")
        run_in(loop, lambda: None)
        assert peer.received == [b"a"]
        run_in(loop, lambda: loop.watch(peer, EPOLLIN))
        wait_until(lambda: peer.received == [b"a", b"b"])
    peer.close()


def run_in(loop: Loop, call: Callable[[], object]) -> None:
    """Has a loop call something, and waits until it has."""
    done = threading.Event()
    loop.call_soon(call)
    loop.call_soon(done.set)
    assert done.wait(PATIENCE)


def test_what_was_closed_earlier_in_a_round_is_told_nothing(loop: Loop) -> None:
    """Events come in batches: the first of a batch may end what the second is about."""
    peers: list[Peer] = []
    told: list[Peer] = []

    def end_the_other(peer: Peer) -> None:
        told.append(peer)
        next(other for other in peers if other is not peer).close()

    peers += [Peer(loop, end_the_other), Peer(loop, end_the_other)]
    for peer in peers:
        peer.far.send(b"both at once")
    with running(loop):
        wait_until(lambda: told)
        run_in(loop, lambda: None)
    assert len(told) == 1
    told[0].close()


def test_a_fault_ends_what_it_came_from_and_nothing_else(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """One traceback, and all others are served on."""

    def fail(_peer: Peer) -> None:
        raise ValueError("a fault of ours")

    failing, other = Peer(loop, fail), Peer(loop)
    with running(loop):
        failing.far.send(b"a")
        wait_until(lambda: failing.interest == 0)
        failing.far.send(b"b")
        other.far.send(b"c")
        wait_until(lambda: other.received)
    assert failing.received == [b"a"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "a fault of ours" in caplog.text
    failing.close()
    other.close()


def test_a_fault_of_what_was_closed_ends_nothing_else(loop: Loop) -> None:
    """What cannot even be taken out of the loop does not stop it."""

    def act(peer: Peer) -> None:
        peer.near.close()
        raise ZeroDivisionError("as asked for")

    broken, other = Peer(loop, act), Peer(loop)
    with running(loop):
        broken.far.sendall(b"x")
        wait_until(lambda: broken.near.fileno() < 0)
        other.far.sendall(b"x")
        wait_until(lambda: other.received)
    broken.close()
    other.close()


def test_calls_from_other_threads_run_on_the_thread_of_the_loop(loop: Loop) -> None:
    """In their order."""
    ran: list[tuple[int, int]] = []
    with running(loop) as thread:
        for number in range(1000):
            loop.call_soon(lambda number=number: ran.append((number, threading.get_ident())))
        wait_until(lambda: len(ran) == 1000)
        assert ran == [(number, thread.ident) for number in range(1000)]


def test_a_call_that_fails_keeps_no_other_from_running(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the loop from being stopped: that is a call too."""
    ran: list[str] = []

    def fail() -> None:
        raise ValueError("a fault of ours")

    with running(loop):
        loop.call_soon(fail)
        loop.call_soon(lambda: ran.append("after"))
        wait_until(lambda: ran)
    assert caplog.text.count("ValueError: a fault of ours") == 1


def test_stop_counts_before_run(loop: Loop) -> None:
    """Whoever stops a loop before its thread has come to run it has stopped it."""
    loop.stop()
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_closed_loop_takes_calls_and_does_nothing() -> None:
    """A thread that ends late may still speak to the loop."""
    loop = Loop()
    loop.close()
    loop.call_soon(lambda: pytest.fail("called"))
    loop.stop()


def test_a_timer_runs_once_when_it_is_due(loop: Loop) -> None:
    """Asked for again before that, it runs at the later time; called off, never."""
    ran: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.append((name, monotonic()))

    twice, never = note("twice"), note("never")
    began = monotonic()
    loop.call_later(0.01, twice)
    loop.call_later(0.01, never)
    loop.call_later(0.05, note("first"))
    loop.call_later(0.15, twice)
    loop.call_off(never)
    loop.call_off(never)
    with running(loop):
        wait_until(lambda: len(ran) == 2)
    assert [name for name, _ in ran] == ["first", "twice"]
    assert ran[0][1] - began >= 0.05
    assert ran[1][1] - began >= 0.15


def test_deadlines_are_looked_at_as_long_as_there_are_any(loop: Loop) -> None:
    """A loop without any sleeps without end: an idle daemon costs nothing."""
    looks: list[float] = []
    others: list[float] = []

    def sweep(now: float) -> bool:
        looks.append(now)
        return len(looks) < 3

    loop.sweep_with(sweep)
    loop.sweep_with(sweep)  # is the same
    loop.arm()
    with running(loop) as thread:
        wait_until(lambda: len(looks) == 3)
        sleeps = times_asleep(thread)
        threading.Event().wait(1.5 * SWEEP)
        assert times_asleep(thread) <= sleeps + 1
        assert len(looks) == 3
        run_in(loop, lambda: loop.sweep_without(sweep))
        run_in(loop, lambda: loop.sweep_without(sweep))
        loop.sweep_with(lambda now: bool(others.append(now)))
        run_in(loop, loop.arm)
        wait_until(lambda: others)
    assert len(looks) <= 4


def times_asleep(thread: threading.Thread) -> int:
    """How often a thread has gone to sleep."""
    with open(f"/proc/self/task/{thread.native_id}/status") as status:
        return next(int(x.split()[1]) for x in status if x.startswith("voluntary_ctxt_switches"))


def test_a_sweep_that_fails_keeps_no_other_from_being_made(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """Every deadline is kept although one cannot be."""
    looks: list[float] = []

    def fail(_now: float) -> bool:
        raise ValueError("a fault of ours")

    def sweep(now: float) -> bool:
        looks.append(now)
        return True

    loop.sweep_with(fail)
    loop.sweep_with(sweep)
    loop.arm()
    with running(loop):
        wait_until(lambda: len(looks) == 2)
    assert "ValueError: a fault of ours" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_the_beat_tells_that_the_loop_comes_round(loop: Loop) -> None:
    """A watchdog asks for it, and compares it with the time at which it asked."""
    asked = monotonic()
    loop.ask_for_beat()
    assert loop.beat < asked
    with running(loop):
        wait_until(lambda: loop.beat >= asked)


def test_a_tick_comes_each_round_and_at_each_interval(loop: Loop) -> None:
    """As service_actions of socketserver does."""
    ticks: list[float] = []
    peer = Peer(loop)
    with running(loop, lambda: ticks.append(monotonic()), interval=0.01):
        wait_until(lambda: len(ticks) >= 3)
    with running(loop, lambda: ticks.append(monotonic()), interval=PATIENCE):
        before = len(ticks)
        peer.far.send(b"a")
        wait_until(lambda: len(ticks) > before)
    peer.close()
