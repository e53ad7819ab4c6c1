"""Leaving the terminal: every test detaches a real process, or sees it refuse to."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import netd
from netd.instance import PidFile

CHECKOUT = str(Path(netd.__file__).parents[1])

# Binds, detaches, tells what became of it to its first client, and echoes until the client ends.
DAEMON = """
import atexit, errno, fcntl, json, os, resource, signal, socket, subprocess, sys, termios
from pathlib import Path
from netd.detach import detach, fill_standard_streams
from netd.instance import PidFile

def on_signal(number, frame):
    pass

def at_exit():
    with (folder / "exits").open("a") as file:
        file.write(f"{os.getpid()}\\n")

fill_standard_streams()
folder = Path(sys.argv[1])
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.close(os.open("/dev/tty", os.O_RDWR))  # fails without a controlling terminal
signal.signal(signal.SIGTERM, on_signal)
atexit.register(at_exit)
lock = PidFile(folder / "netd.pid")
lock.acquire()
listener = socket.create_server(("127.0.0.1", 0))
(folder / "port").write_text(str(listener.getsockname()[1]))
os.dup2(listener.fileno(), 500)
closed, close_range = [], os.closerange

def closerange(low, high):
    closed.append(high - low)
    close_range(low, high)

os.closerange = closerange
os.umask(0o077)
print("started")  # stays in the buffer when this is a pipe
detach([listener.fileno(), lock.fileno()], 0o027, lock.rewrite)
signal.alarm(60)
try:
    terminal = os.open("/dev/tty", os.O_RDWR)
except OSError as error:
    terminal = errno.errorcode[error.errno]
connection, _ = listener.accept()
with listener, connection:
    connection.sendall(json.dumps({
        "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0),
        "terminal": terminal, "cwd": os.getcwd(), "umask": os.umask(0),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "listener": listener.fileno(), "lock": lock.fileno(), "connection": connection.fileno(),
        "term": signal.getsignal(signal.SIGTERM).__name__,
        "default": [signal.getsignal(s) == signal.SIG_DFL
                    for s in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)],
        "child": subprocess.check_output(["readlink", "/proc/self/fd/0"], text=True),
        "closed": sum(closed),
    }).encode() + b"\\n")
    while data := connection.recv(100):
        connection.sendall(data)
lock.release()
"""


@dataclass
class Detached:
    """A daemon, and how it was started."""

    starter: int
    output: str
    client: socket.socket
    told: dict[str, Any]


def ended(pid: int) -> bool:
    """Whether a process that is no child of ours ends within 30 seconds."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            return bool(select.select([descriptor], [], [], 30)[0])
        finally:
            os.close(descriptor)
    return True


def shell(script: str, redirection: str, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
    """A script that a shell starts with some redirection of its streams."""
    command = f'exec "$0" -W error -c "$@" {redirection}'
    return subprocess.Popen(
        ["/bin/sh", "-c", command, sys.executable, script, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PYTHONPATH": CHECKOUT, "PATH": os.defpath}, **popen,
    )  # fmt: skip


@contextmanager
def detached(folder: Path, redirection: str = "", **popen: Any) -> Iterator[Detached]:
    """A detached DAEMON, connected; it ends with the block."""
    started = shell(DAEMON, redirection, str(folder), **popen)
    # Both pipes end only when the daemon has let go of them.
    output, errors = started.communicate(timeout=30)
    assert (started.returncode, errors) == (0, "")
    pid = int((folder / "netd.pid").read_text())
    address = ("127.0.0.1", int((folder / "port").read_text()))
    try:
        with socket.create_connection(address, 30) as client:
            told = json.loads(client.makefile("rb").readline())
            yield Detached(started.pid, output, client, told)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
            assert ended(pid)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def refusal(script: str, *flags: str) -> str:
    """What a script says that ends with status 71 instead of detaching."""
    frame = (
        "import sys\nfrom netd.errors import StartError\ntry:\n"
        + textwrap.indent(script, "    ")
        + "\nexcept StartError as error:\n    print(error)\n    sys.exit(error.status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", *flags, "-c", frame],
        env={"PYTHONPATH": CHECKOUT}, stdout=subprocess.PIPE, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 71
    return done.stdout


def test_a_detached_daemon_serves(tmp_path: Path) -> None:
    """The socket that was bound on the terminal answers in the daemon."""
    with detached(tmp_path) as daemon:
        daemon.client.sendall(b"echo")
        assert daemon.client.recv(100) == b"echo"


def test_the_daemon_has_left_process_session_and_terminal(tmp_path: Path) -> None:
    """Started by the leader of a terminal's session, it keeps nothing of it and survives it."""
    master, slave = pty.openpty()
    with detached(tmp_path, stdin=slave, start_new_session=True) as daemon:
        told = daemon.told
        assert len({told["pid"], told["session"], daemon.starter}) == 3
        assert told["parent"] not in (daemon.starter, os.getpid(), told["session"])
        assert told["terminal"] == "ENXIO"
        fields = Path(f"/proc/{told['pid']}/stat").read_text().rpartition(")")[2].split()
        assert fields[4] == "0"  # tty_nr in proc(5)
        os.close(slave)
        os.close(master)
        daemon.client.sendall(b"after the hangup")
        assert daemon.client.recv(100) == b"after the hangup"


def test_the_daemon_has_our_umask_and_the_root_folder(tmp_path: Path) -> None:
    """The mask is the one that was passed, neither 0 nor the shell's; no core files."""
    with detached(tmp_path, cwd=tmp_path) as daemon:
        assert daemon.told["umask"] == 0o027
        assert daemon.told["cwd"] == "/"
        assert daemon.told["core"] == [0, 0]


def test_only_what_is_kept_stays_open(tmp_path: Path) -> None:
    """The standard streams are /dev/null, and nothing but the kept descriptors is left."""
    with detached(tmp_path) as daemon:
        folder = Path(f"/proc/{daemon.told['pid']}/fd")
        links = {int(entry.name): os.readlink(entry) for entry in folder.iterdir()}
    assert [links.pop(number) for number in range(3)] == ["/dev/null"] * 3
    assert links.pop(daemon.told["lock"]) == str(tmp_path / "netd.pid")
    assert links.keys() == {daemon.told["listener"], daemon.told["connection"]}


def test_closing_does_not_depend_on_the_descriptor_limit(tmp_path: Path) -> None:
    """No number above the highest open one, which is 500 here, is closed."""
    with detached(tmp_path) as daemon:
        assert 400 < daemon.told["closed"] <= 501


def test_a_child_of_the_daemon_has_standard_streams(tmp_path: Path) -> None:
    """/dev/null at 0 survives an exec, so that no other file takes its place."""
    with detached(tmp_path) as daemon:
        assert daemon.told["child"] == "/dev/null\n"


def test_signals_are_left_alone(tmp_path: Path) -> None:
    """The handler that was there before stays, and no further one comes."""
    with detached(tmp_path) as daemon:
        assert daemon.told["term"] == "on_signal"
        assert daemon.told["default"] == [True, True, True]


def test_the_pid_file_is_right_when_the_command_returns(tmp_path: Path) -> None:
    """An init script reads the daemon's pid, and the daemon removes the file."""
    with detached(tmp_path) as daemon:
        assert (tmp_path / "netd.pid").read_text() == f"{daemon.told['pid']}\n"
    assert not (tmp_path / "netd.pid").exists()


def test_exit_handlers_run_in_the_daemon_alone(tmp_path: Path) -> None:
    """None of the processes on the way cleans up what the daemon uses, or prints twice."""
    with detached(tmp_path) as daemon:
        assert daemon.output == "started\n"
        assert not (tmp_path / "exits").exists()
    assert (tmp_path / "exits").read_text() == f"{daemon.told['pid']}\n"


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-", ">&- 2>&-", "2>&-"])
def test_streams_that_were_closed_at_start_are_filled(tmp_path: Path, closed: str) -> None:
    """No socket becomes descriptor 0, 1 or 2, and the daemon serves as ever."""
    with detached(tmp_path, closed) as daemon:
        assert min(daemon.told[key] for key in ("listener", "lock", "connection")) > 2
        assert daemon.told["child"] == "/dev/null\n"


def test_filled_streams_reach_children_and_prints() -> None:
    """Without --daemon too: a print goes nowhere, and a child has its standard input."""
    script = """
import subprocess, sys
from netd.detach import fill_standard_streams
fill_standard_streams()
print("to nobody", flush=True)
print(repr(sys.stdin.read()), file=sys.stderr)
subprocess.run(["readlink", "/proc/self/fd/0"], stdout=2, check=True)
"""
    started = shell(script, "<&- >&-")
    assert started.communicate(timeout=30) == ("", "''\n/dev/null\n")
    assert started.returncode == 0


def test_a_caller_that_did_not_fill_them_detaches_all_the_same(tmp_path: Path) -> None:
    """Nothing was opened in the place of the closed stream, so that nothing is lost."""
    script = f"""
import os
from netd.detach import detach
detach([], 0o022, lambda: os.mkdir({str(tmp_path / "detached")!r}))
"""
    started = shell(script, "<&-")
    assert started.communicate(timeout=30) == ("", "")
    assert started.returncode == 0
    assert (tmp_path / "detached").is_dir()


def test_a_kept_standard_descriptor_is_refused() -> None:
    """python-daemon would put /dev/null in the place of that socket: told, with a remedy."""
    said = refusal("from netd.detach import detach\ndetach([0], 0o022)")
    assert "a standard stream was closed when netd was started" in said
    assert "</dev/null" in said


def test_a_missing_library_is_named() -> None:
    """Without python-daemon the option is refused, with the command that cures it."""
    said = refusal("from netd.detach import detach\ndetach([], 0o022)", "-S")
    assert "--daemon needs python-daemon" in said
    assert "pip install python-daemon" in said


def test_a_fault_in_the_daemon_is_told_on_the_terminal(tmp_path: Path) -> None:
    """What fails before the daemon is settled ends the command with its status and text."""
    script = f"""
from pathlib import Path
from netd.detach import detach
from netd.instance import PidFile
lock = PidFile(Path({str(tmp_path / "netd.pid")!r}))
lock.acquire()
def settle():
    raise StartError("the pid file is broken", 71)
detach([lock.fileno()], 0o022, settle)
"""
    assert refusal(script) == "the pid file is broken\n"
    # Neither process has kept the lock.
    lock = PidFile(tmp_path / "netd.pid")
    lock.acquire()
    lock.release()


def test_a_daemon_that_dies_before_it_is_settled_is_missed() -> None:
    """The command does not claim that a dead daemon runs."""
    script = """
import os, signal
from netd.detach import detach
detach([], 0o022, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert "the daemon ended before it was settled" in refusal(script)


@pytest.mark.parametrize("processes", [1, 2])
def test_too_many_processes_are_told_on_the_terminal(processes: int) -> None:
    """Our fork and python-daemon's both tell why they could not."""
    script = f"""
import os, resource
import daemon.daemon
from netd.detach import detach
if os.geteuid() == 0:
    os.setuid(54321)
resource.setrlimit(resource.RLIMIT_NPROC, ({processes}, {processes}))
detach([], 0o022)
"""
    said = refusal(script)
    assert said.startswith("cannot detach: ")
    assert "Resource temporarily unavailable" in said


def test_a_running_thread_is_a_fault_of_ours() -> None:
    """A thread would be missing in the daemon, with the locks that it held."""
    script = """
import threading
from netd.detach import detach
stop = threading.Event()
threading.Thread(target=stop.wait).start()
try:
    detach([], 0o022)
except AssertionError as error:
    raise StartError(str(error), 71) from error
finally:
    stop.set()
"""
    assert refusal(script) == "detach before the first thread is started\n"
