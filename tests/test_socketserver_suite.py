"""CPython's own test suite for socketserver, with netd's servers in place of the threading ones."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import environment

# In a process of its own, since it replaces names of the standard library. The classes are empty
# subclasses, for the suite also asserts that what the module exports was defined by it.
RUNNER = """
import json
import socketserver
import sys
import test.support
import unittest

from netd import server

test.support.use_resources = ["network"]
for name in ("TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer"):
    cured = type("Threading" + name, (getattr(server, name),), {"__module__": "socketserver"})
    setattr(socketserver, "Threading" + name, cured)
from test import test_socketserver

suite = unittest.defaultTestLoader.loadTestsFromModule(test_socketserver)
result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
with open(sys.argv[1], "w") as file:
    json.dump([result.testsRun, len(result.failures), len(result.errors)], file)
"""
# Of Python 3.11; later ones have as many or more.
FEWEST_TESTS = 27
LONGEST = 120
"""Seconds for the whole suite, which takes half a one."""


def has_suite() -> bool:
    """Whether the interpreter came with its test suite; Debian's, for one, does not."""
    try:
        return importlib.util.find_spec("test.test_socketserver") is not None
    except ImportError:
        return False


@pytest.mark.skipif(not has_suite(), reason="this Python comes without the package `test`")
def test_the_suite_of_cpython_passes(tmp_path: Path) -> None:
    """Whoever relies on the threading servers of the standard library can rely on netd's."""
    outcome = tmp_path / "outcome"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, str(outcome)],
        cwd=tmp_path, env=environment(tmp_path), timeout=LONGEST,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert outcome.exists(), done.stderr
    run, failures, errors = json.loads(outcome.read_text())
    assert (failures, errors) == (0, 0), done.stderr
    assert run >= FEWEST_TESTS
    for kind in ("TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer"):
        assert f"test_Threading{kind} " in done.stderr
