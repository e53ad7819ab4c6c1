"""Changes of the file of users: by one at a time, whole or not at all."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from harness import AS_ROOT

from netd.auth import register
from netd.auth.register import change, to_yaml
from netd.auth.userfile import parse
from netd.errors import ConfigError

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with alice in it."""
    path = tmp_path / "users.yaml"
    with change(path, create=True) as users:
        users.add("alice", NOW)
    return path


def keys(path: Path, name: str = "alice") -> list[str]:
    """The keys of a user, as they can be used."""
    held = parse(path.read_bytes(), str(path)).users[name].keys
    return [key.secret.reveal().decode() for key in held if key.secret is not None]


def test_a_user_is_added_with_a_key_that_is_told_once(tmp_path: Path) -> None:
    """In a file that only its owner may read, which did not exist before."""
    path = tmp_path / "users.yaml"
    with change(path, create=True) as users:
        secret = users.add("alice", NOW, NOW + HOUR, uid=1000, certificate="alice.example.org")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys(path) == [secret.reveal().decode()]
    (key,) = parse(path.read_bytes(), "").keyring().keys
    assert (key.start, key.end) == (NOW.timestamp(), (NOW + HOUR).timestamp())
    assert (key.user.uid, key.user.certificate) == (1000, "alice.example.org")
    assert os.listdir(tmp_path) == ["users.yaml"]


def test_a_user_is_not_added_twice(file: Path) -> None:
    """The key that the first one has stays."""
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="alice is there already"), change(file) as users:
        users.add("alice", NOW)
    assert file.read_bytes() == before


def test_a_user_is_removed(file: Path) -> None:
    """And cannot be removed again."""
    with change(file) as users:
        users.remove("alice")
    assert parse(file.read_bytes(), "").users == {}
    with pytest.raises(ConfigError, match="there is no user alice"), change(file) as users:
        users.remove("alice")


def test_a_rotated_key_is_followed_by_a_new_one(file: Path) -> None:
    """Both hold until the old one ends, and have the same salt."""
    old = keys(file)
    with change(file) as users:
        new = users.rotate("alice", NOW, NOW + HOUR)
    assert keys(file) == [new.reveal().decode(), *old]
    first, second = parse(file.read_bytes(), "").keyring().keys
    assert (first.end, second.end) == (None, (NOW + HOUR).timestamp())
    assert first.verifier.salt == second.verifier.salt


def test_a_key_that_is_over_makes_room(file: Path) -> None:
    """There are never more than two, and a third is not made before one has ended."""
    for number in range(3):
        with change(file) as users:
            users.rotate("alice", NOW + number * HOUR, NOW + (number + 1) * HOUR)
        assert len(keys(file)) == 2
    before = keys(file)
    with pytest.raises(ConfigError, match="alice has 2 keys still in use"), change(file) as users:
        users.rotate("alice", NOW + 2 * HOUR, NOW + 5 * HOUR)
    assert keys(file) == before
    with change(file) as users:
        users.rotate("alice", NOW + 2 * HOUR, NOW + 2 * HOUR)
    assert len(keys(file)) == 1


def test_what_stood_in_the_file_stays(tmp_path: Path) -> None:
    """All but comments."""
    path = tmp_path / "users.yaml"
    path.write_text(
        'roles: {staff: {services: [upper], commands: ["no", "1", "on"]}}\n'
        'users: {"123": {roles: [staff], uid: 5}, bob: {keys: [{secret: "  0x12345678901234"}]}}\n'
    )
    path.chmod(0o600)
    before = parse(path.read_bytes(), "")
    with change(path) as users:
        users.add("carol", NOW)
    after = parse(path.read_bytes(), "")
    assert after.roles == before.roles
    assert {**after.users, "carol": None} == {**before.users, "carol": None}
    assert parse(to_yaml(after).encode(), "") == after


def test_nothing_is_written_that_does_not_change_anything(file: Path) -> None:
    """The file is the same one."""
    before = file.stat()
    with change(file):
        pass
    assert os.path.samestat(before, file.stat())


def test_a_file_that_others_may_read_is_not_changed(file: Path) -> None:
    """Nor is one with a fault, or one that is not there."""
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"), change(file):
        pass
    file.chmod(0o600)
    file.write_text("users: 5")
    with pytest.raises(ConfigError, match=":1:8: "), change(file):
        pass
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"), change(file):
        pass
    assert not file.exists()


@pytest.mark.skipif(not AS_ROOT, reason="it takes root to mount a small disk")
def test_on_a_full_disk_the_file_stays(tmp_path: Path) -> None:
    """And nothing is left beside it; once there is room again, it can be changed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk]).returncode:
        pytest.skip("this root may not mount a small disk")
    try:
        path = disk / "users.yaml"
        with change(path, create=True) as users:
            users.add("alice", NOW)
        before = path.read_bytes()
        (disk / "filler").write_bytes(bytes(12_288))
        with pytest.raises(ConfigError, match="it is as it was: No space"), change(path) as users:
            users.add("bob", NOW)
        assert path.read_bytes() == before
        assert sorted(os.listdir(disk)) == ["filler", "users.yaml"]
        (disk / "filler").unlink()
        with change(path) as users:
            users.add("bob", NOW)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    """The file that it names is changed."""
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    with change(link) as users:
        users.add("bob", NOW)
    assert link.is_symlink()
    assert len(keys(file, "bob")) == 1


@pytest.mark.skipif(not AS_ROOT, reason="root gives files away")
def test_the_owner_of_the_file_stays(file: Path) -> None:
    """root changes it, and netd goes on reading it."""
    os.chown(file, 65534, 65534)
    with change(file) as users:
        users.add("bob", NOW)
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 65534, 0o600)


def test_one_waits_for_another(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives up after a while, saying why."""
    monkeypatch.setattr(register, "PATIENCE", 0.2)
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another one is changing it"), change(file):
            pass


_ADDS = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from netd.auth.register import change
for number in range(int(sys.argv[3])):
    with change(Path(sys.argv[1])) as users:
        users.add(f"{sys.argv[2]}-{number}", datetime.now(UTC))
    print(number, flush=True)
"""


def adding(path: Path, who: str, number: int) -> subprocess.Popen[str]:
    """A process that adds users."""
    return subprocess.Popen(
        [sys.executable, "-c", _ADDS, str(path), who, str(number)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_changes_at_the_same_time_are_all_there(file: Path) -> None:
    """None is written over by another."""
    processes = [adding(file, who, 10) for who in ("a", "b", "c")]
    for process in processes:
        assert process.communicate(timeout=60)[0].split() == [str(n) for n in range(10)]
        assert process.returncode == 0
    assert len(parse(file.read_bytes(), "").users) == 31


def test_a_change_that_is_killed_is_whole_or_not_there(file: Path) -> None:
    """Whatever it was doing: the file can be read, and holds all that was acknowledged."""
    for run in range(6):
        process = adding(file, f"r{run}", 1000)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(run + 1)]
        process.send_signal(signal.SIGKILL)
        told += process.communicate(timeout=60)[0].split()
        users = parse(file.read_bytes(), "").users
        assert {f"r{run}-{int(number)}" for number in told} <= set(users)
    assert set(os.listdir(file.parent)) <= {"users.yaml", ".users.yaml.new"}
    with change(file) as users:
        users.add("bob", NOW)
    assert os.listdir(file.parent) == ["users.yaml"]
