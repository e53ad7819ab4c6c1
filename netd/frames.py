"""Version 2 framing: header length, JSON header, body. Pure: no socket and no clock.

    frame  = length header body
    length = 4 bytes, signed, little-endian: 1 to 65,536
    header = `length` bytes: a JSON object (RFC 8259) in UTF-8, at most 32 deep
    body   = as many bytes as the header's `size` says; none without `size`

A `FrameReader` gives a `Header`, any number of `Body`, then an `EndOfFrame`, and takes no byte
of the next frame before it is asked for it. `size` at the top of a header is the length of the
body and can mean nothing else: a reply that only tells how large a file is needs another name.

A header that is not sound JSON leaves `size` in doubt, and with it the place where the next frame
begins: ProtocolError. A sound header that lacks a field, or has one of another type than it
should, leaves the stream in step: Refused, from the typed getters.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass

from netd.errors import ProtocolError, Refused
from netd.fields import Fields, describe, parse_object

VERSION = 2
LONGEST_HEADER = 65_536
LARGEST_BODY = 2**63 - 1
LONGEST_ID = 64
LONGEST_MESSAGE = 1024

_LENGTH = struct.Struct("<i")
_ERROR_CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")

Id = str | int | None
"""What a request is called by whoever sent it; None when that cannot be known."""


@dataclass(frozen=True, slots=True)
class Header(Fields):
    """A frame begins; a body of `size` bytes follows."""

    size: int = 0

    @property
    def id(self) -> Id:
        """What a reply has to repeat; None when there is no usable `id`."""
        value = self.members.get("id")
        if type(value) is int or (type(value) is str and len(value.encode()) <= LONGEST_ID):
            return value
        return None

    def check_request(self) -> None:
        """Raises Refused unless this is a request of version 2, with an `id`."""
        self.integer("v", minimum=VERSION, maximum=VERSION)
        if self.id is None:
            expected = f"a whole number or text of at most {LONGEST_ID} bytes"
            raise Refused(f"id: expected {expected}, not {describe(self.members.get('id'))}")


@dataclass(frozen=True, slots=True)
class Body:
    """The next bytes of the body, at least one."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfFrame:
    """Header and body were taken whole."""


Event = Header | Body | EndOfFrame


class FrameReader:
    """Cuts a stream of bytes into frames.

    For the caller: `receive_data`, then `next_event` until it returns None. As long as all events
    are taken after each chunk, no more than one header and one chunk are held.
    """

    def __init__(self, *, body_limit: int) -> None:
        """`body_limit` is the largest body in bytes; it may be changed between frames."""
        self.body_limit = body_limit
        self._buffer = bytearray()
        self._ended = False
        self._header: Header | None = None
        self._body_taken = 0

    @property
    def at_end(self) -> bool:
        """The stream has ended where it may, between two frames, and each of them was taken."""
        return self._ended and self._header is None and not self._buffer

    def receive_data(self, data: bytes) -> None:
        """Add what the peer sent; b"" says that its stream has ended."""
        if self._ended and data:
            raise ValueError("data after the end of the stream")
        self._ended = not data
        self._buffer += data

    def next_event(self) -> Event | None:
        """The next event; None when more data is needed, or at the end.

        Raises ProtocolError, and again whenever it is asked again, for a frame that is malformed,
        above a limit, or cut off by the end of the stream.
        """
        if self._header is None:
            return self._begin_frame()
        left = self._header.size - self._body_taken
        if left == 0:
            self._header = None
            return EndOfFrame()
        if not self._buffer:
            self._check_more_can_come("body", self._body_taken, self._header.size)
            return None
        data = self._take(left)
        self._body_taken += len(data)
        return Body(data)

    def rest(self) -> bytes:
        """What was read beyond the last frame, for the protocol that takes over the stream."""
        if self._header is not None:
            raise ValueError("this frame has not been read to its end")
        return self._take(len(self._buffer))

    def _begin_frame(self) -> Header | None:
        held = len(self._buffer)
        if held == 0:
            return None
        if held < _LENGTH.size:
            self._check_more_can_come("header length", held, _LENGTH.size)
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if not 1 <= length <= LONGEST_HEADER:
            raise ProtocolError(f"header length: expected 1 to {LONGEST_HEADER}, not {length}")
        end = _LENGTH.size + length
        if held < end:
            self._check_more_can_come("header", held - _LENGTH.size, length)
            return None
        # Taken only when it is sound, so that a fault stays a fault however often it is met.
        header = _parse(bytes(self._buffer[_LENGTH.size : end]), self.body_limit)
        del self._buffer[:end]
        self._header = header
        self._body_taken = 0
        return header

    def _check_more_can_come(self, part: str, held: int, whole: int) -> None:
        if self._ended:
            raise ProtocolError(f"{part}: the stream ended after {held} of {whole} bytes")

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


def decode(frame: bytes, *, body_limit: int) -> tuple[Header, bytes]:
    """Header and body of exactly one frame, as in a datagram. Raises ProtocolError."""
    reader = FrameReader(body_limit=body_limit)
    reader.receive_data(frame)
    reader.receive_data(b"")
    header = reader.next_event()
    if not isinstance(header, Header):
        raise ProtocolError("header length: missing")
    events = iter(reader.next_event, EndOfFrame())
    body = b"".join(event.data for event in events if isinstance(event, Body))
    if rest := reader.rest():
        raise ProtocolError(f"body: {len(rest)} bytes more than the size of {header.size}")
    return header, body


def encode(header: dict[str, object], body: bytes = b"") -> bytes:
    """A frame of version 2, with `size` put into the header when there is a body.

    A header that has `size` already, and no body, announces what the caller sends after it.
    Raises ValueError for a header that the peer would not accept: ours to avoid.
    """
    if body:
        if header.get("size", len(body)) != len(body):
            raise ValueError(f"size: {header['size']}, but the body has {len(body)} bytes")
        header = {**header, "size": len(body)}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
        encoded = text.encode("utf-8", "surrogatepass")
        # One set of rules for both directions: what is sent is what would be accepted.
        _parse(encoded, LARGEST_BODY)
    except (TypeError, RecursionError, ProtocolError) as error:
        raise ValueError(f"cannot be sent: {error}") from None
    if len(encoded) > LONGEST_HEADER:
        raise ValueError(f"header: {len(encoded)} bytes, at most {LONGEST_HEADER} can be sent")
    return _LENGTH.pack(len(encoded)) + encoded + body


def ok(id: Id, /, **fields: object) -> dict[str, object]:
    """The header of a reply to a request that was carried out."""
    return {"v": VERSION, "id": id, "ok": True, **fields}


def error(id: Id, code: str, message: str) -> dict[str, object]:
    """The header of a reply to a request that failed; `code` is for programs (`no-such-file`).

    `message` may quote the peer: what is not printable is escaped, and it is cut when too long.
    """
    if not _ERROR_CODE.fullmatch(code):
        raise ValueError(f"{code!r} is not an error code (write it like no-such-file)")
    plain = "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in message[:LONGEST_MESSAGE]
    )
    return {"v": VERSION, "id": id, "ok": False, "error": code, "message": plain}


def _parse(encoded: bytes, body_limit: int) -> Header:
    fields = parse_object(encoded)
    try:
        size = fields.integer("size", minimum=0, maximum=body_limit, default=0)
    except Refused as refusal:
        raise ProtocolError(str(refusal)) from None
    return Header(fields.members, size=size)
