"""The keyring in force: it follows its file, and no fault of that takes it away."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from harness import PATIENCE, wait_until

from netd.auth import keys, userfile
from netd.auth.keyring import Keyring
from netd.auth.keys import Keys
from netd.auth.register import change
from netd.auth.source import Source
from netd.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with alice in it, which is looked at each time."""
    monkeypatch.setattr(keys, "LOOK", 0.0)
    path = tmp_path / "users.yaml"
    add(path, "alice")
    return path


def add(path: Path, name: str) -> None:
    """Adds a user to a file."""
    with change(path, create=True) as users:
        users.add(name, datetime.now(UTC))


def known(followed: Keys) -> set[str]:
    """Who can come in, as soon as that can be told."""
    while (keyring := followed.current()) is None:
        told = threading.Event()
        followed.call_after(told.set)
        assert told.wait(PATIENCE)
    return set(keyring.users)


def test_a_change_holds_soon(file: Path) -> None:
    """Whoever is added can come in, and whoever is taken out cannot, without a reload."""
    followed = Keys("upper", Source(file), userfile.load)
    assert known(followed) == {"alice"}
    add(file, "bob")
    assert known(followed) == {"alice", "bob"}
    with change(file) as users:
        users.remove("alice")
    assert known(followed) == {"bob"}


def test_a_fault_in_the_file_is_told_once_and_keeps_the_users(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it is put right."""
    followed = Keys("upper", Source(file), userfile.load)
    before = file.read_text()
    file.write_text("users: 5")
    for _ in range(100):
        assert known(followed) == {"alice"}
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("netd.upper", logging.ERROR)
    assert record.getMessage().startswith(f"{file}:1:8: users: ")
    assert record.getMessage().endswith("; the users known so far stay")
    file.write_text(before)
    add(file, "bob")
    assert known(followed) == {"alice", "bob"}


@pytest.mark.parametrize("what", ["removed", "readable by others"])
def test_a_file_that_cannot_be_used_any_more_keeps_the_users(
    file: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip does not lock everybody out."""
    followed = Keys("upper", Source(file), userfile.load)
    if what == "removed":
        file.unlink()
    else:
        file.chmod(0o644)
    assert known(followed) == {"alice"}
    assert len(caplog.records) == 1


def test_without_keys_to_begin_with_there_is_no_service(tmp_path: Path) -> None:
    """The caller refuses to start."""
    with pytest.raises(ConfigError, match="No such file"):
        Keys("upper", Source(tmp_path / "users.yaml"), userfile.load)


def test_no_thread_waits_for_a_file_that_is_slow_to_read(file: Path) -> None:
    """It is read on another one, one at a time; whoever asks meanwhile is called after that."""
    slow, loads, called = threading.Event(), [], []

    def load(source: Source) -> Keyring:
        if loads:
            assert slow.wait(PATIENCE)
        loads.append(source)
        return userfile.load(source)

    followed = Keys("upper", Source(file), load)
    add(file, "bob")
    for number in range(100):
        assert followed.current() is None
        followed.call_after(partial(called.append, number))
    assert called == []
    slow.set()
    wait_until(lambda: len(called) == 100)
    assert called == list(range(100))
    assert known(followed) == {"alice", "bob"}
    assert len(loads) == 2


def test_a_file_is_not_looked_at_for_each_client(tmp_path: Path) -> None:
    """Once in a second is enough."""
    path = tmp_path / "users.yaml"
    add(path, "alice")
    looked = []

    class Watched(Source):
        def state(self) -> tuple[int, ...]:
            looked.append(1)
            return super().state()

    followed = Keys("upper", Watched(path), userfile.load)
    for _ in range(1000):
        assert followed.current()
    assert len(looked) <= 2
