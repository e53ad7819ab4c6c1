"""Notifications, the watchdog, and inherited sockets."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic, monotonic_ns

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import netd
from netd import systemd
from netd.errors import StartError

CHECKOUT = str(Path(netd.__file__).parents[1])
ACTIVATE = shutil.which("systemd-socket-activate")

# Becomes `python -c SCRIPT` with the given descriptors at 3 and up, as a service manager's child.
LAUNCHER = """
import fcntl, os, sys
given = [int(number) for number in sys.argv[1].split(",") if number]
high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100) for number in given]
for number in given:
    os.close(number)
for place, number in enumerate(high, 3):
    os.dup2(number, place)
if os.environ.get("LISTEN_PID") == "self":
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-W", "error", "-c", sys.argv[2]])
"""

# Tells as JSON what inherited() returned, and the variables that are left.
REPORT = """
import json, os, sys
from netd.errors import StartError
from netd.systemd import inherited
try:
    sockets = inherited()
except StartError as error:
    print(error)
    sys.exit(error.status)
print(json.dumps({
    "sockets": [
        [name, s.fileno(), s.family.name, s.type.name, s.getsockname(), s.get_inheritable()]
        for name, group in sockets.items() for s in group
    ],
    "left": [key for key in os.environ if key.startswith("LISTEN_")],
}))
for group in sockets.values():
    for s in group:
        s.close()
"""


class Manager:
    """A service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """What has arrived; a datagram to a UNIX socket is there when its send() returns."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    listening = Manager(address)
    yield listening
    listening.socket.close()


def launch(
    descriptors: list[int], script: str = REPORT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `script` in a process that has these descriptors at 3 and up."""
    return subprocess.run(
        [sys.executable, "-c", LAUNCHER, ",".join(map(str, descriptors)), script],
        pass_fds=descriptors,
        env={"PYTHONPATH": CHECKOUT, "PATH": os.defpath} | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def listener(family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    bound = socket.socket(family, kind)
    bound.bind(("::1", 0) if family == socket.AF_INET6 else ("127.0.0.1", 0))
    return bound


def test_notify_sends_one_datagram_of_lines(manager: Manager) -> None:
    """All assignments of a call arrive together."""
    assert systemd.notify("READY=1", "STATUS=hello", "X_NETD=ü")
    assert manager.heard() == ["READY=1\nSTATUS=hello\nX_NETD=ü"]


def test_notify_is_silent_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside systemd nothing is sent, and nothing is wrong."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")


def test_notify_reaches_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that begins with @ is in Linux's abstract name space."""
    abstract = Manager(f"\0netd-test-{os.getpid()}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@netd-test-{os.getpid()}")
    assert systemd.notify("READY=1")
    assert abstract.heard() == ["READY=1"]
    abstract.socket.close()


@pytest.mark.parametrize("address", ["/nonexistent/notify", "vsock:2:1234", "", "/" + "x" * 200])
def test_notify_survives_an_address_without_a_manager(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be reached, or is of an unknown kind, is told by False."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.notify("READY=1")


def test_notify_survives_a_manager_that_is_gone(manager: Manager) -> None:
    """A socket file that nobody listens on any more is told by False."""
    manager.socket.close()
    assert not systemd.notify("READY=1")


def test_notify_does_not_wait_for_a_full_queue(manager: Manager) -> None:
    """A manager that reads nothing never holds us up."""
    before = monotonic()
    sent = sum(1 for _ in iter(lambda: systemd.notify("X_NETD=1"), False))
    assert monotonic() - before < 2
    assert len(manager.heard()) == sent > 0
    assert systemd.notify("READY=1")


def test_the_states_are_spelt_as_systemd_knows_them(manager: Manager) -> None:
    """ready, stopping, status and watchdog each send their assignment."""
    assert all([systemd.ready(), systemd.ready("9 services"), systemd.stopping()])
    assert all([systemd.status("drains"), systemd.watchdog()])
    assert manager.heard() == [
        "READY=1", "READY=1\nSTATUS=9 services", "STOPPING=1", "STATUS=drains", "WATCHDOG=1",
    ]  # fmt: skip


def test_reloading_tells_its_time(manager: Manager) -> None:
    """RELOADING=1 comes with a point of the monotonic clock in microseconds."""
    before = monotonic_ns() // 1000
    assert systemd.reloading()
    state, clock = manager.heard()[0].split("\n")
    key, microseconds = clock.split("=")
    assert (state, key) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(microseconds) <= monotonic_ns() // 1000


@example("\U0001f600" * 5000)
@given(st.text("a \n\r\0\x1b\x85\u2028\ud800=\U0001f600", max_size=40))
def test_a_status_is_one_short_assignment(text: str) -> None:
    """No text makes a second assignment or a datagram that systemd would drop."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # autobind: the kernel picks an abstract name
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NOTIFY_SOCKET", "@" + receiver.getsockname()[1:].decode())
            assert systemd.ready(text)
        lines = receiver.recv(65536).split(b"\n")
    assert lines[0] == b"READY=1"
    assert [line[:7] for line in lines[1:]] == ([b"STATUS="] if text else [])
    assert sum(map(len, lines)) + 1 < 4096


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "3e7"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": str(2**64 - 1)}, None),
    ],
)
def test_watchdog_interval_is_read_from_the_environment(
    variables: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds when the variables mean this process and make sense, else None."""
    for key in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(key, raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert systemd.watchdog_interval() == seconds


def answers(*script: list[str]) -> tuple[Callable[[], list[str]], Event]:
    """An `alive` that returns each answer of the script once, then the last; and its end."""
    rest, ended = list(script), Event()

    def alive() -> list[str]:
        if len(rest) == 1:
            ended.set()
            return rest[0]
        return rest.pop(0)

    return alive, ended


def test_watchdog_is_fed_while_all_loops_answer(manager: Manager) -> None:
    """Each check without a stuck loop feeds once."""
    alive, ended = answers([], [], [])
    dog = systemd.Watchdog(0.02, alive)
    dog.start()
    assert ended.wait(10)
    dog.stop()
    assert not dog.is_alive()
    fed = manager.heard()
    assert len(fed) >= 3
    assert set(fed) == {"WATCHDOG=1"}


def test_watchdog_starves_while_a_loop_is_stuck(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    """No feeding as long as one loop is stuck; one line for each change, not for each check."""
    a, b = "upper tcp://127.0.0.1:9000", "echo udp://127.0.0.1:9007"
    alive, ended = answers([], [a], [a], [a], [b, a], [b], [b])
    dog = systemd.Watchdog(0.02, alive)
    with caplog.at_level(logging.INFO, "netd"):
        dog.start()
        assert ended.wait(10)
        dog.stop()
    assert manager.heard() == ["WATCHDOG=1"]
    lines = [(r.levelname, re.sub(r"\d+ s", "N s", r.getMessage())) for r in caplog.records]
    assert lines == [
        ("ERROR", f"serving loop of {a} has not answered for N s; the watchdog is not fed"),
        ("ERROR", f"serving loop of {b} has not answered for N s; the watchdog is not fed"),
        ("WARNING", f"serving loop of {a} answers again, after N s"),
    ]


def test_watchdog_is_fed_again_after_recovery(manager: Manager) -> None:
    """A loop that answers again ends the starvation."""
    alive, ended = answers(["upper"], ["upper"], [])
    dog = systemd.Watchdog(0.02, alive)
    dog.start()
    assert ended.wait(10)
    dog.stop()
    assert manager.heard()[:1] == ["WATCHDOG=1"]


def test_watchdog_tells_how_long_a_loop_was_silent(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    """The silence is counted from the last check that the loop passed."""
    alive, ended = answers([], ["upper"])
    dog = systemd.Watchdog(2.0, alive)
    dog.start()
    assert ended.wait(20)
    dog.stop()
    silence = re.search(r"upper has not answered for (\d+) s", caplog.text)
    assert silence is not None
    assert int(silence[1]) >= 1
    assert manager.heard() == ["WATCHDOG=1"]


def test_watchdog_may_be_stopped_before_it_starts() -> None:
    """A shutdown during the start stops a thread that never ran."""
    dog = systemd.Watchdog(30.0, list)
    dog.stop()
    assert not dog.is_alive()


def test_inherited_sockets_keep_their_kind_name_and_order(tmp_path: Path) -> None:
    """TCP, UDP, IPv6 and UNIX sockets arrive as what they are, two of one name in order."""
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.bind(str(tmp_path / "s"))
    passed = [
        listener(), listener(kind=socket.SOCK_DGRAM), listener(family=socket.AF_INET6), unix,
    ]  # fmt: skip
    done = launch(
        [s.fileno() for s in passed],
        LISTEN_PID="self", LISTEN_FDS="4", LISTEN_FDNAMES="upper:echo:upper:",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    name = [list(s.getsockname()) for s in passed[:3]]
    assert json.loads(done.stdout) == {
        "sockets": [
            ["upper", 3, "AF_INET", "SOCK_STREAM", name[0], False],
            ["upper", 5, "AF_INET6", "SOCK_STREAM", name[2], False],
            ["echo", 4, "AF_INET", "SOCK_DGRAM", name[1], False],
            ["unknown", 6, "AF_UNIX", "SOCK_STREAM", str(tmp_path / "s"), False],
        ],
        "left": [],
    }
    for s in passed:
        s.close()


def test_an_inherited_listener_serves() -> None:
    """A client that connected before the daemon started is served by it."""
    script = """
from netd.systemd import inherited
[listener] = inherited()["unknown"]
with listener, listener.accept()[0] as connection:
    connection.sendall(connection.recv(100).upper())
"""
    with listener() as bound:
        bound.listen()
        with socket.create_connection(bound.getsockname(), 10) as client:
            client.sendall(b"hello")
            done = launch([bound.fileno()], script, LISTEN_PID="self", LISTEN_FDS="1")
            assert (done.returncode, done.stderr) == (0, "")
            assert client.recv(100) == b"HELLO"


@pytest.mark.parametrize("pid", ["1", None])
def test_sockets_meant_for_another_process_are_left_alone(pid: str | None) -> None:
    """A foreign LISTEN_PID, or none, gives no sockets; the variables go all the same."""
    variables = {"LISTEN_FDS": "1"} | ({"LISTEN_PID": pid} if pid else {})
    with listener() as bound:
        done = launch([bound.fileno()], **variables)
    assert json.loads(done.stdout) == {"sockets": [], "left": []}


def test_a_fifo_among_the_sockets_is_refused_by_name() -> None:
    """A descriptor that is no socket stops the start: number, name, kind and remedy."""
    reading, writing = os.pipe()
    with listener() as bound:
        done = launch(
            [bound.fileno(), reading],
            LISTEN_PID="self", LISTEN_FDS="2", LISTEN_FDNAMES="upper:commands",
        )  # fmt: skip
    os.close(reading)
    os.close(writing)
    assert done.returncode == 71
    assert "descriptor 4 (commands)" in done.stdout
    assert "is a FIFO, not a socket: keep to ListenStream=" in done.stdout


def test_a_descriptor_that_is_not_open_is_refused_by_name() -> None:
    """A count beyond the open descriptors stops the start."""
    done = launch([], LISTEN_PID="self", LISTEN_FDS="1")
    assert done.returncode == 71
    assert "descriptor 3 (unknown), announced by LISTEN_FDS, is not open" in done.stdout


@pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
def test_systemd_itself_passes_a_socket(tmp_path: Path) -> None:
    """What systemd's own activator sets is understood."""
    path = str(tmp_path / "s")
    activator = subprocess.Popen(
        [
            str(ACTIVATE), "--listen", path, "--fdname", "upper",
            "--setenv", f"PYTHONPATH={CHECKOUT}", sys.executable, "-W", "error", "-c", REPORT,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert activator.stderr is not None
    assert "Listening on" in activator.stderr.readline()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        output, errors = activator.communicate(timeout=30)
    assert activator.returncode == 0, errors
    assert json.loads(output)["sockets"] == [["upper", 3, "AF_UNIX", "SOCK_STREAM", path, False]]


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, []),
        ({"LISTEN_FDS": "1"}, []),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "x"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, ["unknown", "unknown"]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": ""}, ["unknown"]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:"}, ["a", "unknown"]),
    ],
)
def test_names_default_to_unknown(variables: dict[str, str], names: list[str]) -> None:
    """One name for each announced socket of process 7."""
    assert systemd.listen_names(variables, 7) == names


@pytest.mark.parametrize(
    ("pid", "count", "names", "fault"),
    [
        ("x", "1", "a", "LISTEN_PID='x'"),
        ("", "1", "a", "LISTEN_PID=''"),
        ("7", "", "a", "LISTEN_FDS=''"),
        ("7", "-1", "a", "LISTEN_FDS='-1'"),
        ("7", " 1", "a", "LISTEN_FDS=' 1'"),
        ("7", "٣", "a", "LISTEN_FDS='٣'"),
        ("7", "9999999999", "a", "not a number from 0 to 4194304"),
        ("7", "2", "a", "announces 2 sockets, but LISTEN_FDNAMES names 1"),
        ("7", "1", "a:b", "announces 1 sockets, but LISTEN_FDNAMES names 2"),
    ],
)
def test_wrong_variables_are_refused(pid: str, count: str, names: str, fault: str) -> None:
    """What cannot be right is told with the variable, its value and a remedy."""
    variables = {"LISTEN_PID": pid, "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    with pytest.raises(StartError, match="start netd through its socket unit") as raised:
        systemd.listen_names(variables, 7)
    assert fault in str(raised.value)
    assert raised.value.status == 71


WORDS = st.text("017:-+ _x\u0663\n", max_size=8) | st.sampled_from(["7", "0", "1", "3", "a:b:c"])


@given(st.dictionaries(st.sampled_from(["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]), WORDS))
def test_any_variables_give_names_or_a_refusal(variables: dict[str, str]) -> None:
    """Whatever the variables hold: as many names as announced, or StartError."""
    try:
        names = systemd.listen_names(variables, 7)
    except StartError:
        return
    if names:
        assert variables["LISTEN_PID"].lstrip("0") == "7"
        assert len(names) == int(variables["LISTEN_FDS"])
        assert all(name and ":" not in name for name in names)
