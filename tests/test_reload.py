"""Reload: a new configuration while clients come and go."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import certificates
import pytest
from harness import (
    AS_ROOT,
    PATIENCE,
    Netd,
    free_port,
    new_folder,
    read_all,
    read_exactly,
    run_netd,
    wait_until,
    write_config,
)


def service(*listen: str, protocol: str = "echo", **keys: Any) -> dict[str, Any]:
    """A service, by default on a port of its own."""
    return {"protocol": protocol, "listen": [*(listen or ("tcp://127.0.0.1:0",))], **keys}


def config(**services: dict[str, Any]) -> dict[str, Any]:
    """A configuration with these services."""
    return {"drain_timeout": "1s", "services": services}


def hang_up(netd: Netd, changed: dict[str, Any] | str | None = None) -> list[str]:
    """The lines that a reload has in the log, once it is over."""
    since = len(netd.log)
    if changed is not None:
        write_config(netd.folder, changed)
    netd.send_signal(signal.SIGHUP)
    netd.wait_for_log(r"netd: (reloaded in|not reloaded: all)", since)
    return netd.log[since:]


def summary(lines: list[str]) -> str:
    """What a reload has changed, in its own words."""
    (line,) = [line for line in lines if "reloaded in" in line]
    return line.partition("services: ")[2]


def say(sock: socket.socket, data: bytes) -> bytes:
    """The answer to some bytes, of as many."""
    sock.sendall(data)
    return read_exactly(sock, len(data))


def port_of(netd: Netd, name: str, scheme: str = "tcp") -> int:
    """The port of a service."""
    return next(a.port for a in netd.addresses[name] if a.scheme == scheme)


def inode(port: int) -> str:
    """The inode of the socket that listens on a port of IPv4."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    (found,) = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    return found


def connected(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A client of a port."""
    return socket.create_connection((host, port), PATIENCE)


def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


# -- what is changed


def test_a_service_whose_stanza_is_the_same_is_not_touched() -> None:
    """Neither its socket nor its sessions, whatever happens to the others."""
    same = service("tcp://127.0.0.1:0", "unix:same.sock")
    with run_netd(config(same=same, other=service())) as netd, netd.connect("same") as client:
        before = inode(port_of(netd, "same")), (netd.runtime_folder / "same.sock").stat().st_ino
        descriptors = len(os.listdir(f"/proc/{netd.pid}/fd"))
        assert summary(hang_up(netd)) == "2 unchanged"
        lines = hang_up(netd, config(same=same, other=service(protocol="upper")))
        assert summary(lines) == "1 changed, 1 unchanged"
        assert say(client, b"still here") == b"still here"
        assert before == (
            inode(port_of(netd, "same")),
            (netd.runtime_folder / "same.sock").stat().st_ino,
        )
        with netd.connect("other") as other:
            other.sendall(b"loud")
            assert read_exactly(other, 4) == b"LOUD"
        wait_until(lambda: len(os.listdir(f"/proc/{netd.pid}/fd")) == descriptors)


@pytest.mark.parametrize("scheme", ["tcp", "udp", "unix", "unix-dgram"])
def test_a_changed_service_keeps_its_socket(scheme: str) -> None:
    """The kernel's own object, with whoever waits in it; a file stays where it was."""
    address = f"{scheme}://127.0.0.1:0" if "unix" not in scheme else f"{scheme}:it.sock"
    with run_netd(config(it=service(address))) as netd, ExitStack() as closing:

        def ask() -> bytes:
            client = closing.enter_context(netd.connect("it", scheme))
            if scheme == "unix-dgram":
                client.bind("")  # a name of its own, which the answer is sent to
            client.send(b"hello")
            return client.recv(5)

        file = netd.runtime_folder / "it.sock"
        assert ask() == b"hello"
        before = file.stat() if file.exists() else None
        changed = service(address, protocol="upper", socket_mode="0600")
        assert summary(hang_up(netd, config(it=changed))) == "1 changed"
        assert ask() == b"HELLO"
        if before is not None:
            after = file.stat()
            assert after.st_ino == before.st_ino
            assert after.st_mode & 0o777 == 0o600
        assert not any("listening" in line for line in netd.log[-2:])
        assert netd.stop() == 0
        assert not file.exists()


def test_who_waits_to_be_accepted_is_served_under_the_new_rules() -> None:
    """A service that is full holds clients back, and a larger one takes them in."""
    full = service(max_connections=1, over_limit="queue")
    with run_netd(config(it=full)) as netd, ExitStack() as closing:
        first, second = (closing.enter_context(netd.connect("it")) for _ in range(2))
        assert say(first, b"one") == b"one"
        second.sendall(b"two")
        second.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.recv(3)
        hang_up(netd, config(it=full | {"max_connections": 2}))
        second.settimeout(PATIENCE)
        assert read_exactly(second, 3) == b"two"
        assert say(first, b"one") == b"one"


def test_an_address_can_become_the_wildcard() -> None:
    """Two sockets of one port, for a moment; nobody else can bind it afterwards."""
    port = free_port()
    narrow, wide = service(f"tcp://127.0.0.1:{port}", f"udp://127.0.0.1:{port}"), f"0.0.0.0:{port}"
    with run_netd(config(it=narrow)) as netd, connected(port) as old:
        assert say(old, b"old") == b"old"
        lines = hang_up(netd, config(it=service(f"tcp://{wide}", f"udp://{wide}")))
        assert summary(lines) == "1 changed"
        for host in ("127.0.0.1", "127.0.0.2"):
            with connected(port, host) as client:
                assert say(client, b"new") == b"new"
        with socket.socket() as rival:
            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                rival.bind(("0.0.0.0", port))
        assert summary(hang_up(netd, config(it=narrow))) == "1 changed"
        assert say(old, b"old") == b"old"
        with connected(port) as client:
            assert say(client, b"new") == b"new"


def test_a_service_can_be_renamed() -> None:
    """The socket goes to the service that has the address now."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with run_netd(config(old=service(address))) as netd, connected(port) as client:
        assert say(client, b"hello") == b"hello"
        before = inode(port)
        lines = hang_up(netd, config(new=service(address, protocol="upper")))
        assert summary(lines) == "1 added, 1 removed"
        assert inode(port) == before
        with connected(port) as other:
            other.sendall(b"loud")
            assert read_exactly(other, 4) == b"LOUD"
        assert read_all(client) == b""
        netd.wait_for_log(r"old: session .* reason=reload")


def test_services_come_and_go() -> None:
    """The sessions of one that goes may go on for `drain_timeout`."""
    with run_netd(config(here=service(), gone=service())) as netd:
        threads = len(os.listdir(f"/proc/{netd.pid}/task"))
        port = port_of(netd, "gone")
        with netd.connect("gone") as client:
            assert say(client, b"hello") == b"hello"
            lines = hang_up(netd, config(here=service(), new=service(), other=service()))
            assert summary(lines) == "2 added, 1 removed, 1 unchanged"
            assert refuses(port)
            assert say(client, b"still here") == b"still here"
            assert netd.state()["gone"]["open"] == 1
            assert read_all(client) == b""
        netd.wait_for_log("gone: session .* reason=reload")
        for name in ("here", "new", "other"):
            with netd.connect(name) as client:
                assert say(client, b"hello") == b"hello"
        assert summary(hang_up(netd, config(here=service(), gone=service()))) == (
            "1 added, 2 removed, 1 unchanged"
        )
        wait_until(lambda: len(os.listdir(f"/proc/{netd.pid}/task")) == threads)


def test_counters_go_on() -> None:
    """A reload is no restart."""
    with run_netd(config(it=service())) as netd:
        for _ in range(3):
            with netd.connect("it") as client:
                assert say(client, b"hello") == b"hello"
        hang_up(netd, config(it=service(max_connections=5)))
        with netd.connect("it") as client:
            assert say(client, b"hello") == b"hello"
        wait_until(lambda: netd.state()["it"]["ended"] == {"eof": 4})
        found = netd.state()["it"]
        assert (found["admitted"], found["bytes_in"], found["open"]) == (4, 20, 0)
        assert found["max_connections"] == 5


def test_open_sessions_count_under_new_limits() -> None:
    """Those that are in stay in, and take their places."""
    with run_netd(config(it=service())) as netd, ExitStack() as closing:
        clients = [closing.enter_context(netd.connect("it")) for _ in range(3)]
        assert [say(client, b"in") for client in clients] == [b"in"] * 3
        fail = {"banner_fail": "{reason}"}
        hang_up(netd, config(it=service(max_connections=3, **fail)))
        assert read_all(netd.connect("it")) == b"service_limit"
        hang_up(netd, config(it=service(max_connections_per_source=3, **fail)))
        assert read_all(netd.connect("it")) == b"per_source_limit"
        closing.close()
        wait_until(lambda: netd.state()["it"]["open"] == 0)
        with netd.connect("it") as client:
            assert say(client, b"in") == b"in"


def test_the_log_and_the_limits_of_the_daemon_change_too() -> None:
    """Keys outside the services are obeyed, or it is told that they are not."""
    first = config(it=service())
    with run_netd(first) as netd:
        changed = first | {"max_connections": 17, "max_threads": 9, "log": {"format": "json"}}
        write_config(netd.folder, changed)
        netd.send_signal(signal.SIGHUP)
        netd.wait_for_log('^{"time":.*"message":"reloaded in')
        write_config(netd.folder, first)
        netd.send_signal(signal.SIGHUP)
        netd.wait_for_log("info    netd: reloaded in")
        assert netd.state()["netd"]["max_threads"] == 512
        write_config(netd.folder, changed | {"log": {"format": "text"}})
        netd.send_signal(signal.SIGHUP)
        wait_until(lambda: netd.state()["netd"]["max_threads"] == 9)
        assert netd.state()["netd"]["max_connections"] == 17


def test_a_key_that_needs_a_restart_is_named() -> None:
    """Each time until there was one; it changes nothing now."""
    with run_netd(config(it=service())) as netd:
        for _ in range(2):
            lines = hang_up(netd, config(it=service()) | {"group": "daemon"})
            assert any("restart netd for what has changed in group" in line for line in lines)
        assert not any("restart" in line for line in hang_up(netd, config(it=service())))


def test_new_rules_hold_for_all_that_a_listener_does() -> None:
    """Whether those who are too many wait is a rule like any other."""
    full = {"max_connections": 1, "banner_fail": "{reason}"}
    with run_netd(config(it=service(**full))) as netd, netd.connect("it") as client:
        assert say(client, b"in") == b"in"
        hang_up(netd, config(it=service(over_limit="queue", **full)))
        with netd.connect("it") as waiting, netd.connect("it") as last:
            waiting.sendall(b"queued")
            last.sendall(b"later")
            assert netd.state()["it"]["refused"] == {}
            client.close()
            assert read_exactly(waiting, 6) == b"queued"
            hang_up(netd, config(it=service(**full)))
            assert read_exactly(last, 13) == b"service_limit"


@pytest.mark.parametrize("spoil", ["removed", "replaced"])
def test_a_socket_whose_file_is_gone_is_bound_anew(spoil: str) -> None:
    """Somebody has cleaned up too much, or left a file of their own: it can be reached again."""
    with run_netd(config(it=service("unix:it.sock"))) as netd, netd.connect("it", "unix") as client:
        assert say(client, b"hello") == b"hello"
        file = netd.runtime_folder / "it.sock"
        file.unlink()
        if spoil == "replaced":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(file))
            file.chmod(0o777)
        assert summary(hang_up(netd, config(it=service("unix:it.sock", backlog=7)))) == "1 changed"
        with netd.connect("it", "unix") as other:
            assert say(other, b"hello") == b"hello"
        assert say(client, b"still") == b"still"
        assert netd.stop() == 0
        assert not file.exists()


@pytest.mark.skipif(not AS_ROOT, reason="only root can change its user")
def test_relative_sockets_stay_where_they_are_for_another_user() -> None:
    """Where the control socket lies depends on the user; netd has become another one since."""
    script = 'mount -t tmpfs none /run && exec "$@"'  # so that /run/netd is its own
    prefix = ["unshare", "--mount", "sh", "-c", script, "-"]
    begin = service("unix:it.sock")
    with run_netd(config(it=begin), prefix=prefix, env={"NETD_CONTROL": ""}) as netd:
        assert str(netd.addresses["it"][0]) == "unix:/run/netd/it.sock"
        assert summary(hang_up(netd, config(it=begin | {"backlog": 7}))) == "1 changed"
        assert summary(hang_up(netd, config(it=begin | {"backlog": 7}))) == "1 unchanged"


# -- what becomes of the sessions


def test_sessions_go_on_as_they_began() -> None:
    """`keep`: with the protocol and the deadlines that they know."""
    with run_netd(config(it=service())) as netd, netd.connect("it") as client:
        assert say(client, b"hello") == b"hello"
        hang_up(
            netd, config(it=service(protocol="upper", idle_timeout="500ms", no_access=["::/0"]))
        )
        with netd.connect("it") as other:
            other.sendall(b"loud")
            assert read_exactly(other, 4) == b"LOUD"
            assert read_all(other) == b""
        assert say(client, b"hello") == b"hello"


def test_sessions_that_would_not_be_let_in_end() -> None:
    """`recheck`: and only those."""
    begin = service("tcp://127.0.0.1:0", "unix:it.sock")
    with run_netd(config(it=begin)) as netd, netd.connect("it") as out:
        stays = netd.connect("it", "unix")
        assert (say(out, b"hello"), say(stays, b"hello")) == (b"hello", b"hello")
        hang_up(netd, config(it=begin | {"no_access": ["127.0.0.0/8"], "on_reload": "recheck"}))
        assert read_all(out) == b""
        netd.wait_for_log("it: session .* reason=address")
        assert say(stays, b"hello") == b"hello"


def test_sessions_are_drained() -> None:
    """`drain`: they have `drain_timeout`, and then end."""
    with run_netd(config(it=service())) as netd, netd.connect("it") as client:
        assert say(client, b"hello") == b"hello"
        hang_up(netd, config(it=service(on_reload="drain")))
        assert say(client, b"hello") == b"hello"
        assert read_all(client) == b""
        netd.wait_for_log("it: session .* reason=reload")
        with netd.connect("it") as other:
            assert say(other, b"hello") == b"hello"


def test_new_certificates_are_shown_though_the_file_says_the_same() -> None:
    """Sessions go on under the old one; a pair that does not match changes nothing."""
    trusting = ssl.create_default_context(cafile=certificates.root().certificate)

    def put(folder: Path, certificate: certificates.Pair, key: certificates.Pair) -> None:
        (folder / "it.pem").write_bytes(certificate.certificate.read_bytes())
        (folder / "it.key").write_bytes(key.key.read_bytes())
        (folder / "it.key").chmod(0o600)
        if AS_ROOT:
            os.chown(folder / "it.key", 65534, 65534)  # whom netd becomes

    def shown(sock: ssl.SSLSocket) -> str:
        subject: Any = (sock.getpeercert() or {})["subject"]
        found: str = dict(part[0] for part in subject)["commonName"]
        return found

    def secured(netd: Netd) -> ssl.SSLSocket:
        return trusting.wrap_socket(netd.connect("it"), server_hostname="localhost")

    first, second = certificates.make("server"), certificates.make("newer")
    secret = config(it=service(tls={"certificate": "it.pem", "key": "it.key"}))
    with new_folder() as folder:
        put(folder, first, first)
        with run_netd(secret, folder=folder) as netd, secured(netd) as client:
            assert (say(client, b"hello"), shown(client)) == (b"hello", "server")
            put(folder, second, second)
            assert summary(hang_up(netd)) == "1 unchanged"
            with secured(netd) as other:
                assert (say(other, b"hello"), shown(other)) == (b"hello", "newer")
            put(folder, first, second)
            lines = hang_up(netd)
            assert any(re.search(r"not reloaded: .*netd.yaml:\d+:\d+: .*it.key", x) for x in lines)
            with secured(netd) as other:
                assert shown(other) == "newer"
            assert say(client, b"still") == b"still"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_drain_is_over_when_the_next_reload_keeps_sessions(at_once: bool) -> None:
    """Those who came after it are kept, as the rules then are, whether it still goes on or not."""
    with run_netd(config(it=service())) as netd, netd.connect("it") as former:
        assert say(former, b"hello") == b"hello"
        hang_up(netd, config(it=service(on_reload="drain")))
        if not at_once:
            assert read_all(former) == b""
        with netd.connect("it") as client:
            assert say(client, b"hello") == b"hello"
            hang_up(netd, config(it=service(on_reload="keep", idle_timeout="500ms")))
            assert read_all(former) == b""
            # Its end comes at a time at which an end of the other one would have come too.
            assert read_all(netd.connect("it")) == b""
            assert say(client, b"hello") == b"hello"


# -- what fails


Break = Callable[[Path], object]


def _fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


FAULTS: dict[str, tuple[Break, str]] = {
    "in mid-edit": (lambda f: f.write_text("services: {it: {prot"), r"netd.yaml:1:\d+: "),
    "empty": (lambda f: f.write_text(""), "netd.yaml"),
    "unknown key": (
        lambda f: f.write_text("services:\n  it:\n    protocol: echo\n    lisen: [x]\n"),
        r"netd.yaml:4:5: .*did you mean listen\?",
    ),
    "gone": (Path.unlink, "netd.yaml:1:1: .*No such file"),
    "a FIFO": (_fifo, "netd.yaml"),
    "a folder": (_folder, "netd.yaml"),
    "a log file that cannot be": (
        lambda f: f.write_text(f.read_text() + "log: {file: /nowhere/at/all.log}\n"),
        "/nowhere/at/all.log",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_all_goes_on_as_before(name: str) -> None:
    """Each fault is told, with its place; the listeners, their modes and sessions are as before."""
    spoil, told = FAULTS[name]
    first = config(it=service("tcp://127.0.0.1:0", "unix:it.sock"))
    with run_netd(first) as netd, netd.connect("it") as client:
        assert say(client, b"hello") == b"hello"
        before = inode(port_of(netd, "it"))
        spoil(netd.folder / "netd.yaml")
        since = len(netd.log)
        hang_up(netd)
        netd.wait_for_log(f"error   netd: not reloaded: .*{told}", since)
        assert inode(port_of(netd, "it")) == before
        assert say(client, b"hello") == b"hello"
        with netd.connect("it", "unix") as other:
            assert say(other, b"hello") == b"hello"


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_service_does_not_end_because_its_file_is_being_written(text: str) -> None:
    """An editor has emptied it, and not filled it yet; only a comment in it is meant."""
    with run_netd(config(it=service())) as netd:
        included = config() | {"include": ["more.yaml"]}
        file = netd.folder / "more.yaml"
        file.write_text("services: {other: {protocol: echo, listen: [unix:other.sock]}}")
        assert summary(hang_up(netd, included)) == "1 added, 1 removed"
        file.write_text(text)
        lines = hang_up(netd)
        assert any(re.search(r"netd.yaml:\d+:\d+: .*more.yaml is empty", line) for line in lines)
        with netd.connect("other", "unix") as client:
            assert say(client, b"hello") == b"hello"
        file.write_text("# none for now")
        assert summary(hang_up(netd)) == "1 removed"


@contextmanager
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as rival:
        yield int(rival.getsockname()[1])


def test_a_port_that_is_taken_changes_nothing() -> None:
    """Not even what could have been changed: neither rules nor modes, nor is anything removed."""
    begin = service("tcp://127.0.0.1:0", "unix:it.sock", socket_mode="0600")
    with taken_port() as port, run_netd(config(it=begin, gone=service())) as netd:
        descriptors = len(os.listdir(f"/proc/{netd.pid}/fd"))
        changed = begin | {"socket_mode": "0666", "protocol": "upper"}
        lines = hang_up(
            netd, config(it=changed, new=service(f"tcp://127.0.0.1:{port}"), more=service())
        )
        assert any(
            f"not reloaded: new: cannot listen on tcp://127.0.0.1:{port}: the address is in use"
            in line
            for line in lines
        )
        assert (netd.runtime_folder / "it.sock").stat().st_mode & 0o777 == 0o600
        for name in ("it", "gone"):
            with netd.connect(name) as client:
                assert say(client, b"hello") == b"hello"
        wait_until(lambda: len(os.listdir(f"/proc/{netd.pid}/fd")) == descriptors)
        assert netd.state()["netd"]["configuration"]["failed_reloads"] == 1
        lines = hang_up(netd, config(it=changed))
        assert summary(lines) == "1 changed, 1 removed"
        assert netd.state("it")["netd"]["configuration"]["error"] == ""


@pytest.mark.skipif(not AS_ROOT, reason="only root can change its user")
def test_a_socket_that_cannot_be_given_away_changes_nothing() -> None:
    """Root could have done it, whom netd is no more; the mode is what it was."""
    begin = service("unix:it.sock", socket_mode="0600")
    with run_netd(config(it=begin)) as netd:
        changed = begin | {"socket_mode": "0666", "socket_group": "daemon"}
        lines = hang_up(netd, config(it=changed))
        assert any("this user may not give the socket to another one" in line for line in lines)
        assert (netd.runtime_folder / "it.sock").stat().st_mode & 0o777 == 0o600


# -- many of them


def test_a_thousand_hangups_end_in_one_state() -> None:
    """However many reloads they become, the last one reads what was written last."""
    with run_netd(config(it=service())) as netd:
        threads = len(os.listdir(f"/proc/{netd.pid}/task"))
        for number in range(1000):
            if number % 100 == 0:
                write_config(netd.folder, config(it=service(max_connections=number + 1)))
            netd.send_signal(signal.SIGHUP)
        write_config(netd.folder, config(it=service(protocol="upper", max_connections=5000)))
        netd.send_signal(signal.SIGHUP)
        wait_until(lambda: netd.state()["it"]["max_connections"] == 5000, 2 * PATIENCE)
        with netd.connect("it") as client:
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"HELLO"
        wait_until(lambda: len(os.listdir(f"/proc/{netd.pid}/task")) == threads)
        assert not [line for line in netd.log if " error " in line or "Traceback" in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_during_a_reload_is_an_end(number: signal.Signals) -> None:
    """Nothing is left behind, whichever comes first."""
    with run_netd(config(it=service("unix:it.sock"))) as netd:
        write_config(netd.folder, config(new=service("unix:new.sock"), more=service()))
        netd.send_signal(signal.SIGHUP)
        netd.send_signal(number)
        assert netd.wait() == 0
        assert os.listdir(netd.runtime_folder) == []
