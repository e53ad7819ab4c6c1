"""daytime: its form, and over each transport."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from harness import DATAGRAMS, STREAMS, read_all, serve
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.protocols.daytime import LONGEST, DaytimeHandler, Options, check_form, line

DEFAULT = Options().format

# (form, what is wrong with it)
UNFIT = [
    ("", "does not make one line of ASCII"),
    ("   ", "does not make one line of ASCII"),
    ("%H:%M\n", "does not make one line of ASCII"),
    ("%H%n%M", "does not make one line of ASCII"),
    ("%H%t%M", "does not make one line of ASCII"),
    ("%H\x1b[1m", "does not make one line of ASCII"),
    ("%H\0", "does not make one line of ASCII"),
    ("%H Uhr, schön", "does not make one line of ASCII"),
    ("%100d", "makes 100 characters (shorten it to 62)"),
    ("%A, the %d. day of %B in the year %Y of our era, at %H o'clock", "makes 78 characters"),
    ("%H:%Q", "not every directive of it is in strftime(3)"),
    ("100%% at %H:%Q", "not every directive of it is in strftime(3)"),
    ("%H %", "not every directive of it is in strftime(3)"),
]


def possible(before: int, form: str = DEFAULT, utc: bool = False) -> list[bytes]:
    """The lines of all seconds since `before`."""
    return [line(second, form, utc) for second in range(before, int(time.time()) + 1)]


def test_the_line_is_that_of_inetd() -> None:
    """As ctime(3) writes it, with a space before a day of one digit, and CR LF."""
    assert line(1_795_153_447, DEFAULT, utc=True) == b"Fri Nov 20 05:44:07 2026\r\n"
    assert line(1_793_599_200, DEFAULT, utc=True) == b"Mon Nov  2 06:00:00 2026\r\n"


@given(st.integers(0, 4_102_444_800))
def test_the_line_is_that_of_ctime_at_any_time(now: int) -> None:
    """In local time, at each second of this century."""
    assert line(now, DEFAULT, utc=False) == f"{time.ctime(now)}\r\n".encode()


@pytest.fixture
def _east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone five and a half hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "IST-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_east")
def test_local_time_is_told_unless_utc_is_wanted() -> None:
    """By the time zone that the process runs in."""
    assert line(1_795_153_447, DEFAULT, utc=False) == b"Fri Nov 20 11:14:07 2026\r\n"
    assert line(1_795_153_447, DEFAULT, utc=True) == b"Fri Nov 20 05:44:07 2026\r\n"


@pytest.mark.parametrize(("form", "fault"), UNFIT)
def test_an_unfit_form_is_refused(form: str, fault: str) -> None:
    """When it is read, by a text that shows it and says what is wrong."""
    with pytest.raises(ValidationError, match=re.escape(fault)) as caught:
        Options(format=form)
    assert repr(form) in str(caught.value)


@pytest.mark.parametrize("form", [DEFAULT, "%Y-%m-%dT%H:%M:%S%z", "%H:%M", "%s", "100%%", "noon"])
def test_other_forms_are_taken(form: str) -> None:
    """Any that makes a line."""
    assert Options(format=form).format == form


@given(st.text(st.sampled_from("%aAbBcdeHjMnpSstuyYzZ0159-_^ \0é"), max_size=30), st.data())
@example("%A %B " * 3, None)
def test_a_form_that_is_taken_always_fits(form: str, data: st.DataObject | None) -> None:
    """A form is refused, or its lines are ASCII and answer any datagram on each day of a year."""
    try:
        check_form(form)
    except ValueError:
        return
    now = data.draw(st.integers(1_767_225_600, 1_798_761_599)) if data else 0
    made = line(now, form, utc=True)
    assert made.endswith(b"\r\n")
    assert made[:-2].decode("ascii").isprintable()
    assert 0 < len(made[:-2]) <= LONGEST


@pytest.mark.parametrize("transport", STREAMS)
def test_the_line_comes_unasked_and_the_stream_ends(transport: str) -> None:
    """One line, the end, and neither waits for the client."""
    with serve(DaytimeHandler, transport) as served:
        before = int(time.time())
        answer = read_all(served.connect())
        assert answer in possible(before)


@pytest.mark.parametrize("transport", DATAGRAMS)
@pytest.mark.parametrize("request_", [b"", b"x", b"what time is it?"])
def test_any_datagram_is_answered(transport: str, request_: bytes) -> None:
    """Empty ones included, by one datagram."""
    with serve(DaytimeHandler, transport) as served:
        client = served.connect()
        before = int(time.time())
        client.send(request_)
        answer = client.recv(100)
        assert answer in possible(before)


def test_form_and_zone_can_be_chosen() -> None:
    """The options are obeyed, over streams and datagrams."""
    options = Options(format="%Y-%m-%d %H:%M:%S %z", utc=True)
    for transport in ("tcp", "udp"):
        with serve(DaytimeHandler, transport, options=options) as served:
            client = served.connect()
            before = int(time.time())
            client.send(b"\n")
            answer = client.recv(100)
            assert answer in possible(before, options.format, utc=True)
            assert answer.endswith(b" +0000\r\n")


def test_the_longest_line_answers_an_empty_datagram() -> None:
    """A form at the limit is not dropped as an amplification."""
    options = Options(format="x" * LONGEST)
    with serve(DaytimeHandler, "udp", options=options) as served:
        client = served.connect()
        client.send(b"")
        assert client.recv(100) == b"x" * LONGEST + b"\r\n"
