"""qotd: its quotes and their file, and over each transport."""

from __future__ import annotations

import os
import re
from datetime import date
from pathlib import Path
from random import Random

import pytest
from harness import DATAGRAMS, STREAMS, TRANSPORTS, read_all, serve
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.protocols.qotd import (
    BUILT_IN,
    LARGEST_FILE,
    LONGEST,
    Options,
    QotdHandler,
    choose,
    cut,
    parse,
    to_wire,
)  # fmt: skip

# (the text of a file, its quotes as they are sent)
FILES = [
    ("", []),
    ("%\n%\n\n%\n", []),
    ("one", [b"one\r\n"]),
    ("one\n", [b"one\r\n"]),
    ("one\n%\n", [b"one\r\n"]),
    ("%\none\n%\ntwo\n", [b"one\r\n", b"two\r\n"]),
    ("one\r\n%\r\ntwo\r\n", [b"one\r\n", b"two\r\n"]),
    ("one\ntwo\n\n  -- three \n%\nfour\n", [b"one\r\ntwo\r\n\r\n  -- three\r\n", b"four\r\n"]),
    ("100 %\n%%\n %\n% \n", [b"100 %\r\n%%\r\n %\r\n%\r\n"]),
    ("\tone\ttab\n", [b"        one     tab\r\n"]),
    ("größer\n", ["größer\r\n".encode()]),
    ("a\x1b[2J\n%\ngood\n%\nb\x07\n%\nc\rd\n", [b"good\r\n"]),
    ("x" * 509 + "\n%\n" + "x" * 510 + "\n", [b"x" * 509 + b"\r\n"]),
]

QUOTES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=600)


@pytest.mark.parametrize(("text", "quotes"), FILES)
def test_a_file_is_cut_at_its_percent_lines(text: str, quotes: list[bytes]) -> None:
    """Line ends become CR LF; what may not be sent is passed over."""
    assert parse(text) == quotes


@given(st.lists(QUOTES.filter(lambda quote: quote.strip() not in ("", "%"))), st.booleans())
def test_a_file_gives_back_its_quotes(quotes: list[str], dos: bool) -> None:
    """All that may be sent, in their order, whichever line ends the file has."""
    end = "\r\n" if dos else "\n"
    text = f"{end}%{end}".join(quotes)
    assert parse(text) == [to_wire(q) for q in quotes if len(q.rstrip().encode()) <= 509]


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    """Whatever a file holds, what is sent of it is whole lines without control characters."""
    for quote in parse(text):
        assert 2 < len(quote) <= LONGEST
        assert quote.endswith(b"\r\n")
        assert not re.search(r"[\0-\x1f\x7f]", quote.decode().replace("\r\n", ""))


@given(QUOTES.filter(str.strip), st.integers(0, 600))
def test_a_cut_keeps_characters_whole(quote: str, limit: int) -> None:
    """It fits, is UTF-8, ends a line, and loses no more than it must."""
    whole = f"{quote}\r\n".encode()
    made = cut(whole, limit)
    assert len(made) <= limit
    assert whole.startswith(made.removesuffix(b"\r\n").removesuffix(b"\r"))
    made.decode()
    if limit >= 2:
        assert made.endswith(b"\r\n")
        # A character has 4 bytes at most: up to 3 of one that is not whole are left out.
        kept = len(made) - len(b"\r\n")
        assert not whole[kept : max(kept, limit - 5)].decode(errors="ignore").strip()


@given(st.lists(st.binary(min_size=3, max_size=90), min_size=1), st.integers(0, 100), st.integers())
def test_a_choice_fits(quotes: list[bytes], limit: int, seed: int) -> None:
    """It is one of those that fit; where none does, a part of the shortest."""
    quotes.sort(key=len)
    chosen = choose(quotes, limit, Random(seed))
    assert len(chosen) <= limit or not chosen
    if len(quotes[0]) <= limit:
        assert chosen in quotes
    else:
        assert chosen == cut(quotes[0], limit)


def test_each_quote_that_fits_is_chosen_at_some_time() -> None:
    """No quote is left out, the first and the last neither."""
    quotes = [b"1", b"22", b"333", b"4444"]
    assert {choose(quotes, 3, Random(seed)) for seed in range(100)} == {b"1", b"22", b"333"}


@pytest.mark.parametrize("quote", BUILT_IN)
def test_built_in_quotes_answer_any_datagram(quote: str) -> None:
    """They are ASCII, as the RFC recommends, and fit 64 bytes."""
    assert quote.isascii()
    assert len(to_wire(quote)) <= 64


@pytest.mark.parametrize(
    ("quote", "fault"),
    [
        ("", "the quote is empty"),
        (" \n\n", "the quote is empty"),
        ("bell \x07", r"control character '\\x07'"),
        ("x" * 510, "takes 512 bytes"),
        ("é" * 255, "takes 512 bytes"),
        ("x\n" * 171, "takes 513 bytes"),
    ],
)
def test_an_unfit_quote_is_refused(quote: str, fault: str) -> None:
    """When it is read, and the place in the list is named."""
    with pytest.raises(ValidationError, match=fault) as caught:
        Options(quotes=["good", quote])
    assert caught.value.errors()[0]["loc"] == ("quotes", 1)


def test_a_relative_file_lies_in_the_folder_of_the_configuration(tmp_path: Path) -> None:
    """The folder comes in the context of the validation; an absolute path does not need it."""
    (tmp_path / "quotes").write_text("one\n%\ntwo\n")
    relative = Options.model_validate({"file": "quotes"}, context={"folder": tmp_path})
    absolute = Options.model_validate({"file": str(tmp_path / "quotes")}, context={"folder": "/"})
    assert relative == absolute
    assert relative.by_length == [b"one\r\n", b"two\r\n"]
    assert relative.model_dump()["file"] == str(tmp_path / "quotes")


def test_without_a_folder_a_path_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    """As any program takes it."""
    (tmp_path / "quotes").write_text("one\n")
    path = os.path.relpath(tmp_path / "quotes")
    assert Options.model_validate({"file": path}).by_length == [b"one\r\n"]


def test_a_file_adds_to_the_quotes(tmp_path: Path) -> None:
    """Both are used, a byte order mark is not; the shortest comes first."""
    (tmp_path / "quotes").write_bytes(b"\xef\xbb\xbffrom the file\n")
    options = Options.model_validate({"quotes": ["own", "own too"], "file": f"{tmp_path}/quotes"})
    assert options.by_length == [b"own\r\n", b"own too\r\n", b"from the file\r\n"]


def test_a_file_that_has_changed_makes_other_options(tmp_path: Path) -> None:
    """A reload compares options: new quotes are a change, though the path is the same."""
    file = tmp_path / "quotes"
    file.write_text("old\n")
    before, same = (Options.model_validate({"file": str(file)}) for _ in range(2))
    assert before.by_length == [b"old\r\n"]
    file.write_text("new\n")
    after = Options.model_validate({"file": str(file)})
    assert before == same
    assert before != after


def make_unfit_files(folder: Path) -> dict[str, str]:
    (folder / "folder").mkdir()
    (folder / "latin-1").write_bytes("one\n%\ngrün\n".encode("latin-1"))
    (folder / "empty").write_bytes(b"")
    (folder / "long").write_bytes(b"x" * 600)
    (folder / "huge").write_bytes(b"one\n%\n" * (LARGEST_FILE // 6 + 1))
    os.mkfifo(folder / "fifo")
    return {
        "missing": "cannot be read: No such file",
        "folder": "is not a file",
        "fifo": "is not a file",
        "latin-1": "byte 8 is not UTF-8",
        "empty": "has no quote",
        "long": "has no quote of at most 511 bytes",
        "huge": "is larger than",
    }


def test_an_unfit_file_is_refused(tmp_path: Path) -> None:
    """By a text that names the file, and without waiting for a FIFO's writer."""
    for name, fault in make_unfit_files(tmp_path).items():
        with pytest.raises(ValidationError, match=fault) as caught:
            Options.model_validate({"file": name}, context={"folder": tmp_path})
        assert caught.value.errors()[0]["loc"] == ("file",)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("given_", ["", ".", "a\0b", 7, ["quotes"]])
def test_what_is_no_path_is_refused(given_: object) -> None:
    """Whatever YAML made of it."""
    with pytest.raises(ValidationError, match="is not the path of a file"):
        Options.model_validate({"file": given_})


@pytest.mark.parametrize("transport", STREAMS)
def test_a_quote_comes_unasked_and_the_stream_ends(transport: str) -> None:
    """One quote, the end, and neither waits for the client."""
    with serve(QotdHandler, transport) as served:
        assert read_all(served.connect()) in map(to_wire, BUILT_IN)


@pytest.mark.parametrize("transport", STREAMS)
def test_a_long_quote_comes_whole(transport: str) -> None:
    """Several lines and 511 bytes, each line ended by CR LF."""
    quote = "größer\n\n" + "x" * 497
    with serve(QotdHandler, transport, options=Options(quotes=[quote])) as served:
        assert read_all(served.connect()) == "größer\r\n\r\n".encode() + b"x" * 497 + b"\r\n"


@pytest.mark.parametrize("transport", DATAGRAMS)
@pytest.mark.parametrize("request_", [b"", b"x", b"a quote, please"])
def test_any_datagram_is_answered(transport: str, request_: bytes) -> None:
    """Empty ones included, by one quote."""
    with serve(QotdHandler, transport) as served:
        client = served.connect()
        client.send(request_)
        assert client.recv(1000) in map(to_wire, BUILT_IN)


def test_a_datagram_is_answered_by_a_quote_that_fits() -> None:
    """A longer request may be answered by a longer quote; none is dropped as an amplification."""
    options = Options(quotes=["short", "x" * 98])
    with serve(QotdHandler, "udp", options=options) as served:
        client = served.connect()
        answers = set()
        for size in [0, 64, 99] * 10 + [100] * 40:
            client.send(b"?" * size)
            answers.add((size, client.recv(1000)))
        longer = b"x" * 98 + b"\r\n"
        assert answers == {(n, b"short\r\n") for n in (0, 64, 99, 100)} | {(100, longer)}


def test_where_no_quote_fits_the_shortest_is_cut() -> None:
    """Between two characters, and within what the sender may be sent."""
    options = Options(quotes=["é" * 50, "ab" * 70])
    with serve(QotdHandler, "udp6", options=options) as served:
        client = served.connect()
        client.send(b"")
        assert client.recv(1000) == "é".encode() * 31 + b"\r\n"
        client.send(b"?" * 101)
        assert client.recv(1000) == "é".encode() * 49 + b"\r\n"


def test_a_proven_sender_gets_the_whole_quote() -> None:
    """Over a UNIX socket the answer may be longer than the request."""
    with serve(QotdHandler, "unix-dgram", options=Options(quotes=["x" * 500])) as served:
        client = served.connect()
        client.send(b"")
        assert client.recv(1000) == b"x" * 500 + b"\r\n"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_quote_of_the_day_stays_for_a_day(transport: str) -> None:
    """With `pick: daily` all clients get the same, unless midnight comes between."""
    options = Options(quotes=[f"quote {n}" for n in range(50)], pick="daily")
    with serve(QotdHandler, transport, options=options) as served:
        before, answers = date.today(), set()
        for _ in range(10):
            client = served.connect()
            if transport in DATAGRAMS:
                client.send(b"")
                answers.add(client.recv(1000))
            else:
                answers.add(read_all(client))
        assert 1 <= len(answers) <= 1 + (date.today() - before).days
