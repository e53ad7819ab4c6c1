"""The control socket, and who misuses it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial

from controls import ask_as, path_of, request
from harness import ask

from faults.asking import client_of, status_within
from faults.fault import ANY, Fault
from faults.setups import SMALL, STANDARD
from faults.shortages import cannot_trace, no_new_thread
from faults.target import Target
from netd.control.server import CLIENTS
from netd.control.table import REQUEST_LIMIT

_BYTES = {"control.bytes_in": ANY, "control.bytes_out": ANY}
_DAEMON = 1
"""A user that every machine has, and that is nobody special; its group has the same number."""

# What is sent in place of a request, and what is told.
_REQUESTS = {
    "oversized": (b"x" * (REQUEST_LIMIT + 1), "line: longer than 65535 bytes"),
    "1 MB without an end": (b" " * 10**6, "line: longer than 65535 bytes"),
    "binary": (bytes(range(128, 256)) + b"\n", "request: not UTF-8 at byte 0"),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", "request: not "),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "request: not JSON"),
    "60,000 brackets": (b"[" * 60_000 + b"\n", "request: objects and arrays more than"),
    "5,000 digits": (b'{"netd": ' + b"1" * 5000 + b"}\n", "netd: a number of 5000"),
    "half of one": (request("shutdown").rstrip(), "request: it has no line feed at its end"),
}


def _send_nonsense(target: Target, data: bytes, told: str) -> None:
    """Sends what is no request, from 20 clients."""
    with target.memory_growth(2**20):
        for _ in range(20):
            (line,) = ask(client_of(target).socket, data).splitlines()
            reply = json.loads(line)
            assert reply["error"] == "usage"
            assert reply["message"].startswith(told), reply
        status_within(target, 1.0)


def _stay(target: Target) -> None:
    """Has 1,000 clients come and say nothing."""
    idle = [client_of(target) for _ in range(1000)]
    assert status_within(target, 1.0)["daemon"]["pid"] == target.pid
    assert idle[0].read()["error"] == "busy"


def _come_as_another(target: Target) -> None:
    """Has a user ask who is not in the group of the socket."""
    for _ in range(3):
        reply = ask_as(path_of(target.netd), _DAEMON, _DAEMON, request("shutdown"))
        assert reply == {"error": "not permitted"}


def _need_a_thread(target: Target) -> Mapping[str, int]:
    """Asks while no thread can be had: who looks is answered, and who acts is told why not."""
    with no_new_thread(target):
        client = client_of(target)
        assert status_within(target, 1.0)["daemon"]["pid"] == target.pid
        code, message = client.error("ban", source="192.0.2.1")
        assert code == "busy"
        assert "raise TasksMax" in message
    assert client.data("bans") == []
    client.data("ban", source="192.0.2.1")
    client.data("unban", sources=["192.0.2.1"])
    return {}


FAULTS = [
    *(
        Fault(
            f"control socket: {name}", STANDARD, partial(_send_nonsense, data=data, told=told),
            counters={
                **_BYTES, "control.admitted": 21,
                "control.ended.protocol_error": 20, "control.ended.eof": 1,
            },
        )
        for name, (data, told) in _REQUESTS.items()
    ),
    Fault(
        "control socket: 1,000 idle clients", STANDARD, _stay,
        counters={
            **_BYTES, "control.admitted": 1001,
            "control.ended.displaced": 1001 - CLIENTS, "control.ended.eof": CLIENTS,
        },
        alone=True,
    ),
    Fault(
        "control socket: another user", STANDARD, _come_as_another,
        missing=lambda: "" if os.geteuid() == 0 else "only root can become another user",
    ),
    Fault(
        "control socket: clone3 fails", SMALL, _need_a_thread,
        log={r"info +control: .*: (un)?ban 192.0.2.1/32$": 2},
        counters={**_BYTES, "control.admitted": 2, "control.ended.eof": 2},
        missing=cannot_trace,
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""
