"""The command `netd`: its options, its exit statuses, and what it says with each."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import (
    AS_ROOT,
    COMMAND,
    PATIENCE,
    environment,
    new_folder,
    python_path,
    read_exactly,
    run_netd,
    wait_until,
    write_config,
)

as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can change its user")
LOWEST_PORT = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())

HANDLER = """
import time
from netd.handler import RequestHandler

class Echo(RequestHandler):
    def data_received(self, data):
        self.send(data)

print("imported", flush=True)
time.sleep(3600)
"""


def one(*listen: str, **keys: Any) -> dict[str, Any]:
    """A configuration with a service `echo`; `keys` are those of the top."""
    return {"services": {"echo": {"protocol": "echo", "listen": [*listen]}}, **keys}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which a daemon can run, whoever it becomes."""
    with new_folder() as path:
        yield path


def netd(
    folder: Path, *arguments: str, prefix: Sequence[str] = (), **popen: Any
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    env = {**environment(folder), **popen.pop("env", {})}
    return subprocess.run(
        [*prefix, *COMMAND, *arguments], cwd=folder, env=env, text=True, timeout=30,
        stdin=subprocess.DEVNULL, **{"capture_output": True} | popen,
    )  # fmt: skip


def start(
    folder: Path, config: dict[str, Any] | str, *arguments: str, **popen: Any
) -> subprocess.CompletedProcess[str]:
    """Runs the command, which is not expected to stay, with a configuration."""
    return netd(folder, "-c", str(write_config(folder, config)), *arguments, **popen)


def is_left(folder: Path) -> list[str]:
    """What a start that failed has left in the runtime folder."""
    run = folder / "run"
    return sorted(os.listdir(run)) if run.exists() else []


# -- what only prints


def test_help_lists_signals_and_statuses(folder: Path) -> None:
    """`--help` tells what an administrator's scripts have to know."""
    done = netd(folder, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "--config FILE" in text
    for words in ("TERM and INT drain", "71 cannot bind", "78 configuration"):
        assert words in text


def test_the_version_is_printed(folder: Path) -> None:
    """`--version` is the distribution's."""
    done = netd(folder, "--version")
    assert re.fullmatch(r"netd, version \d+\.\d+\.\d+\n", done.stdout)


def test_a_good_configuration_is_told_so(folder: Path) -> None:
    """`--check` binds nothing, starts nothing, and prints one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = one(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        done = start(folder, config, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{folder}/netd.yaml: configuration OK, 1 service\n"
    assert not (folder / "run").exists()


def test_the_effective_configuration_can_be_read_again(folder: Path) -> None:
    """What `--dump-config` prints is a configuration that says the same."""
    first = start(folder, one("tcp://127.0.0.1:9000"), "--dump-config", "--log-level", "error")
    assert yaml.safe_load(first.stdout)["log"]["level"] == "error"
    second = start(folder, first.stdout, "--dump-config")
    assert (first.returncode, first.stderr) == (0, "")
    assert second.stdout == first.stdout


def test_the_schema_is_json(folder: Path) -> None:
    """`--schema` prints a JSON Schema and needs no configuration."""
    done = netd(folder, "--schema", "-c", "/nonexistent")
    assert done.returncode == 0
    assert json.loads(done.stdout)["$schema"].startswith("https://json-schema.org/")


# -- 64 and 78


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "No such option"),
        (["upper"], "unexpected extra argument"),
        (["-c"], "requires an argument"),
        (["--log-level", "loud"], "'loud' is not one of"),
    ],
)
def test_wrong_usage_is_64(folder: Path, arguments: list[str], said: str) -> None:
    """The fault is named, and where to read more."""
    done = netd(folder, *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert said in done.stderr
    assert done.stderr.endswith("(see `netd --help`)\n")


def test_faults_of_the_configuration_are_78(folder: Path) -> None:
    """Each has its place, and all are told at once."""
    done = start(
        folder, "services:\n  a: {protokol: echo}\n  b: {protocol: nonsense, listen: []}\n"
    )
    assert (done.returncode, done.stdout) == (78, "")
    lines = done.stderr.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith(f"{folder}/netd.yaml:") for line in lines)
    assert re.search(r"netd\.yaml:2:7: .*protokol", done.stderr)
    assert is_left(folder) == []


@pytest.mark.parametrize("option", [[], ["--check"], ["--dump-config"], ["--daemon"]])
def test_a_missing_file_is_78(folder: Path, option: list[str]) -> None:
    """A name given with -c is never replaced by the built-in configuration."""
    done = netd(folder, "-c", "/nonexistent/netd.yaml", *option)
    assert (done.returncode, done.stdout) == (78, "")
    assert "/nonexistent/netd.yaml" in done.stderr
    assert "No such file" in done.stderr


@as_root
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"user": "nosuchuser"}, "nosuchuser"),
        ({"group": "nosuchgroup"}, "nosuchgroup"),
        ({"user": "root"}, "netd does not serve as root"),
    ],
)
def test_a_user_that_cannot_be_become_is_78(folder: Path, keys: dict[str, str], said: str) -> None:
    """Root is told before or after binding, and nothing is left behind."""
    done = start(folder, one("unix:echo.sock", **keys))
    assert done.returncode == 78
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert is_left(folder) == []


@pytest.mark.parametrize("option", [[], ["--daemon"]])
def test_a_log_that_cannot_be_opened_is_78(folder: Path, option: list[str]) -> None:
    """The file is named, and the socket files are removed again."""
    done = start(folder, one("unix:echo.sock", log={"file": "/nonexistent/log"}), *option)
    assert done.returncode == 78
    assert "log.file: cannot open '/nonexistent/log': No such file" in done.stderr
    assert is_left(folder) == []


# -- 71


@pytest.mark.parametrize("option", [[], ["--daemon"]])
def test_every_taken_address_is_named(folder: Path, option: list[str]) -> None:
    """One start tells of all of them; what could be bound is given back."""
    with ExitStack() as closing:
        tcp = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        unix = closing.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "taken"))
        unix.listen()
        taken = [
            f"tcp://127.0.0.1:{tcp.getsockname()[1]}",
            f"udp://127.0.0.1:{udp.getsockname()[1]}",
            f"unix:{folder}/taken",
        ]
        done = start(folder, one("unix:free.sock", *taken, "tcp://127.0.0.1:0"), *option)
    assert done.returncode == 71
    lines = [line for line in done.stderr.splitlines() if "nothing is logged" not in line]
    assert lines == [
        f"netd: echo: cannot listen on {address}: the address is in use (`ss -lnp` shows by whom)"
        for address in taken
    ]
    assert is_left(folder) == []
    assert (folder / "taken").exists()


def test_a_port_that_is_bound_and_not_listened_on_is_taken(folder: Path) -> None:
    """bind() succeeds beside such a socket, and listen() says that it is in use."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        with run_netd(one(f"tcp://127.0.0.1:{other.getsockname()[1]}")) as running:
            other_netd = start(folder, one(str(running.addresses["echo"][0])))
    assert other_netd.returncode == 71
    assert "the address is in use" in other_netd.stderr


def test_an_address_of_another_machine_is_named(folder: Path) -> None:
    """The remedy is an address that this machine has, or `free_bind`."""
    done = start(folder, one("tcp://192.0.2.1:0"))
    assert done.returncode == 71
    assert "cannot listen on tcp://192.0.2.1:0: this machine has no such address" in done.stderr


def test_a_host_name_that_is_not_known_is_named(folder: Path) -> None:
    """The name is told, with what the resolver said of it."""
    done = start(folder, one("tcp://nowhere.invalid:0"))
    assert done.returncode == 71
    assert "cannot listen on tcp://nowhere.invalid:0: " in done.stderr


# -- 77


@pytest.mark.skipif(LOWEST_PORT < 1024, reason="any user may bind any port on this machine")
def test_a_privileged_port_is_77() -> None:
    """The capability is named, and how systemd gives it or binds in netd's place."""
    with run_netd(one("tcp://127.0.0.1:7", "udp://127.0.0.1:7"), unprivileged=True,
                  ready=False) as running:  # fmt: skip
        assert running.wait() == 77
        assert running.log[:2] == [
            "netd: echo: cannot listen on tcp://127.0.0.1:7: not permitted",
            "netd: echo: cannot listen on udp://127.0.0.1:7: not permitted",
        ]
        for words in ("CAP_NET_BIND_SERVICE", "AmbientCapabilities=", "fd:NAME", ".socket unit"):
            assert words in running.log[2]


def test_a_folder_of_another_user_is_77() -> None:
    """For a UNIX socket the folder is named that could not be written to."""
    with run_netd(one("unix:/proc/netd.sock"), unprivileged=True, ready=False) as running:
        assert running.wait() in (71, 77)  # /proc refuses with ENOENT or EACCES
        assert "cannot listen on unix:/proc/netd.sock: " in running.log[0]
    with run_netd(one("unix:/usr/netd.sock"), unprivileged=True, ready=False) as running:
        assert running.wait() == 77
        assert "not permitted (let this user write to /usr, or move the socket)" in running.log[0]


@pytest.mark.parametrize("option", [[], ["--daemon"]])
def test_a_runtime_folder_that_others_can_write_is_77(folder: Path, option: list[str]) -> None:
    """Nothing is bound in a folder in which anybody could put sockets."""
    (folder / "run").mkdir()
    (folder / "run").chmod(0o777)
    done = start(folder, one("unix:echo.sock"), *option)
    assert done.returncode == 77
    assert f"the runtime folder {folder}/run is writable by everybody" in done.stderr


# -- 75, and pid files


@pytest.mark.parametrize("option", [[], ["--daemon"]])
def test_a_second_instance_is_75(folder: Path, option: list[str]) -> None:
    """The process that is there already is named."""
    with run_netd(one("tcp://127.0.0.1:0"), folder=folder) as running:
        done = start(folder, one("tcp://127.0.0.1:0"), *option)
        assert done.returncode == 75
        assert f"another netd (pid {running.pid}) is running" in done.stderr


def test_a_pid_file_holds_the_pid_while_it_runs(folder: Path) -> None:
    """It can be read by all, and is gone afterwards."""
    (folder / "own").mkdir()
    (folder / "own").chmod(0o777)
    file = folder / "own" / "netd.pid"
    with run_netd(one("tcp://127.0.0.1:0"), "--pid-file", str(file)) as running:
        assert file.read_text() == f"{running.pid}\n"
        assert file.stat().st_mode & 0o777 == 0o644
        assert running.stop() == 0
        assert not file.exists()


def test_a_pid_file_that_is_held_is_75(folder: Path) -> None:
    """Two instances with different control sockets do not share one."""
    file = str(folder / "netd.pid")
    with (
        run_netd(one("tcp://127.0.0.1:0"), "--pid-file", file) as running,
        run_netd(one("tcp://127.0.0.1:0"), "--pid-file", file, ready=False) as second,
    ):
        assert second.wait() == 75
        second.wait_for_log(rf"pid file {file} is held by a running process \(pid {running.pid}\)")
        assert os.listdir(second.runtime_folder) == []


@pytest.mark.parametrize("option", [[], ["--daemon"]])
def test_a_file_that_is_no_pid_file_is_left_alone(folder: Path, option: list[str]) -> None:
    """A slip of the finger does not cost its content."""
    (folder / "diary").write_text("dear diary\n")
    done = start(folder, one("tcp://127.0.0.1:0"), "--pid-file", "diary", *option)
    assert done.returncode == 71
    assert f"{folder}/diary exists and is not a pid file" in done.stderr
    assert (folder / "diary").read_text() == "dear diary\n"
    assert is_left(folder) == []


# -- how errors are told


def test_the_journal_is_given_priorities(folder: Path) -> None:
    """Where standard error is the journal's, the lines are errors there."""
    reader, writer = os.pipe()
    with open(reader) as pipe:
        status = os.fstat(writer)
        journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        done = start(folder, "services: [", env=journal, capture_output=False, stderr=writer)
        os.close(writer)
        lines = pipe.read().splitlines()
    assert done.returncode == 78
    assert lines
    assert all(line.startswith(f"<3>{folder}/netd.yaml:") for line in lines)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_the_status_is_told_where_words_cannot_be(folder: Path, redirection: str) -> None:
    """A standard error that is closed or full does not change the exit status."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    assert start(folder, "services: [", prefix=shell).returncode == 78
    assert netd(folder, "--nonsense", prefix=shell).returncode == 64


def test_the_interrupt_key_ends_a_start_without_a_traceback(folder: Path) -> None:
    """Before it serves, Ctrl-C ends it as it ends any command."""
    (folder / "slow.py").write_text(HANDLER)
    config = write_config(folder, {"services": {"slow": {
        "handler": "slow:Echo", "listen": ["tcp://127.0.0.1:0"]}}})  # fmt: skip
    env = {**environment(folder), "PYTHONPATH": python_path(folder)}
    with subprocess.Popen(
        [*COMMAND, "-c", str(config)], env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "imported\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == -signal.SIGINT
        assert process.communicate()[1] == ""


def test_the_level_of_the_log_can_be_given(folder: Path) -> None:
    """`--log-level` goes before the key."""
    with run_netd(one("unix:echo.sock"), "--log-level", "error", ready=False,
                  folder=folder) as running:  # fmt: skip
        wait_until((folder / "run" / "echo.sock").exists, timeout=2 * PATIENCE)
        assert running.stop() == 0
        assert running.log == []


# -- --daemon


@contextmanager
def detached(folder: Path, config: dict[str, Any], *arguments: str) -> Iterator[int]:
    """The pid of a daemon in the background; it is killed by its number if it is still there."""
    pid_file = folder / "run" / "netd.pid"
    (folder / "run").mkdir(exist_ok=True)
    if AS_ROOT:
        os.chown(folder / "run", 65534, 65534)
    done = start(folder, config, "--daemon", "--pid-file", "run/netd.pid", *arguments)
    try:
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        pid = int(pid_file.read_text())
        yield pid
    finally:
        with suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Whether a process that is no child of ours ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 2 * PATIENCE)[0])
    finally:
        os.close(descriptor)


def test_the_command_returns_when_the_daemon_serves(folder: Path) -> None:
    """At once a client is answered; the log and the pid file are where they were asked for."""
    config = one("unix:echo.sock", log={"file": f"{folder}/run/netd.log"}, user="nobody")
    with detached(folder, config) as pid, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(folder / "run" / "echo.sock"))
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        client.close()
        log = folder / "run" / "netd.log"
        wait_until(lambda: "reason=eof" in log.read_text())
        os.kill(pid, signal.SIGTERM)
        assert has_ended(pid)
        lines = log.read_text().splitlines()
        assert [line.split(" ", 3)[-1].split(": ")[1] for line in lines[-2:]] == [
            "SIGTERM", "stopped",
        ]  # fmt: skip
        assert sum("ready: 1 service on 1 listener" in line for line in lines) == 1
        assert sorted(os.listdir(folder / "run")) == ["netd.log"]


def test_the_daemon_has_left_its_terminal(folder: Path) -> None:
    """Its own session, `/` as its folder, a mask, and no descriptor of whoever started it."""
    inherited, other = os.pipe()
    os.set_inheritable(inherited, True)
    config = one(
        "tcp://127.0.0.1:0", "unix:echo.sock", log={"file": f"{folder}/run/netd.log"}, user="nobody"
    )
    try:
        with detached(folder, config) as pid:
            assert os.getsid(pid) not in (os.getsid(0), 0)
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"Umask:\t0027\n", status)
            terminal = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4]
            assert terminal == "0"
            opened = {
                int(path.name): os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()
            }
            assert [opened.pop(number) for number in range(3)] == ["/dev/null"] * 3
            kinds = sorted(
                re.sub(r"[\[\d].*", "", name.rpartition("/")[2]) for name in opened.values()
            )
            # The reserves of the accept paths, the log, both locks, both ends of the queue of
            # signals, two listeners and the control socket, and two loops with their alarms.
            assert kinds == sorted(
                ["null", "null", "netd.log", "control.sock.lock", "netd.pid", "pipe:", "pipe:"]
                + ["socket:"] * 3 + ["anon_inode:"] * 4
            )  # fmt: skip
    finally:
        os.close(inherited)
        os.close(other)


def test_a_daemon_without_a_log_is_told(folder: Path) -> None:
    """The terminal is the last place where it can be said."""
    done = start(folder, one("unix:echo.sock"), "--daemon", "--pid-file", "run/netd.pid")
    pid = int((folder / "run" / "netd.pid").read_text())
    try:
        assert done.returncode == 0
        assert done.stderr == (
            "netd: in the background nothing is logged without the key log.file\n"
        )
    finally:
        os.kill(pid, signal.SIGTERM)
        assert has_ended(pid)


def test_a_daemon_that_cannot_start_is_gone(folder: Path) -> None:
    """After an error on the terminal no process is left in the background."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    with open(reader) as pipe:
        done = start(folder, one("tcp://192.0.2.1:0"), "--daemon", pass_fds=[writer])
        os.close(writer)
        assert done.returncode == 71
        assert select.select([pipe], [], [], PATIENCE)[0]
        assert pipe.read() == ""


def test_sockets_of_the_service_manager_survive_the_detachment(folder: Path) -> None:
    """They are meant for the process that was started, and the daemon serves them."""
    config = one("fd:echo", log={"file": f"{folder}/run/netd.log"}, user="nobody")
    (folder / "run").mkdir()
    (folder / "run").chmod(0o755)
    if AS_ROOT:
        os.chown(folder / "run", 65534, 65534)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=echo; exec "$@"'
        done = start(
            folder, config, "--daemon", "--pid-file", "run/netd.pid",
            prefix=["bash", "-c", script, str(listener.fileno())], pass_fds=[listener.fileno()],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        pid = int((folder / "run" / "netd.pid").read_text())
        try:
            with socket.create_connection(listener.getsockname(), PATIENCE) as client:
                client.sendall(b"hello")
                assert read_exactly(client, 5) == b"hello"
        finally:
            os.kill(pid, signal.SIGTERM)
            assert has_ended(pid)


def test_sockets_of_the_service_manager_are_given_back(folder: Path) -> None:
    """When the start fails, that is all that is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=echo; exec "$@"'
        done = start(
            folder, one("tcp://192.0.2.1:0"),
            prefix=["bash", "-c", script, str(listener.fileno())], pass_fds=[listener.fileno()],
        )  # fmt: skip
    assert done.returncode == 71
    assert len(done.stderr.splitlines()) == 1


def test_python_warnings_are_none(folder: Path) -> None:
    """Nothing that netd imports is deprecated, with --daemon either."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import netd.cli.netd, daemon.daemon"],
        env=environment(folder), capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
