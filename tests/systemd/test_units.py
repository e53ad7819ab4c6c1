"""netd.service, netd.socket and netd.sysusers, under a real systemd.

Each test has netd stopped, without drop-ins and with an empty journal to begin with; all share
one machine, which takes seconds to make.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from box import UNITS, Box, booted
from harness import CHECKOUT

TOOL = os.environ.get("NETD_SYSTEMD_BOX")
pytestmark = pytest.mark.skipif(TOOL is None, reason="NETD_SYSTEMD_BOX is unset")

ECHO = {
    "services": {
        "echo": {
            "protocol": "echo",
            "listen": ["tcp://127.0.0.1:7", "udp://127.0.0.1:7", "unix:/var/lib/netd/echo.sock"],
        }
    }
}
ERROR, INFO = "3", "6"

# Answers with what the sandbox lets the daemon do.
PROBE = """
import ctypes, json, mmap, os, socket
from netd.handler import RequestHandler

def attempt(action):
    try:
        action()
    except Exception as error:
        return getattr(error, "strerror", None) or str(error)
    return "allowed"

class Probe(RequestHandler):
    def data_received(self, data):
        self.send(json.dumps({
            "call": attempt(lambda: ctypes.CDLL(None).getppid()),
            "callback": attempt(lambda: ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)()),
            "code": attempt(lambda: mmap.mmap(-1, 4096, prot=7)),
            "etc": attempt(lambda: open("/etc/netd/new", "w")),
            "home": attempt(lambda: os.listdir("/root")),
            "state": attempt(lambda: open("/var/lib/netd/new", "w").close()),
            "log": attempt(lambda: open("/var/log/netd/new", "w").close()),
            "device": attempt(lambda: open("/dev/console")),
            "raw": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
            "root": attempt(lambda: os.setuid(0)),
            "mount": attempt(lambda: os.chroot("/")),
        }).encode())
        self.close()
"""
STUCK = """
import time
from netd.handler import RequestHandler

class Stuck(RequestHandler):
    def data_received(self, data):
        time.sleep(3600)
"""
FAULTY = """
from netd.handler import RequestHandler

class Faulty(RequestHandler):
    def data_received(self, data):
        raise ValueError("a fault of ours")
"""
SLOW = """
import time
from netd.handler import RequestHandler
time.sleep(1)

class Slow(RequestHandler):
    def data_received(self, data):
        self.send(data)
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Box]:
    """The machine, with netd installed."""
    with booted(TOOL or "") as box:
        yield box


@pytest.fixture
def box(machine: Box) -> Iterator[Box]:
    """The machine, as clean as it was."""
    yield machine
    machine.forget()


def handler(name: str, *listen: str) -> dict[str, object]:
    """A configuration with one service, named as its class is in lower case."""
    service = {"handler": f"{name}:{name.capitalize()}", "listen": [*listen]}
    return {"services": {name: service}}


def talk(box: Box, text: str, target: str) -> str:
    """What comes back for a text from `nc`, which is given the target."""
    return box.sh(f"printf %s '{text}' | nc -N -w 5 {target}")


def test_systemd_finds_no_fault_in_the_units(box: Box) -> None:
    """`systemd-analyze verify` says nothing."""
    files = " ".join(f"/etc/systemd/system/{unit}" for unit in UNITS)
    assert box.run(f"systemd-analyze verify {files}") == (0, "", "")


def test_little_is_exposed(box: Box) -> None:
    """`systemd-analyze security` gives at most 1.5 of 10."""
    done = box.run("systemd-analyze security --no-pager --threshold=15 netd.service")
    assert done.status == 0, done.out


def test_the_user_is_a_system_user(box: Box) -> None:
    """sysusers makes netd with a group of its own and no shell."""
    assert box.sh("id -un netd; id -gn netd").split() == ["netd", "netd"]
    assert box.sh("getent passwd netd").strip().endswith(":/var/lib/netd:/usr/sbin/nologin")


def test_tcp_udp_and_unix_are_served(box: Box) -> None:
    """After `systemctl start` every transport answers, on port 7, to an ordinary user's process."""
    box.configure(ECHO)
    box.sh("systemctl start netd")
    assert talk(box, "tcp", "127.0.0.1 7") == "tcp"
    assert box.sh("printf udp | nc -u -W 1 -w 5 127.0.0.1 7") == "udp"
    assert talk(box, "unix", "-U /var/lib/netd/echo.sock") == "unix"
    assert box.sh(f"ps -o user= -p {box.show('MainPID')}").strip() == "netd"
    assert box.show("StatusText") == "1 service on 3 listeners"
    assert 'Status: "1 service on 3 listeners"' in box.sh("systemctl status netd")


def test_the_file_for_production_is_served(box: Box) -> None:
    """etc/netd.yaml starts as it is, without a warning."""
    box.configure((CHECKOUT / "etc" / "netd.yaml").read_text())
    box.sh("systemctl start netd")
    assert talk(box, "shout", "127.0.0.1 9000") == "SHOUT"
    assert talk(box, "shout", "::1 9000") == "SHOUT"
    assert talk(box, "shout", "-U /run/netd/upper.sock") == "SHOUT"
    box.sh("systemctl stop netd")
    assert box.show("Result") == "success"
    assert box.told("netd: stopped") == INFO
    assert {entry["PRIORITY"] for entry in box.journal()} == {INFO}


def test_start_waits_until_netd_is_ready(box: Box) -> None:
    """`systemctl start` returns when clients are served, however long that takes."""
    box.add_module("slow", SLOW)
    box.configure(handler("slow", "tcp://127.0.0.1:9000"))
    box.sh("systemctl start netd")
    assert box.show("ActiveState") == "active"
    assert talk(box, "at once", "127.0.0.1 9000") == "at once"
    began, active = map(int, (box.show(f"{x}Monotonic") for x in (
        "ExecMainStartTimestamp", "ActiveEnterTimestamp")))  # fmt: skip
    assert active - began >= 1_000_000


def test_stop_leaves_nothing_behind(box: Box) -> None:
    """`systemctl stop` ends with status 0, and no socket file is left."""
    box.configure(ECHO)
    box.sh("systemctl start netd; test -S /var/lib/netd/echo.sock; systemctl stop netd")
    assert (box.show("Result"), box.show("ExecMainStatus")) == ("success", "0")
    assert box.sh("find /run/netd /var/lib/netd -type s 2>/dev/null || true") == ""
    assert box.told("netd: stopped") == INFO


def test_a_drain_outlasts_the_time_that_systemd_gives(box: Box) -> None:
    """A session goes on for `drain_timeout`, although TimeoutStopSec is shorter."""
    box.override("TimeoutStopSec=500ms")
    box.configure({**ECHO, "drain_timeout": "30s"})
    box.sh("systemctl start netd")
    box.sh(
        "rm -f /run/told; mkfifo /run/input; "
        "systemd-run -q --unit=client sh -c 'nc -N 127.0.0.1 7 </run/input >/run/told'; "
        "exec 3>/run/input; printf first >&3; until test -s /run/told; do sleep 0.02; done; "
        "systemctl stop --no-block netd; "
        "until systemctl show -P StatusText netd | grep -q draining; do sleep 0.02; done; "
        "sleep 1; printf ' last' >&3; exec 3>&-; rm /run/input"
    )
    box.wait_for("ActiveState", "inactive")
    assert (box.show("Result"), box.sh("cat /run/told")) == ("success", "first last")
    box.wait_for("ActiveState", "inactive", "client.service")


def test_systemd_reloads_it(box: Box) -> None:
    """`systemctl reload` returns when the new file is in force, or fails and says why."""
    box.configure(ECHO)
    box.sh("systemctl start netd")
    pid = box.sh("systemctl show -P MainPID netd")
    services = {"shout": {"protocol": "upper", "listen": ["tcp://127.0.0.1:9000"]}}
    box.configure({"services": {**ECHO["services"], **services}})  # type: ignore[dict-item]
    box.sh("systemctl reload netd")
    assert talk(box, "hello", "127.0.0.1 9000") == "HELLO"
    assert talk(box, "hello", "127.0.0.1 7") == "hello"
    box.configure({"services": {"echo": {"protocol": "ecco"}}})
    assert box.run("systemctl reload netd").status == 1
    assert box.told("not reloaded: /etc/netd/netd.yaml:") == ERROR
    assert talk(box, "hello", "127.0.0.1 9000") == "HELLO"
    assert box.sh("systemctl is-active netd").strip() == "active"
    assert box.sh("systemctl show -P MainPID netd") == pid
    box.configure(ECHO)
    box.sh("netctl ban 192.0.2.0/24 && systemctl restart netd")
    assert "192.0.2.0/24" in box.sh("netctl bans && netctl unban 192.0.2.0/24")


def test_the_journal_has_levels_and_fields(box: Box) -> None:
    """A session is information, a warning a warning, and a fault an error with its traceback."""
    box.add_module("faulty", FAULTY)
    config = handler("faulty", "tcp://127.0.0.1:9000")
    config["services"] |= ECHO["services"]  # type: ignore[operator]
    box.configure(config)
    box.sh("systemctl start netd")
    talk(box, "hello", "127.0.0.1 7")
    talk(box, "hello", "127.0.0.1 9000")
    box.sh("systemctl kill -s HUP netd; systemctl stop netd")
    assert box.told("ready: 2 services on 4 listeners") == INFO
    assert box.told("in=5 out=5 reason=eof") == INFO
    assert box.told("reloaded in") == INFO
    assert box.told("the handler failed while serving") == ERROR
    assert box.told("Traceback (most recent call last)") == ERROR
    assert box.told("ValueError: a fault of ours") == ERROR
    own = [e for e in box.journal() if e["SYSLOG_IDENTIFIER"] == "netd"]
    assert {e["_SYSTEMD_UNIT"] for e in own} == {"netd.service"}


def test_a_broken_configuration_is_told_once(box: Box) -> None:
    """The journal has file, line and column as an error, and systemd does not try again."""
    box.configure("services:\n  echo:\n    protokol: echo\n    listen: [tcp://127.0.0.1:7]\n")
    assert box.run("systemctl start netd").status != 0
    assert (box.show("ActiveState"), box.show("SubState")) == ("failed", "failed")
    assert (box.show("ExecMainStatus"), box.show("NRestarts")) == ("78", "0")
    assert box.told("/etc/netd/netd.yaml:3:5: ") == ERROR


def test_without_the_capability_the_remedy_is_named(box: Box) -> None:
    """A port below 1024 is refused with status 77, without a second try."""
    box.override("AmbientCapabilities=\nCapabilityBoundingSet=")
    box.configure(ECHO)
    assert box.run("systemctl start netd").status != 0
    assert (box.show("ExecMainStatus"), box.show("NRestarts")) == ("77", "0")
    assert box.told("tcp://127.0.0.1:7: not permitted") == ERROR
    assert box.told("AmbientCapabilities=CAP_NET_BIND_SERVICE") == ERROR


def test_an_address_that_is_taken_is_tried_again(box: Box) -> None:
    """netd starts as soon as the other program is gone."""
    box.override("RestartSec=100ms")
    box.configure(ECHO)
    box.sh("systemd-run -q --unit=other nc -lk 127.0.0.1 7")
    box.wait_for("ActiveState", "active", "other.service")
    box.sh("until nc -z 127.0.0.1 7; do sleep 0.02; done")
    assert box.run("systemctl start netd").status != 0
    box.sh("systemctl stop other")
    box.wait_for("ActiveState", "active")
    assert box.told("tcp://127.0.0.1:7: the address is in use") == ERROR
    assert box.told("Main process exited, code=exited, status=71")


def test_netd_comes_back_after_a_kill(box: Box) -> None:
    """Stale socket file and lock are no obstacle."""
    box.override("RestartSec=100ms")
    box.configure(ECHO)
    box.sh("systemctl start netd")
    first = box.show("MainPID")
    box.sh("systemctl kill -s KILL --kill-whom=main netd")
    box.wait_for("NRestarts", "1")
    box.wait_for("ActiveState", "active")
    assert box.show("MainPID") != first
    assert talk(box, "again", "-U /var/lib/netd/echo.sock") == "again"


def test_a_stuck_serving_loop_costs_a_restart(box: Box) -> None:
    """The watchdog ends it in time; the journal names the service, and where it hangs."""
    box.add_module("stuck", STUCK)
    box.override("WatchdogSec=1s\nRestartSec=100ms\nLimitCORE=0")
    config = handler("stuck", "tcp://127.0.0.1:9000")
    config["services"] |= ECHO["services"]  # type: ignore[operator]
    box.configure(config)
    box.sh("systemctl start netd")
    box.sh("printf hang | nc -w 1 127.0.0.1 9000")
    assert talk(box, "the others are served meanwhile", "127.0.0.1 7") != ""
    box.wait_for("NRestarts", "1")
    box.wait_for("ActiveState", "active")
    assert talk(box, "again", "127.0.0.1 7") == "again"
    assert box.told("netd: serving loop of stuck has not answered") == ERROR
    assert box.told("Watchdog timeout")
    assert box.told('stuck.py", line 7 in data_received')
    assert not [e for e in box.journal() if "serving loop of echo" in e["MESSAGE"]]


def test_the_watchdog_leaves_a_healthy_netd_alone(box: Box) -> None:
    """It is fed well before its time, again and again."""
    box.override("WatchdogSec=400ms")
    box.configure(ECHO)
    box.sh("systemctl start netd")
    fed = [int(box.show("WatchdogTimestampMonotonic"))]
    while fed[-1] - fed[0] < 1_000_000:
        assert (box.show("ActiveState"), box.show("NRestarts")) == ("active", "0")
        fed.append(int(box.show("WatchdogTimestampMonotonic")))


def test_systemd_holds_the_port(box: Box) -> None:
    """netd starts with the first client, TCP or UDP, and the port stays open without it."""
    service = {"protocol": "daytime", "listen": ["fd:daytime"]}
    box.configure({"services": {"daytime": service}})
    box.sh("systemctl start netd.socket")
    assert box.show("ActiveState") == "inactive"
    assert talk(box, "", "127.0.0.1 13").endswith("\r\n")
    box.wait_for("ActiveState", "active")
    assert box.told("listening on tcp://[::]:13") == INFO
    box.sh("systemctl stop netd 2>&1")
    # From the address that was asked, although the socket is bound to all of them.
    assert box.sh("printf x | nc -u -W 1 -w 5 127.0.0.2 13").endswith("\r\n")
    box.wait_for("ActiveState", "active")
    assert talk(box, "", "::1 13").endswith("\r\n")


def test_a_held_port_needs_no_capability(box: Box) -> None:
    """With a socket unit netd does without any privilege."""
    box.override("AmbientCapabilities=\nCapabilityBoundingSet=")
    service = {"protocol": "daytime", "listen": ["fd:daytime"]}
    box.configure({"services": {"daytime": service}})
    box.sh("systemctl start netd.socket netd")
    assert talk(box, "", "127.0.0.1 13").endswith("\r\n")
    status = box.sh(f"cat /proc/{box.show('MainPID')}/status")
    assert "CapEff:\t0000000000000000\n" in status


def test_no_client_is_refused_while_netd_restarts(box: Box) -> None:
    """Whoever comes in between waits, and is served by the next netd."""
    service = {"protocol": "daytime", "listen": ["fd:daytime"]}
    box.configure({"services": {"daytime": service}})
    box.sh("systemctl start netd.socket netd")
    told = box.sh(
        "systemctl restart --no-block netd; n=0;"
        " while [ $n -lt 50 ]; do nc -w 10 127.0.0.1 13 </dev/null || echo refused;"
        " n=$((n + 1)); done; systemctl start netd"
    )
    assert len(told.splitlines()) == 50
    assert "refused" not in told


def test_the_sandbox_holds_and_netd_works_in_it(box: Box) -> None:
    """The daemon can do what it needs, and not what it has no business with."""
    box.add_module("probe", PROBE)
    box.configure(handler("probe", "tcp://127.0.0.1:9000"))
    box.sh("systemctl start netd")
    told = json.loads(talk(box, "?", "127.0.0.1 9000"))
    may = {name for name, answer in told.items() if answer == "allowed"}
    assert may == {"call", "callback", "state", "log"}, told


def test_a_unix_socket_can_be_given_to_another_group(box: Box) -> None:
    """`socket_group` works with a supplementary group, within the system calls allowed."""
    box.override("SupplementaryGroups=games")
    echo = {**ECHO["services"]["echo"], "socket_group": "games", "socket_mode": "0620"}
    box.configure({"services": {"echo": echo}})
    box.sh("systemctl start netd")
    assert box.sh("stat -c '%U %G %a' /var/lib/netd/echo.sock").split() == ["netd", "games", "620"]


def test_a_host_name_is_resolved_in_the_sandbox(box: Box) -> None:
    """`localhost` is listened on at both of its addresses."""
    echo = {"protocol": "echo", "listen": ["tcp://localhost:9000"]}
    box.configure({"services": {"echo": echo}})
    box.sh("systemctl start netd")
    assert talk(box, "4", "127.0.0.1 9000") + talk(box, "6", "::1 9000") == "46"
