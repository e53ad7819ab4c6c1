"""The last warnings, errors and refusals."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from netd.events import LAST, TEXT_LIMIT, Events


@contextmanager
def hearing() -> Iterator[tuple[Events, logging.Logger]]:
    """Events that hear a logger."""
    events, logger = Events(), logging.getLogger("netd.heard")
    logger.addHandler(events)
    try:
        yield events, logger
    finally:
        logger.removeHandler(events)


def texts(events: Events) -> list[tuple[str, int]]:
    """What is kept, with how often it happened."""
    return [(event.text, event.times) for event in events.last()]


def test_warnings_and_errors_are_kept() -> None:
    """With their level and service, the latest first; nothing less severe."""
    with hearing() as (events, logger):
        logger.info("fine")
        logger.warning("careful with %s", "that")
        logger.error("broken")
        first, second = events.last()
        assert (first.kind, first.service, first.text) == ("error", "heard", "broken")
        assert (second.kind, second.text) == ("warning", "careful with that")


def test_of_a_traceback_the_last_line_is_kept() -> None:
    """What was raised, where it was raised being in the log."""
    with hearing() as (events, logger):
        try:
            raise ValueError("no such thing")
        except ValueError:
            logger.exception("it failed")
        assert texts(events) == [("it failed: ValueError: no such thing", 1)]


def test_one_fault_is_one_event_whomever_it_happens_to() -> None:
    """A handler that fails for each client fills the list with other faults' help alone."""
    with hearing() as (events, logger):
        for fault, port in (("one", 1), ("other", 2), ("one", 3)):
            try:
                raise ValueError(fault)
            except ValueError:
                logger.exception("it failed for %s", port)
        assert texts(events) == [
            ("it failed for 3: ValueError: one", 2),
            ("it failed for 2: ValueError: other", 1),
        ]


def test_equal_events_are_one_that_counts() -> None:
    """It moves to the front when it happens again."""
    with hearing() as (events, logger):
        for text in ("again", "once", "again"):
            logger.warning(text)
        assert texts(events) == [("again", 2), ("once", 1)]


def test_refusals_of_one_address_are_one_event() -> None:
    """Of whatever port; and another address, service or reason is another one."""
    events = Events()
    for port in range(5):
        events.refused("echo", f"192.0.2.7:{port}", "address")
    events.refused("echo", "192.0.2.8:9", "address")
    events.refused("echo", "192.0.2.8:9", "rate")
    assert texts(events) == [("rate", 1), ("address", 1), ("address", 5)]
    assert events.last()[-1].peer == "192.0.2.7:4"


def test_a_flood_of_refusals_leaves_the_errors_alone() -> None:
    """Both lists are bounded, and each for itself."""
    with hearing() as (events, logger):
        logger.error("broken")
        for number in range(10 * LAST):
            events.refused("echo", f"198.51.100.{number % 250}:{number}", "rate")
            events.refused("echo", f"[2001:db8::{number:x}]:7", "address")
        kept = events.last()
        assert len(kept) == LAST + 1
        assert [event.text for event in kept if event.kind == "error"] == ["broken"]


def test_a_long_text_is_cut_and_a_faulty_call_is_kept() -> None:
    """Neither fills the memory, nor raises where it is logged."""
    with hearing() as (events, logger):
        logger.warning("x" * 100_000)
        logger.removeHandler(events)
        events.handle(
            logging.makeLogRecord(
                {"name": "netd.x", "levelname": "ERROR", "msg": "%d", "args": ("no",)}
            )
        )
        faulty, long = events.last()
        assert faulty.text == "%d"
        assert long.text == "x" * TEXT_LIMIT + "…"
