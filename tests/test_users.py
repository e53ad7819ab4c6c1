"""users: the file of logins, and over each transport."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import DATAGRAMS, STREAMS, read_all, serve
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.protocols.users import MOST_RECORDS, RECORD_SIZE, Options, UsersHandler, listing, parse

BOOT_TIME, LOGIN_PROCESS, USER_PROCESS, DEAD_PROCESS = 2, 6, 7, 8
NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=32)


def record(user: bytes, kind: int = USER_PROCESS, size: int = RECORD_SIZE) -> bytes:
    """A record as a login program writes it: type, pid, line, id, user, host; then the rest."""
    begin = struct.pack("=hxxi32s4s32s256s", kind, 4711, b"pts/0", b"ts/0", user, b"192.0.2.1")
    return begin.ljust(size, b"\x01")


SYSTEM = record(b"reboot", BOOT_TIME) + record(b"LOGIN", LOGIN_PROCESS)

# (what the file holds, the users)
FILES = [
    (b"", []),
    (SYSTEM, []),
    (record(b"root"), [b"root"]),
    (SYSTEM + record(b"bob") + record(b"alice"), [b"alice", b"bob"]),
    (record(b"bob") + record(b"bob"), [b"bob"]),
    (record(b"bob") + record(b"alice", DEAD_PROCESS), [b"bob"]),
    (record(b""), []),
    (record(b"a" * 32), [b"a" * 32]),
    (record(b"bob\0left over"), [b"bob"]),
    (record(b"evil\x1b[2J\r\n x\xff"), [b"evil?[2J???x?"]),
    (record(b"bob") + record(b"cut")[:-1], [b"bob"]),
]


@pytest.mark.parametrize(("utmp", "users"), FILES)
def test_the_users_are_those_logged_in(utmp: bytes, users: list[bytes]) -> None:
    """Each once, by the alphabet; other records, and one that is cut short, do not count."""
    assert parse(utmp) == users


@pytest.mark.parametrize("size", [384, 400])
def test_both_sizes_of_records_are_read(size: int) -> None:
    """That of most machines, and that of 64-bit ARM."""
    assert parse(record(b"bob", size=size) + record(b"al", size=size), size) == [b"al", b"bob"]


@given(st.lists(NAMES), st.binary(max_size=RECORD_SIZE - 1))
def test_users_are_read_whatever_follows_them(names: list[str], rest: bytes) -> None:
    """The remains of a record change nothing."""
    utmp = b"".join(record(name.encode()) for name in names)
    assert parse(utmp + rest) == sorted({name.encode() for name in names})


@given(st.lists(NAMES, max_size=4), st.data())
def test_a_file_cut_anywhere_gives_the_users_before(names: list[str], data: st.DataObject) -> None:
    """A record that is being written does not spoil those before it."""
    utmp = b"".join(record(name.encode()) for name in names)
    end = data.draw(st.integers(0, len(utmp)))
    whole = names[: end // RECORD_SIZE]
    assert parse(utmp[:end]) == sorted({name.encode() for name in whole})


@given(st.lists(st.binary(min_size=32, max_size=32).map(record)), st.binary(max_size=2000))
def test_garbage_makes_no_unprintable_name(records: list[bytes], rest: bytes) -> None:
    """Whatever bytes there are, names are printing ASCII, sorted, each once."""
    names = parse(b"".join(records) + rest)
    assert names == sorted(set(names))
    for name in names:
        assert name
        assert all(0x20 < byte < 0x7F for byte in name)


@given(st.lists(NAMES.map(str.encode)), st.integers(0, 200))
def test_a_listing_has_whole_lines(names: list[bytes], limit: int) -> None:
    """As many from the beginning as fit, and the next one would not."""
    lines = listing(names, limit)
    count = lines.count(b"\r\n")
    assert lines == b"".join(name + b"\r\n" for name in names[:count])
    assert len(lines) <= limit
    assert count == len(names) or len(lines) + len(names[count]) + 2 > limit


@pytest.fixture
def utmp(tmp_path: Path) -> Callable[[bytes], Options]:
    """Makes the options for a file that holds these bytes."""

    def make(data: bytes) -> Options:
        (tmp_path / "utmp").write_bytes(data)
        return Options.model_validate({"file": "utmp"}, context={"folder": tmp_path})

    return make


MakeOptions = Callable[[bytes], Options]


@pytest.mark.parametrize("transport", STREAMS)
def test_the_list_comes_unasked_and_the_stream_ends(transport: str, utmp: MakeOptions) -> None:
    """A line for each user, the end, and neither waits for the client."""
    options = utmp(SYSTEM + record(b"root") + record(b"alice"))
    with serve(UsersHandler, transport, options=options) as served:
        assert read_all(served.connect()) == b"alice\r\nroot\r\n"


@pytest.mark.parametrize("transport", DATAGRAMS)
@pytest.mark.parametrize("request_", [b"", b"x", b"who?"])
def test_any_datagram_is_answered(transport: str, request_: bytes, utmp: MakeOptions) -> None:
    """Empty ones included, by one datagram."""
    options = utmp(SYSTEM + record(b"root") + record(b"alice"))
    with serve(UsersHandler, transport, options=options) as served:
        client = served.connect()
        client.send(request_)
        assert client.recv(1000) == b"alice\r\nroot\r\n"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_each_answer_is_up_to_date(transport: str, utmp: MakeOptions) -> None:
    """Whoever has logged in since the last answer is in the next."""
    with serve(UsersHandler, transport, options=utmp(record(b"bob"))) as served:
        for data, answer in [(b"bob", b"bob\r\n"), (b"eve", b"eve\r\n")]:
            utmp(record(data))
            client = served.connect()
            client.send(b"\n")
            assert client.recv(1000) == answer


@pytest.mark.parametrize("transport", ["tcp", "udp", "unix-dgram"])
def test_without_a_file_nobody_is_logged_in(transport: str, tmp_path: Path) -> None:
    """An empty list is an answer: the stream ends, or an empty datagram comes."""
    options = Options(file=tmp_path / "missing")
    with serve(UsersHandler, transport, options=options) as served:
        client = served.connect()
        client.send(b"\n")
        assert client.recv(1000) == b""
        assert served.service.counters.errors == 0


def test_an_answer_holds_the_lines_that_may_be_sent(utmp: MakeOptions) -> None:
    """64 bytes or as many as the request has, never half a name; all of them over UNIX."""
    names = [b"user-%02d" % number for number in range(40)]
    lines = [name + b"\r\n" for name in names]
    options = utmp(b"".join(map(record, names)))
    with serve(UsersHandler, "udp", options=options) as served:
        client = served.connect()
        for size, fitting in [(0, 7), (64, 7), (71, 7), (72, 8), (359, 39), (360, 40), (999, 40)]:
            client.send(b"?" * size)
            assert client.recv(1000) == b"".join(lines[:fitting])
    with serve(UsersHandler, "unix-dgram", options=options) as served:
        client = served.connect()
        client.send(b"")
        assert client.recv(1000) == b"".join(lines)


def test_a_large_file_is_read_in_part(utmp: MakeOptions) -> None:
    """What is read, and so the time it takes, has a limit; the stream still ends."""
    names = [b"%032d" % number for number in range(MOST_RECORDS + 10)]
    with serve(UsersHandler, options=utmp(b"".join(map(record, names)))) as served:
        assert read_all(served.connect()).split() == names[:MOST_RECORDS]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """When the configuration is read, by a text that names it."""
    with pytest.raises(ValidationError, match=f"{tmp_path} is not a file"):
        Options.model_validate({"file": str(tmp_path)})


def test_the_default_is_the_file_of_the_system() -> None:
    """As utmp(5) says, by the path that needs no link."""
    assert Options().model_dump() == {"file": "/run/utmp"}
