"""A machine with a real systemd, and netd installed in it as README says.

The tool that boots it is named by NETD_SYSTEMD_BOX. It has to know the verbs up, install, copy,
run and down, and the option --box NAME before them.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from harness import CHECKOUT, wait_until

PATIENCE = 20.0
"""Seconds after which a test gives up a wait in the box."""
LONGEST_SCRIPT = 60.0
"""Seconds without a word after which a script is given up."""
UNITS = ("netd.service", "netd.socket")
_SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


class Done(NamedTuple):
    """What a script has come to."""

    status: int
    out: str
    err: str


class Box:
    """The machine; it has no network but loopback."""

    def __init__(self, tool: str, name: str) -> None:
        self._command = [tool, "--box", name]
        self._shell: subprocess.Popen[bytes] | None = None

    def tool(self, *arguments: str) -> None:
        """Runs the tool itself; its text is part of the failure when it fails."""
        done = subprocess.run(
            [*self._command, *arguments], timeout=300, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout}"

    def up(self) -> None:
        """Boots it. On a busy machine the tool may look for its control group before there is one;
        then it takes the box down again."""
        for last in (False, False, True):
            try:
                self.tool("up", "--replace")
            except AssertionError as error:
                if last or "FileNotFoundError" not in str(error):
                    raise
            else:
                break

    def open(self) -> None:
        """Starts the shell that runs all scripts; one for each would take twice the time."""
        self._shell = subprocess.Popen(
            [*self._command, "run", "--timeout", "0", "sh"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def close(self) -> None:
        """Ends the shell."""
        if self._shell is not None:
            self._shell.communicate(timeout=PATIENCE)

    def run(self, script: str) -> Done:
        """Runs a shell script in the box, as root, whatever its exit status."""
        assert self._shell is not None
        assert self._shell.stdin is not None
        tail = "printf '\\0%d\\0' $?; cat /run/err; printf '\\0'"
        self._shell.stdin.write(f"( set -eu\n{script}\n) </dev/null 2>/run/err; {tail}\n".encode())
        self._shell.stdin.flush()
        out, status, err = (self._read(script) for _ in range(3))
        return Done(int(status), out, err)

    def _read(self, script: str) -> str:
        """What the shell prints up to the next NUL."""
        assert self._shell is not None
        assert self._shell.stdout is not None
        data, descriptor = bytearray(), self._shell.stdout.fileno()
        while not data.endswith(b"\0"):
            ready, _, _ = select.select([descriptor], [], [], LONGEST_SCRIPT)
            assert ready, f"{script}: no end in {LONGEST_SCRIPT} s, after {data.decode()}"
            byte = os.read(descriptor, 1)
            assert byte, f"{script}: the shell has ended, after {data.decode()}"
            data += byte
        return data[:-1].decode()

    def sh(self, script: str) -> str:
        """The standard output of a shell script, which has to exit 0."""
        done = self.run(script)
        if done.status:
            log = self.run("journalctl -u netd -n 20 --no-pager").out
            raise AssertionError(f"{script}: {done.err}{done.out}\n{log}")
        return done.out

    def write(self, path: str, text: str) -> None:
        """Puts a file into the box."""
        folder, content = os.path.dirname(path), b64encode(text.encode()).decode()
        self.sh(f"mkdir -p {folder}; echo {content} | base64 -d >{path}")

    def configure(self, config: dict[str, Any] | str) -> None:
        """Writes the configuration of netd."""
        text = config if isinstance(config, str) else yaml.safe_dump(config)
        self.write("/etc/netd/netd.yaml", text)

    def override(self, text: str) -> None:
        """Changes netd.service, as `systemctl edit` does. It may restart as often as it likes."""
        text = f"[Unit]\nStartLimitIntervalSec=0\n[Service]\n{text}\n"
        self.write("/etc/systemd/system/netd.service.d/override.conf", text)
        self.sh("systemctl daemon-reload")

    def add_module(self, name: str, text: str) -> None:
        """Installs a module beside netd."""
        site = self.sh(f'/opt/netd/bin/python -c "{_SITE}"').strip()
        self.write(f"{site}/{name}.py", text)

    def show(self, property: str, unit: str = "netd.service") -> str:
        """A property of a unit."""
        return self.sh(f"systemctl show -P {property} {unit}").strip()

    def wait_for(self, property: str, value: str, unit: str = "netd.service") -> None:
        """Waits until a property of a unit has a value."""
        wait_until(lambda: self.show(property, unit) == value, timeout=PATIENCE)

    def journal(self) -> list[dict[str, Any]]:
        """What netd and systemd have logged about netd.service since `forget`."""
        lines = self.sh(
            'journalctl --sync; journalctl -u netd --after-cursor="$(cat /cursor)" -o json'
        )
        return [json.loads(line) for line in lines.splitlines()]

    def told(self, part: str) -> str:
        """The priority of the message that contains a text, which may be on its way still."""

        def look() -> str | None:
            found = (e["PRIORITY"] for e in self.journal() if part in e["MESSAGE"])
            return next(found, None)

        return wait_until(look, timeout=PATIENCE) or ""

    def forget(self) -> None:
        """Stops netd and leaves the box as it was before, but for the journal's beginning."""
        self.sh(
            "systemctl stop netd.socket netd.service client.service other.service || true;"
            " rm -rf /etc/systemd/system/netd.service.d; systemctl daemon-reload;"
            " systemctl reset-failed;"
            " journalctl --sync; journalctl -n 0 --show-cursor | sed -n 's/-- cursor: //p' >/cursor"
        )


@contextmanager
def booted(tool: str) -> Iterator[Box]:
    """A box with netd installed, for the time of a `with`."""
    box = Box(tool, f"netd-tests-{os.getpid()}")
    box.up()
    try:
        box.open()
        _install(box)
        yield box
    finally:
        box.close()
        box.tool("down")


def _install(box: Box) -> None:
    version = box.sh("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").strip()
    with TemporaryDirectory() as folder:
        wheel = _wheels(Path(folder), version)
        box.tool("install", str(wheel), "--wheels", str(wheel.parent), "--venv", "/opt/netd")
    for unit in UNITS:
        box.tool("copy", str(CHECKOUT / "systemd" / unit), f"/etc/systemd/system/{unit}")
    box.tool("copy", str(CHECKOUT / "systemd/netd.sysusers"), "/usr/lib/sysusers.d/netd.conf")
    box.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    box.sh("ln -s /opt/netd/bin/netd /opt/netd/bin/netctl /usr/local/bin/")
    box.sh("systemd-sysusers; systemctl daemon-reload")
    box.forget()


def _wheels(folder: Path, python: str) -> Path:
    """netd's own wheel; beside it those of all that it needs, for the Python of the box."""
    source, wheels = folder / "source", folder / "wheels"
    shutil.copytree(CHECKOUT / "netd", source / "netd", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("setup.cfg", "setup.py", "LICENSE", "README.md"):
        if (CHECKOUT / name).exists():
            shutil.copy(CHECKOUT / name, source)
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(source))
    (wheel,) = wheels.iterdir()
    _pip(
        "download", "--only-binary", ":all:", "--python-version", python,
        "--dest", str(wheels), str(wheel),
    )  # fmt: skip
    return wheel


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
