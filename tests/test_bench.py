"""The benchmark works. What it measures is not asserted: a test is no place for speed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import certificates
import pytest

BENCH = Path(__file__).parent / "bench"
SERVERS = ["netd", "threading", "asyncio"]
SCENARIOS = [
    "64 B echo, 1 connection",
    "64 B echo, 10 connections",
    "64 B echo, 20 connections",
    "16 KiB echo, 10 connections",
    "connect, echo, close; 16 at a time",
    "64 B datagrams, 64 in flight",
    "20 idle connections",
]
GUARDED = ["netd", "netd-hmac", "netd-tls", "asyncio-tls"]
COSTLY = ["64 B echo, 10 connections", "connect, echo, close; 16 at a time"]


def run_bench(*options: str) -> tuple[str, list[str]]:
    """The head of the table, and its rows."""
    done = subprocess.run(
        [sys.executable, str(BENCH), "--quick", *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, head, *rows = done.stdout.splitlines()
    return head, rows


def check_rows(rows: list[str], titles: list[str], servers: int) -> None:
    """Asserts that all scenarios are there, and their figures."""
    assert [title for row in rows if (title := row[:36].strip())] == titles
    figure, ratio = r" +-?[\d,]+(?:\.\d)?", r" +(?:-?\d+\.\d\d|-)"
    for row in rows:
        assert re.fullmatch(rf"\S.*\S({figure}){{{servers}}}({ratio}){{2}}", row[36:]), row


def test_the_benchmark_measures_all_servers_in_all_scenarios() -> None:
    """Each row of its table has a unit, a figure for each server, and two ratios."""
    head, rows = run_bench()
    assert head.split() == [*SERVERS, "netd/threading", "netd/asyncio"]
    check_rows(rows, SCENARIOS, len(SERVERS))


@pytest.mark.skipif(bool(certificates.MISSING), reason=certificates.MISSING)
def test_the_benchmark_measures_what_authentication_and_tls_cost() -> None:
    """A rate and a time of the CPU for each scenario, and a ratio for each of the two."""
    head, rows = run_bench("--guarded")
    assert head.split() == [*GUARDED, "hmac/netd", "tls/asyncio"]
    check_rows(rows, COSTLY, len(GUARDED))
    units = ["message/s", "CPU µs/message", "connection/s", "CPU µs/connection"]
    assert [row[36:56].strip() for row in rows] == units
