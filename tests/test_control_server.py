"""The control socket: whatever clients send, or do not send, others are answered."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from controls import Client, control, other_user, path_of, request, served
from harness import AS_ROOT, PATIENCE, ask, new_folder, read_all, run_netd, slowness, wait_until

from netd.control.lane import Job, Lane
from netd.control.operations import Operations
from netd.control.privileges import Caller
from netd.control.request import parse
from netd.control.server import CLIENTS, HELD
from netd.control.table import REQUEST_LIMIT

as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become other users")
ECHO = {"services": {"echo": {"protocol": "echo", "listen": ["tcp://127.0.0.1:0"]}}}
LIST = request("list")
OK = b'{"netd":1,"ok":true,"data":[]}\n'


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    """Where a control socket is that takes everything."""
    with served() as found:
        yield found


def send(path: Path, data: bytes) -> list[dict[str, Any]]:
    """All replies to some bytes, after which the client's side ends."""
    with closing(Client(path)) as client:
        return [json.loads(line) for line in ask(client.socket, data).splitlines()]


# -- what is sent


def test_a_request_is_answered_in_a_line(path: Path) -> None:
    """And the next one over the same connection."""
    with closing(Client(path)) as client:
        assert client.data("list") == []
        assert client.data("bans") == []
        client.socket.sendall(b'{"netd": 1, "command": "list", "id": "mine"}\r\n')
        assert client.read() == {"netd": 1, "ok": True, "id": "mine", "data": []}


def test_the_client_may_end_its_side_first(path: Path) -> None:
    """As `nc -N` does: the whole answer still arrives."""
    with closing(Client(path)) as client:
        assert ask(client.socket, LIST) == OK


def test_requests_sent_at_once_are_answered_in_order(path: Path) -> None:
    """Each after the one before it, those that are wrong too."""
    lines = [b'{"netd": 1, "command": "list", "id": %d}\n' % n for n in range(300)]
    lines[7] = b'{"netd": 1, "command": "lost", "id": 7}\n'
    replies = send(path, b"".join(lines))
    assert [reply["id"] for reply in replies] == list(range(300))
    assert [reply["ok"] for reply in replies].count(False) == 1


def test_a_request_may_come_byte_by_byte(path: Path) -> None:
    """As long as it does not take too long."""
    with closing(Client(path)) as client:
        for byte in LIST:
            client.socket.sendall(bytes([byte]))
        assert client.read()["data"] == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"status\n", "request: not JSON: Expecting value (character 0)"),
        (b"\n", "request: not JSON: "),
        (b"\x00\xff\xfe\n", "request: not UTF-8 at byte 1"),
        (b"[" * 60_000 + b"\n", "request: objects and arrays more than 32 deep"),
        (b"{" * (REQUEST_LIMIT + 1), "line: longer than 65535 bytes"),
        (b'{"netd": 1, "command": "shutdown"}', "request: it has no line feed at its end"),
    ],
    ids=["text", "nothing", "binary", "deep", "oversized", "partial"],
)
def test_a_client_that_is_out_of_step_is_told_and_sent_away(
    path: Path, data: bytes, told: str
) -> None:
    """With a sentence that says what to send; nothing behind it is obeyed."""
    with closing(Client(path)) as client:
        (line,) = ask(
            client.socket, data + (LIST * 3 if data.endswith(b"\n") else b"")
        ).splitlines()
    reply = json.loads(line)
    assert (reply["ok"], reply["error"]) == (False, "usage")
    assert reply["message"].startswith(told)
    assert "send one JSON object of less than 65536 bytes in each line" in reply["message"]


def test_a_request_of_the_largest_size_is_read(path: Path) -> None:
    """Its line feed is part of it."""
    head, tail = b'{"netd": 1, "command": "list",', b'"id": 1}\n'
    line = head + b" " * (REQUEST_LIMIT - len(head) - len(tail)) + tail
    assert len(line) == REQUEST_LIMIT
    assert [reply["ok"] for reply in send(path, line)] == [True]
    (reply,) = send(path, b" " + line)
    assert reply["message"].startswith("line: longer than")


def test_a_megabyte_without_an_end_is_told_so(path: Path) -> None:
    """Though the client reads nothing before it has sent all of it."""
    with closing(Client(path)) as client:
        (line,) = ask(client.socket, b"x" * 2**20).splitlines()
    assert json.loads(line)["error"] == "usage"


def test_a_slow_request_is_given_up() -> None:
    """At an absolute deadline: a byte now and then buys no time. Silence is allowed."""
    with (
        served(timeout=0.3) as path,
        closing(Client(path)) as slow,
        closing(Client(path)) as silent,
    ):
        began = monotonic()
        slow.socket.settimeout(0.05)
        reply = b""
        while not reply:
            try:
                slow.socket.sendall(b"{")
                reply = slow.socket.recv(65536)
            except TimeoutError:
                assert monotonic() < began + PATIENCE
        error = json.loads(reply)
        assert error["error"] == "usage"
        assert error["message"].startswith("the request has not come to its end in time (send it")
        assert monotonic() - began >= 0.3
        assert silent.data("list") == []


# -- who sends


def test_those_who_say_nothing_make_way(path: Path) -> None:
    """A thousand of them keep nobody out; the first to come are the first to go, and hear why."""
    with ExitStack() as closing_all:
        idle = [closing_all.enter_context(closing(Client(path))) for _ in range(1000)]
        began = monotonic()
        with closing(Client(path)) as client:
            assert client.data("list") == []
            assert monotonic() - began < slowness()
        reply = idle[0].read()
        assert reply["error"] == "busy"
        assert "too many clients" in reply["message"]
        assert idle[0].read() == {}
        assert idle[-1].data("list") == []


@as_root
def test_another_user_keeps_what_it_has() -> None:
    """Whoever has the most clients gives up its own."""
    with served(mode="0666") as path, other_user(path, 1, 1) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        with ExitStack() as closing_all:
            idle = [closing_all.enter_context(closing(Client(path))) for _ in range(3 * CLIENTS)]
            assert idle[0].read()["error"] == "busy"
            process.stdin.write(LIST)
            process.stdin.flush()
            assert process.stdout.readline() == OK


NOISE = """
import socket, sys, threading
def shout(data):
    while True:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            try:
                sock.connect(sys.argv[1])
                while True:
                    sock.sendall(data)
                    if not sock.recv(65536):
                        break
            except OSError:
                pass
lines = [b'{"netd":1,"command":"sessions"}\\n', b"\\0" * 70000, b"x\\n", b"{", b"[" * 60000]
for number in range(100):
    threading.Thread(target=shout, args=(lines[number % len(lines)],), daemon=True).start()
print(flush=True)
sys.stdin.read()
"""


@as_root
def test_noise_of_one_user_does_not_keep_another_waiting() -> None:
    """A hundred hostile clients that never stop; others, and the services, are answered."""
    with run_netd({**ECHO, "control": {"mode": "0666"}}) as netd:
        become = "import os; os.setgroups([]); os.setresgid(1, 1, 1); os.setresuid(1, 1, 1)\n"
        command = [sys.executable, "-I", "-S", "-c", "import socket, threading\n" + become + NOISE]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([*command, str(path_of(netd))], **pipes) as noise:
            assert noise.stdout
            assert noise.stdout.readline() == b"\n"
            slowest = 0.0
            for _ in range(20):
                began = monotonic()
                with control(netd) as client:
                    assert client.data("status")["daemon"]["pid"] == netd.pid
                slowest = max(slowest, monotonic() - began)
            echo = netd.connect("echo")
            echo.sendall(b"still here")
            assert echo.recv(100) == b"still here"
            noise.kill()
        assert slowest < 1.0
        assert not [line for line in netd.log if " error " in line]


class Big(Operations):
    """A daemon that has much to say."""

    SIZE = 4 * 2**20

    def check(self, _file: str | None) -> str:
        """A long text."""
        return "x" * self.SIZE


def begins(client: Client) -> None:
    """Waits for the first byte of an answer, which stays where it is."""
    assert client.socket.recv(1, socket.MSG_PEEK)


def is_cut(client: Client) -> bool:
    """Whether netd has ended a connection."""
    poll = select.poll()
    poll.register(client.socket, 0)
    return bool(poll.poll(0))


def test_a_long_answer_comes_whole() -> None:
    """Though it is sent in pieces, and others follow it."""
    with served(Big()) as path, closing(Client(path)) as client:
        client.socket.sendall(request("check") + LIST + request("check"))
        assert client.read()["data"] == "x" * Big.SIZE
        assert client.read()["data"] == []
        assert client.read()["data"] == "x" * Big.SIZE


def test_who_does_not_read_is_cut() -> None:
    """At the deadline for writing; others do not notice."""
    with (
        served(Big(), timeout=0.3) as path,
        closing(Client(path)) as deaf,
        closing(Client(path)) as other,
    ):
        deaf.send("check")
        begins(deaf)
        wait_until(lambda: other.data("list") == [] and is_cut(deaf))
        assert len(read_all(deaf.socket)) < Big.SIZE


def test_what_is_held_for_those_who_do_not_read_is_bounded() -> None:
    """Beyond HELD, the one that has taken nothing for longest goes without the rest."""
    fit = HELD // Big.SIZE
    with served(Big()) as path, ExitStack() as closing_all:
        clients = [closing_all.enter_context(closing(Client(path))) for _ in range(2 * fit)]
        for client in clients:
            client.send("check")
            begins(client)
        assert [is_cut(client) for client in clients].index(False) >= fit
        assert clients[-1].read()["data"] == "x" * Big.SIZE


# -- long commands


class Slow(Operations):
    """A daemon whose reload takes until it is told to end."""

    def __init__(self) -> None:
        self.going_on = threading.Event()
        self.reloads: list[bool] = []
        self.at_once = self.most_at_once = 0

    def reload(self, dry_run: bool) -> dict[str, Any]:
        """Waits."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.going_on.wait(PATIENCE)
        self.reloads.append(dry_run)
        self.at_once -= 1
        return {"dry_run": dry_run}


def test_a_long_command_does_not_stall_others() -> None:
    """Whoever looks, or bans, is answered meanwhile; a second change waits for the first one."""
    slow = Slow()
    with served(slow) as path, ExitStack() as closing_all:
        first, second, third = (closing_all.enter_context(closing(Client(path))) for _ in "123")
        first.send("reload")
        wait_until(lambda: slow.at_once == 1)
        second.send("reload", dry_run=True)
        assert third.data("list") == []
        assert third.data("ban", source="192.0.2.1")["network"] == "192.0.2.1/32"
        assert slow.reloads == []
        slow.going_on.set()
        assert first.read()["data"] == {"dry_run": False}
        assert second.read()["data"] == {"dry_run": True}
        assert slow.reloads == [False, True]
        assert slow.most_at_once == 1


def test_who_asked_and_is_gone_is_not_waited_for() -> None:
    """Its answer is dropped; the next one has its turn."""
    slow = Slow()
    with served(slow) as path, closing(Client(path)) as other:
        with closing(Client(path)) as gone:
            gone.send("reload")
            wait_until(lambda: slow.at_once == 1)
        other.send("reload")
        slow.going_on.set()
        assert other.read()["ok"]
        assert slow.reloads == [False, False]


class Asker:
    """A client of a lane."""

    def __init__(self, uid: int = 0) -> None:
        self.caller = Caller(1, uid, 0)
        self.is_gone = False
        self.replies: list[dict[str, Any]] = []

    def answer(self, line: bytes) -> None:
        """Keeps a reply."""
        self.replies.append(json.loads(line))


def job(asker: Asker, asked: float) -> Job:
    """A request to reload, made at a point of time."""
    return Job(asker, parse(b'{"netd": 1, "command": "reload", "id": 5}'), asked)


def test_who_waits_too_long_for_its_turn_is_told_for_what() -> None:
    """Rather than being left to wonder; the one that is under way goes on."""
    begun: list[Job] = []
    lane, first, second, third = Lane(begun.append), Asker(), Asker(), Asker()
    lane.put(job(first, 0.0))
    lane.put(job(second, 0.0))
    lane.put(job(third, 5.0))
    lane.give_up(9.0)
    assert first.replies == third.replies == []
    (reply,) = second.replies
    assert (reply["error"], reply["id"]) == ("busy", 5)
    assert reply["message"].startswith("busy for 8 s, now with this: reload (try again later)")
    lane.end(begun[0], OK)
    assert first.replies == [json.loads(OK)]
    assert [item.client for item in begun] == [first, third]


def test_a_client_that_has_gone_loses_its_turn() -> None:
    """Nothing is done for it."""
    begun: list[Job] = []
    lane, first, second = Lane(begun.append), Asker(), Asker()
    lane.put(job(first, 0.0))
    lane.put(job(second, 0.0))
    second.is_gone = True
    lane.end(begun[0], OK)
    lane.put(job(Asker(), 0.0))
    assert second not in [item.client for item in begun]
    assert len(begun) == 2


class Faulty(Operations):
    """A daemon with a fault."""

    def reload(self, dry_run: bool) -> dict[str, Any]:
        """Fails."""
        raise LookupError(dry_run)

    def check(self, _file: str | None) -> dict[str, Any]:
        """Returns what JSON does not have."""
        return {"services": float("nan")}


def test_a_fault_of_ours_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The socket goes on."""
    with served(Faulty()) as path, closing(Client(path)) as client:
        assert client.error("reload") == (
            "internal", "reload has failed by a fault of netd (its log tells more)",
        )  # fmt: skip
        assert client.error("check")[0] == "internal"
        assert client.data("list") == []
    faults = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.getMessage() for record in faults] == ["reload has failed", "check has failed"]
    assert all(record.exc_info for record in faults)


# -- beginning and end


def test_a_stale_socket_is_replaced() -> None:
    """One that nobody listens on any more; the lock tells that no netd does."""
    with run_netd(ECHO) as netd:
        netd.kill()
        assert path_of(netd).is_socket()
        with run_netd(ECHO, folder=netd.folder) as again, control(again) as client:
            assert client.data("status")["daemon"]["pid"] == again.pid


def test_a_second_netd_is_told_of_the_first() -> None:
    """And leaves it its socket."""
    with run_netd(ECHO) as netd:
        with run_netd(ECHO, folder=netd.folder, ready=False) as second:
            assert second.wait() == 75
        with control(netd) as client:
            assert client.data("status")["daemon"]["pid"] == netd.pid


def test_what_is_no_socket_is_left_alone() -> None:
    """A file in its place is no reason to remove it."""
    with run_netd(ECHO) as netd:
        netd.stop()
        path_of(netd).write_text("mine")
        with run_netd(ECHO, folder=netd.folder, ready=False) as again:
            assert again.wait() == 71
            again.wait_for_log("netd: control: cannot listen on unix:.*: what is at this path is")
        assert path_of(netd).read_text() == "mine"


def test_the_key_says_where_it_is() -> None:
    """In place of the variable and the default."""
    with new_folder() as folder:
        path = folder / "elsewhere" / "c.sock"
        with run_netd({**ECHO, "control": {"path": str(path)}}) as netd:
            with closing(Client(path)) as client:
                assert client.data("status")["daemon"]["pid"] == netd.pid
            assert netd.stop() == 0
        assert not path.exists()


def test_it_answers_while_netd_drains() -> None:
    """Sessions can still be looked at, and ended; then the client sees netd go."""
    with run_netd({**ECHO, "drain_timeout": "1h"}) as netd, control(netd) as client:
        session = netd.connect("echo")
        session.sendall(b"x")
        assert session.recv(1) == b"x"
        assert client.data("shutdown") == {"shutdown": "drain"}
        netd.wait_for_log("SIGTERM: draining")
        assert client.data("status")["daemon"]["state"] == "draining"
        assert client.data("shutdown") == {"shutdown": "drain"}
        (found,) = client.data("sessions")
        assert client.data("kill", ids=[found["id"]])["killed"] == [found["id"]]
        assert read_all(session) == b""
        assert client.read() == {}
        assert netd.wait() == 0


def test_whoever_has_ended_the_last_session_is_answered_before_netd_goes() -> None:
    """And whoever has asked meanwhile."""
    with run_netd({**ECHO, "drain_timeout": "1h"}) as netd, control(netd) as client:
        session = netd.connect("echo")
        session.sendall(b"x")
        assert session.recv(1) == b"x"
        client.data("shutdown")
        netd.wait_for_log("SIGTERM: draining")
        (found,) = client.data("sessions")
        client.socket.sendall(request("kill", ids=[found["id"]]) + 200 * request("status"))
        replies = [*iter(client.read, {})]
        assert replies[0]["data"]["killed"] == [found["id"]]
        assert [reply["ok"] for reply in replies] == [True] * 201
        assert netd.wait() == 0
