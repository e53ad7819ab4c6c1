"""Threads for conversations: bounded, used again, never waited for."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Barrier, Event

import pytest
from harness import PATIENCE, wait_until

from netd.pool import STACK, SWITCH, NoThreadError, Pool


@contextmanager
def pool(limit: int = 4, keep: float = PATIENCE) -> Iterator[Pool]:
    """A pool whose tasks have ended at the end of the `with`."""
    threads = Pool(limit, keep)
    try:
        yield threads
    finally:
        assert threads.close(PATIENCE)
        assert len(threads) == 0


@contextmanager
def busy(threads: Pool, number: int) -> Iterator[None]:
    """Has so many tasks run for the time of a `with`."""
    started, end = Barrier(number + 1), Event()

    def wait() -> None:
        started.wait(PATIENCE)
        assert end.wait(PATIENCE)

    for _ in range(number):
        threads.submit(wait, "busy")
    started.wait(PATIENCE)
    try:
        yield
    finally:
        end.set()


def test_a_task_runs_on_a_thread_of_its_name() -> None:
    """What stands in the list of threads tells what each is busy with."""
    names: list[str] = []
    done = Event()

    def task() -> None:
        names.append(threading.current_thread().name)
        done.set()

    with pool() as threads:
        threads.submit(task, "upper/192.0.2.1:5000")
        assert done.wait(PATIENCE)
        assert names == ["upper/192.0.2.1:5000"]
        wait_until(lambda: all(t.name != names[0] for t in threading.enumerate()))


def test_tasks_at_the_same_time_have_a_thread_each() -> None:
    """None waits for another."""
    with pool(limit=4) as threads, busy(threads, 4):
        assert len(threads) == 4


def test_a_thread_is_used_again() -> None:
    """Starting one costs as much as serving some hundred echoes."""
    served: list[int] = []
    with pool(limit=1) as threads:
        for number in range(1, 6):
            wait_until(lambda: submits(threads, lambda: served.append(threading.get_ident())))
            wait_until(lambda number=number: len(served) == number)
    assert len(set(served)) == 1


def submits(threads: Pool, task: object) -> bool:
    """Whether a pool takes a task."""
    try:
        threads.submit(task, "task")  # type: ignore[arg-type]
    except NoThreadError:
        return False
    return True


def test_beyond_the_limit_a_task_is_refused_at_once() -> None:
    """And taken again as soon as another has ended."""
    done = Event()
    with pool(limit=2) as threads:
        with busy(threads, 2), pytest.raises(NoThreadError, match="all 2 threads are in use"):
            threads.submit(done.set, "third")
        assert not done.is_set()
        wait_until(lambda: submits(threads, done.set))
        assert done.wait(PATIENCE)


def test_an_unused_thread_ends() -> None:
    """After a burst the pool is as small as before it."""
    with pool(limit=8, keep=0.05) as threads:
        with busy(threads, 8):
            assert len(threads) == 8
        wait_until(lambda: len(threads) == 0)
        done = Event()
        threads.submit(done.set, "next")
        assert done.wait(PATIENCE)


def test_no_task_is_lost_to_a_thread_that_ends() -> None:
    """A task may be promised to a thread at the very moment at which that gives up waiting."""
    keep, done = 0.001, []
    with pool(limit=4, keep=keep) as threads:
        for number in range(1, 400):
            wait_until(lambda: submits(threads, lambda: done.append(1)))
            wait_until(lambda number=number: len(done) == number)
            Event().wait(keep * (number % 5) / 2)  # not for anything: to meet the end of `keep`


# pytest warns of what threading itself passes over.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_task_that_exits_gives_its_place_back() -> None:
    """A handler may call sys.exit(): its thread ends, and another takes its place."""

    def leave() -> None:
        leaving.set()
        raise SystemExit

    leaving, done = Event(), Event()
    with pool(limit=1) as threads:
        threads.submit(leave, "leave")
        assert leaving.wait(PATIENCE)
        wait_until(lambda: all(t.name != "leave" for t in threading.enumerate()))
        threads.submit(done.set, "next")
        assert done.wait(PATIENCE)


def test_many_threads_ask_less_often_for_the_lock_of_the_interpreter() -> None:
    """A thousand that wake at once would do nothing else (FAULTS: slowloris, conversations)."""
    before = sys.getswitchinterval()
    with pool(limit=400, keep=0.05) as threads:
        with busy(threads, 50):
            assert sys.getswitchinterval() == before
        with busy(threads, 400):
            assert sys.getswitchinterval() >= 400 * SWITCH
        wait_until(lambda: len(threads) == 0)
        wait_until(lambda: sys.getswitchinterval() == before)


def test_close_waits_for_what_runs_and_no_longer_than_told() -> None:
    """Whether all has ended is what it returns; then nothing more is taken."""
    threads = Pool(limit=2)
    with busy(threads, 1):
        assert not threads.close(0.01)
        with pytest.raises(NoThreadError, match="closed"):
            threads.submit(lambda: None, "late")
    assert threads.close(PATIENCE)
    assert len(threads) == 0


def test_a_task_may_close_its_own_pool() -> None:
    """A conversation that ends the server does not wait for itself."""
    threads = Pool(limit=2, keep=0.05)
    closed: list[bool] = []
    threads.submit(lambda: closed.append(threads.close(PATIENCE)), "suicide")
    wait_until(lambda: closed)
    assert closed == [True]
    wait_until(lambda: len(threads) == 0)


def test_threads_have_large_stacks_and_the_rest_of_the_process_its_own() -> None:
    """Deep recursion of a library ends in RecursionError, even where the process asks for less."""
    sizes: list[int] = []
    before = threading.stack_size(256 * 1024)
    try:
        with pool() as threads:
            threads.submit(lambda: sizes.append(stack_size()), "measured")
            wait_until(lambda: sizes)
            assert threading.stack_size(256 * 1024) == 256 * 1024
    finally:
        threading.stack_size(before)
    assert sizes[0] >= STACK


def stack_size() -> int:
    """Bytes of the stack of the calling thread, as the C library knows them."""
    library = ctypes.CDLL(None)
    library.pthread_self.restype = ctypes.c_void_p
    attributes, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
    thread = ctypes.c_void_p(library.pthread_self())
    assert library.pthread_getattr_np(thread, attributes) == 0
    library.pthread_attr_getstacksize(attributes, ctypes.byref(size))
    library.pthread_attr_destroy(attributes)
    return size.value
