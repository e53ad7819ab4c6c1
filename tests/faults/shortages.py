"""Descriptors and threads that run out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from harness import PATIENCE, ask, read_all, read_exactly, wait_until

from faults.asking import status_within
from faults.fault import ANY, DRAINED, Fault, Refusals, Sessions
from faults.setups import PATIENT, SMALL, STARVED
from faults.target import Target

_CLIENTS = 200


def _crowd(target: Target, least: int) -> Mapping[str, int]:
    """Has 200 clients ask for a while; who is sent away comes again at once."""
    inside: set[socket.socket] = set()
    told: list[bytes] = []
    cpu, began, mark = target.cpu(), monotonic(), len(target.log())
    while monotonic() < began + 1.5:
        clients = [target.connect("echo") for _ in range(_CLIENTS - len(inside))]
        for client in clients:
            with suppress(OSError):
                client.sendall(b"abc")
        for client in clients:
            answer = _first_words(client)
            if answer == b"abc":
                inside.add(client)
            else:
                told.append(answer)
                client.close()
    took = monotonic() - began
    used = (target.cpu() - cpu) / took
    assert used <= 0.02, f"{used:.1%} of a processor"
    assert least <= len(inside) < 64
    assert {*told} == {b"descriptors\r\n"}
    lines = [line for line in target.log(mark) if "clients are refused" in line]
    assert 1 <= len(lines) <= took + 1
    for client in inside:
        client.sendall(b"still here")
        assert read_exactly(client, 10) == b"still here"
    assert status_within(target, 1.0)["daemon"]["open"] >= len(inside)
    target.hang_up()
    refused = len(told) + _recover(target)
    served = len(inside) + 1
    return {
        "echo.refused.descriptors": refused,
        "echo.admitted": served,
        "echo.ended.eof": served,
        "control.admitted": 1,
        "control.ended.eof": 1,
    }


def _first_words(client: socket.socket) -> bytes:
    try:
        return client.recv(100)
    except ConnectionResetError:
        return b""


def _recover(target: Target) -> int:
    """Asserts that clients are served again within a second; returns how many still were not."""
    refused = []

    def is_served() -> bool:
        client = target.connect("echo")
        with suppress(OSError):
            client.sendall(b"abc")
        answer = _first_words(client)
        refused.extend([answer] * (answer != b"abc"))
        return answer == b"abc"

    wait_until(is_served, 1)
    return len(refused)


def _take_all_descriptors(target: Target) -> Mapping[str, int]:
    """Has a handler open all the files that it can; nobody else comes in then."""
    hoarder = target.connect("hoard")
    assert int(hoarder.recv(10)) > 20
    return _crowd(target, 0)


def _lower_the_limit(target: Target) -> Mapping[str, int]:
    """Lowers the limit of a daemon that runs, and restores it."""
    soft, hard = _limits(target)
    _set_limits(target, 64, hard)
    try:
        return _crowd(target, 20)
    finally:
        _set_limits(target, soft, hard)


def _limits(target: Target) -> tuple[int, int]:
    text = Path("/proc", str(target.pid), "limits").read_text()
    soft, hard = re.findall(r"^Max open files +(\d+) +(\d+)", text, re.MULTILINE)[0]
    return int(soft), int(hard)


def _set_limits(target: Target, soft: int, hard: int) -> None:
    # In the name of its user: root may be without CAP_SYS_RESOURCE, and netd gives up root.
    owner = Path("/proc", str(target.pid), "task").stat()
    who = [f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
    command = ["setpriv", *who] if os.geteuid() == 0 else []
    command += ["prlimit", f"--pid={target.pid}", f"--nofile={soft}:{hard}"]
    subprocess.run(command, check=True)


# -- threads


@contextmanager
def no_new_thread(target: Target) -> Iterator[None]:
    """Has the kernel refuse each new thread of a daemon, as beyond RLIMIT_NPROC or TasksMax."""
    inject = ["-e", "trace=clone,clone3", "-e", "inject=clone,clone3:error=EAGAIN"]
    command = ["strace", "-f", "-q", *inject, "-o", "/dev/null", "-p", str(target.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        try:
            wait_until(lambda: _tracers(target) == {strace.pid})
            yield
        finally:
            strace.terminate()
            strace.communicate(timeout=PATIENCE)


def _tracers(target: Target) -> set[int]:
    """The processes that trace the threads of a daemon; 0 is none."""
    tasks = Path("/proc", str(target.pid), "task").iterdir()
    texts = [(task / "status").read_text() for task in tasks]
    return {int(re.findall(r"^TracerPid:\s*(\d+)", text, re.MULTILINE)[0]) for text in texts}


def _start_no_thread(target: Target) -> None:
    """Has 20 clients ask for a conversation, while no thread can be had."""
    with no_new_thread(target):
        for _ in range(20):
            assert read_all(target.connect("lines")) == b"threads\r\n"
        assert ask(target.connect("echo"), b"abc") == b"abc"
    assert ask(target.connect("lines"), b"abc\n") == b"cba\n"


def _stop_without_a_thread(target: Target) -> None:
    """Ends a daemon while no thread can be had."""
    with no_new_thread(target):
        assert read_all(target.connect("lines")) == b"threads\r\n"
        target.netd.send_signal(signal.SIGTERM)
        target.netd.wait()


def _use_all_threads(target: Target) -> None:
    """Fills the pool of four threads, and asks for more."""
    inside = [target.connect("lines") for _ in range(4)]
    for client in inside:
        client.sendall(b"abc\n")
        assert read_exactly(client, 4) == b"cba\n"
    for _ in range(20):
        assert read_all(target.connect("lines")) == b"threads\r\n"
    assert ask(target.connect("echo"), b"abc") == b"abc"
    assert ask(inside[0], b"abc\n") == b"cba\n"
    wait_until(lambda: target.counters()["lines.open"] == 3)
    assert ask(target.connect("lines"), b"abc\n") == b"cba\n"


def cannot_trace() -> str:
    if not shutil.which("strace"):
        return "strace is not installed"
    traced = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True)
    return "" if traced.returncode == 0 else f"strace: {traced.stderr.decode().strip()}"


_SHORTAGE = r"error +netd: .*: clients are refused \(\d+ times; raise LimitNOFILE"
_CROWD: dict[str, Any] = {
    "log": {_SHORTAGE: ANY, r"info +echo: session .* reason=eof$": ANY},
    "counters": {
        f"{service}.bytes_{way}": ANY for service in ("echo", "control") for way in ("in", "out")
    },
    "fresh": False,
}
# Told once a second: of two that await it in the same daemon, the other would wait in vain.
_NO_THREAD = r"warning netd: no thread for a client: .* \(\d+ times\)$"

FAULTS = [
    Fault("started with 64 descriptors, 200 clients", STARVED, partial(_crowd, least=20), **_CROWD),
    Fault(
        "all descriptors in use, 200 clients", STARVED, _take_all_descriptors,
        (Sessions("hoard", 1, "eof"),), **_CROWD,
    ),
    Fault(
        "a limit of 64 descriptors while it runs, 200 clients", SMALL, _lower_the_limit,
        **_CROWD,
    ),
    Fault(
        "clone3 fails", SMALL, _start_no_thread,
        (
            Refusals("lines", 20, "threads"), Sessions("lines", 1, "eof", 4, 4),
            Sessions("echo", 1, "eof", 3, 3),
        ),
        log={_NO_THREAD: 1}, missing=cannot_trace,
    ),
    Fault(
        "TERM while clone3 fails", PATIENT, _stop_without_a_thread,
        (Refusals("lines", 1, "threads"),),
        log={_NO_THREAD: 1, **DRAINED}, missing=cannot_trace, status=0,
    ),
    Fault(
        "more conversations than max_threads", STARVED, _use_all_threads,
        (
            Refusals("lines", 20, "threads"), Sessions("lines", 5, "eof"),
            Sessions("echo", 1, "eof", 3, 3),
        ),
        log={_NO_THREAD: 1},
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""
