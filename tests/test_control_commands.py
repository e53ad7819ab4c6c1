"""The commands of the control socket, as a running netd does them."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest
from controls import Client, control, served
from harness import Netd, python_path, read_all, run_netd, slowness, wait_until

from netd.control.commands import Commands, decisive_step
from netd.control.operations import Operations
from netd.control.table import COMMANDS
from netd.errors import ConfigError, NetdError
from netd.explanation import Step

TCP = "tcp://127.0.0.1:0"
CONFIG: dict[str, Any] = {
    "services": {
        "echo": {"protocol": "echo", "listen": [TCP, "unix:echo.sock"]},
        "closed": {"protocol": "upper", "listen": [TCP], "only_from": ["192.0.2.0/24"]},
        "off": {"protocol": "echo", "listen": [TCP], "enabled": False},
    },
}
HANDLERS = """
import time
from pathlib import Path
from socketserver import StreamRequestHandler
from netd.handler import RequestHandler

class Talk(RequestHandler):
    def handle(self):
        while (line := self.read_line()) is not None:
            self.send(line + b"!")

class Stock(StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)

class Parting(RequestHandler):
    def data_received(self, data):
        self.send(b"bye")
        self.close()

class Stuck(RequestHandler):
    def data_received(self, data):
        while not Path(data.decode()).exists():
            time.sleep(0.01)

class Datagram(RequestHandler):
    may_block = True
    def datagram_received(self, data):
        while not Path(data.decode()).exists():
            time.sleep(0.01)
        self.reply(b"done")
"""


@pytest.fixture(scope="module")
def netd() -> Iterator[Netd]:
    """A daemon in which nothing is changed that another test needs."""
    with run_netd(CONFIG) as running:
        yield running


@pytest.fixture
def client(netd: Netd) -> Iterator[Client]:
    """A client of its control socket."""
    with control(netd) as found:
        yield found


@contextmanager
def handlers(folder: Path, **services: dict[str, Any]) -> Iterator[tuple[Netd, Client]]:
    """A daemon with services that HANDLERS serve, and a client of its control socket."""
    (folder / "handlers.py").write_text(HANDLERS)
    found = {name: {"listen": [TCP]} | stanza for name, stanza in services.items()}
    env = {"PYTHONPATH": python_path(folder)}
    with run_netd({"services": found}, env=env) as running, control(running) as one:
        yield running, one


def say(sock: socket.socket, data: bytes) -> bytes:
    """What is answered to some bytes."""
    sock.sendall(data)
    return sock.recv(1000)


def session_of(client: Client, sock: socket.socket) -> dict[str, Any]:
    """What is shown of the session of a TCP client."""
    host, port = sock.getsockname()
    found = [s for s in client.data("sessions") if s["peer"] == f"{host}:{port}"]
    assert len(found) == 1
    return found[0]


# -- the table


def test_every_command_of_the_table_is_known(client: Client) -> None:
    """Each is done, or tells what it lacks; none is a fault of netd."""
    for command in COMMANDS.values():
        if command.name == "shutdown":
            continue
        reply = client.ask(command.name)
        if command.local:
            assert reply["error"] == "unknown-command"
        else:
            assert reply["ok"] or reply["error"] in ("usage", "refused"), reply
    assert Commands.changing < {*COMMANDS}


# -- looking


def test_status_tells_all(netd: Netd, client: Client) -> None:
    """Of the daemon and each of its services, in the shape that the status page has."""
    sock = netd.connect("echo")
    assert say(sock, b"abc") == b"abc"
    status = client.data("status")
    assert abs(status["time"] - time()) < 10
    daemon = status["daemon"]
    assert (daemon["pid"], daemon["state"]) == (netd.pid, "serving")
    assert daemon["started"] == pytest.approx(status["time"] - daemon["uptime"], abs=1.0)
    assert {*status["services"]} == {"echo", "closed", "off"}
    echo = status["services"]["echo"]
    assert (echo["state"], echo["protocol"]) == ("serving", "echo")
    assert daemon["started"] - 1 <= echo["since"] <= status["time"]
    assert echo["listen"] == [str(address) for address in netd.addresses["echo"]]
    assert echo["open"] >= 1
    assert echo["bytes_in"] >= 3
    assert status["services"]["off"] == {"state": "disabled", "protocol": "echo"}


def test_status_of_one_service_is_about_that_one(netd: Netd, client: Client) -> None:
    """Its events are, too."""
    assert read_all(netd.connect("closed")) == b""
    wait_until(lambda: client.data("status")["services"]["closed"]["refused"])
    closed = client.data("status", service="closed")
    assert [*closed["services"]] == ["closed"]
    assert {event["service"] for event in closed["events"]} == {"closed"}
    (event,) = closed["events"]
    assert (event["kind"], event["text"]) == ("refused", "address")
    assert client.data("status", service="echo")["events"] == []


def test_list_has_a_line_for_each_service(netd: Netd, client: Client) -> None:
    """Those that are disabled too."""
    found = {service["name"]: service for service in client.data("list")}
    assert {*found} == {"echo", "closed", "off"}
    assert found["echo"]["listen"] == [str(address) for address in netd.addresses["echo"]]
    assert found["off"] == {
        "name": "off", "protocol": "echo", "state": "disabled", "listen": [], "open": 0,
    }  # fmt: skip


def test_stats_are_counters(client: Client) -> None:
    """Of one service, or all."""
    stats = client.data("stats")
    assert {*stats} == {"daemon", "services"}
    assert stats["services"]["off"] == {}
    (one,) = client.data("stats", service="echo")["services"].values()
    assert {"admitted", "refused", "bytes_in", "bytes_out", "durations"} < {*one}
    assert not {"state", "listen", "protocol", "since"} & {*one}


def test_a_service_that_there_is_not_is_told_with_the_nearest(client: Client) -> None:
    """By every command that takes one."""
    for command in ("status", "stats", "sessions"):
        assert client.error(command, service="ecco") == (
            "refused", "there is no service 'ecco' (did you mean echo?)",
        )  # fmt: skip
    assert client.error("explain", service="x\x1b[2J", peer="::1")[0] == "usage"


def test_nothing_is_served_and_still_told() -> None:
    """A netd without services has a status."""
    with run_netd({"services": {}}) as empty, control(empty) as one:
        assert one.data("status")["services"] == {}
        assert one.data("sessions") == one.data("list") == []
        assert one.error("status", service="x")[1] == "there is no service 'x' (there are none)"


# -- sessions


def test_sessions_are_shown_with_what_they_have_done(netd: Netd, client: Client) -> None:
    """Over TCP and UNIX sockets."""
    sock, local = netd.connect("echo"), netd.connect("echo", "unix")
    assert say(sock, b"abc") == b"abc"
    assert say(local, b"de") == b"de"
    session = session_of(client, sock)
    assert (session["service"], session["state"]) == ("echo", "open")
    assert (session["bytes_in"], session["bytes_out"]) == (3, 3)
    assert 0 <= session["idle"] <= session["age"] < 60
    assert session["user"] is session["tls"] is None
    peers = [found["peer"] for found in client.data("sessions", service="echo")]
    assert any(re.fullmatch(r"unix:uid=\d+,pid=\d+", peer) for peer in peers)
    assert client.data("sessions", service="closed") == []


def test_a_session_that_came_too_early_is_delayed(tmp_path: Path) -> None:
    """Until its turn; and it can be ended before that."""
    services = {
        name: {
            "handler": f"handlers:{handler}",
            "rate_per_source": {"rate": "10/m", "burst": 1, "action": "delay"},
        }
        for name, handler in (("steps", "Parting"), ("thread", "Talk"))
    }
    with handlers(tmp_path, **services) as (netd, client):
        for name in services:
            with netd.connect(name), netd.connect(name) as early:
                wait_until(lambda name=name: len(client.data("sessions", service=name)) == 2)
                session = session_of(client, early)
                assert session["state"] == "delayed"
                assert session["idle"] == 0
                client.data("kill", ids=[session["id"]])
                assert read_all(early) == b""


def test_a_session_whose_last_words_are_on_their_way_is_ending(tmp_path: Path) -> None:
    """It lingers until the client has closed its side."""
    with handlers(tmp_path, it={"handler": "handlers:Parting"}) as (netd, client):
        sock = netd.connect("it")
        assert say(sock, b"x") == b"bye"
        wait_until(lambda: session_of(client, sock)["state"] == "ending")


@pytest.mark.parametrize("handler", ["Talk", "Stock", "echo"])
def test_kill_ends_a_session(tmp_path: Path, handler: str) -> None:
    """Steps, conversations and stock handlers; the access line has the reason, others go on."""
    stanza = {"protocol": "echo"} if handler == "echo" else {"handler": f"handlers:{handler}"}
    with handlers(tmp_path, it=stanza) as (netd, client):
        sock, other = netd.connect("it"), netd.connect("it")
        assert say(sock, b"a\n")
        assert say(other, b"b\n")
        id = session_of(client, sock)["id"]
        began = monotonic()
        assert client.data("kill", ids=[id, "no-such"]) == {"killed": [id], "unknown": ["no-such"]}
        assert read_all(sock) == b""
        assert monotonic() - began < slowness()
        netd.wait_for_log(rf"it: session id={id} .* reason=killed$")
        assert say(other, b"still here\n")
        assert client.data("stats")["services"]["it"]["ended"] == {"killed": 1}
        assert client.error("kill", ids=[id]) == (
            "refused",
            f"there is no session {id} that could be ended (`netctl sessions` shows those that are"
            " open)",
        )


def test_kill_tells_of_a_loop_that_is_stuck(tmp_path: Path) -> None:
    """The session ends when the loop comes round; until then nothing is claimed."""
    with handlers(tmp_path, it={"handler": "handlers:Stuck"}) as (netd, client):
        sock = netd.connect("it")
        go_on = netd.folder / "go-on"
        sock.sendall(str(go_on).encode())
        wait_until(lambda: client.data("sessions") and client.data("sessions")[0]["bytes_in"])
        id = client.data("sessions")[0]["id"]
        code, message = client.error("kill", ids=[id])
        assert code == "refused"
        assert message.startswith("it has not come round for 2 s, so that its sessions go on")
        go_on.touch()
        netd.wait_for_log(rf"it: session id={id} .* reason=killed$")


def test_a_datagram_cannot_be_called_back(tmp_path: Path) -> None:
    """It is shown while a thread answers it, and goes on."""
    stanza = {"handler": "handlers:Datagram", "listen": ["udp://127.0.0.1:0"]}
    with handlers(tmp_path, it=stanza) as (netd, client):
        sock = netd.connect("it", "udp")
        go_on = netd.folder / "go-on"
        sock.send(str(go_on).encode())
        (session,) = wait_until(lambda: client.data("sessions"))
        assert session["state"] == "open"
        assert client.error("kill", ids=[session["id"]])[0] == "refused"
        go_on.touch()
        assert sock.recv(100) == b"done"


def test_sessions_are_read_while_thousands_come_and_go() -> None:
    """No list is broken by a table that grows and shrinks beneath it."""
    with run_netd(CONFIG) as netd, control(netd) as client, ExitStack() as closing:
        for _ in range(40):
            for _ in range(25):
                closing.enter_context(netd.connect("echo"))
            found = client.data("sessions")
            assert len({session["id"] for session in found}) == len(found)
            assert client.data("status")["services"]["echo"]["state"] == "serving"
            if len(found) > 300:
                closing.close()
        assert not [line for line in netd.log if " error " in line]


# -- admission


def test_explain_tells_the_rule_that_decides(netd: Netd, client: Client) -> None:
    """With all the others, and what they compared; nothing is counted."""
    (host, port) = netd.connect("echo").getsockname()
    found = client.data("explain", service="echo", peer=f"{host}:{port}")
    assert (found["service"], found["peer"]) == ("echo", host)
    assert (found["decision"], found["reason"]) == ("admit", None)
    assert abs(found["at"] - time()) < 10
    before = client.data("stats", service="closed")
    found = client.data("explain", service="closed", peer="198.51.100.1")
    assert (found["decision"], found["reason"]) == ("refuse", "address")
    (step,) = [step for step in found["steps"] if step["verdict"] == "refuse"]
    assert step["rule"] == "only_from, no_access"
    assert client.data("stats", service="closed")["services"] == before["services"]
    assert client.data("explain", service="closed", peer="192.0.2.9")["decision"] == "admit"
    assert client.data("explain", service="closed", peer="unix:uid=1,pid=2")["peer"] == "uid=1"


def test_explain_tells_of_another_time_and_of_datagrams() -> None:
    """As it would be then, or for the other kind of client."""
    services = {
        "hours": {"protocol": "echo", "listen": [TCP], "access_times": ["mon 08:00-18:00"],
                  "time_zone": "UTC"},
        "slow": {"protocol": "echo", "listen": [TCP, "udp://127.0.0.1:0"],
                 "rate_per_source": {"rate": "1/m", "burst": 1, "action": "delay"}},
        "small": {"protocol": "echo", "listen": [TCP],
                  "rate": {"rate": "1/m", "burst": 1}, "max_load": 100_000.0},
    }  # fmt: skip
    with run_netd({"services": services}) as netd, control(netd) as client:
        monday, sunday = "2026-11-23T09:00Z", "2026-11-22T09:00Z"
        for at, decision, reason in ((monday, "admit", None), (sunday, "refuse", "time")):
            found = client.data("explain", service="hours", peer="::1", at=at)
            assert (found["decision"], found["reason"]) == (decision, reason)
        far = client.data("explain", service="hours", peer="::1", at="9998-12-31T23:59Z")
        assert far["decision"] in ("admit", "refuse")
        netd.connect("slow")
        netd.connect("small")
        wait_until(lambda: netd.state()["small"]["admitted"])
        explained = client.data("explain", service="small", peer="127.0.0.1")
        assert (explained["decision"], explained["reason"]) == ("refuse", "rate")
        wait_until(lambda: netd.state()["slow"]["admitted"])
        late = client.data("explain", service="slow", peer="127.0.0.1")
        assert late["decision"] == "refuse"  # the wait would be longer than netd has anyone wait
        fast = client.data("explain", service="slow", peer="127.0.0.1", datagram=True)
        assert fast["decision"] == "admit"


def test_explain_needs_a_service_that_runs(client: Client) -> None:
    """One that is disabled lets nobody in."""
    assert client.error("explain", service="off", peer="::1") == (
        "refused", "off does not run (`netctl start off` starts it)",
    )  # fmt: skip


def test_a_delay_decides_unless_something_refuses() -> None:
    """The first rule that refuses comes before one that has it wait."""

    def step(verdict: Any, rule: str) -> Step:
        return Step(rule=rule, verdict=verdict, reason=None, detail={})

    steps = [step("pass", "a"), step("off", "b"), step("delay", "c")]
    assert decisive_step(steps) == step("delay", "c")
    assert decisive_step([*steps, step("refuse", "d")]) == step("refuse", "d")
    assert decisive_step(steps[:2]) is None


# -- bans


def test_a_ban_keeps_a_network_out_until_it_is_lifted() -> None:
    """At once, for all services; the note is shown."""
    with run_netd(CONFIG) as netd, control(netd) as client:
        inside = netd.connect("echo")
        assert say(inside, b"let in") == b"let in"
        ban = client.data("ban", source="127.0.0.0/8", for_="1h", why="a test")
        assert ban["until"] == pytest.approx(time() + 3600, abs=10)
        assert client.data("bans") == [ban]
        assert ban == {"network": "127.0.0.0/8", "until": ban["until"], "why": "a test"}
        assert read_all(netd.connect("echo")) == b""
        assert say(inside, b"still here") == b"still here"
        assert client.data("explain", service="echo", peer="127.0.0.1")["reason"] == "banned"
        assert client.data("status")["daemon"]["bans"] == 1
        assert client.data("unban", sources=["127.0.0.0/8"]) == {"unbanned": ["127.0.0.0/8"]}
        assert say(netd.connect("echo"), b"again") == b"again"
        netd.wait_for_log(r"control: .*: ban 127.0.0.0/8 --for 1h --why 'a test'$")
        netd.wait_for_log(r"control: .*: unban 127.0.0.0/8$")


def test_a_ban_ends_by_itself() -> None:
    """After its time."""
    with run_netd(CONFIG) as netd, control(netd) as client:
        client.data("ban", source="127.0.0.1", for_="200ms")
        wait_until(lambda: client.data("bans") == [])
        assert say(netd.connect("echo"), b"again") == b"again"


def test_half_the_world_has_to_be_forced(client: Client) -> None:
    """It is hardly meant."""
    code, message = client.error("ban", source="0.0.0.0/0")
    assert code == "refused"
    assert "repeat it with --force" in message
    assert client.data("ban", source="2000::/3", force=True)["network"] == "2000::/3"
    assert client.data("unban", sources=["2000::/3"]) == {"unbanned": ["2000::/3"]}


def test_what_is_not_banned_is_told(client: Client) -> None:
    """And what holds it, if something does."""
    client.data("ban", source="192.0.2.0/24")
    assert client.error("unban", sources=["192.0.2.7"]) == (
        "refused",
        "192.0.2.7/32 is banned as a part of 192.0.2.0/24 (`netctl unban 192.0.2.0/24` lets all of"
        " that in)",
    )
    assert client.error("unban", sources=["192.0.0.0/16"])[1] == (
        "192.0.0.0/16 is not banned (`netctl bans` lists those that are)"
    )
    found = client.data("unban", sources=["192.0.2.0/24", "198.51.100.1"])
    assert found == {"unbanned": ["192.0.2.0/24"]}


# -- the daemon


def test_the_level_of_the_log_is_shown_and_set() -> None:
    """It holds at once."""
    with run_netd(CONFIG) as netd, control(netd) as client:
        assert client.data("log-level") == {"level": "info", "was": "info"}
        assert client.data("log-level", level="warning") == {"level": "warning", "was": "info"}
        assert say(netd.connect("echo"), b"x") == b"x"
        assert client.data("log-level") == {"level": "warning", "was": "warning"}
        assert client.data("log-level", level="debug")["level"] == "debug"
        with control(netd) as another:
            another.data("list")
        netd.wait_for_log("debug   control: session ")
        assert not [line for line in netd.log if "echo: session" in line]


def test_shutdown_drains() -> None:
    """As SIGTERM does: a session goes on, and netd ends after it, with status 0."""
    with run_netd({**CONFIG, "drain_timeout": "1h"}) as netd, control(netd) as client:
        sock = netd.connect("echo")
        assert say(sock, b"x") == b"x"
        assert client.data("shutdown") == {"shutdown": "drain"}
        netd.wait_for_log("SIGTERM: draining")
        assert say(sock, b"still here") == b"still here"
        sock.close()
        assert netd.wait() == 0


@pytest.mark.parametrize("draining", [False, True])
def test_shutdown_now_waits_for_nobody(draining: bool) -> None:
    """Whether it drains already or not."""
    with run_netd({**CONFIG, "drain_timeout": "1h"}) as netd, control(netd) as client:
        sock = netd.connect("echo")
        assert say(sock, b"x") == b"x"
        if draining:
            netd.send_signal(signal.SIGTERM)
            netd.wait_for_log("SIGTERM: draining")
        assert client.data("shutdown", now=True) == {"shutdown": "now"}
        assert netd.wait() == 0
        assert read_all(sock) == b""
        netd.wait_for_log("shutdown --now: ending 1 session$")


class Changing(Operations):
    """A daemon that notes what it is to do with its services."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def reload(self, dry_run: bool) -> dict[str, Any]:
        """Is not possible."""
        self.done.append(dry_run)
        raise ConfigError("a.yaml:1:1: this is wrong", "a.yaml:2:1: that, too")

    def check(self, file: str | None) -> dict[str, Any]:
        """Is not possible either."""
        raise NetdError(f"{file} is a folder")

    def shutdown(self, now: bool) -> None:
        """Notes it."""
        self.done.append(now)


def test_a_configuration_with_faults_is_told_line_by_line() -> None:
    """The code is for programs, and the lines are those that `netd -t` prints."""
    with served(Changing()) as path:
        client = Client(path)
        reply = client.ask("reload")
        assert reply == {
            "netd": 1, "ok": False, "error": "configuration",
            "message": "the configuration cannot be used: 2 faults",
            "problems": ["a.yaml:1:1: this is wrong", "a.yaml:2:1: that, too"],
        }  # fmt: skip
        assert client.error("check", file="/etc") == ("refused", "/etc is a folder")
        client.close()


# -- figures


def test_status_is_quick_with_ten_thousand_sessions() -> None:
    """And with a thousand idle clients at the control socket: an administrator is not to wait."""
    with run_netd(CONFIG) as netd, ExitStack() as closing:
        address = str(netd.runtime_folder / "echo.sock")
        for _ in range(5000):
            sock = closing.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(address)
        for _ in range(5000):
            closing.enter_context(netd.connect("echo"))
        with control(netd) as client:
            wait_until(lambda: client.data("status")["services"]["echo"]["open"] == 10_000)
        took = []
        for _ in range(5):
            began = monotonic()
            with control(netd) as client:
                client.data("status")
            took.append(monotonic() - began)
        assert min(took) < 0.25
        with control(netd) as client:
            assert len(client.data("sessions")) == 10_000
            assert json.dumps(client.data("sessions", service="closed")) == "[]"
