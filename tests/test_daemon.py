"""The daemon as a process: what it says, what signals do to it, how it ends and starts again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import (
    AS_ROOT,
    CHECKOUT,
    PATIENCE,
    Netd,
    new_folder,
    python_path,
    read_all,
    read_exactly,
    run_netd,
    wait_until,
)

from netd.daemon import STOP_TIMEOUT

as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can change its user")
ENDING = [signal.SIGTERM, signal.SIGINT]

HANDLERS = """
import threading
import time
from pathlib import Path
from socketserver import StreamRequestHandler
from netd.handler import RequestHandler

class Talk(RequestHandler):
    def handle(self):
        while (line := self.read_line()) is not None:
            self.send(line + b"!")

class Deaf(StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"never again")
        time.sleep(3600)

class Threaded(RequestHandler):
    def connection_made(self):
        threading.Thread(target=lambda: 1 / 0, name="mine").start()

class Stuck(RequestHandler):
    def data_received(self, data):
        time.sleep(3600)
"""


def echo(*listen: str, **keys: Any) -> dict[str, Any]:
    """A service."""
    return {"protocol": "echo", "listen": [*(listen or ("tcp://127.0.0.1:0",))], **keys}


def one(*listen: str, **keys: Any) -> dict[str, Any]:
    """A configuration with a service `echo`; `keys` are those of the top."""
    return {"services": {"echo": echo(*listen)}, **keys}


@contextmanager
def run_handler(name: str, tmp_path: Path, **keys: Any) -> Iterator[Netd]:
    """A daemon with a service `it` that one of HANDLERS serves, and a service `echo`."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    service = {"handler": f"handlers:{name}", "listen": ["tcp://127.0.0.1:0"]}
    config = {"services": {"it": service, "echo": echo()}, **keys}
    env = {"PYTHONPATH": python_path(tmp_path), **keys.pop("env", {})}
    config.pop("env", None)
    with run_netd(config, env=env) as netd:
        yield netd


def say(client: socket.socket, data: bytes) -> bytes:
    """What an echo service answers."""
    client.sendall(data)
    return read_exactly(client, len(data))


def is_refused(netd: Netd) -> bool:
    """Whether a new client of the service `echo` is refused."""
    try:
        netd.connect("echo").close()
    except ConnectionRefusedError:
        return True
    return False


def freeze(netd: Netd) -> None:
    """Stops the whole process, and waits until it stands still."""
    netd.send_signal(signal.SIGSTOP)
    wait_until(
        lambda: Path(f"/proc/{netd.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    )


def files(netd: Netd) -> list[str]:
    """What is in its runtime folder."""
    return sorted(os.listdir(netd.runtime_folder))


# -- the end


@pytest.mark.parametrize("number", ENDING)
def test_sessions_go_on_while_it_drains(number: signal.Signals) -> None:
    """A client that is in is served until it leaves; a new one is refused; nothing is left."""
    with run_netd(one("tcp://127.0.0.1:0", "unix:echo.sock", drain_timeout="60s")) as netd:
        first, second = netd.connect("echo"), netd.connect("echo", "unix")
        assert say(first, b"before") == b"before"
        assert say(second, b"before") == b"before"
        netd.send_signal(number)
        netd.wait_for_log(f"{number.name}: draining; sessions may go on for 1m")
        wait_until(lambda: is_refused(netd))
        wait_until(lambda: "echo.sock" not in files(netd))
        assert say(first, b"meanwhile") == b"meanwhile"
        first.close()
        netd.wait_for_log("in=15 out=15 reason=eof")
        assert say(second, b"still") == b"still"
        second.close()
        assert netd.wait() == 0
        assert files(netd) == []
        assert netd.log[-1].endswith("netd: stopped")


def test_what_waits_in_the_backlog_is_served() -> None:
    """Clients that the kernel took in before the signal get their answers."""
    with run_netd(one("tcp://127.0.0.1:0", "udp://127.0.0.1:0")) as netd:
        freeze(netd)
        clients = [netd.connect("echo") for _ in range(100)]
        clients += [netd.connect("echo", "udp")]
        for client in clients:
            client.sendall(b"waiting")
        netd.send_signal(signal.SIGTERM)
        netd.send_signal(signal.SIGCONT)
        assert {read_exactly(client, 7) for client in clients} == {b"waiting"}
        for client in clients:
            client.close()
        assert netd.wait() == 0


def test_a_drain_ends_at_its_time() -> None:
    """A client that stays is cut at `drain_timeout`, and the status is 0 all the same."""
    with run_netd(one(drain_timeout="100ms")) as netd:
        client = netd.connect("echo")
        say(client, b"here")
        assert netd.stop() == 0
        assert read_all(client) == b""
        netd.wait_for_log("drain_timeout: ending 1 session$")
        netd.wait_for_log("reason=shutdown")


@pytest.mark.parametrize("first", ENDING)
@pytest.mark.parametrize("second", ENDING)
@pytest.mark.parametrize("name", ["Talk", "Echo"])
def test_a_second_signal_ends_it_at_once(
    name: str, first: signal.Signals, second: signal.Signals, tmp_path: Path
) -> None:
    """Steps and conversations are cut, whatever `drain_timeout` says."""
    with run_handler("Talk", tmp_path, drain_timeout="none") as netd:
        client = netd.connect("it" if name == "Talk" else "echo")
        client.sendall(b"!\n")
        assert read_exactly(client, 1) == b"!"
        netd.send_signal(first)
        netd.wait_for_log("draining; sessions may go on for as long as they take")
        netd.send_signal(second)
        assert netd.wait(STOP_TIMEOUT) == 0
        netd.wait_for_log("second signal: ending 1 session$")
        netd.wait_for_log("reason=shutdown")


def test_many_signals_are_no_more_than_two() -> None:
    """Those that come while it ends do not change its exit status."""
    with run_netd(one("unix:echo.sock")) as netd:
        say(netd.connect("echo", "unix"), b"here")
        with suppress(ProcessLookupError):
            while netd.process.poll() is None:
                os.kill(netd.pid, signal.SIGTERM)
                os.kill(netd.pid, signal.SIGINT)
        assert netd.wait() == 0
        assert files(netd) == []


def test_a_handler_that_never_returns_does_not_hold_it(tmp_path: Path) -> None:
    """A thread that sleeps through the end is given its time, and then left behind."""
    with run_handler("Deaf", tmp_path, drain_timeout="100ms") as netd:
        client = netd.connect("it")
        assert read_exactly(client, 11) == b"never again"
        netd.send_signal(signal.SIGTERM)
        assert netd.wait(2 * STOP_TIMEOUT + PATIENCE) == 0
        assert files(netd) == []


def test_a_stuck_loop_does_not_hold_it(tmp_path: Path) -> None:
    """The other services end in order, and the status is 0."""
    with run_handler("Stuck", tmp_path, drain_timeout="100ms") as netd:
        netd.connect("it").sendall(b"hang")
        client = netd.connect("echo")
        say(client, b"fine")
        netd.send_signal(signal.SIGTERM)
        assert netd.wait(2 * STOP_TIMEOUT + PATIENCE) == 0
        assert read_all(client) == b""
        assert not [line for line in netd.log if "Traceback" in line]


def test_signals_are_obeyed_while_it_drains() -> None:
    """The state can be asked for, to see what it waits for."""
    with run_netd(one(drain_timeout="none")) as netd:
        client = netd.connect("echo")
        say(client, b"here")
        netd.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(netd))
        wait_until(lambda: netd.state()["netd"]["open"] == 1)
        client.close()
        assert netd.wait() == 0


# -- the beginning


def test_a_signal_before_the_start_ends_it() -> None:
    """As soon as the process exists it can be ended, and it leaves nothing behind."""
    with run_netd(one("unix:echo.sock"), ready=False) as netd:
        assert netd.stop() in (0, -signal.SIGTERM)
        assert not netd.runtime_folder.exists() or files(netd) == []


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_during_the_start_drains_it(number: signal.Signals) -> None:
    """Once it has begun to make files, it gets ready first and then ends in order."""
    listen = [f"unix:{number}.sock" for number in range(200)]
    with run_netd(one(*listen), ready=False) as netd:
        wait_until(lambda: netd.runtime_folder.exists() and files(netd), timeout=2 * PATIENCE)
        assert netd.stop(number) == 0
        assert files(netd) == []
        assert [line.split("netd: ")[1] for line in netd.log if " netd: " in line] == [
            "ready: 1 service on 200 listeners",
            f"{number.name}: draining; sessions may go on for 10s",
            "stopped",
        ]


def test_after_a_kill_it_starts_again() -> None:
    """The socket file and the lock of a dead process are no obstacle."""
    with new_folder() as folder:
        with run_netd(one("unix:echo.sock"), folder=folder) as netd:
            netd.kill()
            assert files(netd) == ["control.sock", "control.sock.lock", "echo.sock"]
        with run_netd(one("unix:echo.sock"), folder=folder) as netd:
            client = netd.connect("echo", "unix")
            assert say(client, b"again") == b"again"
            client.close()
            assert netd.stop() == 0
            assert files(netd) == []


def test_a_second_one_is_refused() -> None:
    """It names the process that is there already, which goes on."""
    with new_folder() as folder, run_netd(one("unix:echo.sock"), folder=folder) as netd:
        with run_netd(one(), folder=folder, ready=False) as second:
            assert second.wait() == 75
            second.wait_for_log(rf"another netd \(pid {netd.pid}\) is running")
        assert say(netd.connect("echo", "unix"), b"still here") == b"still here"


def test_two_of_them_can_run_side_by_side() -> None:
    """With a control socket each."""
    with run_netd(one()) as first, run_netd(one()) as second:
        assert say(first.connect("echo"), b"1") + say(second.connect("echo"), b"2") == b"12"


@as_root
@pytest.mark.parametrize("user", [None, "daemon"])
def test_root_becomes_somebody_else(user: str | None) -> None:
    """Every thread has another user and group, no other groups, and no way back."""
    with run_netd(one("tcp://127.0.0.1:0", "unix:echo.sock", user=user)) as netd:
        for task in Path(f"/proc/{netd.pid}/task").iterdir():
            status = dict(re.findall(r"(\w+):\t(.*)", (task / "status").read_text()))
            uid, gid = status["Uid"].split(), status["Gid"].split()
            assert len({*uid}) == len({*gid}) == 1
            assert "0" not in (uid[0], gid[0])
            assert status["Groups"].split() in ([], [gid[0]])
            assert status["NoNewPrivs"] == "1"
            assert int(status["CapEff"], 16) == 0
        owner = (netd.runtime_folder / "echo.sock").stat()
        assert [str(owner.st_uid), str(owner.st_gid)] == [uid[0], gid[0]]


def test_a_user_that_cannot_be_become_is_told() -> None:
    """The key is ignored aloud by a netd that root has not started."""
    with run_netd(one(user="daemon"), unprivileged=True) as netd:
        netd.wait_for_log("warning netd: user: daemon is ignored, as netd was not started by root")


# -- what it serves


def test_without_services_it_says_so() -> None:
    """A daemon with nothing to do is ready, and warns."""
    with run_netd({"services": {}}) as netd:
        netd.wait_for_log(
            "warning netd: netd serves nothing: 0 services in the configuration, none enabled"
        )
        netd.wait_for_log("ready: 0 services on 0 listeners")
        assert netd.stop() == 0


def test_only_disabled_services_are_nothing_to_serve() -> None:
    """The warning tells that there are some."""
    with run_netd({"services": {"echo": echo(enabled=False)}}) as netd:
        netd.wait_for_log("netd serves nothing: 1 service in the configuration, none enabled")
        assert [*netd.addresses] == ["control"]


def test_a_disabled_service_is_not_served() -> None:
    """Its addresses are not bound, not even looked at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        config = {"services": {"on": echo(), "off": echo(address, enabled=False)}}
        with run_netd(config) as netd:
            assert [*netd.addresses] == ["on", "control"]
            assert [*netd.state()] == ["netd", "on", "control"]
            netd.wait_for_log("ready: 1 service on 1 listener$")


def test_the_limit_of_connections_is_one_for_all() -> None:
    """The client that is one too many, at whatever service, is told why; another may follow."""
    services = {name: echo(banner_fail="sorry: {reason}") for name in ("a", "b")}
    with run_netd({"services": services, "max_connections": 2}) as netd:
        first, second = netd.connect("a"), netd.connect("b")
        assert say(first, b"1") + say(second, b"2") == b"12"
        assert read_all(netd.connect("a")) == b"sorry: service_limit"
        assert read_all(netd.connect("b")) == b"sorry: service_limit"
        assert netd.state()["netd"]["open"] == 2
        first.close()
        wait_until(lambda: netd.state()["netd"]["open"] == 1)
        assert say(netd.connect("b"), b"3") == b"3"
        assert netd.state()["b"]["refused"] == {"service_limit": 1}


def test_more_connections_than_descriptors_are_told() -> None:
    """The limit is what there are descriptors for, and the remedy is named."""
    limit = ["prlimit", "--nofile=100:100"]
    with run_netd(one(max_connections=1000), prefix=limit) as netd:
        netd.wait_for_log(
            r"warning netd: max_connections is 1000, but 100 open files leave room for 70"
            r" connections \(raise LimitNOFILE in netd.service, or ulimit -n\)"
        )
        assert netd.state()["netd"]["max_connections"] == 70


def test_few_descriptors_are_shared_out() -> None:
    """With 64 of them most clients are served, and the others refused in order."""
    with run_netd(one(), prefix=["prlimit", "--nofile=64:64"]) as netd:
        clients = [netd.connect("echo") for _ in range(200)]
        for client in clients:
            client.sendall(b"x")
        limit = netd.state()["netd"]["max_connections"]
        assert 40 < limit < 64
        served = [read_all_or_reset(client) for client in clients[limit:]]
        assert served == [b""] * (200 - limit)
        assert [read_exactly(client, 1) for client in clients[:limit]] == [b"x"] * limit


def read_all_or_reset(client: socket.socket) -> bytes:
    """What comes before the end; a reset is an end, as for a client whose bytes were not read."""
    with suppress(ConnectionResetError):
        return read_all(client)
    return b""


def test_a_thread_that_fails_is_told_in_the_log(tmp_path: Path) -> None:
    """Also one that a handler has started by itself; its traceback is part of the record."""
    with run_handler("Threaded", tmp_path) as netd:
        netd.connect("it")
        netd.wait_for_log("error   netd: the thread mine has failed and is no more")
        netd.wait_for_log("^  ZeroDivisionError")
        with netd.connect("echo") as client:
            assert say(client, b"fine") == b"fine"


# -- signals


@pytest.mark.parametrize("level", ["info", "error"])
def test_the_state_is_told_at_any_level(level: str) -> None:
    """It was asked for, so it is logged, with what each service has done."""
    config = one("tcp://127.0.0.1:0", "udp://127.0.0.1:0", log={"level": level})
    with run_netd(config, ready=False) as netd:
        wait_until(lambda: netd.runtime_folder.exists())
        if level == "info":
            netd.wait_for_log("ready")
            with netd.connect("echo") as client:
                say(client, b"12345")
            netd.wait_for_log("reason=eof")
            with netd.connect("echo", "udp") as client:
                say(client, b"123")
            wait_until(lambda: netd.state()["echo"]["datagrams_out"] == 1)
        found = netd.state()
        assert found["netd"]["pid"] == netd.pid
        assert found["netd"]["log_lines_dropped"] == 0
        assert found["netd"]["uptime"] >= 0
        if level == "info":
            state = found["echo"]
            assert state["listen"] == [str(address) for address in netd.addresses["echo"]]
            assert (state["admitted"], state["open"], state["ended"]) == (1, 0, {"eof": 1})
            assert (state["bytes_in"], state["datagrams_out"]) == (8, 1)


def test_a_thousand_signals_break_nothing() -> None:
    """They are answered, if not one by one, and a signal to end is not lost among them."""
    with run_netd(one()) as netd:
        for _ in range(1000):
            netd.send_signal(signal.SIGHUP)
            netd.send_signal(signal.SIGUSR1)
            netd.send_signal(signal.SIGUSR2)
        with netd.connect("echo") as client:
            assert say(client, b"still") == b"still"
        assert netd.state()["netd"]["log_lines_dropped"] == 0
        for _ in range(1000):
            netd.send_signal(signal.SIGHUP)
        assert netd.stop() == 0


def test_a_rotated_log_is_opened_anew() -> None:
    """After SIGUSR2 lines go to a new file of the old name."""
    with run_netd(one(log={"file": "run/netd.log"}), ready=False) as netd:
        log, rotated = netd.runtime_folder / "netd.log", netd.runtime_folder / "netd.log.1"
        wait_until(lambda: log.exists() and "ready" in log.read_text(), timeout=2 * PATIENCE)
        log.rename(rotated)
        netd.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in rotated.read_text())
        netd.send_signal(signal.SIGUSR2)
        wait_until(log.exists)
        netd.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in log.read_text())
        assert rotated.read_text().count("reloaded") == 1
        assert netd.stop() == 0
        assert log.read_text().splitlines()[-1].endswith("netd: stopped")
        assert netd.log == []


# -- standard error


def test_an_unread_log_costs_lines_and_nothing_else() -> None:
    """While nobody reads standard error, clients are served; what was lost is counted and told."""
    refusing = {**echo("unix:refusing.sock"), "max_connections": 1}
    with run_netd({"services": {"refusing": refusing, "echo": echo()}}) as netd:
        say(netd.connect("refusing", "unix"), b"in")
        address = netd.addresses["refusing"][0].host
        netd.read_log(False)
        for _ in range(39_999):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
        with connect_when_there(Path(address)) as last:  # the queue may be full until then
            assert read_all(last) == b""  # all those before it are out
        assert say(netd.connect("echo"), b"served") == b"served"
        netd.read_log(True)
        lost = int(netd.wait_for_log(r"warning log: (\d+) log lines dropped")[1])
        assert lost > 0
        # What the queue held comes after the line that tells of the others.
        wait_until(lambda: told(netd) + lost >= 40_000, timeout=2 * PATIENCE)
        state = netd.state()
        assert state["netd"]["log_lines_dropped"] == lost
        assert state["refusing"]["refused"] == {"service_limit": told(netd) + lost}


def told(netd: Netd) -> int:
    """How many refused clients the log tells of."""
    return sum("reason=service_limit" in line for line in netd.log)


def connect_when_there(address: Path) -> socket.socket:
    """A client of a UNIX socket that is about to be listened on."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    wait_until(lambda: client.connect_ex(str(address)) == 0, timeout=2 * PATIENCE)
    return client


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>/dev/null"])
def test_it_serves_without_standard_error(redirection: str) -> None:
    """Closed or full from the beginning, it makes no difference to clients."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    with run_netd(one("unix:echo.sock"), prefix=shell, ready=False) as netd:
        for _ in range(3):
            with connect_when_there(netd.runtime_folder / "echo.sock") as client:
                assert say(client, b"served") == b"served"
        assert netd.stop() == 0
        assert files(netd) == []


def test_it_outlives_the_reader_of_its_log() -> None:
    """A pipe that nobody will ever read again is no reason to end."""
    reader, writer = os.pipe()
    with run_netd(one("unix:echo.sock"), stderr=writer, ready=False) as netd:
        os.close(writer)
        connect_when_there(netd.runtime_folder / "echo.sock").close()
        os.close(reader)
        for _ in range(3):
            with connect_when_there(netd.runtime_folder / "echo.sock") as client:
                assert say(client, b"served") == b"served"
        assert netd.stop() == 0


# -- the service manager


@contextmanager
def manager() -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """The socket of a service manager, and the variable that names it."""
    with new_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        (folder / "notify").chmod(0o666)
        sock.settimeout(2 * PATIENCE)
        yield sock, {"NOTIFY_SOCKET": str(folder / "notify")}


def test_the_manager_is_told_of_each_phase() -> None:
    """READY once it serves; STOPPING when told to end, and then that it needs time."""
    with manager() as (told, env), run_netd(one(drain_timeout="none"), env=env) as netd:
        assert told.recv(999) == b"READY=1\nSTATUS=1 service on 1 listener"
        client = netd.connect("echo")
        say(client, b"here")
        netd.send_signal(signal.SIGTERM)
        assert told.recv(999) == b"STOPPING=1"
        for _ in range(2):
            assert told.recv(999) == b"STATUS=draining 1 session"
            assert told.recv(999) == b"EXTEND_TIMEOUT_USEC=10000000"
        client.close()
        assert netd.wait() == 0


def test_the_watchdog_is_fed_until_a_loop_is_stuck(tmp_path: Path) -> None:
    """One serving loop of many that stands still is enough, and the log names it."""
    with manager() as (told, env):
        env["WATCHDOG_USEC"] = "200000"
        with run_handler("Stuck", tmp_path, env=env) as netd:
            received = [told.recv(999) for _ in range(10)]
            assert received.count(b"WATCHDOG=1") == 9
            netd.connect("it").sendall(b"hang")
            netd.wait_for_log("error .*netd: serving loop of it has not answered for")
            told.setblocking(False)
            with suppress(BlockingIOError):
                while told.recv(999):
                    continue
            told.settimeout(1.0)
            with pytest.raises(TimeoutError):
                told.recv(999)
            assert say(netd.connect("echo"), b"fine") == b"fine"
            assert not [line for line in netd.log if "loop of echo" in line]


# -- what it costs


def test_the_budget_of_the_whole_is_kept() -> None:
    """With all that the built-in configuration serves, the start takes less CPU than three starts
    of Python with no more than the libraries, and less than 60 MiB of memory are used."""
    libraries = "import click, importlib.metadata, pydantic.json_schema, ssl, yaml"
    least = _cpu_seconds(lambda: subprocess.run([sys.executable, "-c", libraries], check=True))
    config = (CHECKOUT / "netd" / "default.yaml").read_text()
    config = re.sub(r"(://\S+:)\d+", r"\g<1>0", config)

    def start() -> None:
        with run_netd(config) as netd:
            status = Path(f"/proc/{netd.pid}/status").read_text()
            (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
            assert int(resident) < 60 * 1024

    assert _cpu_seconds(start) < 3 * least


def _cpu_seconds(run: Callable[[], object]) -> float:
    """What a process that this runs, and waits for, uses of the CPU, at the best of three times:
    whoever shares the processor's caches costs time too."""

    def used() -> float:
        times = os.times()
        return times.children_user + times.children_system

    seconds = []
    for _ in range(3):
        before = used()
        run()
        seconds.append(used() - before)
    return min(seconds)
