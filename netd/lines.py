"""A bounded reader of lines. Pure: bytes go in, lines come out, no socket and no clock.

    reader = LineReader(limit=1024)
    reader.receive_data(data)              # b"" when the peer has ended its stream
    while (line := reader.next_line()) is not None:
        ...

A line ends with LF or CR LF, as in RFC 1078 and as nc and telnet send it. A lone CR is a
character like any other: to end a line at it would give the two halves of a CR LF that
arrives in two pieces as two lines.
"""

from __future__ import annotations

from netd.errors import ProtocolError


class LineReader:
    """Cuts a stream of bytes into lines.

    For the caller: `receive_data`, then `next_line` until it returns None. As long as all lines
    are taken after each chunk, no more than `limit` + 1 bytes and one chunk are held.
    """

    def __init__(self, limit: int = 65_536) -> None:
        """`limit` is the longest line in bytes, without its ending."""
        self.limit = limit
        self.cut = False
        """The last line of the stream was returned and has no ending: the stream ended inside it.

        What it would have said is unknown (`rm a` may be the start of `rm a.bak`), so a
        command is not to be obeyed when it was cut; a line of chat may be shown.
        """
        self._buffer = bytearray()
        self._searched = 0
        self._ended = False

    @property
    def at_end(self) -> bool:
        """The stream has ended, and every line of it was taken."""
        return self._ended and not self._buffer

    @property
    def unfinished(self) -> bool:
        """Something was received that is no whole line yet, or was not taken."""
        return bool(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Add what the peer sent; b"" says that its stream has ended."""
        if self._ended and data:
            raise ValueError("data after the end of the stream")
        self._ended = not data
        self._buffer += data

    def next_line(self) -> bytes | None:
        """The next line without its LF or CR LF; None when more data is needed, or at the end.

        At the end of the stream a last line without an ending is returned once, and `cut` is set.
        Raises ProtocolError for a line above `limit`, and again whenever it is asked again.
        """
        # A line that comes a byte at a time must not be searched again from its start.
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            return self._unfinished()
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        self._check_length(len(line))
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    def rest(self) -> bytes:
        """What was read beyond the last line, for the protocol that takes over the stream."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return rest

    def _unfinished(self) -> bytes | None:
        self._searched = len(self._buffer)
        if self._ended:
            self._check_length(self._searched)
            self.cut |= bool(self._buffer)
            return self.rest() or None
        # A CR at the very end may be half of an ending, and no part of the line.
        self._check_length(self._searched - self._buffer.endswith(b"\r"))
        return None

    def _check_length(self, length: int) -> None:
        if length > self.limit:
            raise ProtocolError(f"line: longer than {self.limit} bytes")
