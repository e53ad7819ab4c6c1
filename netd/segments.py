"""Answers that go to the kernel as one message, which it cuts into datagrams (UDP_SEGMENT, udp(7)).

Most of what a short answer costs is its way through the kernel: the route, the packet filter, the
queue. The answers of a batch to one sender go that way together: one after the other in one
message, each of the same size, of which only the last may be shorter. The one who receives them
cannot tell.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Hashable, Iterable
from functools import lru_cache

_SOL_UDP = 17
_UDP_SEGMENT = 103  # linux/udp.h
_CONTROL = struct.Struct("=QiiH6x")  # a cmsghdr and the size of the segments (cmsg(3))
SEGMENT_SPACE = _CONTROL.size

# The kernel's bound before Linux 6.9, and what a message may hold over IPv4 and IPv6 alike.
SEGMENTS = 64
LONGEST_RUN = 65_507
LONGEST_SEGMENT = LONGEST_RUN // 2
# A segment is never fragmented: where the path takes no longer packets, it is refused. This much
# goes through any Ethernet, over IPv6 too.
ETHERNET_SEGMENT = 1452


def longest_segment(sock: socket.socket) -> int:
    """The longest answer, in bytes, that may be a segment on this socket; 0 for none.

    A kernel before Linux 4.18 must not be tried: it does not know the control message, passes it
    over, and sends all the answers as one datagram."""
    try:
        sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return 0
    return LONGEST_SEGMENT


def longest_after(fault: int, size: int, longest: int) -> int:
    """The longest segment from now on, when segments of this size were refused with this errno
    while the same answers went one by one."""
    if fault in (errno.EINVAL, errno.EMSGSIZE):
        return min(longest, size - 1, ETHERNET_SEGMENT)
    if fault == errno.EIO:
        return 0  # the way out cannot: IPsec, or a device that computes no checksums
    return longest


@lru_cache(maxsize=1024)
def segment_control(size: int) -> bytes:
    """The control data that have a message cut into segments of this many bytes."""
    return _CONTROL.pack(SEGMENT_SPACE - 6, _SOL_UDP, _UDP_SEGMENT, size)


_FULL: tuple[int, int, list[int]] = (-1, 0, [])


def runs(
    ways: Iterable[Hashable], answers: Iterable[bytes | None], longest: int
) -> list[list[int]]:
    """The places of the answers that there are, those of one message together.

    `ways` says of each place where, and from where, its answer goes. The answers on one way keep
    their order; an empty one, which no segment can be, stays alone."""
    found: list[list[int]] = []
    growing: dict[Hashable, tuple[int, int, list[int]]] = {}
    for place, (way, answer) in enumerate(zip(ways, answers, strict=True)):
        if answer is None:
            continue
        size = len(answer)
        whole, room, run = growing.get(way, _FULL)
        if size == whole and len(run) < room:
            run.append(place)
        elif 0 < size < whole and len(run) < room:
            run.append(place)
            growing[way] = _FULL
        else:
            run = [place]
            found.append(run)
            room = min(SEGMENTS, LONGEST_RUN // size) if 0 < size <= longest else 1
            growing[way] = (size, room, run)
    return found
