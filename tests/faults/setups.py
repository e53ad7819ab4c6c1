"""The daemons that faults are provoked in."""

from __future__ import annotations

import glob
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import CHECKOUT, ask, run_netd, wait_until

from faults.fault import Setup
from faults.target import Target
from netd.address import Address

TESTS = Path(__file__).parents[1]
CLASSIC = ("upper", "echo", "discard", "daytime", "qotd", "time", "users", "chargen")
"""netd's own protocols; all of them serve streams and datagrams."""
TCP, UDP = "tcp://127.0.0.1:0", "udp://127.0.0.1:0"


def service(protocol: str, *listen: str, **keys: Any) -> dict[str, Any]:
    """The stanza of a service of netd's own, or of a class in `faults.talkers`."""
    key = "protocol" if protocol in CLASSIC else "handler"
    what = protocol if protocol in CLASSIC else f"faults.talkers:{protocol}"
    return {key: what, "listen": list(listen) or [TCP], **keys}


def config(services: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    """A configuration of these services, and the canary's."""
    return {
        "log": {"format": "text"},
        "services": {"canary": service("echo"), **services},
        **keys,
    }


@contextmanager
def running(found: Mapping[str, Any], settled: bool = True, **how: Any) -> Iterator[Target]:
    """A daemon, at rest unless `settled` is False; `how` is for run_netd."""
    env = {"PYTHONPATH": f"{CHECKOUT}:{TESTS}", **how.pop("env", {})}
    with run_netd(dict(found), env=env, **how) as netd:
        target = Target(netd, netd.addresses)
        with closing(target):
            if settled:
                target.settle()
            yield target


_STANDARD = config(
    {
        **{name: service(name, TCP, UDP) for name in CLASSIC},
        "lines": service("Lines"),
        "frames": service("Frames"),
        "local": service("echo", "unix:local.sock", "unix-dgram:local.dgram"),
        "named": service("Named", "unix-dgram:named.dgram"),
        "wild": service("echo", "udp://0.0.0.0:0", "udp://[::]:0"),
        "closed": service("echo", UDP, only_from=["192.0.2.0/24"]),
        "mute": service("echo", idle_timeout="1s"),
        "mute-lines": service("Lines", idle_timeout="1s"),
        "slow": service("echo", session_timeout="2s"),
        "slow-lines": service("Lines", idle_timeout="2s"),
        "unread-echo": service("echo", write_timeout="1s"),
        "unread-chargen": service("chargen", write_timeout="1s"),
        "unread-lines": service("Lines", write_timeout="1s"),
        "full": service("echo", max_connections=3, banner_fail="{reason}\r\n"),
        "crowded": service("echo", max_connections_per_source=2, banner_fail="{reason}\r\n"),
    },
    max_threads=1200,
)

STANDARD = Setup(partial(running, _STANDARD))
"""Serves everything that most faults need."""


_SMALL = {
    "echo": service("echo", TCP, "unix:echo.sock", banner_fail="{reason}\r\n"),
    "lines": service("Lines", banner_fail="{reason}\r\n"),
    "hoard": service("Hoards"),
}


def small(drain_timeout: str) -> dict[str, Any]:
    """The configuration of a daemon that serves little, and ends its sessions after so long."""
    return config(deepcopy(_SMALL), max_threads=4, drain_timeout=drain_timeout)


SMALL = Setup(partial(running, small("1s")))
"""Serves an echo and conversations, four at a time; for faults that starve it, or end it."""

PATIENT = Setup(partial(running, small("1h")))
"""The same; it would wait an hour for sessions to end."""

STARVED = Setup(partial(running, small("1s"), prefix=["prlimit", "--nofile=64:64"]))
"""The same as SMALL, started with 64 descriptors."""

MASSES = Setup(
    partial(
        running,
        config(
            {
                "echo": service("echo", TCP, UDP),
                "lines": service("Lines"),
                "full": service("echo", max_connections=1, banner_fail="{reason}\r\n"),
            }
        ),
    )
)
"""Serves a hundred thousand of everything."""

UNHEARD = {"canary": "canary.sock", "echo": "echo.sock", "lines": "lines.sock"}


@contextmanager
def running_unheard(*command: str, **how: Any) -> Iterator[Target]:
    """A daemon whose log nobody reads, and its addresses in it; `command` runs it."""
    services = {
        name: service("Lines" if name == "lines" else "echo", f"unix:{path}")
        for name, path in UNHEARD.items()
    }
    with running(config(services), settled=False, ready=False, prefix=command, **how) as target:
        folder = target.netd.runtime_folder
        for name, path in UNHEARD.items():
            target.addresses[name] = [Address("unix", str(folder / path))]
        wait_until(lambda: _is_listening(folder / UNHEARD["lines"]))
        assert ask(target.connect("lines", scheme="unix"), b"ab\n") == b"ba\n"
        # The control socket is the last that is served: it has begun with all when it answers.
        target.addresses["control"] = [Address("unix", str(folder / "control.sock"))]
        request = b'{"netd": 1, "command": "list"}\n'
        assert b'"ok":true' in ask(target.connect("control", scheme="unix"), request)
        target.hang_up()
        # Left are main, the log, the control socket, one for each service.
        wait_until(lambda: target.footprint().threads == 3 + len(UNHEARD))
        target.settle()
        yield target


def _is_listening(path: Path) -> bool:
    """Whether a connection is taken: a socket is seen in its folder before it listens."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _faketime() -> str:
    """The library that makes a process see another time; "" where it is not installed."""
    found = sorted(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else ""


@contextmanager
def _running_in_another_time() -> Iterator[Target]:
    with TemporaryDirectory(prefix="netd-") as folder:
        Path(folder).chmod(0o755)
        clock = Path(folder, "clock")
        clock.write_text("+0")
        env = {
            "LD_PRELOAD": _faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            # Nobody sets the monotonic clock, which timers are to go by.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Debian's build has waits with a time-out return at once where they wait by that clock,
            # as Python's threads do for their lock: two of them would spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        timed = config(
            {
                "daytime": service("daytime", TCP, UDP),
                "time": service("time", TCP, UDP),
                "mute": service("echo", idle_timeout="1s"),
                "mute-lines": service("Lines", idle_timeout="1s"),
                "slow": service("echo", session_timeout="1s"),
                "waits": service("Waits"),
                "unread": service("chargen", write_timeout="1s"),
            }
        )
        with running(timed, env=env) as target:
            target.clock = clock
            yield target


CLOCKED = Setup(
    _running_in_another_time, lambda: "" if _faketime() else "faketime is not installed"
)
"""Its clock is set by what `Target.clock` holds: `+10y`."""
