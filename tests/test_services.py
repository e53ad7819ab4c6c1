"""Services that are started, stopped, drained, enabled and disabled while netd runs."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from controls import control
from harness import Netd, new_folder, read_all, read_exactly, run_netd, wait_until, write_config

from netd.statefile import NAME


def service(*listen: str, **keys: Any) -> dict[str, Any]:
    """A service, by default on a port of its own."""
    return {"protocol": "echo", "listen": [*(listen or ("unix:it.sock",))], **keys}


def config(**services: dict[str, Any]) -> dict[str, Any]:
    """A configuration with these services."""
    return {"drain_timeout": "1s", "services": services}


def say(netd: Netd, name: str = "it") -> bytes:
    """What a new client is answered."""
    with netd.connect(name, "unix") as client:
        client.sendall(b"hello")
        return read_exactly(client, 5)


def states(netd: Netd) -> dict[str, str]:
    """The state of each service, as `netctl list` shows it."""
    with control(netd) as client:
        return {row["name"]: row["state"] for row in client.data("list")}


def tell(netd: Netd, command: str, *services: str) -> dict[str, str]:
    """What each service does after a command."""
    with control(netd) as client:
        found: dict[str, str] = client.data(command, services=[*services])["services"]
        return found


def is_gone(netd: Netd) -> bool:
    """Whether nobody listens at the service's socket."""
    return not (netd.runtime_folder / "it.sock").exists()


def kept(netd: Netd) -> Any:
    """What is kept over restarts; None if that is nothing."""
    file = netd.runtime_folder / NAME
    return json.loads(file.read_text()) if file.exists() else None


def test_a_service_is_stopped_with_its_sessions() -> None:
    """And comes back with its counters, on the same address."""
    with run_netd(config(it=service(), other=service("unix:other.sock"))) as netd:
        with netd.connect("it", "unix") as client:
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"
            assert tell(netd, "stop", "it") == {"it": "stopped"}
            assert read_all(client) == b""
        netd.wait_for_log("it: session .* reason=stopped")
        assert is_gone(netd)
        assert states(netd) == {"it": "stopped", "other": "serving"}
        assert say(netd, "other") == b"hello"
        assert tell(netd, "stop", "it") == {"it": "stopped"}
        assert tell(netd, "start", "it", "other") == {"it": "serving", "other": "serving"}
        assert say(netd) == b"hello"
        wait_until(lambda: netd.state()["it"]["ended"] == {"stopped": 1, "eof": 1})
        assert netd.state()["it"]["admitted"] == 2
        assert kept(netd) is None


def test_a_service_is_drained() -> None:
    """Its sessions go on; it can be started again beside them, and they count."""
    with run_netd(config(it=service(max_connections=1))) as netd:
        threads = len(os.listdir(f"/proc/{netd.pid}/task"))
        with netd.connect("it", "unix") as client:
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"
            assert tell(netd, "drain", "it") == {"it": "draining"}
            assert is_gone(netd)
            client.sendall(b"still")
            assert read_exactly(client, 5) == b"still"
            assert tell(netd, "start", "it") == {"it": "serving"}
            assert read_all(netd.connect("it", "unix")) == b""
            netd.wait_for_log("it: refused .* reason=service_limit")
        wait_until(lambda: netd.state()["it"]["open"] == 0)
        assert say(netd) == b"hello"
        wait_until(lambda: len(os.listdir(f"/proc/{netd.pid}/task")) == threads)


def test_who_waits_for_a_turn_does_not_keep_a_service_from_its_end() -> None:
    """Neither does who was turned away and has not gone."""
    rules = {
        "rate_per_source": {"rate": "1/s", "burst": 1, "action": "delay"},
        "max_connections": 4, "banner_fail": "{reason}",
    }  # fmt: skip
    with run_netd(config(it=service(**rules))) as netd, ExitStack() as closing:
        threads = len(os.listdir(f"/proc/{netd.pid}/task"))
        clients = [closing.enter_context(netd.connect("it", "unix")) for _ in range(5)]
        assert read_exactly(clients[4], 13) == b"service_limit"
        begin = monotonic()
        assert tell(netd, "stop", "it") == {"it": "stopped"}
        assert monotonic() - begin < 0.8  # the first turn of those who wait
        assert [read_all(client) for client in clients] == [b""] * 5
        wait_until(lambda: len(os.listdir(f"/proc/{netd.pid}/task")) == threads)


def test_a_service_that_drains_can_be_stopped() -> None:
    """Its last sessions end then, and it is told of as stopped."""
    with run_netd(config(it=service())) as netd, netd.connect("it", "unix") as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        assert tell(netd, "drain", "it") == {"it": "draining"}
        assert tell(netd, "stop", "it") == {"it": "stopped"}
        assert read_all(client) == b""
        netd.wait_for_log("it: session .* reason=stopped")


def test_nobody_is_let_in_by_a_service_that_drains() -> None:
    """And nobody is told so who asks."""
    with run_netd(config(it=service())) as netd, netd.connect("it", "unix") as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        tell(netd, "drain", "it")
        with control(netd) as asking:
            told = asking.error("explain", service="it", peer="127.0.0.1")
            assert told == ("refused", "it takes nobody in (`netctl start it` starts it)")


def test_what_sessions_have_moved_is_counted_beside_a_new_start() -> None:
    """A counter never falls while the sessions of a drained service go on."""
    limit = {"max_connections_per_source": 1}
    with run_netd(config(it=service(**limit))) as netd, netd.connect("it", "unix") as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        tell(netd, "drain", "it")
        assert netd.state()["it"]["bytes_in"] == 5
        tell(netd, "start", "it")
        assert netd.state()["it"]["bytes_in"] == 5
        write_config(netd.folder, config(it=service(banner_fail="{reason}", **limit)))
        with control(netd) as asking:
            asking.data("reload")
        assert read_all(netd.connect("it", "unix")) == b"per_source_limit"


def test_what_was_stopped_stays_so_over_a_reload() -> None:
    """A reload changes what the file changes, and nothing else."""
    with run_netd(config(it=service(), off=service("unix:off.sock", enabled=False))) as netd:
        tell(netd, "stop", "it")
        tell(netd, "start", "off")
        write_config(
            netd.folder,
            config(it=service(max_connections=7), off=service("unix:off.sock", enabled=False)),
        )
        with control(netd) as client:
            assert [*client.data("reload")["changed"]] == ["it"]
        assert states(netd) == {"off": "serving", "it": "stopped"}
        tell(netd, "start", "it")
        assert netd.state()["it"]["max_connections"] == 7


def test_what_was_disabled_stays_so_over_a_restart() -> None:
    """Until it is enabled; nothing is kept then."""
    with new_folder() as folder:
        found = config(it=service(), off=service("unix:off.sock", enabled=False))
        with run_netd(found, folder=folder) as netd:
            assert tell(netd, "disable", "it") == {"it": "disabled"}
            assert tell(netd, "enable", "off") == {"off": "serving"}
            assert tell(netd, "stop", "off") == {"off": "stopped"}
            assert kept(netd)["enabled"] == {"it": False, "off": True}
            assert netd.stop() == 0
        with run_netd(found, folder=folder) as netd:
            assert states(netd) == {"off": "serving", "it": "disabled"}
            assert tell(netd, "start", "it") == {"it": "serving"}
            assert tell(netd, "enable", "it") == {"it": "serving"}
            assert tell(netd, "disable", "off") == {"off": "disabled"}
            assert kept(netd) is None


def test_a_disabled_service_comes_back_disabled() -> None:
    """However long the configuration was without it."""
    other = service("unix:other.sock")
    with run_netd(config(it=service(), other=other)) as netd, control(netd) as client:
        tell(netd, "disable", "it")
        for services in ({"other": other}, {"it": service(), "other": other}):
            write_config(netd.folder, config(**services))
            client.data("reload")
        assert states(netd) == {"it": "disabled", "other": "serving"}
        assert kept(netd)["enabled"] == {"it": False}


def test_bans_are_kept_over_a_restart() -> None:
    """With their ends and notes; those that have ended are forgotten."""
    with new_folder() as folder:
        found = config(it=service("tcp://127.0.0.1:0", banner_fail="{reason}"))
        with run_netd(found, folder=folder) as netd, control(netd) as client:
            client.data("ban", source="127.0.0.1", why="a test")
            client.data("ban", source="10.0.0.0/8", **{"for": "1h"})
            client.data("ban", source="192.0.2.1", **{"for": "100ms"})
            before = [ban for ban in client.data("bans") if ban["network"] != "192.0.2.1/32"]
            assert (netd.runtime_folder / NAME).stat().st_mode & 0o777 == 0o600
            netd.kill()
        with run_netd(found, folder=folder) as netd, control(netd) as client:
            wait_until(lambda: client.data("bans") == before)
            assert read_all(netd.connect("it")) == b"banned"
            client.data("unban", sources=["127.0.0.1", "10.0.0.0/8"])
            assert kept(netd) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"bans": [{"network": "x"}]}', "\x00\xff", "111"])
def test_a_state_that_cannot_be_read_is_put_aside(text: str) -> None:
    """It is told, nothing is lost, and netd serves."""
    with new_folder() as folder, run_netd(config(it=service()), folder=folder) as netd:
        assert netd.stop() == 0
        (netd.runtime_folder / NAME).write_text(text)
        with run_netd(config(it=service()), folder=folder) as again:
            assert say(again) == b"hello"
            again.wait_for_log(f"{NAME} cannot be read, so it is {NAME}.broken now")
        assert (netd.runtime_folder / f"{NAME}.broken").read_text() == text


def test_a_state_that_cannot_be_written_is_told() -> None:
    """What was done is in force all the same."""
    with run_netd(config(it=service("tcp://127.0.0.1:0"))) as netd, control(netd) as client:
        Path(netd.runtime_folder, f".{NAME}.new").mkdir()
        client.data("ban", source="127.0.0.1")
        netd.wait_for_log(f"error +netd: .*{NAME} cannot be written: Is a directory")
        assert read_all(netd.connect("it")) == b""
        Path(netd.runtime_folder, f".{NAME}.new").rmdir()


def test_a_service_that_cannot_start_is_told() -> None:
    """With the address and why; the others go on."""
    with run_netd(config(it=service())) as netd, control(netd) as client:
        tell(netd, "stop", "it")
        (netd.runtime_folder / "it.sock").write_text("in the way")
        code, message = client.error("start", services=["it"])
        assert code == "refused"
        assert "it: cannot listen on unix:" in message
        assert "what is at this path is no socket (move it)" in message
        assert states(netd) == {"it": "stopped"}


def test_nothing_is_changed_any_more_at_the_end() -> None:
    """While the last sessions are drained."""
    with run_netd(config(it=service())) as netd, netd.connect("it", "unix") as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        with control(netd) as other:
            other.data("shutdown")
            netd.wait_for_log("draining")
            wait_until(lambda: other.error("start", services=["it"])[0] == "refused")
            code, message = other.error("reload")
            assert (code, message) == (
                "refused", "netd is about to end, and changes nothing any more",
            )  # fmt: skip
        assert netd.wait() == 0
