"""The runtime folder, the locks, dropped privileges, the descriptor limit."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import netd
from netd.errors import StartError
from netd.instance import (
    InstanceLock,
    PidFile,
    control_path,
    default_user,
    prepare_folder,
    raise_descriptor_limit,
    runtime_folder,
)

CHECKOUT = str(Path(netd.__file__).parents[1])
ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root can change its user")
VARIABLES = ("NETD_CONTROL", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")

# Holds the lock in argv[1] until its standard input ends, then releases it.
HOLDER = """
import sys
from pathlib import Path
from netd.errors import StartError
from netd.instance import InstanceLock, PidFile
lock = PidFile(Path(sys.argv[2])) if sys.argv[1] == "pid" else InstanceLock(Path(sys.argv[2]))
try:
    lock.acquire()
except StartError as error:
    print(error)
    sys.exit(error.status)
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


def python(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        env={"PYTHONPATH": CHECKOUT, "PATH": os.defpath} | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def holder(kind: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock at `path`."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HOLDER, kind, str(path)],
        env={"PYTHONPATH": CHECKOUT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment without anything that places the runtime folder."""
    for key in VARIABLES:
        monkeypatch.delenv(key, raising=False)
    return monkeypatch


# --- the runtime folder


def test_netd_control_places_the_socket(variables: pytest.MonkeyPatch) -> None:
    """NETD_CONTROL is the control socket itself, before everything else."""
    variables.setenv("NETD_CONTROL", "/srv/netd/admin.sock")
    variables.setenv("RUNTIME_DIRECTORY", "/run/other")
    assert control_path() == Path("/srv/netd/admin.sock")
    assert runtime_folder() == Path("/srv/netd")


def test_a_relative_netd_control_becomes_absolute(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """--daemon changes to /, so a relative path is resolved at once."""
    variables.chdir(tmp_path)
    variables.setenv("NETD_CONTROL", "c.sock")
    assert control_path() == tmp_path / "c.sock"
    assert runtime_folder() == tmp_path


def test_systemd_places_the_folder(variables: pytest.MonkeyPatch) -> None:
    """The first folder of RUNTIME_DIRECTORY is ours."""
    variables.setenv("RUNTIME_DIRECTORY", "/run/netd-a:/run/netd-b")
    assert runtime_folder() == Path("/run/netd-a")
    assert control_path() == Path("/run/netd-a/control.sock")


@as_root
def test_root_has_its_folder_in_run(variables: pytest.MonkeyPatch) -> None:
    """Root's own session folder plays no part."""
    variables.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    assert control_path() == Path("/run/netd/control.sock")


@pytest.mark.parametrize(
    ("session", "folder"),
    [
        ("/run/user/1000", "/run/user/1000/netd"),
        ("relative", "/tmp/netd-{uid}"),
        ("", "/tmp/netd-{uid}"),
    ],
)
def test_a_user_has_the_folder_in_the_session(session: str, folder: str) -> None:
    """$XDG_RUNTIME_DIR when it is an absolute path, else a folder in /tmp by number."""
    script = """
import os
from netd.instance import runtime_folder
if os.geteuid() == 0:
    os.seteuid(54321)
print(runtime_folder(), os.geteuid())
"""
    done = python(script, XDG_RUNTIME_DIR=session)
    path, uid = done.stdout.split()
    assert path == folder.format(uid=uid)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_folder_is_created_with_its_mode(tmp_path: Path, umask: int) -> None:
    """0755 for root, 0700 for others, whatever the umask; a second call changes nothing."""
    script = """
import os, sys
from pathlib import Path
from netd.instance import prepare_folder
os.umask(int(sys.argv[2], 8))
prepare_folder(Path(sys.argv[1]))
prepare_folder(Path(sys.argv[1]))
"""
    folder = tmp_path / "run"
    done = python(script, str(folder), f"{umask:o}")
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE(folder.stat().st_mode) == (0o755 if ROOT else 0o700)


@as_root
def test_a_created_folder_is_given_to_its_owner(tmp_path: Path) -> None:
    """netd can remove its sockets after it dropped root's rights."""
    prepare_folder(tmp_path / "run", (54321, 54322))
    found = (tmp_path / "run").stat()
    assert (found.st_uid, found.st_gid) == (54321, 54322)


@as_root
def test_only_the_default_folder_changes_hands(
    tmp_path: Path, variables: pytest.MonkeyPatch
) -> None:
    """An existing folder is given away when it is netd's own, never when NETD_CONTROL named it."""
    named, own = tmp_path / "named", tmp_path / "own"
    named.mkdir()
    own.mkdir()
    os.chown(own, 11111, 11111)
    variables.setenv("NETD_CONTROL", str(named / "c.sock"))
    variables.setenv("RUNTIME_DIRECTORY", str(own))
    prepare_folder(named, (54321, 54321))
    prepare_folder(own, (54321, 54321))
    assert named.stat().st_uid == 0
    assert own.stat().st_uid == 54321


def refusal(folder: Path) -> StartError:
    with pytest.raises(StartError, match="NETD_CONTROL") as raised:
        prepare_folder(folder)
    assert str(folder) in str(raised.value)
    assert raised.value.status == 77
    return raised.value


def test_a_symbolic_link_is_no_runtime_folder(tmp_path: Path) -> None:
    """A link, even to a good folder, is refused."""
    (tmp_path / "good").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "good")
    assert "it is a symbolic link" in str(refusal(tmp_path / "link"))


def test_a_dangling_link_is_no_runtime_folder(tmp_path: Path) -> None:
    """A link to nothing is refused and its target not created."""
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    assert "it is a symbolic link" in str(refusal(tmp_path / "link"))
    assert not (tmp_path / "absent").exists()


def test_a_file_is_no_runtime_folder(tmp_path: Path) -> None:
    """A file in the place of the folder is refused and left alone."""
    (tmp_path / "file").write_text("x")
    assert "Not a directory" in str(refusal(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o703])
def test_a_folder_that_all_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """Others could put their sockets there, with or without the sticky bit."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    assert "is writable by everybody" in str(refusal(folder))


@as_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Somebody who made /tmp/netd-UID first does not get our sockets."""
    folder = tmp_path / "theirs"
    folder.mkdir(0o755)
    os.chown(folder, 12345, 12345)
    assert "belongs to another user (uid 12345)" in str(refusal(folder))
    prepare_folder(folder, (12345, 12345))


def test_a_folder_without_a_parent_is_refused(tmp_path: Path) -> None:
    """One level is created and no more, and the sentence names the reason."""
    assert "No such file or directory" in str(refusal(tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists()


# --- locks


def test_a_second_instance_is_told_who_runs(tmp_path: Path) -> None:
    """75, the pid of the first and its control socket; its lock stays as it is."""
    control = tmp_path / "control.sock"
    lock = InstanceLock(control)
    with holder("instance", control) as first:
        with pytest.raises(StartError, match="netctl shutdown") as raised:
            lock.acquire()
        assert raised.value.status == 75
        assert f"another netd (pid {first.pid}) is running" in str(raised.value)
        assert f"control socket {control} " in str(raised.value)
        assert (tmp_path / "control.sock.lock").read_text() == f"{first.pid}\n"


def test_the_lock_keeps_out_another_process(tmp_path: Path) -> None:
    """The holder is this process, the refused one a real second one."""
    lock = InstanceLock(tmp_path / "control.sock")
    lock.acquire()
    done = python(HOLDER, "instance", str(tmp_path / "control.sock"))
    assert done.returncode == 75
    assert f"(pid {os.getpid()})" in done.stdout
    lock.release()
    assert list(tmp_path.iterdir()) == []
    with holder("instance", tmp_path / "control.sock"):
        assert (tmp_path / "control.sock.lock").exists()


@pytest.mark.parametrize("kind", ["instance", "pid"])
def test_kill_9_leaves_no_stale_lock(tmp_path: Path, kind: str) -> None:
    """The file of a killed process is taken over."""
    path = tmp_path / "x"
    lock = PidFile(path) if kind == "pid" else InstanceLock(path)
    with holder(kind, path) as first:
        first.kill()
        first.wait(30)
        assert lock.path.read_text() == f"{first.pid}\n"
        lock.acquire()
    assert lock.path.read_text() == f"{os.getpid()}\n"
    lock.release()
    assert not lock.path.exists()


def test_an_orderly_end_removes_the_pid_file(tmp_path: Path) -> None:
    """release() leaves nothing."""
    path = tmp_path / "netd.pid"
    with holder("pid", path) as process:
        assert path.read_text() == f"{process.pid}\n"
        process.communicate("", timeout=30)
        assert process.returncode == 0
    assert not path.exists()


def test_a_held_pid_file_is_refused(tmp_path: Path) -> None:
    """75 with the file, its holder and a remedy."""
    path = tmp_path / "netd.pid"
    with holder("pid", path) as process:
        with pytest.raises(StartError, match="name another file with --pid-file") as raised:
            PidFile(path).acquire()
        assert raised.value.status == 75
        assert f"the pid file {path} is held by a running process (pid {process.pid})" in str(
            raised.value
        )


def test_a_holder_without_a_pid_is_refused_all_the_same(tmp_path: Path) -> None:
    """Between its lock and its first write a holder has no pid to show."""
    path = tmp_path / "netd.pid"
    first = PidFile(path)
    first.acquire()
    path.write_text("")
    with pytest.raises(StartError, match=re.escape("(pid unknown)")):
        PidFile(path).acquire()
    first.release()


@pytest.mark.parametrize("text", ["", "4194304\n", "1\n", "  77  \n"])
def test_a_stale_pid_file_is_taken_over(tmp_path: Path, text: str) -> None:
    """Whatever number it holds, no lock means no owner; a longer one leaves no rest."""
    path = tmp_path / "netd.pid"
    path.write_text(text)
    lock = PidFile(path)
    lock.acquire()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()
    assert not path.exists()


@pytest.mark.parametrize("text", ["root:x:0:0\n", "12\n34\n", "-5", "\x00"])
def test_a_file_that_is_no_pid_file_is_left_alone(tmp_path: Path, text: str) -> None:
    """`--pid-file` with the name of something else does not cost it."""
    path = tmp_path / "precious"
    path.write_text(text)
    with pytest.raises(StartError, match="is not a pid file, so it is left alone") as raised:
        PidFile(path).acquire()
    assert raised.value.status == 71
    assert path.read_text() == text


def test_a_device_or_a_fifo_is_no_pid_file(tmp_path: Path) -> None:
    """Neither is opened for long, written or removed."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(StartError, match=f"{path} exists and is not a pid file"):
            PidFile(path).acquire()
        assert path.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link planted in the place of the lock opens and creates nothing."""
    (tmp_path / "netd.pid").symlink_to(tmp_path / "target")
    with pytest.raises(StartError, match="it is a symbolic link") as raised:
        PidFile(tmp_path / "netd.pid").acquire()
    assert raised.value.status == 77
    assert not (tmp_path / "target").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """71, the path and the reason."""
    with pytest.raises(StartError, match="No such file or directory") as raised:
        PidFile(tmp_path / "absent" / "netd.pid").acquire()
    assert raised.value.status == 71
    assert str(tmp_path / "absent" / "netd.pid") in str(raised.value)


def test_release_spares_the_file_of_a_successor(tmp_path: Path) -> None:
    """A file that was put in the place of ours is not removed with ours."""
    path = tmp_path / "netd.pid"
    lock = PidFile(path)
    lock.acquire()
    path.unlink()
    path.write_text("1\n")
    lock.release()
    assert path.read_text() == "1\n"


def test_a_lock_may_be_released_twice_or_never_taken(tmp_path: Path) -> None:
    """The clean-up after a failed start need not know how far it came."""
    lock = PidFile(tmp_path / "netd.pid")
    lock.release()
    lock.acquire()
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_pid_file_is_found_from_the_root_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--daemon changes to / between acquire and release."""
    monkeypatch.chdir(tmp_path)
    lock = PidFile(Path("netd.pid"))
    lock.acquire()
    monkeypatch.chdir("/")
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_outlives_the_process_that_took_it(tmp_path: Path) -> None:
    """A fork hands the lock on; the child rewrites the pid, and alone removes the file."""
    script = HOLDER.replace(
        'print("held", flush=True)',
        """
import os
if os.fork():
    os._exit(0)
lock.rewrite()
print("held", flush=True)""",
    )
    path = tmp_path / "netd.pid"
    with subprocess.Popen(
        [sys.executable, "-c", script, "pid", str(path)],
        env={"PYTHONPATH": CHECKOUT}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert first.wait(30) == 0
        with pytest.raises(StartError) as raised:
            PidFile(path).acquire()
        assert raised.value.status == 75
        child = int(path.read_text())
        assert child != first.pid
        # The child's standard output ends with it, after the file was removed.
        first.communicate("", timeout=30)
    assert not path.exists()


def test_a_forked_child_does_not_remove_the_file(tmp_path: Path) -> None:
    """release() in a child that did not rewrite the file leaves it and the lock."""
    path = tmp_path / "netd.pid"
    script = HOLDER.replace(
        'print("held", flush=True)',
        """
import os
child = os.fork()
if not child:
    lock.release()
    os._exit(0)
os.waitpid(child, 0)
print("held", flush=True)""",
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "pid", str(path)],
        env={"PYTHONPATH": CHECKOUT}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert path.read_text() == f"{first.pid}\n"
        with pytest.raises(StartError):
            PidFile(path).acquire()
        first.communicate("", timeout=30)


def test_a_program_that_netd_runs_does_not_keep_the_lock(tmp_path: Path) -> None:
    """The descriptor is closed on exec."""
    lock = PidFile(tmp_path / "netd.pid")
    lock.acquire()
    assert not os.get_inheritable(lock.fileno())
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        again = PidFile(tmp_path / "netd.pid")
        again.acquire()
        again.release()
        child.communicate(timeout=30)


def test_two_never_hold_the_lock_at_once(tmp_path: Path) -> None:
    """Not even when one removes the file between the open and the lock of another."""
    script = """
import os, sys
from pathlib import Path
from netd.errors import StartError
from netd.instance import PidFile
for _ in range(300):
    lock = PidFile(Path(sys.argv[1]))
    while True:
        try:
            lock.acquire()
            break
        except StartError:
            continue
    os.mkdir(sys.argv[2])
    os.rmdir(sys.argv[2])
    lock.release()
"""
    arguments = [str(tmp_path / "netd.pid"), str(tmp_path / "inside")]
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={"PYTHONPATH": CHECKOUT}, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    assert [rival.communicate(timeout=60)[1] for rival in rivals] == ["", "", ""]
    assert list(tmp_path.iterdir()) == []


@as_root
def test_a_file_in_a_folder_of_root_is_emptied(tmp_path: Path) -> None:
    """After dropping root's rights the file cannot be removed, but it misleads nobody."""
    script = """
import os, sys
from pathlib import Path
from netd.instance import PidFile
lock = PidFile(Path(sys.argv[1]))
lock.acquire()
os.setuid(54321)
lock.release()
"""
    path = tmp_path / "netd.pid"
    done = python(script, str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text() == ""


# --- privileges and limits

DROP = """
import json, os, sys
from pathlib import Path
from netd.errors import StartError
from netd.instance import drop_privileges
if "FIRST" in os.environ:
    drop_privileges(os.environ["FIRST"])
try:
    drop_privileges(*sys.argv[1:])
except StartError as error:
    print(error)
    sys.exit(error.status)
try:
    os.setuid(0)
    back = True
except PermissionError:
    back = False
lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
status = dict(line.split(":", 1) for line in lines)
print(json.dumps({
    "ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(), "back": back,
    "environment": [os.environ[key] for key in ("HOME", "USER", "LOGNAME")],
    "new_privileges": status["NoNewPrivs"].strip(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:3],
}))
"""


@as_root
def test_privileges_are_dropped_for_good() -> None:
    """All ids and groups are the user's, root is out of reach, and so are set-user-ID programs."""
    nobody = pwd.getpwnam("nobody")
    done = python(DROP, "nobody", HOME="/root", USER="root", LOGNAME="root")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "ids": [nobody.pw_uid] * 3 + [nobody.pw_gid] * 3,
        "groups": os.getgrouplist("nobody", nobody.pw_gid),
        "back": False,
        "environment": [nobody.pw_dir, "nobody", "nobody"],
        "new_privileges": "1",
        "capabilities": 0,
        "descriptors": [0, 1, 2],
    }


@as_root
def test_another_primary_group_may_be_named() -> None:
    """`group` replaces the primary group of the user."""
    done = python(DROP, "nobody", "daemon")
    assert json.loads(done.stdout)["ids"][3:] == [grp.getgrnam("daemon").gr_gid] * 3


@as_root
def test_the_user_that_netd_already_is_needs_no_root() -> None:
    """`user: nobody` in the configuration of a unit with User=nobody is no fault."""
    done = python(DROP, "nobody", FIRST="nobody")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["new_privileges"] == "1"


@as_root
@pytest.mark.parametrize("arguments", [("daemon",), ("nobody", "daemon")])
def test_an_ordinary_user_cannot_become_another(arguments: tuple[str, ...]) -> None:
    """77 with the user and a remedy, for another user as for another group."""
    done = python(DROP, *arguments, FIRST="nobody")
    assert done.returncode == 77
    assert f"cannot become user {arguments[0]}: Operation not permitted (start" in done.stdout


@as_root
def test_a_user_that_could_turn_back_is_not_enough() -> None:
    """An effective user alone, with root behind it, does not count as dropped."""
    nobody = pwd.getpwnam("nobody")
    half = f"os.setegid({nobody.pw_gid})\nos.seteuid({nobody.pw_uid})\n"
    done = python(DROP.replace("try:\n", half + "try:\n", 1), "nobody")
    assert done.returncode == 77
    assert "cannot become user nobody: Operation not permitted" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("no-such-user",), "'no-such-user'"),
        (("nobody", "no-such-group"), "'no-such-group'"),
        (("root",), "netd does not serve as root"),
    ],
)
def test_a_wrong_user_is_a_fault_of_the_configuration(
    arguments: tuple[str, ...], fault: str
) -> None:
    """78 with the name, and what to do."""
    done = python(DROP, *arguments)
    assert done.returncode == 78
    assert fault in done.stdout
    assert "name another" in done.stdout


def test_the_default_user_exists() -> None:
    """netd where the package made it, else nobody."""
    assert default_user() in ("netd", "nobody")
    assert pwd.getpwnam(default_user()).pw_uid != 0


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    """More descriptors than the soft limit allowed can be opened."""
    script = """
import resource
from netd.instance import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 200))
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
files = [open("/dev/null", "rb") for _ in range(150)]
for file in files:
    file.close()
"""
    done = python(script)
    assert (done.stdout, done.stderr) == ("200 200 200\n", "")


def test_raising_the_limit_again_changes_nothing() -> None:
    """What it returns is the limit in force."""
    assert raise_descriptor_limit() == raise_descriptor_limit() > 0
    with socket.socket() as opened:
        assert opened.fileno() < raise_descriptor_limit()
