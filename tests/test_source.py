"""Where keys come from: files that nobody else may read, credentials of systemd, variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import AS_ROOT
from pydantic import TypeAdapter, ValidationError

from netd.auth.source import LARGEST, KeySource, Source
from netd.errors import ConfigError

ADAPTER = TypeAdapter(KeySource)


def source(text: object, folder: str = "/etc/netd") -> Source:
    """As the configuration reads it."""
    found: Source = ADAPTER.validate_python(text, context={"folder": folder})
    return found


def private(file: Path, mode: int = 0o600, data: bytes = b"a key") -> Path:
    file.write_bytes(data)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("users.yaml", "/etc/netd/users.yaml"),
        ("/var/lib/users.yaml", "/var/lib/users.yaml"),
        ("credential:users", "credential:users"),
        ("env:UPPER_KEY", "env:UPPER_KEY"),
    ],
)
def test_sources_are_written_as_they_are_read(text: str, shown: str) -> None:
    """A relative path begins in the folder of the configuration."""
    assert str(source(text)) == shown
    assert source(shown) == source(text)
    assert ADAPTER.dump_python(source(text)) == shown


@pytest.mark.parametrize(
    "text", ["", 5, None, "credential:", "credential:..", "credential:a/b", "env:", "a\0b"]
)
def test_what_is_no_source_is_refused(text: object) -> None:
    """With what to write in its place."""
    with pytest.raises(ValidationError, match="write it like"):
        source(text)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_read(tmp_path: Path, mode: int) -> None:
    """One that its owner alone may use."""
    assert source(str(private(tmp_path / "key", mode))).read() == b"a key"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601, 0o620, 0o777])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    """Naming it, its mode and the remedy."""
    file = private(tmp_path / "key", mode)
    with pytest.raises(ConfigError) as caught:
        source(str(file)).read()
    assert f"{file}: others than its owner may use it, as its mode is {mode:04o}" in str(
        caught.value
    )
    assert f"chmod 600 {file}" in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A program that waited for a FIFO would wait for ever."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "loop").symlink_to("loop")
    for name, why in (
        ("fifo", "no regular file"), ("folder", "no regular file"), ("loop", "symbolic links"),
        ("absent", "No such file or directory .this makes it"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"{name}: .*{why}"):
            source(str(tmp_path / name)).read("this")
    with pytest.raises(ConfigError, match="no regular file"):
        source("/dev/zero").read()


def test_a_file_is_not_read_without_end(tmp_path: Path) -> None:
    """What has more than 1 MiB holds something else than keys."""
    with pytest.raises(ConfigError, match="over 1 MiB"):
        source(str(private(tmp_path / "key", data=bytes(LARGEST + 1)))).read()


@pytest.mark.skipif(not AS_ROOT, reason="another user is wanted")
def test_a_file_of_another_user_names_who_has_to_own_it(tmp_path: Path) -> None:
    """netd does not serve as root."""
    file = private(tmp_path / "key")
    program = (
        "import os, sys; sys.path[:] = eval(sys.argv[2])\n"
        "from pathlib import Path\n"
        "import encodings.idna\n"
        "from netd.auth.source import Source\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "Source(Path(sys.argv[1])).read()"
    )
    tmp_path.chmod(0o755)
    for folder in [*tmp_path.parents][:-1]:
        if not folder.stat().st_mode & 1:
            file = private(Path("/tmp") / f"netd-test-key-{os.getpid()}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(file), repr(sys.path)],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    finally:
        file.unlink()
    assert "Permission denied (it has to belong to the user that netd runs as)" in done.stderr


def test_a_credential_lies_where_systemd_has_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mode may be 0440, where an ACL names the user of the service."""
    private(tmp_path / "users", 0o440, b"from systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert source("credential:users").read() == b"from systemd"
    with pytest.raises(ConfigError, match="No such file"):
        source("credential:other").read()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ConfigError, match="LoadCredential=users:FILE"):
        source("credential:users").read()
    assert source("credential:users").state() == ()


def test_a_variable_holds_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """As EnvironmentFile= sets it."""
    monkeypatch.setenv("UPPER_KEY", "a key of the environment")
    assert source("env:UPPER_KEY").read() == b"a key of the environment"
    assert source("env:UPPER_KEY").state() == ()
    monkeypatch.delenv("UPPER_KEY")
    with pytest.raises(ConfigError, match="EnvironmentFile="):
        source("env:UPPER_KEY").read()


def test_a_change_is_seen(tmp_path: Path) -> None:
    """A file with other content, another one in its place, or none."""
    file = private(tmp_path / "key")
    states = [source(str(file)).state()]
    private(file, data=b"another key")
    states.append(source(str(file)).state())
    private(tmp_path / "new", data=b"another key").rename(file)
    states.append(source(str(file)).state())
    file.unlink()
    states.append(source(str(file)).state())
    assert len(set(states)) == 4
