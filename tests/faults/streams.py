"""What clients of TCP and UNIX sockets do to a server."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from time import monotonic

from harness import PATIENCE, ask, read_all, read_exactly, slowness

from faults.fault import Fault, LateError, Sessions, ends_in_time
from faults.setups import STANDARD
from faults.talkers import MEGABYTE
from faults.target import Target

_PIDFD_GETFD = 438  # pidfd_getfd(2), the same on all machines
_TCP_REPAIR = 19  # tcp(7) does not name it; include/uapi/linux/tcp.h
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends an RST


# -- slow and silent ones


def _trickle(
    target: Target, service: str, deadline: float, last_words: bytes, apart: int = 1
) -> Mapping[str, int]:
    """Sends a byte on each of 1,000 connections now and then, until netd has closed them all. They
    come so many milliseconds `apart`, as over a network, and so do their deadlines."""
    opened: dict[int, tuple[socket.socket, float]] = {}
    poll, to_come, factor = select.poll(), 1000, slowness()
    received, said, next_byte = 0, dict[int, bytes](), monotonic()
    while opened or to_come:
        if to_come:
            to_come -= 1
            sock = target.connect(service)
            opened[sock.fileno()] = sock, monotonic()
            said[sock.fileno()] = b""
            poll.register(sock, select.POLLIN)
        if (now := monotonic()) >= next_byte:
            next_byte = now + 0.5
            for sock, _began in opened.values():
                with suppress(ConnectionError):  # it was closed this moment
                    sock.send(b"a", socket.MSG_NOSIGNAL)
        for fd, _ in poll.poll(apart if to_come else 100):
            sock, began = opened[fd]
            data = _receive(sock)
            received += len(data)
            said[fd] += data
            if not data:
                late = monotonic() - began - deadline
                if not -1 < late < factor:
                    raise LateError(f"closed {late:+.3f} s from its deadline")
                assert said.pop(fd).lstrip(b"a") == last_words
                poll.unregister(fd)
                del opened[fd]
                sock.close()
    return {f"{service}.bytes_out": received}


def _receive(sock: socket.socket) -> bytes:
    """What has come; an RST is an end too, when our last byte met a closed socket."""
    try:
        return sock.recv(65_536)
    except ConnectionResetError:
        return b""


def _say_nothing(target: Target, service: str, last_words: bytes) -> None:
    """Connects, and waits to be sent away."""
    began = monotonic()
    clients = [target.connect(service) for _ in range(20)]
    for client in clients:
        assert read_all(client) == last_words
        ends_in_time(began, 1, 2)


def _vanish(target: Target, service: str) -> None:
    """Leaves without a FIN or an RST, as a machine that loses its power does."""
    for _ in range(20):
        client = target.connect(service)
        client.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        client.close()
    # A client that says nothing is sent away no sooner than those before it.
    assert read_all(target.connect(service)) == b""


def _cannot_vanish() -> str:
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        except PermissionError:
            return "TCP_REPAIR needs CAP_NET_ADMIN"
    return ""


def _probe(target: Target) -> None:
    """Looks at the socket that netd has for a client: will it notice that the client is gone?"""
    client = target.connect("echo")
    client.sendall(b"a")
    read_exactly(client, 1)
    with _far_end(target.pid, client) as far:
        assert far.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        option = partial(far.getsockopt, socket.IPPROTO_TCP)
        probes = option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT)
        assert option(socket.TCP_KEEPIDLE) + probes <= 120
        assert 0 < option(socket.TCP_USER_TIMEOUT) <= 120_000
        assert option(socket.TCP_NODELAY) == 1


def _far_end(pid: int, client: socket.socket) -> socket.socket:
    """A copy of the socket that a process has at the other end (pidfd_getfd(2))."""
    pidfd = os.pidfd_open(pid)
    try:
        for fd in map(int, os.listdir(f"/proc/{pid}/fd")):
            copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, fd, 0)
            if copy < 0 and ctypes.get_errno() == errno.EBADF:
                continue  # it was closed meanwhile
            if copy < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            try:
                found = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                continue
            with suppress(OSError):
                if found.getpeername() == client.getsockname():
                    return found
            found.close()
    finally:
        os.close(pidfd)
    raise LookupError(client)


# -- ends in the middle


def _reset(target: Target, service: str, word: bytes, half: bytes) -> None:
    """Sends RSTs in the middle of a message."""
    for _ in range(50):
        client = target.connect(service)
        client.sendall(word)
        read_exactly(client, len(word))
        client.sendall(half)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.close()


def _reset_in_the_backlog(target: Target) -> None:
    """Sends an RST as soon as the kernel has answered, often before accept(2)."""
    for _ in range(200):
        client = target.connect("echo")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.close()


def _end_in_a_frame(target: Target) -> None:
    """Sends a FIN after each byte of a frame but the last."""
    frame = struct.pack("<i", 28) + b'{"v": 2, "id": 1, "size": 3}' + b"abc"
    assert ask(target.connect("frames"), frame) == b"3\n"
    for length in range(1, len(frame)):
        answer = ask(target.connect("frames"), frame[:length])
        assert answer.startswith(b"error: "), (length, answer)


def _half_close(target: Target, service: str, request: bytes, reply: bytes) -> None:
    """Ends its side at once, as `nc -N` does, and reads the whole reply."""
    address = target.address(service)
    command = ["nc", "-N", address.host, str(address.port)]
    found = subprocess.run(command, input=request, capture_output=True, timeout=PATIENCE)
    assert (found.returncode, found.stdout) == (0, reply)


_IDLE = b"error: idle timeout\r\n"

FAULTS = [
    Fault(
        "slowloris, steps", STANDARD,
        partial(_trickle, service="slow", deadline=2, last_words=b""),
        (Sessions("slow", 1000, "session_timeout"),),
        alone=True,
    ),
    Fault(
        "slowloris, conversations", STANDARD,
        partial(_trickle, service="slow-lines", deadline=2, last_words=_IDLE),
        (Sessions("slow-lines", 1000, "idle_timeout"),),
        alone=True,
    ),
    Fault(
        "clients that say nothing, steps", STANDARD,
        partial(_say_nothing, service="mute", last_words=b""),
        (Sessions("mute", 20, "idle_timeout", 0, 0),),
    ),
    Fault(
        "clients that say nothing, conversations", STANDARD,
        partial(_say_nothing, service="mute-lines", last_words=_IDLE),
        (Sessions("mute-lines", 20, "idle_timeout", 0, 20 * len(_IDLE)),),
    ),
    Fault(
        "half-open: clients that are gone without a FIN", STANDARD,
        partial(_vanish, service="mute"),
        (Sessions("mute", 21, "idle_timeout", 0, 0),),
        missing=_cannot_vanish,
    ),
    Fault(
        "half-open: keep-alive and TCP_USER_TIMEOUT", STANDARD, _probe,
        (Sessions("echo", 1, "eof", 1, 1),),
    ),
    Fault(
        "RST in a message, steps", STANDARD,
        partial(_reset, service="echo", word=b"abc", half=b"de"),
        (Sessions("echo", 50, "reset"),),
    ),
    Fault(
        "RST in a message, conversations", STANDARD,
        partial(_reset, service="lines", word=b"a\n", half=b"de"),
        (Sessions("lines", 50, "reset"),),
    ),
    Fault(
        "RST before accept", STANDARD, _reset_in_the_backlog,
        (Sessions("echo", 200, "reset", 0, 0),),
    ),
    Fault(
        "FIN in a frame", STANDARD, _end_in_a_frame,
        (Sessions("frames", 34, "protocol_error"), Sessions("frames", 1, "eof")),
    ),
    Fault(
        "half-close, steps", STANDARD,
        partial(_half_close, service="upper", request=b"ab" * 2**19, reply=b"AB" * 2**19),
        (Sessions("upper", 1, "eof", 2**20, 2**20),),
    ),
    Fault(
        "half-close, conversation", STANDARD,
        partial(_half_close, service="lines", request=b"long\n", reply=MEGABYTE),
        (Sessions("lines", 1, "eof", 5, 2**20),),
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""

SOAKS = [
    Fault(
        "slowloris, conversations that end together", STANDARD,
        partial(_trickle, service="slow-lines", deadline=2, last_words=_IDLE, apart=0),
        (Sessions("slow-lines", 1000, "idle_timeout"),),
    ),
]  # fmt: skip
"""The same, for a machine with nothing else to do."""
