"""A hundred thousand of something: nothing is kept of any of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from harness import read_all, read_exactly, wait_until

from faults.fault import ANY, Fault
from faults.setups import MASSES
from faults.target import Target

_MANY = 100_000
_WARM = 100_000
_MOST = 10
"""Bytes of memory for each."""


def measure(target: Target, come: Callable[[Target, int], int]) -> int:
    """Has many come and go, after others that warm the daemon up; returns how many in all."""
    number = come(target, _WARM)
    before = _memory(target)
    number += come(target, _MANY)
    growth = _memory(target) - before
    print(f"{growth:,} bytes of memory for {_MANY:,}: {growth / _MANY:.2f} for each")
    assert growth <= _MOST * _MANY
    return number


def _memory(target: Target) -> int:
    """Bytes of memory at rest: each thread that still waits for work has some of its own."""
    wait_until(lambda: target.footprint().threads == target.rest.threads)
    return target.memory()


def _connect(target: Target, number: int, service: str, word: bytes) -> int:
    """Clients that are served and go, a hundred at a time."""
    address = target.address(service)
    for _ in range(number // 100):
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(100)]
            for client in clients:
                client.connect((address.host, address.port))
                client.sendall(word)
            for client in clients:
                read_exactly(client, len(word))
    return number


def _served(target: Target, service: str, word: bytes) -> Mapping[str, int]:
    number = measure(target, partial(_connect, service=service, word=word))
    bytes_each = number * len(word)
    return {
        f"{service}.admitted": number, f"{service}.ended.eof": number,
        f"{service}.bytes_in": bytes_each, f"{service}.bytes_out": bytes_each,
    }  # fmt: skip


def _knock(target: Target, number: int) -> int:
    """Clients that are turned away."""
    address = target.address("full")
    for _ in range(number):
        with socket.create_connection((address.host, address.port)) as client:
            assert read_all(client) == b"service_limit\r\n"
    return number


def _refused(target: Target) -> Mapping[str, int]:
    inside = target.connect("full")
    inside.sendall(b"a")
    read_exactly(inside, 1)
    return {"full.refused.service_limit": measure(target, _knock)}


def _ask(target: Target, number: int) -> int:
    """Datagrams from as many addresses."""
    address = target.address("echo", "udp")
    for n in range(number):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            # Not a port that the kernel may have given to netd, which then would not be answered.
            client.bind((f"127.{1 + n % 200}.{n // 200 % 250}.{1 + n // 50_000}", 20_000))
            client.sendto(b"abc", (address.host, address.port))
            assert client.recv(10) == b"abc"
    return number


def _asked(target: Target) -> Mapping[str, int]:
    number = measure(target, _ask)
    return {
        "echo.datagrams_in": number, "echo.datagrams_out": number,
        "echo.bytes_in": 3 * number, "echo.bytes_out": 3 * number,
    }  # fmt: skip


SOAKS = [
    Fault(
        "100,000 connections", MASSES, partial(_served, service="echo", word=b"abc\n"),
        log={r"info +echo: session .* in=4 out=4 reason=eof$": ANY},
    ),
    Fault(
        "100,000 conversations", MASSES, partial(_served, service="lines", word=b"aba\n"),
        log={r"info +lines: session .* in=4 out=4 reason=eof$": ANY},
    ),
    Fault(
        "100,000 refused connections", MASSES, _refused,
        log={
            r"info +full: refused .* reason=service_limit$": ANY,
            r"info +full: session .* reason=eof$": 1,
        },
        counters={
            "full.admitted": 1, "full.ended.eof": 1, "full.bytes_in": 1, "full.bytes_out": 1,
        },
    ),
    Fault("100,000 senders of datagrams", MASSES, _asked),
]  # fmt: skip
"""Rows of the table that take minutes; see `faults`."""
