"""Where the status page may be served, and what is wrong with the places where it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st
from pages import blocks
from written import faults, loaded

from netd import config, dump
from netd.status.stanza import is_loopback, parse_place
from netd.status.stanza import written as as_written

PAGE = CHECKOUT / "docs" / "monitoring.md"
PORT_OF_IT = 9464
GOOD = ["127.0.0.1:9464", "[::1]:9464", "localhost:0", "unix:/run/netd/status.sock"]
BAD = [
    ("9464", "not an IPv4 address"),
    ("127.0.0.1", "no port"),
    ("::1:9464", "brackets"),
    ("udp://127.0.0.1:9464", "not served there"),
    ("fd:status", "not served there"),
    ("unix-dgram:x", "not served there"),
    ("127.0.0.1:99999", "out of range"),
    ("unix:@abstract", "abstract"),
]


@pytest.mark.parametrize("text", GOOD)
def test_a_place_is_read_and_written(text: str) -> None:
    """As it was; and with a scheme too, as listeners of services are written."""
    assert as_written(parse_place(text)) == text
    if not text.startswith("unix"):
        assert parse_place(f"tcp://{text}") == parse_place(text)


@pytest.mark.parametrize(("text", "why"), BAD)
def test_what_is_no_place_is_told(text: str, why: str) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match=why):
        parse_place(text)


@given(st.one_of(st.text(), st.from_regex(r"[a-z.:\[\]0-9/-]{0,30}"), st.integers()))
def test_anything_is_a_place_or_a_value_error(text: object) -> None:
    """And what is a place is the same when it is written and read again."""
    try:
        address = parse_place(text)
    except ValueError:
        return
    assert parse_place(as_written(address)) == address


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    """Except in the built-in configuration, which shows everything."""
    assert loaded(tmp_path, "services: {}").status.listen is None
    built_in = config.load(config.BUILT_IN_FILE).status.listen
    assert built_in is not None
    assert (built_in.host, built_in.port) == ("127.0.0.1", PORT_OF_IT)


def test_a_relative_socket_lies_beside_the_control_socket(tmp_path: Path) -> None:
    """And the whole configuration can be dumped and read again."""
    text = "control: {path: /run/x/control.sock}\nstatus: {listen: 'unix:status.sock'}\n"
    found = loaded(tmp_path, text)
    assert str(found.status.listen) == "unix:/run/x/status.sock"
    assert loaded(tmp_path, dump.to_yaml(found)).status == found.status


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "host.example", "[2001:db8::1]"])
def test_an_address_that_others_reach_has_to_be_meant(tmp_path: Path, host: str) -> None:
    """Without allow_remote it is an error that says so, at its place; with it, it is served."""
    (fault,) = faults(tmp_path, f"status:\n  listen: '{host}:9464'\n")
    assert fault.startswith("netd.yaml:2:11: ")
    assert "allow_remote: true" in fault
    text = f"status: {{listen: '{host}:9464', allow_remote: true}}"
    assert loaded(tmp_path, text).status.allow_remote


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_is_this_machine(host: str) -> None:
    """In all its forms."""
    assert is_loopback(host)


def test_a_service_cannot_have_the_same_address(tmp_path: Path) -> None:
    """Both places are named."""
    (fault,) = faults(
        tmp_path,
        "status: {listen: '127.0.0.1:9000'}\n"
        "services:\n  upper: {protocol: upper, listen: ['tcp://0.0.0.0:9000']}\n",
    )
    assert "tcp://0.0.0.0:9000 collides with tcp://127.0.0.1:9000 (see ~/netd.yaml:1:18)" in fault


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("listen: 'unix:control.sock'", "the control socket lies there"),
        (f"listen: 'unix:{'x' * 105}'", "at most 107 bytes"),
        ("socket_group: no-such-group", "no group 'no-such-group'"),
        ("hosts: ['a b']", "hosts"),
        ("port: 9464", "unknown key 'port'"),
    ],
)
def test_other_faults_are_told_too(tmp_path: Path, line: str, why: str) -> None:
    """Of the path, of the names, of the keys."""
    text = f"control: {{path: /run/x/control.sock}}\nstatus:\n  {line}\n"
    assert any(why in fault for fault in faults(tmp_path, text))


@pytest.mark.parametrize("example", [b.text for b in blocks(PAGE) if b.language == "yaml"])
def test_the_examples_in_the_documentation_are_valid(tmp_path: Path, example: str) -> None:
    """As they stand on the page."""
    assert loaded(tmp_path, example).status.listen is not None
