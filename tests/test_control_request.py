"""Requests: what is read, and what is told to whoever sends something else."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.control.arguments import LONGEST
from netd.control.request import CommandError, Request, parse, refusal, reply
from netd.control.table import COMMANDS, Level
from netd.errors import ProtocolError
from netd.fields import DEEPEST

# Every kind of value that JSON has, of any shape.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*COMMANDS])


def asked(command: str, **arguments: Any) -> Request:
    """A request that is read."""
    given = {name.removesuffix("_"): value for name, value in arguments.items()}
    return parse(json.dumps({"netd": 1, "command": command, "arguments": given}).encode())


def fault(line: bytes | dict[str, Any]) -> CommandError:
    """Why a request is not done."""
    with pytest.raises(CommandError) as caught:
        parse(line if isinstance(line, bytes) else json.dumps(line).encode())
    return caught.value


# -- the line


def test_a_request_is_a_command_with_all_its_arguments() -> None:
    """Those that are not given have their defaults; null is not given."""
    request = parse(b'{"netd": 1, "command": "ban", "arguments": {"source": "::1", "why": null}}')
    assert request.command is COMMANDS["ban"]
    assert request.arguments == {
        "source": ip_network("::1"), "for": None, "why": None, "force": False,
    }  # fmt: skip
    assert request.id is None
    assert parse(b'{"netd": 1, "command": "list", "id": "a"}').id == "a"
    assert parse(b'{"netd": 1, "command": "list", "id": 7, "arguments": null}').id == 7


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"", "request: not JSON: "),
        (b"status", "request: not JSON: "),
        (b"GET / HTTP/1.1", "request: not JSON: "),
        (b"\x16\x03\x01\x02\x00\x01\xfc", "request: not UTF-8 at byte 6"),
        (b'"status"', "request: expected an object, not text of 6 bytes"),
        (b"[" * 60_000, f"request: objects and arrays more than {DEEPEST} deep"),
        (b'{"netd": 1, "netd": 1}', "netd: given twice"),
        (b'{"netd": NaN}', "netd: NaN is not a finite number"),
        (b'{"netd": 1' + b"0" * 100 + b"}", "netd: a number of 101 characters"),
        (b'{"command": "\\u0000"}', "command: holds NUL"),
        (b'{"command": "\\ud800"}', "command: holds a lone surrogate"),
    ],
)
def test_what_is_no_json_object_leaves_the_client_out_of_step(line: bytes, told: str) -> None:
    """It is told where it goes wrong."""
    with pytest.raises(ProtocolError) as caught:
        parse(line)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ({}, "usage", "netd: expected the version 1 of the control protocol, and it is missing"),
        ({"netd": 2}, "usage", "netd: expected the version 1 of the control protocol, and not 2"),
        ({"netd": True}, "usage", "netd: expected the version 1"),
        ({"netd": 1}, "usage", "command: expected text of"),
        ({"netd": 1, "command": 7}, "usage", "command: expected text of"),
        ({"netd": 1, "command": "statsu"}, "unknown-command",
         "there is no command 'statsu' (did you mean stats?)"),
        ({"netd": 1, "command": "\x1b[2J"}, "unknown-command", "there is no command '\\x1b[2J' ("),
        ({"netd": 1, "command": "top"}, "unknown-command", "top is done by netctl itself"),
        ({"netd": 1, "command": "list", "argument": {}}, "usage",
         "request: there is no key 'argument' (did you mean arguments?)"),
        ({"netd": 1, "command": "list", "arguments": []}, "usage",
         "arguments: expected an object, not an array"),
        ({"netd": 1, "command": "list", "arguments": {"x": 1}}, "usage",
         "list: there is no argument 'x' (it takes none)"),
        ({"netd": 1, "command": "status", "arguments": {"servic": 1}}, "usage",
         "status: there is no argument 'servic' (did you mean service?)"),
        ({"netd": 1, "command": "list", "id": [1]}, "usage", "id: expected a whole number, or"),
        ({"netd": 1, "command": "list", "id": "x" * 65}, "usage", "id: expected a whole number"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_told_what_to_write(
    line: dict[str, Any], code: str, told: str
) -> None:
    """The stream is in step, and the client may go on."""
    error = fault(line)
    assert error.code == code
    assert str(error).startswith(told)


def test_the_reply_repeats_the_id_though_the_request_is_wrong() -> None:
    """So that whoever sends many knows which it was."""
    error = fault({"netd": 1, "id": "mine", "command": "nonsense"})
    assert json.loads(refusal(error))["id"] == "mine"


# -- values


@pytest.mark.parametrize(
    ("command", "arguments", "name", "value"),
    [
        ("status", {"service": "upper"}, "service", "upper"),
        ("kill", {"ids": ["a-1", "a-2", "a-1"]}, "ids", ["a-1", "a-2"]),
        ("ban", {"source": "192.0.2.7"}, "source", ip_network("192.0.2.7/32")),
        ("ban", {"source": "::1", "for_": "1h30m"}, "for", 5400.0),
        ("ban", {"source": "::1", "for_": "none"}, "for", None),
        ("ban", {"source": "::1", "why": "no reason"}, "why", "no reason"),
        ("ban", {"source": "::1", "force": True}, "force", True),
        ("explain", {"service": "x", "peer": "192.0.2.1"}, "peer", "192.0.2.1"),
        ("explain", {"service": "x", "peer": "192.0.2.1:80"}, "peer", "192.0.2.1"),
        ("explain", {"service": "x", "peer": "2001:db8::1"}, "peer", "2001:db8::1"),
        ("explain", {"service": "x", "peer": "[2001:db8::1]:80"}, "peer", "2001:db8::1"),
        ("explain", {"service": "x", "peer": "::ffff:192.0.2.1"}, "peer", "192.0.2.1"),
        ("explain", {"service": "x", "peer": "uid=7"}, "peer", "uid=7"),
        ("explain", {"service": "x", "peer": "unix:uid=7,pid=1"}, "peer", "uid=7"),
        ("explain", {"service": "x", "peer": "::1", "at": "2026-11-20T08:30:00Z"}, "at",
         1795163400.0),
        ("log-level", {"level": "debug"}, "level", "debug"),
        ("check", {"file": "/etc/netd/x.yaml"}, "file", "/etc/netd/x.yaml"),
        ("reload", {}, "dry_run", False),
    ],
)  # fmt: skip
def test_a_value_is_read_by_its_kind(
    command: str, arguments: dict[str, Any], name: str, value: Any
) -> None:
    """From the text that a person types."""
    assert asked(command, **arguments).arguments[name] == value


def test_a_time_without_a_zone_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever types it means it."""
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    try:
        found = asked("explain", service="x", peer="::1", at="2026-11-20T09:30").arguments["at"]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == 1795163400.0


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("explain", {"service": "x"}, "explain: peer is missing (give an address, with :PORT"),
        ("kill", {}, "kill: ids is missing (give the id of a session"),
        ("kill", {"ids": []}, "kill: ids: expected a list, each the id of a session"),
        ("kill", {"ids": "a-1"}, "kill: ids: expected a list, each the id of a session"),
        ("kill", {"ids": [1]}, "kill: ids: expected the id of a session, as `sessions` shows it,"),
        ("status", {"service": True}, "status: service: expected the name of a service, not true"),
        ("status", {"service": ""}, "status: service: expected the name of a service, not ''"),
        ("status", {"service": "a\nb"}, "status: service: expected the name of a service, not 'a"),
        ("status", {"service": "x" * (LONGEST + 1)}, "status: service: expected the name of a"),
        ("ban", {"source": "192.0.2.7/24"},
         "ban: source: expected an address or a CIDR block, such as 192.0.2.0/24, not"
         " '192.0.2.7/24' (write 192.0.2.0/24, or 192.0.2.7)"),
        ("ban", {"source": "example.org"}, "ban: source: expected an address or a CIDR block"),
        ("ban", {"source": "::1", "for_": "90"}, "ban: for: expected a duration, such as 90s"),
        ("ban", {"source": "::1", "for_": 90}, "ban: for: expected a duration, such as 90s"),
        ("ban", {"source": "::1", "why": "a\x1b[2J"}, "ban: why: expected text, in one line, not"),
        ("ban", {"source": "::1", "force": 1}, "ban: force: expected true or false, not 1"),
        ("explain", {"service": "x", "peer": "host"}, "explain: peer: expected an address, with"),
        ("explain", {"service": "x", "peer": "1.2.3.4:x"}, "explain: peer: expected an address"),
        ("explain", {"service": "x", "peer": "::1", "at": "noon"}, "explain: at: expected a point"),
        ("explain", {"service": "x", "peer": "::1", "at": "0001-01-01T00:00+14:00"},
         "explain: at: expected a point of time"),
        ("log-level", {"level": "loud"}, "log-level: level: expected one of debug, info, warning,"),
        ("check", {"file": "netd.yaml"}, "check: file: expected the path of a file, from / on,"),
        ("check", {"file": "/" * 4097}, "check: file: expected the path of a file, from / on,"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_told_its_form(
    command: str, arguments: dict[str, Any], told: str
) -> None:
    """With the name of the command and of the argument, and nothing that a terminal obeys."""
    with pytest.raises(CommandError) as caught:
        asked(command, **arguments)
    assert caught.value.code == "usage"
    assert str(caught.value).startswith(told)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("command", "arguments", "typed"),
    [
        ("ban", {"source": "::1", "for_": "1h", "why": "it's me", "force": True},
         """ban ::1/128 --for 1h --why 'it'"'"'s me' --force"""),
        ("kill", {"ids": ["a-1", "a-2"]}, "kill a-1 a-2"),
        ("reload", {"dry_run": True}, "reload --dry-run"),
        ("shutdown", {}, "shutdown"),
    ],
)  # fmt: skip
def test_a_request_is_logged_as_it_would_be_typed(
    command: str, arguments: dict[str, Any], typed: str
) -> None:
    """In one line, whatever is in it."""
    assert str(asked(command, **arguments)) == typed


# -- the table


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_command_is_described(command: Any) -> None:
    """In sentences; and its options have no place among those that go by theirs."""
    assert command.summary.endswith(".")
    assert command.details == "" or command.details.endswith(".")
    names = [parameter.name for parameter in command.parameters]
    assert len(names) == len(set(names))
    placed = [parameter for parameter in command.parameters if not parameter.is_option]
    # What may be missing, or be many, is the last one.
    assert not any(p.many or not p.required for p in placed[:-1])
    for parameter in command.parameters:
        assert parameter.summary.endswith(".")
        assert bool(parameter.choices) == (parameter.kind == "choice")


def test_what_only_looks_is_open_to_everybody() -> None:
    """What alters something is not."""
    looking = {name for name, command in COMMANDS.items() if command.level == Level.USER}
    assert looking == {
        "status", "list", "sessions", "stats", "top", "explain", "bans", "completion",
    }  # fmt: skip


# -- anything


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(line: bytes) -> None:
    """By a fault that is told."""
    with suppress(ProtocolError, CommandError):
        parse(line)


@given(NAMES, st.dictionaries(st.sampled_from(
    ["service", "services", "ids", "source", "sources", "for", "why", "force", "peer", "at",
     "datagram", "dry_run", "level", "file", "now"]), JSON))  # fmt: skip
def test_any_arguments_are_read_or_refused(name: str, arguments: dict[str, Any]) -> None:
    """By a sentence that can be shown; and what is read can be logged."""
    line = json.dumps({"netd": 1, "command": name, "arguments": arguments})
    try:
        request = parse(line.encode())
    except ProtocolError:
        return
    except CommandError as error:
        told = json.loads(refusal(error))
    else:
        told = {"error": "", "message": str(request)}
    assert told["error"] in ("", "usage", "unknown-command")
    assert told["message"].isprintable()


@given(JSON)
def test_any_data_is_replied_in_one_line(data: Any) -> None:
    """Which reads back to the same."""
    line = reply(3, data)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"netd": 1, "ok": True, "id": 3, "data": data}


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    """Strict readers of JSON take none, even as an escape."""
    assert json.loads(reply(None, "a\udc80b"))["data"] == "a?b"
