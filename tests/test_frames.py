"""Version 2 framing and the typed getters."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.errors import ProtocolError, Refused
from netd.fields import DEEPEST, LONGEST_NUMBER, Fields
from netd.frames import (
    LONGEST_HEADER,
    Body,
    EndOfFrame,
    Event,
    FrameReader,
    Header,
    decode,
    encode,
    error,
    ok,
)

Frame = tuple[dict[str, object], bytes]

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
HEADERS = st.dictionaries(TEXT.filter(lambda key: key != "size"), VALUES, max_size=6)
FRAMES = st.lists(st.tuples(HEADERS, st.binary(max_size=40)), min_size=1, max_size=4)
CUTS = st.lists(st.integers(0, 400))


def framed(header: str | bytes) -> bytes:
    text = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return struct.pack("<i", len(text)) + text


def events(reader: FrameReader) -> list[Event]:
    return list(iter(reader.next_event, None))


def read(pieces: list[bytes], body_limit: int = 100) -> tuple[list[Frame], FrameReader]:
    """The frames in a stream that arrives in these pieces, without the `size` of each header."""
    reader = FrameReader(body_limit=body_limit)
    frames: list[Frame] = []
    header, body = None, b""
    for piece in pieces:
        reader.receive_data(piece)
        for event in events(reader):
            if isinstance(event, Header):
                header, body = event, b""
            elif isinstance(event, Body):
                assert event.data
                body += event.data
            else:
                assert header is not None
                assert header.size == len(body)
                frames.append(({k: v for k, v in header.members.items() if k != "size"}, body))
                header = None
    return frames, reader


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(frames=FRAMES, cuts=CUTS)
def test_frames_survive_the_way(frames: list[Frame], cuts: list[int]) -> None:
    """What is encoded is decoded, at once, byte by byte and wherever the stream is cut."""
    stream = b"".join(encode(header, body) for header, body in frames)
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))], split(stream, cuts)):
        found, reader = read([*pieces, b""])
        assert found == frames
        assert reader.at_end


@given(frames=FRAMES, trailing=st.binary(min_size=1, max_size=3), cuts=CUTS)
def test_what_follows_the_frames_is_kept(
    frames: list[Frame], trailing: bytes, cuts: list[int]
) -> None:
    """Bytes of what comes next are neither lost nor taken into a body."""
    stream = b"".join(encode(header, body) for header, body in frames)
    found, reader = read(split(stream + trailing, cuts))
    assert found == frames
    assert reader.rest() == trailing
    assert reader.rest() == b""


@given(stream=st.binary(max_size=200), cuts=CUTS)
def test_arbitrary_bytes_raise_protocol_error_only(stream: bytes, cuts: list[int]) -> None:
    """Whatever a peer sends is frames or its fault, never ours."""
    try:
        _, reader = read([*split(stream, cuts), b""] if stream else [b""])
    except ProtocolError:
        return
    assert reader.at_end


@given(header=st.binary(max_size=60) | st.text('[]{}":,\\u0dNa1-+.eE \0é', max_size=60))
@settings(max_examples=500)
def test_arbitrary_headers_raise_protocol_error_only(header: str | bytes) -> None:
    """The header is arbitrary and its length is right: an object comes out, or a fault."""
    try:
        found, _ = decode(framed(header), body_limit=0)
    except ProtocolError:
        return
    text = header if isinstance(header, str) else header.decode()
    assert found.members == json.loads(text)


@given(value=VALUES, name=TEXT)
def test_getters_raise_refused_only(value: object, name: str) -> None:
    """A getter returns what it promises, or refuses in one line of printable text."""
    fields = Fields({name: value})
    getters: list[tuple[type, Callable[[], object]]] = [
        (str, lambda: fields.text(name, limit=8)),
        (int, lambda: fields.integer(name, minimum=0, maximum=9)),
        (float, lambda: fields.number(name, minimum=0, maximum=9)),
        (bool, lambda: fields.flag(name)),
        (Fields, lambda: fields.object(name)),
    ]
    for kind, getter in getters:
        said = ""
        try:
            found = getter()
        except Refused as refusal:
            said = str(refusal)
        assert said.isprintable()
        assert said or type(found) is kind or (kind is float and type(found) is int)


def test_two_queued_frames_are_read_exactly() -> None:
    """Two uploads that arrive in one piece do not run into each other."""
    reader = FrameReader(body_limit=100)
    reader.receive_data(encode({"name": "a.txt"}, b"aaa") + encode({"name": "b.txt"}, b"bb"))
    assert events(reader) == [
        Header({"name": "a.txt", "size": 3}, size=3),
        Body(b"aaa"),
        EndOfFrame(),
        Header({"name": "b.txt", "size": 2}, size=2),
        Body(b"bb"),
        EndOfFrame(),
    ]


def test_frame_without_body_ends_at_once() -> None:
    """Neither a missing `size` nor one of 0 waits for a byte."""
    reader = FrameReader(body_limit=0)
    reader.receive_data(framed("{}") + framed('{"size": 0}'))
    assert events(reader) == [Header({}), EndOfFrame(), Header({"size": 0}), EndOfFrame()]


def test_body_is_handed_on_as_it_comes() -> None:
    """A body is not collected: each piece is an event, and nothing stays in the reader."""
    reader = FrameReader(body_limit=10**12)
    reader.receive_data(encode({"size": 10**12}))
    assert events(reader) == [Header({"size": 10**12}, size=10**12)]
    tracemalloc.start()
    for _ in range(1000):
        reader.receive_data(b"x" * 65_536)
        assert events(reader) == [Body(b"x" * 65_536)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 65_536 + 10_000


def test_rest_in_mid_frame_is_our_mistake() -> None:
    """A protocol cannot take over a stream in which a body is still to come."""
    reader = FrameReader(body_limit=10)
    reader.receive_data(encode({}, b"body"))
    assert isinstance(reader.next_event(), Header)
    with pytest.raises(ValueError, match="not been read to its end"):
        reader.rest()


def test_data_after_the_end_is_our_mistake() -> None:
    """Bytes cannot follow the end of a stream: the caller mixed up two streams."""
    reader = FrameReader(body_limit=0)
    reader.receive_data(b"")
    reader.receive_data(b"")
    with pytest.raises(ValueError, match="after the end"):
        reader.receive_data(b"x")


def test_end_of_stream_between_frames_is_the_end() -> None:
    """A stream that ends after a frame, or before any, ends well."""
    _, reader = read([b""])
    assert reader.at_end
    _, reader = read([framed("{}"), b""])
    assert reader.at_end
    _, reader = read([framed("{}")])
    assert not reader.at_end


TRUNCATED = [
    (b"\x02", "header length: the stream ended after 1 of 4 bytes"),
    (b"\x02\0\0\0", "header: the stream ended after 0 of 2 bytes"),
    (b"\x02\0\0\0{", "header: the stream ended after 1 of 2 bytes"),
    (framed('{"size":3}'), "body: the stream ended after 0 of 3 bytes"),
    (framed('{"size":3}') + b"ab", "body: the stream ended after 2 of 3 bytes"),
]


@pytest.mark.parametrize(("sent", "expected"), TRUNCATED)
def test_end_of_stream_in_mid_frame_says_what_is_missing(sent: bytes, expected: str) -> None:
    """A frame that is cut off is a fault, however often it is asked for."""
    reader = FrameReader(body_limit=100)
    reader.receive_data(sent)
    events(reader)
    reader.receive_data(b"")
    for _ in range(2):
        with pytest.raises(ProtocolError) as fault:
            events(reader)
        assert str(fault.value) == expected
    assert not reader.at_end


NINES = "9" * 5000
MALFORMED = [
    (struct.pack("<i", 0), "header length: expected 1 to 65536, not 0"),
    (struct.pack("<i", -1), "header length: expected 1 to 65536, not -1"),
    (struct.pack("<i", 2**31 - 1), "header length: expected 1 to 65536, not 2147483647"),
    (struct.pack("<i", 65_537), "header length: expected 1 to 65536, not 65537"),
    (struct.pack(">i", 2), "header length: expected 1 to 65536, not 33554432"),
    (framed("[]"), "header: expected an object, not an array"),
    (framed('"v"'), "header: expected an object, not text of 1 bytes"),
    (framed("2"), "header: expected an object, not 2"),
    (framed("null"), "header: expected an object, not null"),
    (framed("NaN"), "header: NaN is not a finite number"),
    (framed('"\\u0000"'), "header: holds NUL"),
    (framed(" "), "header: not JSON: Expecting value (character 1)"),
    (framed("{} x"), "header: not JSON: Extra data (character 3)"),
    (framed("{}{}"), "header: not JSON: Extra data (character 2)"),
    (framed('{"v'), "header: not JSON: Unterminated string starting at (character 1)"),
    (framed('{"v":"\0"}'), "header: not JSON: Invalid control character at (character 6)"),
    (framed("\ufeff{}"), "header: not JSON: Expecting value (character 0)"),
    (framed(b'{"v":"\xff"}'), "header: not UTF-8 at byte 6"),
    (framed(b'{"v":"\xc0\x80"}'), "header: not UTF-8 at byte 6"),
    (framed('{"v":2}'.encode("utf-16")), "header: not UTF-8 at byte 0"),
    (framed('{"v":NaN}'), "v: NaN is not a finite number"),
    (framed('{"v":[0,-Infinity]}'), "v[1]: -Infinity is not a finite number"),
    (framed('{"params":{"n":Infinity}}'), "params.n: Infinity is not a finite number"),
    (framed('{"n":1e999}'), "n: 1e999 is not a finite number"),
    (framed('{"n":' + NINES + "}"), "n: a number of 5000 characters (at most 64)"),
    (framed('{"n":-' + NINES + "}"), "n: a number of 5001 characters (at most 64)"),
    (framed('{"n":0.' + NINES + "}"), "n: a number of 5002 characters (at most 64)"),
    (framed('{"n":1e' + NINES + "}"), "n: a number of 5002 characters (at most 64)"),
    (framed('{"size":' + NINES + "}"), "size: a number of 5000 characters (at most 64)"),
    (framed('{"a":1,"b":2,"a":1}'), "a: given twice"),
    (framed('{"a":1,"\\u0061":2}'), "a: given twice"),
    (framed('{"params":[{"a":1,"a":2}]}'), "params[0].a: given twice"),
    (framed('{"size":0,"size":0}'), "size: given twice"),
    (framed('{"params":{"name":"\\ud800"}}'), "params.name: holds a lone surrogate"),
    (framed('{"params":{"name":"a\\udc00\\ud800"}}'), "params.name: holds a lone surrogate"),
    (framed('{"params":{"name":"\ud800"}}'), "params.name: holds a lone surrogate"),
    (framed('{"params":{"name":"\ud83d\ude00"}}'), "params.name: holds a lone surrogate"),
    (framed('{"name":"a\\u0000b"}'), "name: holds NUL"),
    (framed('{"\\u0000":1}'), "'\\x00': holds NUL"),
    (framed('{"a":{"\\ud800":1}}'), "a.'\\ud800': holds a lone surrogate"),
    (framed('{"\\u001b[2J":NaN}'), "'\\x1b[2J': NaN is not a finite number"),
    (framed('{"' + "k" * 60_000 + '":NaN}'), f"'{'k' * 40}': NaN is not a finite number"),
    (framed('{"size":true}'), "size: expected a whole number from 0 to 100, not true"),
    (framed('{"size":-1}'), "size: expected a whole number from 0 to 100, not -1"),
    (framed('{"size":5.0}'), "size: expected a whole number from 0 to 100, not 5.0"),
    (framed('{"size":1e2}'), "size: expected a whole number from 0 to 100, not 100.0"),
    (framed('{"size":null}'), "size: expected a whole number from 0 to 100, not null"),
    (framed('{"size":"5"}'), "size: expected a whole number from 0 to 100, not text of 1 bytes"),
    (framed('{"size":[5]}'), "size: expected a whole number from 0 to 100, not an array"),
    (framed('{"size":101}'), "size: expected a whole number from 0 to 100, not 101"),
    (framed("[" * 33 + "]" * 33), "header: objects and arrays more than 32 deep"),
    (framed('{"a":' * 33 + "1" + "}" * 33), "header: objects and arrays more than 32 deep"),
    (framed('{"a":' + "[" * 60_000), "header: objects and arrays more than 32 deep"),
]


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(("sent", "expected"), MALFORMED)
def test_malformed_frame_is_refused_by_name(sent: bytes, expected: str, step: int) -> None:
    """Each fault names its field, whole and byte by byte, and is met again when asked again."""
    reader = FrameReader(body_limit=100)
    for i in range(0, len(sent) - 1, step):
        if i + step < len(sent):
            reader.receive_data(sent[i : i + step])
            assert events(reader) == []
    reader.receive_data(sent[-step:])
    for _ in range(2):
        with pytest.raises(ProtocolError) as fault:
            events(reader)
        assert str(fault.value) == expected


@pytest.mark.parametrize("length", [0, -1, 2**31 - 1, LONGEST_HEADER + 1])
def test_nothing_is_allocated_for_a_bad_length(length: int) -> None:
    """A length of 2 GiB costs no more than its own four bytes and the error."""
    tracemalloc.start()
    reader = FrameReader(body_limit=100)
    reader.receive_data(struct.pack("<i", length))
    with pytest.raises(ProtocolError):
        reader.next_event()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_384


def test_header_at_its_limits_is_accepted() -> None:
    """The longest header, the deepest nesting and the longest number are allowed."""
    assert decode(framed('{"a":"' + "x" * (LONGEST_HEADER - 8) + '"}'), body_limit=0)
    assert decode(framed('{"a":' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}"), body_limit=0)
    header, _ = decode(framed('{"n":' + "9" * LONGEST_NUMBER + "}"), body_limit=0)
    assert header.members == {"n": 10**LONGEST_NUMBER - 1}


@pytest.mark.parametrize("value", ["[" * 100, '"' + "[{" * 50, "\\" * 9 + "[" * 99, '\\"[' * 40])
def test_brackets_in_strings_are_not_depth(value: str) -> None:
    """A string of brackets is a string, whatever quotes and backslashes it holds besides."""
    text = json.dumps({value: [value]})
    header, _ = decode(framed(text), body_limit=0)
    assert header.members == {value: [value]}


def test_brackets_side_by_side_are_not_depth() -> None:
    """Many small arrays are as shallow as one."""
    header, _ = decode(framed('{"a":[' + "[]," * 1000 + "{}]}"), body_limit=0)
    assert header.members == {"a": [[]] * 1000 + [{}]}


def test_surrogate_pair_is_one_character() -> None:
    """Two escapes that belong together are text like any other."""
    header, _ = decode(framed('{"name":"\\ud83d\\ude00"}'), body_limit=0)
    assert header.text("name", limit=4) == "\N{GRINNING FACE}"


def test_body_limit_may_change_between_frames() -> None:
    """What a peer may send depends on what it asked for before."""
    reader = FrameReader(body_limit=0)
    reader.receive_data(framed("{}") + encode({}, b"body"))
    assert isinstance(reader.next_event(), Header)
    assert isinstance(reader.next_event(), EndOfFrame)
    with pytest.raises(ProtocolError, match=r"^size: expected 0, not 4$"):
        reader.next_event()
    reader.body_limit = 4
    assert events(reader) == [Header({"size": 4}, size=4), Body(b"body"), EndOfFrame()]


FIELDS = Fields(
    {
        "text": "naïve",
        "zero": 0,
        "one": 1,
        "whole": 1.0,
        "half": 0.5,
        "true": True,
        "null": None,
        "list": [],
        "params": {"name": 7},
    }
)


def test_getters_return_what_is_there() -> None:
    """Each getter returns a value of its type, unchanged."""
    assert FIELDS.text("text", limit=6) == "naïve"
    assert FIELDS.integer("one", minimum=0, maximum=1) == 1
    assert FIELDS.number("half", minimum=0.5, maximum=1) == 0.5
    assert FIELDS.number("one", minimum=0, maximum=1) == 1
    assert FIELDS.flag("true") is True
    assert FIELDS.object("params") == Fields({"name": 7}, "params")


def test_getters_return_the_default_for_what_is_missing() -> None:
    """A field that may be missing has its default, of whatever type."""
    assert FIELDS.text("x", limit=1, default="none") == "none"
    assert FIELDS.integer("x", minimum=0, maximum=1, default=60) == 60
    assert FIELDS.number("x", minimum=0, maximum=1, default=None) is None
    assert FIELDS.flag("x", default=False) is False
    assert FIELDS.object("x", default=None) is None
    assert FIELDS.text("null", limit=1, default=None) is None


REFUSALS: list[tuple[Callable[[], object], str]] = [
    (lambda: FIELDS.text("x", limit=9), "x: expected text of at most 9 bytes, but it is missing"),
    (
        lambda: FIELDS.text("text", limit=5),
        "text: expected text of at most 5 bytes, not text of 6 bytes",
    ),
    (lambda: FIELDS.text("one", limit=5), "one: expected text of at most 5 bytes, not 1"),
    (
        lambda: FIELDS.text("null", limit=5, default=""),
        "null: expected text of at most 5 bytes, not null",
    ),
    (
        lambda: FIELDS.integer("true", minimum=0, maximum=3600),
        "true: expected a whole number from 0 to 3600, not true",
    ),
    (
        lambda: FIELDS.integer("whole", minimum=0, maximum=9, default=None),
        "whole: expected a whole number from 0 to 9, not 1.0",
    ),
    (
        lambda: FIELDS.integer("one", minimum=2, maximum=9),
        "one: expected a whole number from 2 to 9, not 1",
    ),
    (
        lambda: FIELDS.integer("one", minimum=-9, maximum=0),
        "one: expected a whole number from -9 to 0, not 1",
    ),
    (lambda: FIELDS.integer("one", minimum=2, maximum=2), "one: expected 2, not 1"),
    (
        lambda: FIELDS.number("true", minimum=0, maximum=9),
        "true: expected a number from 0 to 9, not true",
    ),
    (
        lambda: FIELDS.number("half", minimum=1, maximum=9),
        "half: expected a number from 1 to 9, not 0.5",
    ),
    (lambda: FIELDS.flag("zero"), "zero: expected true or false, not 0"),
    (lambda: FIELDS.flag("null"), "null: expected true or false, not null"),
    (lambda: FIELDS.flag("x\n\x1b"), "'x\\n\\x1b': expected true or false, but it is missing"),
    (lambda: FIELDS.object("list"), "list: expected an object, not an array"),
    (lambda: FIELDS.flag("params"), "params: expected true or false, not an object"),
    (
        lambda: FIELDS.object("params").text("name", limit=1),
        "params.name: expected text of at most 1 bytes, not 7",
    ),
    (
        lambda: FIELDS.object("params").object("a"),
        "params.a: expected an object, but it is missing",
    ),
]


@pytest.mark.parametrize(("getter", "expected"), REFUSALS)
def test_getters_refuse_by_name(getter: Callable[[], object], expected: str) -> None:
    """What is missing, of another type or out of range is refused, and the field is named."""
    with pytest.raises(Refused) as refusal:
        getter()
    assert str(refusal.value) == expected


def test_refused_field_leaves_the_stream_in_step() -> None:
    """After a field of the wrong type, body and next frame are read as if nothing was."""
    reader = FrameReader(body_limit=10)
    reader.receive_data(encode({"cmd": 1}, b"body") + encode({"cmd": "list"}))
    header = reader.next_event()
    assert isinstance(header, Header)
    with pytest.raises(Refused):
        header.text("cmd", limit=10)
    assert events(reader) == [Body(b"body"), EndOfFrame(), Header({"cmd": "list"}), EndOfFrame()]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"id": 1}, "v: expected 2, but it is missing"),
        ({"v": 1, "id": 1}, "v: expected 2, not 1"),
        ({"v": 2.0, "id": 1}, "v: expected 2, not 2.0"),
        ({"v": 2}, "id: expected a whole number or text of at most 64 bytes, not null"),
        ({"v": 2, "id": True}, "id: expected a whole number or text of at most 64 bytes, not true"),
        (
            {"v": 2, "id": "é" * 33},
            "id: expected a whole number or text of at most 64 bytes, not text of 66 bytes",
        ),
    ],
)
def test_request_needs_version_and_id(members: dict[str, object], expected: str) -> None:
    """A request that cannot be answered by its `id` is refused before it is obeyed."""
    with pytest.raises(Refused) as refusal:
        Header(members).check_request()
    assert str(refusal.value) == expected


@pytest.mark.parametrize("identity", [0, -7, "", "é" * 32])
def test_reply_repeats_the_id(identity: int | str) -> None:
    """A whole number or a text is repeated as it is."""
    request = Header({"v": 2, "id": identity})
    request.check_request()
    assert ok(request.id)["id"] == identity


@pytest.mark.parametrize("identity", [None, True, 1.0, [], "x" * 65])
def test_unusable_id_is_null_in_the_reply(identity: object) -> None:
    """A reply to a request that has no usable `id` can still be sent."""
    assert Header({"id": identity}).id is None


def test_replies_are_as_documented() -> None:
    """Replies have the fields, and the bytes, that the wire format names."""
    assert encode(ok(7, exit=0)) == framed('{"v":2,"id":7,"ok":true,"exit":0}')
    assert encode(ok("a"), b"xy") == framed('{"v":2,"id":"a","ok":true,"size":2}') + b"xy"
    assert encode(error(None, "no-such-file", "b.txt: not here")) == framed(
        '{"v":2,"id":null,"ok":false,"error":"no-such-file","message":"b.txt: not here"}'
    )


@given(message=st.text(st.characters(), max_size=2000))
def test_error_can_quote_whatever_the_peer_sent(message: str) -> None:
    """A message with control characters, NUL or surrogates can be sent, and shown."""
    header, _ = decode(encode(error(1, "refused", message)), body_limit=0)
    assert header.text("message", limit=LONGEST_HEADER).isprintable()


@pytest.mark.parametrize("code", ["", "No", "no_such", "-a", "a-", "a b", "a\n"])
def test_error_code_is_kebab_case(code: str) -> None:
    """Programs compare codes: one that is misspelt is our mistake."""
    with pytest.raises(ValueError, match="is not an error code"):
        error(1, code, "")


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        ({"a": "x" * 65_536}, b"", "header: 65544 bytes, at most 65536 can be sent"),
        ({"a": b"x"}, b"", "cannot be sent: Object of type bytes is not JSON serializable"),
        ({"a": {"b": float("nan")}}, b"", "cannot be sent: a.b: NaN is not a finite number"),
        ({"a": "\ud800"}, b"", "cannot be sent: a: holds a lone surrogate"),
        ({"a": ["\0"]}, b"", "cannot be sent: a[0]: holds NUL"),
        ({"a": 10**64}, b"", "cannot be sent: a: a number of 65 characters (at most 64)"),
        ({"size": 3}, b"body", "size: 3, but the body has 4 bytes"),
        (
            {"size": -1},
            b"",
            "cannot be sent: size: expected a whole number from 0 to 9223372036854775807, not -1",
        ),
    ],
)
def test_encode_refuses_what_the_peer_would_refuse(
    header: dict[str, object], body: bytes, expected: str
) -> None:
    """A header that cannot be sent is our mistake, found before a byte is."""
    with pytest.raises(ValueError, match=r"\S") as mistake:
        encode(header, body)
    assert str(mistake.value) == expected


def test_encode_refuses_what_has_no_end() -> None:
    """A header that contains itself, a number beyond printing and deep nesting are ValueErrors."""
    circular: dict[str, object] = {}
    circular["a"] = circular
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    endless: list[dict[str, object]] = [circular, {"a": 10**5000}, {"a": deep}]
    for header in endless:
        with pytest.raises(ValueError, match=r"\S"):
            encode(header)


def test_encode_leaves_the_header_as_it_is() -> None:
    """`size` is put into the frame, not into the dictionary of the caller."""
    header: dict[str, object] = {"a": 1}
    assert decode(encode(header, b"body"), body_limit=4)[1] == b"body"
    assert header == {"a": 1}


def test_size_without_body_announces_what_the_caller_sends() -> None:
    """A large body is sent after its header without being joined to it."""
    frame = encode({"size": 4}) + b"body"
    assert decode(frame, body_limit=4) == (Header({"size": 4}, size=4), b"body")
    assert encode({"size": 4}, b"body") == frame


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"", "header length: missing"),
        (b"\0\0", "header length: the stream ended after 2 of 4 bytes"),
        (framed('{"size":4}') + b"bod", "body: the stream ended after 3 of 4 bytes"),
        (framed('{"size":4}') + b"body!", "body: 1 bytes more than the size of 4"),
        (framed("{}") + framed("{}"), "body: 6 bytes more than the size of 0"),
    ],
)
def test_datagram_is_exactly_one_frame(datagram: bytes, expected: str) -> None:
    """A datagram that holds less or more than a frame is refused."""
    with pytest.raises(ProtocolError) as fault:
        decode(datagram, body_limit=100)
    assert str(fault.value) == expected
