"""Clients that are too many, ask too much, send too much, or send what is no message."""

from __future__ import annotations

import errno
import select
import socket
import statistics
import struct
from contextlib import suppress
from functools import partial
from time import monotonic

from harness import PATIENCE, ask, read_all, read_exactly, slowness

from faults.fault import ANY, Fault, LateError, Refusals, Sessions
from faults.setups import STANDARD
from faults.target import Target

# -- too many


def _refused(target: Target, service: str, reason: bytes, source: str) -> float:
    """Seconds that it took to be told `reason`, and to be sent away."""
    began = monotonic()
    client = target.connect(service, source)
    assert read_all(client) == reason + b"\r\n"
    return monotonic() - began


def _come_in(target: Target, service: str, number: int, source: str = "") -> list[socket.socket]:
    """Clients that are served."""
    clients = [target.connect(service, source) for _ in range(number)]
    for client in clients:
        client.sendall(b"abc")
        assert read_exactly(client, 3) == b"abc"
    return clients


def _overfill(target: Target) -> None:
    """Fills a service to its limit, and has 50 others ask to come in."""
    inside = _come_in(target, "full", 3)
    took = [_refused(target, "full", b"service_limit", "") for _ in range(50)]
    if statistics.median(took) >= 0.05:
        raise LateError(f"sent away after {statistics.median(took):.3f} s")
    inside[0].sendall(b"still here")
    assert read_exactly(inside[0], 10) == b"still here"
    for client in inside:
        assert ask(client, b"") == b""
    _come_in(target, "full", 3)


def _crowd(target: Target) -> None:
    """Fills the share of one source; another source comes in."""
    _come_in(target, "crowded", 2, "127.0.0.2")
    took = [_refused(target, "crowded", b"per_source_limit", "127.0.0.2") for _ in range(50)]
    if statistics.median(took) >= 0.05:
        raise LateError(f"sent away after {statistics.median(took):.3f} s")
    _come_in(target, "crowded", 2, "127.0.0.3")


# -- too much


def _never_read(target: Target, service: str, request: bytes, requests: int) -> None:
    """Asks for more than the kernel holds for a reader, and reads nothing."""
    most = 2 * slowness()
    # Each may be owed 64 KiB, and has a session of some two. Of all of them one has a step under
    # way, which holds what was received and what is to be sent.
    with target.memory_growth(100 * (64 + 2) * 1024 + 2 * 64 * 1024):
        stuck, poll = {}, select.poll()
        for client in [target.connect(service, receive_buffer=1024) for _ in range(100)]:
            client.setblocking(False)
            with suppress(BlockingIOError):
                for _ in range(requests):
                    client.sendall(request)
            stuck[client.fileno()] = client, monotonic()
            poll.register(client, 0)
        filled, before = monotonic(), target.kernel_time()
        while stuck:
            ready = poll.poll(PATIENCE * 1000)
            assert ready, f"{len(stuck)} clients are never cut"
            for fd, _ in ready:
                poll.unregister(fd)
                _was_cut(*stuck.pop(fd), filled, target.kernel_time() - before, most)


def _was_cut(
    client: socket.socket, since: float, filled: float, kernel: float, most: float
) -> None:
    """Asserts that a client was reset a second after it was stuck, as write_timeout says. That it
    cannot send was seen at `since`; for netd, which may yet have the others' megabytes to take, it
    is stuck later, but soon after all are `filled`. What the `kernel` took to copy those, and to
    find memory for them, in seconds, is not netd's."""
    now = monotonic()
    # By a reset, after which the kernel keeps nothing for it either.
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert now - since >= 0.5
    if now - filled - kernel > most:
        raise LateError(f"cut after {now - filled:.3f} s, {kernel:.3f} s of them the kernel's")


def _endless_line(target: Target) -> None:
    """Sends 100 MB without a newline; reads what netd says to that afterwards."""
    client, chunk = target.connect("lines"), bytes(500_000)
    with target.memory_growth(2**20):
        for _ in range(200):
            client.sendall(chunk)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"error: line: longer than 65536 bytes\r\n"


# -- what is no message


def _frame(header: bytes) -> bytes:
    return struct.pack("<i", len(header)) + header


# What is sent as a frame, and what the answer has to name.
_FRAMES = {
    "length 0": (struct.pack("<i", 0), b"length"),
    "length -1": (struct.pack("<i", -1), b"length"),
    "length 2**31-1": (struct.pack("<i", 2**31 - 1), b"length"),
    "length 65,537": (struct.pack("<i", 65_537), b"length"),
    "60,000 brackets": (_frame(b"[" * 60_000), b"deep"),
    "objects 10,000 deep": (_frame(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), b"deep"),
    "NaN": (_frame(b'{"v": NaN}'), b"v"),
    "5,000 digits": (_frame(b'{"id": ' + b"9" * 5000 + b"}"), b"id"),
    "duplicate key": (_frame(b'{"id": 1, "id": 2}'), b"id"),
    "lone surrogate": (_frame(b'{"id": "\\ud800"}'), b"id"),
    "NUL": (_frame(b'{"id": "\\u0000"}'), b"id"),
    "bool for int": (_frame(b'{"v": true, "id": 1}'), b"v"),
    "size -1": (_frame(b'{"v": 2, "id": 1, "size": -1}'), b"size"),
    "size 1.5": (_frame(b'{"v": 2, "id": 1, "size": 1.5}'), b"size"),
    "size 2**63": (_frame(b'{"v": 2, "id": 1, "size": 9223372036854775808}'), b"size"),
    "size 2**31-1": (_frame(b'{"v": 2, "id": 1, "size": 2147483647}'), b"size"),
    "no UTF-8": (_frame(b'{"id": "\xff"}'), b"UTF-8"),
}


def _send_frame(target: Target, frame: bytes, name: bytes) -> None:
    with target.memory_growth(2**20):
        answer = ask(target.connect("frames"), frame)
    assert answer.startswith(b"error: "), answer
    assert name in answer


def _crash(target: Target) -> None:
    """Has a handler fail, by a fault of its own."""
    for _ in range(3):
        assert ask(target.connect("lines"), b"crash\n") == b""
    assert ask(target.connect("lines"), b"abc\n") == b"cba\n"


FAULTS = [
    Fault(
        "more clients than max_connections", STANDARD, _overfill,
        (Sessions("full", 6, "eof", 28, 28), Refusals("full", 50, "service_limit")),
    ),
    Fault(
        "more clients than max_connections_per_source", STANDARD, _crowd,
        (Sessions("crowded", 4, "eof", 12, 12), Refusals("crowded", 50, "per_source_limit")),
    ),
    Fault(
        "echo to clients that never read", STANDARD,
        partial(_never_read, service="unread-echo", request=bytes(65_536), requests=1000),
        (Sessions("unread-echo", 100, "write_timeout"),),
        alone=True,
    ),
    Fault(
        "chargen to clients that never read", STANDARD,
        partial(_never_read, service="unread-chargen", request=b"", requests=0),
        (Sessions("unread-chargen", 100, "write_timeout"),),
        alone=True,
    ),
    Fault(
        "conversations with clients that never read", STANDARD,
        partial(_never_read, service="unread-lines", request=b"long\n", requests=20),
        (Sessions("unread-lines", 100, "write_timeout"),),
        alone=True,
    ),
    Fault(
        "100 MB without a newline", STANDARD, _endless_line,
        (Sessions("lines", 1, "protocol_error", 100_000_000, 38),),
    ),
    *(
        Fault(
            f"frame: {name}", STANDARD, partial(_send_frame, frame=frame, name=field),
            (Sessions("frames", 1, "protocol_error", len(frame)),),
        )
        for name, (frame, field) in _FRAMES.items()
    ),
    Fault(
        "a handler that fails", STANDARD, _crash,
        (Sessions("lines", 3, "error"), Sessions("lines", 1, "eof")),
        log={
            r"error +lines: the handler failed while serving": 3,
            r"^  Traceback ": 3,
            r"^  ZeroDivisionError: as asked for$": 3,
            r"^  ": ANY,
        },
        counters={"lines.errors": 3},
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""
