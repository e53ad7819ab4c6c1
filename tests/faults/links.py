"""Two machines with a wire between them: network namespaces, made for the time of a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path

from harness import PATIENCE, wait_until

from faults.fault import Fault, Sessions, Setup
from faults.setups import config, running, service
from faults.target import Target

_FAR_END = Path(__file__).with_name("far_end.py")
_NEAR, _FAR = (f"netd-{end}-{os.getpid()}" for end in ("near", "far"))
_ADDRESS, _BROADCAST = "10.77.0.1", "10.77.0.255"


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def _has_ipv6() -> bool:
    switch = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    return switch.exists() and switch.read_text() == "0\n"


@contextmanager
def _wire() -> Iterator[None]:
    """Two namespaces, each with one end of a wire, named `wire`."""
    with ExitStack() as stack:
        for end in (_NEAR, _FAR):
            _ip("netns", "add", end)
            stack.callback(_ip, "netns", "del", end)
        _ip("link", "add", "wire", "netns", _NEAR, "type", "veth", "peer", "wire", "netns", _FAR)
        for end, address in ((_NEAR, _ADDRESS), (_FAR, "10.77.0.2")):
            # Else an IPv6 address is not used before it is known to be nobody else's.
            off = "echo 0 > /proc/sys/net/ipv6/conf/wire/accept_dad || true"
            _ip("netns", "exec", end, "sh", "-c", off)
            _ip("-n", end, "addr", "add", f"{address}/24", "broadcast", _BROADCAST, "dev", "wire")
            _ip("-n", end, "link", "set", "wire", "up")
        wait_until(lambda: not _has_ipv6() or "fe80:" in _ip("-n", _FAR, "addr"))
        yield


@cache
def _no_wire() -> str:
    if os.geteuid() or not shutil.which("ip"):
        return "network namespaces need root, and ip(8)"
    try:
        with _wire():
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.strip()}"


def _no_wire_for_ipv6() -> str:
    return _no_wire() or ("" if _has_ipv6() else "this machine has no IPv6")


@contextmanager
def _running_at_the_near_end() -> Iterator[Target]:
    endless = {"idle_timeout": "none", "write_timeout": "none"}
    found = config(
        {
            "wild": service("echo", "udp://0.0.0.0:0", "udp://[::]:0"),
            "echo": service("echo", f"tcp://{_ADDRESS}:0", **endless),
            "chargen": service("chargen", f"tcp://{_ADDRESS}:0", **endless),
        }
    )
    found["services"]["canary"] = service("echo", "unix:canary.sock")
    with _wire(), running(found, prefix=["ip", "netns", "exec", _NEAR]) as target:
        yield target


@contextmanager
def _far_end(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A client at the other end, which has done what it is to do."""
    command = ["ip", "netns", "exec", _FAR, sys.executable, "-I", "-S", str(_FAR_END), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline(), "the far end has failed"
            yield client
        finally:
            client.kill()


def _send(target: Target, host: str, listener: str) -> None:
    """Sends a datagram to all on the wire; none is sent back."""
    port = target.address("wild", "udp", listener).port
    before = target.counters()["wild.datagrams_in"]
    with _far_end("datagram", host, str(port), "wire") as client:
        wait_until(lambda: target.counters()["wild.datagrams_in"] > before)
        assert client.communicate("\n", PATIENCE)[0] == "nothing\n"


def _cut(target: Target) -> None:
    """Cuts the wire: of one client nothing more comes, and to the other nothing more goes."""
    ports = [str(target.address(name).port) for name in ("echo", "chargen")]
    with _far_end("connect", _ADDRESS, *ports):
        wait_until(lambda: target.counters()["chargen.open"] == 1)
        _ip("-n", _FAR, "link", "set", "wire", "down")
        try:
            # By keep-alive, or because what was sent is not acknowledged: both in two minutes.
            wait_until(lambda: _sessions(target) == 0, 150)
        finally:
            _ip("-n", _FAR, "link", "set", "wire", "up")


def _sessions(target: Target) -> int:
    found = target.counters()
    return found["echo.open"] + found["chargen.open"]


_NEAR_END = Setup(_running_at_the_near_end, _no_wire)
_TO_MANY: Mapping[str, int] = {
    "wild.datagrams_in": 1, "wild.bytes_in": 3, "wild.datagrams_dropped.broadcast": 1,
}  # fmt: skip

FAULTS = [
    Fault(
        "datagram from another machine to a broadcast address", _NEAR_END,
        partial(_send, host=_BROADCAST, listener="0.0.0.0"), counters=_TO_MANY,
    ),
    Fault(
        "datagram from another machine to all IPv6 nodes", _NEAR_END,
        partial(_send, host="ff02::1", listener="::"), counters=_TO_MANY,
        missing=_no_wire_for_ipv6,
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""

SOAKS = [
    Fault(
        "half-open: another machine that is gone", _NEAR_END, _cut,
        (Sessions("echo", 1, "idle_timeout", 0, 0), Sessions("chargen", 1, "idle_timeout", 0)),
    ),
]  # fmt: skip
"""Those that take minutes."""
