"""Batches of datagrams by recvmmsg(2) and sendmmsg(2), through ctypes.

All that the two calls need lies in one anonymous mapping: for each of BATCH places a slot for
the data, the sender's address and control data, and the structures that point there. An answer
is written over the request that it answers, so a batch is sent from where it was received; several
to one sender are written one behind the other over the first, as one message (netd.segments).
Pages are real memory only once they have been touched.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
import sys
from collections.abc import Hashable, Iterable
from functools import lru_cache
from itertools import chain
from typing import Any

from netd.segments import SEGMENT_SPACE, longest_after, longest_segment, runs, segment_control

BATCH = 128
# The longest datagram over IPv4 holds 65,507 bytes and over IPv6 65,527; a UNIX one that is longer
# is cut by the kernel, dropped, and counted.
SLOT = 65_536
# At distances of a power of two all slots would share a few lines of the processor's cache.
_SLOT_SPACE = SLOT + 192
# Room for in_pktinfo and in6_pktinfo with their headers (72 bytes), and for what else the one who
# made an inherited socket may have asked for.
CONTROL_SPACE = 256
_CONTROL_ROOM = CONTROL_SPACE + SEGMENT_SPACE
_NAME_SPACE = 32
IP_PKTINFO = 8  # ip(7); the socket module does not name it before 3.14

# struct mmsghdr of 64-bit Linux, as 32-bit and as 64-bit words (bits/socket.h):
#   name, namelen, iov, iovlen, control, controllen, flags, (padding), len, (padding)
_HEADER = struct.Struct("=QIIQQQQiIII")
_LENGTH_32 = 14
_CONTROL_LENGTH_64 = 5
_CONTROL_LENGTH = 8 * _CONTROL_LENGTH_64
_HEADER_END = struct.Struct("=Q16x")  # from there on
_VECTOR = struct.Struct("=QQ")
_DONT_WAIT = int(socket.MSG_DONTWAIT)
_ALONE = [[place] for place in range(BATCH)]
_CONTROL_HEADER = struct.Struct("=Qii")  # length, level, kind
Message = tuple[int, int, bytes]
"""Level, kind and contents of a piece of control data, as the socket module has them."""
_DESTINATIONS = {(socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)}
_LINK_LOCAL = b"\xfe\x80"  # of fe80::/10 only fe80::/64 is in use (RFC 4291, 2.5.6)


def _library() -> Any:
    """The C library's two calls, or None where they, or this layout of theirs, are missing."""
    if sys.platform != "linux" or sys.maxsize < 2**32 or sys.byteorder != "little":
        return None
    # No argtypes, whose checks cost a fifth of a microsecond a call: an int goes as a C int, and
    # all that is passed as an address is an object of ctypes.
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "recvmmsg") and hasattr(library, "sendmmsg") else None


_libc = _library()


def control_space(sock: socket.socket) -> int:
    """Bytes of control data to receive. On a UNIX socket none: it could bring descriptors, which
    the kernel would open for us and nobody close."""
    return 0 if sock.family == socket.AF_UNIX else CONTROL_SPACE


def to_many(level: int, kind: int, info: bytes) -> bool:
    """Whether control data says that a datagram was sent to a broadcast or multicast address."""
    if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
        # in_pktinfo: interface, our address, the address in the packet: the same for one to us.
        # It came before we asked for this when our address is 0.0.0.0: then nobody knows.
        return info[4:8] != info[8:12]
    return level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and info[:1] == b"\xff"


def untied(level: int, kind: int, info: bytes) -> bytes:
    """Control data by which an answer leaves from the address that was asked, by any interface;
    from a link-local address, which says nothing without it, by the same."""
    if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
        return bytes(len(info[:4])) + info[4:]
    if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
        if info[:2] == _LINK_LOCAL:
            return info
        return info[:16] + bytes(len(info[16:20])) + info[20:]
    return info


def route_of(control: Iterable[Message]) -> list[Message]:
    """The control data of an answer: by where a datagram was sent to, and nothing of what else
    came with it, such as the time, which the kernel would refuse to send."""
    return [
        (level, kind, untied(level, kind, info))
        for level, kind, info in control
        if (level, kind) in _DESTINATIONS
    ]


@lru_cache(maxsize=256)
def answering(control: bytes) -> tuple[bool, bytes]:
    """(`to_many`, the control data of an answer: `route_of`) for all that of a datagram."""
    many, at, answer = False, 0, b""
    while at + _CONTROL_HEADER.size <= len(control):
        length, level, kind = _CONTROL_HEADER.unpack_from(control, at)
        if not _CONTROL_HEADER.size <= length <= len(control) - at:
            break
        info = control[at + _CONTROL_HEADER.size : at + length]
        many = many or to_many(level, kind, info)
        space = length + 7 & ~7
        for _, _, where in route_of([(level, kind, info)]):
            answer += (control[at : at + _CONTROL_HEADER.size] + where).ljust(space, b"\0")
        at += space
    return many, answer


class Arena:
    """A carrier (see netd.carrier) that moves a batch with one call each way."""

    def __init__(self, sock: socket.socket, wild: bool) -> None:
        self.wild = wild
        self.cut = 0
        self._fd = sock.fileno()
        self.longest = longest_segment(sock)
        """The longest answer, in bytes, that goes together with others."""
        self._senders: list[bytes] = []
        self._routes: list[Hashable] = []
        """On a wild socket the control data of each answer, by which it goes its way."""
        place_size = _SLOT_SPACE + _NAME_SPACE + _CONTROL_ROOM + _VECTOR.size + 2 * _HEADER.size
        self._memory = memory = mmap.mmap(-1, BATCH * place_size)
        self._origin = ctypes.c_char.from_buffer(memory)
        base = ctypes.addressof(self._origin)
        names = BATCH * _SLOT_SPACE
        self._controls = names + BATCH * _NAME_SPACE
        vectors = self._controls + BATCH * _CONTROL_ROOM
        self._headers = vectors + BATCH * _VECTOR.size
        self._joined = end = self._headers + BATCH * _HEADER.size
        name_length = 16 if sock.family == socket.AF_INET else 28
        for i in range(BATCH):
            vector = vectors + i * _VECTOR.size
            _VECTOR.pack_into(memory, vector, base + i * _SLOT_SPACE, SLOT)
            _HEADER.pack_into(
                memory, self._headers + i * _HEADER.size,
                base + names + i * _NAME_SPACE, name_length, 0, base + vector, 1,
                base + self._controls + i * _CONTROL_ROOM, CONTROL_SPACE if wild else 0, 0, 0, 0, 0,
            )  # fmt: skip
        view = memoryview(memory)
        self._tables = view[vectors:end]
        self._fresh = bytes(self._tables)
        self._headers_32 = view[self._headers : end].cast("I")
        self._headers_64 = view[self._headers : end].cast("Q")
        self._vectors_64 = view[vectors : self._headers].cast("Q")
        # Of each place: where its data begin, the slice of its name, the word of its length.
        self._places = [
            (i * _SLOT_SPACE, slice(name, name + name_length), 16 * i + _LENGTH_32)
            for i, name in enumerate(range(names, self._controls, _NAME_SPACE))
        ]

    @staticmethod
    def is_available() -> bool:
        """Whether this system has the two calls."""
        return _libc is not None

    def receive(self) -> list[tuple[bytes, Any]]:
        self._tables[:] = self._fresh
        table = ctypes.byref(self._origin, self._headers)
        count = _libc.recvmmsg(self._fd, table, BATCH, _DONT_WAIT, None)
        # Below 0 there is none: EAGAIN, or an ICMP error of an earlier answer.
        memory, lengths = self._memory, self._headers_32
        batch = [
            (memory[slot : slot + lengths[length]], memory[name])
            for slot, name, length in self._places[: max(0, count)]
        ]
        if self.wild:
            # Different ones until they are known.
            self._routes = list(range(len(batch)))
        self._senders = [sender for _, sender in batch]
        return batch

    def address(self, sender: bytes) -> tuple[str, int]:
        """(host, port) in a sockaddr_in or sockaddr_in6."""
        port = int.from_bytes(sender[2:4])
        if len(sender) == 16:
            return socket.inet_ntop(socket.AF_INET, sender[4:8]), port
        return socket.inet_ntop(socket.AF_INET6, sender[8:24]), port

    def to_many(self, index: int) -> bool:
        """Looks at the destination; then has the answer leave from there."""
        at, length = self._controls + index * _CONTROL_ROOM, 8 * index + _CONTROL_LENGTH_64
        many, route = answering(self._memory[at : at + self._headers_64[length]])
        self._memory[at : at + len(route)] = self._routes[index] = route
        self._headers_64[length] = len(route)
        return many

    def send(self, answers: list[bytes | None]) -> list[int]:
        senders = self._senders
        if len(set(senders)) < len(senders) or None in answers:
            ways = zip(senders, self._routes, strict=True) if self.wild else senders
            messages = runs(ways, answers, self.longest)
            table = b"".join([self._message(run, answers) for run in messages])
            self._memory[self._joined : self._joined + len(table)] = table
            return self._deliver(self._joined, messages, answers)
        # Nothing to join or to leave out: they go from where they came.
        memory, lengths = self._memory, self._vectors_64
        slot, length = 0, 1
        for answer in answers:
            data = answer or b""
            lengths[length] = size = len(data)
            memory[slot : slot + size] = data
            slot += _SLOT_SPACE
            length += 2
        return self._deliver(self._headers, _ALONE[: len(answers)], answers)

    def _message(self, run: list[int], answers: list[bytes | None]) -> bytes:
        """Writes down a run of answers; returns the header of their message."""
        place = run[0]
        first = answers[place] or b""
        if len(run) == 1:
            return self._write(place, first)
        header = self._write(place, b"".join([answers[i] or b"" for i in run]))
        # The size of the segments goes behind the route, where there is one.
        length = self._headers_64[8 * place + _CONTROL_LENGTH_64]
        at = self._controls + place * _CONTROL_ROOM + length
        self._memory[at : at + SEGMENT_SPACE] = segment_control(len(first))
        return header[:_CONTROL_LENGTH] + _HEADER_END.pack(length + SEGMENT_SPACE)

    def _write(self, place: int, data: bytes) -> bytes:
        """Writes down what goes to the sender at this place; returns its header as it is."""
        self._memory[place * _SLOT_SPACE : place * _SLOT_SPACE + len(data)] = data
        self._vectors_64[2 * place + 1] = len(data)
        at = self._headers + place * _HEADER.size
        return self._memory[at : at + _HEADER.size]

    def _deliver(
        self, table: int, messages: list[list[int]], answers: list[bytes | None]
    ) -> list[int]:
        """Sends these runs by the headers in the table; returns the places of the answers that
        the kernel did not take."""
        unsent: list[int] = []
        done = 0
        while done < len(messages):
            headers = ctypes.byref(self._origin, table + done * _HEADER.size)
            count = _libc.sendmmsg(self._fd, headers, len(messages) - done, _DONT_WAIT)
            if count < 0:
                fault = ctypes.get_errno()
                if fault in (errno.EAGAIN, errno.ENOBUFS):
                    # The send buffer is full; waiting would stall everybody.
                    return [*unsent, *chain.from_iterable(messages[done:])]
                unsent += self._send_apart(messages[done], answers, fault)
            done += max(1, count)
        return unsent

    def _send_apart(self, run: list[int], answers: list[bytes | None], fault: int) -> list[int]:
        """Sends one by one what was refused as one message; returns what does not go."""
        if len(run) == 1:
            return run
        unsent = [place for place in run if not self.send_one(place, answers[place] or b"")]
        if len(unsent) < len(run):
            self.longest = longest_after(fault, len(answers[run[0]] or b""), self.longest)
        return unsent

    def send_one(self, index: int, answer: bytes) -> bool:
        at = self._joined  # of a batch under way the first message has gone, or is this one
        self._memory[at : at + _HEADER.size] = self._write(index, answer)
        count = _libc.sendmmsg(self._fd, ctypes.byref(self._origin, at), 1, _DONT_WAIT)
        return bool(count == 1)
