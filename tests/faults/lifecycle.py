"""Signals, ends and starts at the worst moment."""

from __future__ import annotations

import copy
import os
import signal
import socket
import time
from contextlib import suppress
from time import monotonic

from harness import (
    ask,
    new_folder,
    read_all,
    read_exactly,
    slowness,
    wait_until,
    write_config,
)

from faults.fault import ANY, DRAINED, Fault, Sessions, ends_in_time
from faults.setups import PATIENT, SMALL, STANDARD, running, service, small
from faults.target import Target


def _talk(clients: list[socket.socket]) -> None:
    for client in clients:
        client.sendall(b"abc\n")
        assert len(read_exactly(client, 4)) == 4


def _come_in(target: Target) -> list[socket.socket]:
    """Clients of every kind, who are served."""
    clients = [
        *(target.connect("echo") for _ in range(5)),
        *(target.connect("echo", scheme="unix") for _ in range(3)),
        *(target.connect("lines") for _ in range(2)),
    ]
    _talk(clients)
    return clients


def _is_tidy(target: Target) -> None:
    """Asserts that nothing is left behind."""
    assert os.listdir(target.netd.runtime_folder) == []


# -- signals


def _flood_with_signals(target: Target) -> None:
    """Sends a thousand of each signal that does not end it."""
    clients = _come_in(target)
    for _ in range(1000):
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            target.netd.send_signal(number)
    _talk(clients)


# -- ends


def _terminate(target: Target) -> None:
    """Ends it in the midst of traffic: half of the clients finish, the others never would."""
    clients = _come_in(target)
    target.netd.send_signal(signal.SIGTERM)
    began = monotonic()
    target.netd.wait_for_log("draining")
    _talk(clients)
    for client in clients[::2]:
        assert ask(client, b"") == b""
    wait_until(lambda: not _takes_clients(target))
    for client in clients[1::2]:
        assert read_all(client) == b""
    assert target.netd.wait() == 0
    ends_in_time(began, 0.9, 2)
    _is_tidy(target)


def _takes_clients(target: Target) -> bool:
    try:
        target.connect("echo")
    except ConnectionRefusedError:
        return False
    return True


def _terminate_with_a_backlog(target: Target) -> None:
    """Ends it while clients wait to be accepted."""
    target.netd.send_signal(signal.SIGSTOP)
    clients = [target.connect("echo") for _ in range(100)]
    for client in clients:
        client.sendall(b"abc\n")
    target.netd.send_signal(signal.SIGTERM)
    target.netd.send_signal(signal.SIGCONT)
    for client in clients:
        assert read_exactly(client, 4) == b"abc\n"
        client.close()
    target.hang_up()
    assert target.netd.wait() == 0
    _is_tidy(target)


def _terminate_twice(target: Target) -> None:
    """Ends it, and does not wait for its clients."""
    clients = _come_in(target)
    target.netd.send_signal(signal.SIGTERM)
    target.netd.wait_for_log("draining")
    _talk(clients)
    began = monotonic()
    target.netd.send_signal(signal.SIGTERM)
    assert target.netd.wait() == 0
    ends_in_time(began, 0, 1)
    for client in clients:
        assert read_all(client) == b""
    _is_tidy(target)


def _terminate_at_the_start(_target: Target) -> None:
    """Ends another daemon while it starts, at ever later moments, until it is ready before."""
    with new_folder() as folder:
        statuses, factor = [], slowness()
        for delay in range(0, 1000, 25):
            with running(small("1s"), settled=False, ready=False, folder=folder) as other:
                time.sleep(delay / 1000 * factor)  # nothing is waited for: any moment will do
                statuses.append(other.netd.stop())
                assert not any("Traceback" in line for line in other.log())
                if any("ready: " in line for line in other.log()):
                    break
        # Before it catches signals, they end it as they end any program.
        assert {*statuses} <= {0, -signal.SIGTERM}
        assert statuses[-1] == 0
        with running(small("1s"), folder=folder) as other:
            assert ask(other.connect("echo", scheme="unix"), b"abc") == b"abc"
            assert other.netd.stop() == 0


def _terminate_during_a_reload(_target: Target) -> None:
    """Ends another daemon while it reloads, at ever later moments; who is in has the time to end
    that there is, and whatever is served then, nothing is left behind."""
    found = small("1s")
    for delay in (0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08):
        with running(found) as other:
            clients = _come_in(other)
            changed = copy.deepcopy(found)
            changed["services"]["echo"]["max_connections"] = 100
            changed["services"]["new"] = service("echo", "unix:new.sock")
            del changed["services"]["lines"]
            write_config(other.netd.folder, changed)
            other.netd.send_signal(signal.SIGHUP)
            time.sleep(delay)  # nothing is waited for: any moment will do
            other.netd.send_signal(signal.SIGTERM)
            _talk(clients)
            for client in clients:
                assert ask(client, b"") == b""
            assert other.netd.wait() == 0
            # Where TERM is seen first there is no reload any more.
            errors = [line for line in other.log() if " error " in line]
            assert all("not reloaded: " in line for line in errors), errors
            assert not any("Traceback" in line for line in other.log())
            _is_tidy(other)


def _kill(target: Target) -> None:
    """Ends it without a chance in the midst of traffic, and starts another in its place."""
    clients = _come_in(target)
    ports = {name: target.address(name).port for name in ("canary", "echo", "lines")}
    target.netd.kill()
    assert (target.netd.runtime_folder / "echo.sock").is_socket()
    for client in clients:
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
    found = small("1s")
    for name, port in ports.items():
        found["services"][name]["listen"][0] = f"tcp://127.0.0.1:{port}"
    with running(found, folder=target.netd.folder) as other:
        assert other.address("echo").port == ports["echo"]
        _talk(_come_in(other))
        other.hang_up()
        assert other.netd.stop() == 0
        _is_tidy(other)


# -- two at once


def _start_a_second(target: Target) -> None:
    """Starts another with the same control socket."""
    clients = [target.connect("echo"), target.connect("lines")]
    found = small("1s")
    with running(found, settled=False, ready=False, folder=target.netd.folder) as other:
        assert other.netd.wait() == 75
        (line,) = other.log()
        assert f"another netd (pid {target.pid}) is running" in line
    _talk(clients)


def _start_on_taken_ports(target: Target) -> None:
    """Starts another on the same addresses."""
    found = small("1s")
    taken = [target.address("echo"), target.address("lines"), target.address("upper", "udp")]
    for name, address in zip(("echo", "lines", "canary"), taken, strict=True):
        found["services"][name] |= {"protocol": "upper", "listen": [str(address)]}
        found["services"][name].pop("handler", None)
    with running(found, settled=False, ready=False) as other:
        assert other.netd.wait() == 71
        assert len(other.log()) == len(taken)
        for address in taken:
            text = f"cannot listen on {address}: the address is in use"
            assert any(text in line for line in other.log()), address


_RELOADED = r"info +netd: reloaded in .* 4 unchanged$"
_LATE = {r"warning netd: drain_timeout: ending \d+ sessions$": 1}
_SECOND = {r"warning netd: second signal: ending \d+ sessions$": 1}

FAULTS = [
    Fault(
        "a flood of signals", SMALL, _flood_with_signals,
        (Sessions("echo", 8, "eof"), Sessions("lines", 2, "eof")), {_RELOADED: ANY},
        {"netd.configuration.reloads": ANY},
    ),
    Fault(
        "TERM during traffic", SMALL, _terminate,
        (
            Sessions("echo", 4, "eof"), Sessions("echo", 4, "shutdown"),
            Sessions("lines", 1, "eof"), Sessions("lines", 1, "shutdown"),
        ),
        DRAINED | _LATE, status=0,
    ),
    Fault(
        "TERM with a backlog", SMALL, _terminate_with_a_backlog,
        (Sessions("echo", 100, "eof"),), DRAINED, status=0,
    ),
    Fault(
        "a second TERM", PATIENT, _terminate_twice,
        (Sessions("echo", 8, "shutdown"), Sessions("lines", 2, "shutdown")),
        DRAINED | _SECOND, status=0,
    ),
    Fault("TERM during the start", STANDARD, _terminate_at_the_start),
    Fault("TERM during a reload", STANDARD, _terminate_during_a_reload),
    Fault("kill -9, then a start", SMALL, _kill, status=-signal.SIGKILL),
    Fault(
        "a second instance", STANDARD, _start_a_second,
        (Sessions("echo", 1, "eof", 4, 4), Sessions("lines", 1, "eof", 4, 4)),
    ),
    Fault("a second instance on the same ports", STANDARD, _start_on_taken_ports),
]  # fmt: skip
"""Rows of the table; see `faults`."""
