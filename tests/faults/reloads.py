"""Reloads of files that are not fit for it, and in the midst of traffic."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from harness import read_all, read_exactly, write_config

from faults.fault import Fault, Sessions
from faults.setups import SMALL, TCP, service
from faults.target import Target

VISITORS, RELOADS = 10_000, 100


def _hang_up(target: Target, pattern: str) -> None:
    """Asks for a reload, and waits for what the log says at its end."""
    mark = len(target.log())
    target.netd.send_signal(signal.SIGHUP)
    target.netd.wait_for_log(pattern, mark)


def _come_in(target: Target) -> list[socket.socket]:
    """Clients who are served."""
    clients = [target.connect("echo"), target.connect("echo", scheme="unix")]
    return [*clients, target.connect("lines")]


def _talk(clients: list[socket.socket]) -> None:
    for client in clients:
        client.sendall(b"abc\n")
        assert len(read_exactly(client, 4)) == 4


def _spoil(target: Target, spoil: Callable[[Path], object]) -> None:
    """Has a reload fail; clients from before and after it are served."""
    file = target.netd.folder / "netd.yaml"
    before, clients = file.read_text(), _come_in(target)
    _talk(clients)
    try:
        file.unlink()
        spoil(file)
        _hang_up(target, "not reloaded: all goes on as before")
    finally:
        if file.is_dir():
            file.rmdir()
        write_config(target.netd.folder, before)
    _talk([*clients, *_come_in(target)])


def _write(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text)


def _take_port(target: Target) -> None:
    """Has a reload fail for a port that somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as rival:
        address = f"tcp://127.0.0.1:{rival.getsockname()[1]}"
        found = _config(target)
        found["services"]["echo"]["protocol"] = "upper"
        found["services"]["new"] = service("echo", address)
        del found["services"]["hoard"]
        _spoil(target, _write(yaml.safe_dump(found)))


def _config(target: Target) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((target.netd.folder / "netd.yaml").read_text())
    return found


def _visit(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, 10) as client:
        client.sendall(b"whole")
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def _reload_in_traffic(target: Target) -> None:
    """Changes a service a hundred times while ten thousand clients come to it."""
    before, found = (target.netd.folder / "netd.yaml").read_text(), _config(target)
    address = target.address("echo")
    try:
        with ThreadPoolExecutor(4) as visitors:
            coming = visitors.map(_visit, [(address.host, address.port)] * VISITORS)
            for number in range(RELOADS - 1):
                found["services"]["echo"]["max_connections"] = 10_000 + number
                write_config(target.netd.folder, found)
                _hang_up(target, "reloaded in .* 1 changed, 3 unchanged")
            assert list(coming) == [b"whole"] * VISITORS
    finally:
        write_config(target.netd.folder, before)
        _hang_up(target, "reloaded in .* 1 changed, 3 unchanged")


_FAILED = {"netd.configuration.failed_reloads": 1}
_TWICE = (Sessions("echo", 4, "eof"), Sessions("lines", 2, "eof"))


def _broken(name: str, spoil: Callable[[Path], object], told: str) -> Fault:
    lines = {rf"error +netd: not reloaded: .*{told}": 1, r"error +netd: not reloaded: all goes": 1}
    return Fault(
        f"HUP with {name}", SMALL, partial(_spoil, spoil=spoil), _TWICE, lines, dict(_FAILED)
    )


FAULTS = [
    _broken("a broken file", _write("services: {} }"), r"netd.yaml:1:14: "),
    _broken("an empty file", _write(""), "netd.yaml:1:1: the file is empty"),
    _broken("a binary file", lambda file: file.write_bytes(bytes(range(256))), "netd.yaml"),
    _broken("no file", lambda _: None, "netd.yaml:1:1: .*No such file"),
    _broken("a FIFO for a file", os.mkfifo, "netd.yaml"),
    _broken("a folder for a file", Path.mkdir, "netd.yaml"),
    Fault(
        "HUP while a new port is taken", SMALL, _take_port, _TWICE,
        {
            rf"error +netd: not reloaded: new: cannot listen on {TCP[:-1]}\d+: .* in use": 1,
            r"error +netd: not reloaded: all goes": 1,
        },
        dict(_FAILED),
    ),
    Fault(
        "100 reloads during 10,000 connections", SMALL, _reload_in_traffic,
        (Sessions("echo", VISITORS, "eof", 5 * VISITORS, 5 * VISITORS),),
        {r"info +netd: reloaded in .* 1 changed, 3 unchanged$": RELOADS},
        {"netd.configuration.reloads": RELOADS, "echo.max_connections": 0},
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""
