"""Configurations that no netd can start with: `netd -t` names the place, and soon."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import COMMAND, PATIENCE, environment, slowness

from faults.fault import Fault
from faults.setups import STANDARD
from faults.target import Target

_SERVICE = b"services:\n  echo:\n    protocol: echo\n    listen: [tcp://127.0.0.1:9007]\n"
_BOMB = b"a0: &a0 [ha, ha]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 10)
)

# The content, and what is said of it at which line and column.
_TEXTS = {
    "alias bomb": (_BOMB, r":1:5: "),
    "recursive alias": (b"services: &a\n  echo: *a\n", r":1:11: "),
    "duplicate key": (_SERVICE + b"  echo:\n    protocol: echo\n", r":5:3: .*echo"),
    "tag of Python": (b"log: !!python/object/apply:os.system [id]\n", r":1:6: .*python"),
    "10 MB": (_SERVICE + b"# padding\n" * 1_000_000, r":1:1: "),
    "tabs": (b"services:\n\techo:\n", r":2:1: "),
    "byte order mark": (b"\xef\xbb\xbf" + _SERVICE + b"x: 1\n", r":5:1: .*'x'"),
    "Latin-1": (_SERVICE + b"    banner: caf\xe9\n", r":5:16: .*UTF-8"),
    "UTF-16": (_SERVICE.decode().encode("utf-16"), r":1:1: .*UTF-8"),
    "NUL": (_SERVICE + b"    banner: a\0b\n", r":5:14: "),
    "100,000 brackets": (b"services: " + b"[" * 100_000, r":1:\d+: "),
    "a list for keys": (b"- services\n", r":1:1: "),
    "unknown key": (_SERVICE + b"    max_conections: 5\n", r":5:5: .*max_connections"),
    "5,000 digits": (_SERVICE + b"    max_connections: " + b"9" * 5000 + b"\n", r":5:22: "),
    "two documents": (_SERVICE + b"---\n" + _SERVICE, r":5:1: "),
    "it includes itself": (b"include: [netd.yaml]\n" + _SERVICE, r":1:11: "),
}


def _check(file: Path, folder: Path) -> str:
    """What `netd -t` says of a file."""
    began = _time_of_children()
    ran = subprocess.run(
        [*COMMAND, "-t", "-c", str(file)],
        env=environment(folder), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    took = _time_of_children() - began
    assert (ran.returncode, ran.stdout) == (78, "")
    assert "Traceback" not in ran.stderr
    # Most of it is Python that starts. The time of a processor, as it may have other work too.
    assert took <= slowness(), f"it took {took:.3f} s"
    return ran.stderr


def _time_of_children() -> float:
    """Seconds of processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _check_text(target: Target, text: bytes, expected: str) -> None:
    folder = target.netd.folder / "checked"
    folder.mkdir(exist_ok=True)
    file = folder / "netd.yaml"
    file.write_bytes(text)
    assert re.search(re.escape(str(file)) + expected, _check(file, folder))


def _check_special(target: Target, make: Callable[[Path], object], expected: str) -> None:
    """What is no file at all."""
    file = target.netd.folder / "special"
    make(file)
    try:
        assert re.search(re.escape(str(file)) + expected, _check(file, target.netd.folder))
    finally:
        file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)


# A program that waited for these would wait for ever.
_SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (os.mkfifo, r":1:1: .*regular file"),
    "folder": (os.mkdir, r":1:1: .*regular file"),
    "link to an endless device": (lambda file: file.symlink_to("/dev/zero"), r":1:1: .*regular"),
    "link to itself": (lambda file: file.symlink_to(file), r":1:1: "),
    "nothing": (lambda file: file, r":1:1: .*No such file"),
}

FAULTS = [
    *(
        Fault(f"configuration: {name}", STANDARD, partial(_check_text, text=text, expected=place))
        for name, (text, place) in _TEXTS.items()
    ),
    *(
        Fault(f"configuration: {name}", STANDARD, partial(_check_special, make=make, expected=what))
        for name, (make, what) in _SPECIAL.items()
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""
