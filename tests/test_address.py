"""Addresses to listen on, as they are written."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from netd.address import Address, ListenAddress, parse_address

FORMS = (
    "(write tcp://HOST:PORT, udp://HOST:PORT, tcp://[IPV6]:PORT, unix:PATH, unix-dgram:PATH,"
    " fd:NAME)"
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:9000", Address("tcp", "127.0.0.1", 9000)),
        ("udp://0.0.0.0:0", Address("udp", "0.0.0.0", 0)),
        ("tcp://[::1]:65535", Address("tcp", "::1", 65_535)),
        ("udp://[::]:7", Address("udp", "::", 7)),
        ("tcp://[fe80::1%eth0]:80", Address("tcp", "fe80::1%eth0", 80)),
        ("tcp://localhost:9000", Address("tcp", "localhost", 9000)),
        ("udp://a-b.example_1.org.:9000", Address("udp", "a-b.example_1.org.", 9000)),
        ("unix:/run/netd/upper.sock", Address("unix", "/run/netd/upper.sock")),
        ("unix:upper.sock", Address("unix", "upper.sock")),
        ("unix:/a b:c", Address("unix", "/a b:c")),
        ("unix-dgram:/run/log", Address("unix-dgram", "/run/log")),
        ("fd:upper", Address("fd", "upper")),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    """Each form says what it means, and is written as it was read."""
    assert parse_address(text) == address
    assert str(address) == text
    assert parse_address(address) is address
    assert address.is_stream == text.startswith(("tcp:", "unix:"))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("127.0.0.1:80", FORMS), ("80", FORMS), (80, FORMS), (None, FORMS), (True, FORMS),
        (["tcp://[::1]:1"], FORMS), ("", FORMS), ("TCP://[::1]:1", FORMS),
        ("tcp:127.0.0.1:80", FORMS), ("http://a:80", FORMS), ("tcp://a:80/", FORMS),
        ("tcp://[::1", FORMS), ("tcp://[::1]x:80", FORMS), (" tcp://a:80", FORMS),
        ("tcp://a:80\n", "is out of range"), ("unix:", FORMS), ("fd:", FORMS),
        ("fd:a b", FORMS), ("fd:a:b", FORMS), ("fd:\x1b", FORMS),
        ("tcp://:80", "no host (write 0.0.0.0 or [::] for every address of this machine)"),
        ("tcp://*:80", "no host (write 0.0.0.0 or [::] for every address of this machine)"),
        ("tcp://a", "no port (write it after a colon, like tcp://127.0.0.1:9000)"),
        ("tcp://a:", "no port (write it after a colon, like tcp://127.0.0.1:9000)"),
        ("tcp://[::1]", "no port (write it after a colon, like tcp://127.0.0.1:9000)"),
        ("tcp://a:65536", "port 65536 is out of range (0 to 65535; 0 picks a free one)"),
        ("tcp://a:-1", "port -1 is out of range (0 to 65535; 0 picks a free one)"),
        ("tcp://a:http", "port http is out of range (0 to 65535; 0 picks a free one)"),
        ("tcp://a:\u0661", "is out of range (0 to 65535; 0 picks a free one)"),
        ("tcp://::1:80", "an IPv6 address stands in brackets (like tcp://[::1]:9000)"),
        ("udp://2001:db8::1:80", "an IPv6 address stands in brackets (like tcp://[::1]:9000)"),
        ("tcp://[1.2.3.4]:80", "[1.2.3.4] is not an IPv6 address (write it like [::1])"),
        ("tcp://[::g]:80", "[::g] is not an IPv6 address (write it like [::1])"),
        ("tcp://[]:80", "[] is not an IPv6 address (write it like [::1])"),
        ("tcp://127.0.0.256:80", "127.0.0.256 is not an IPv4 address (write it like 127.0.0.1)"),
        ("tcp://127.1:80", "127.1 is not an IPv4 address (write it like 127.0.0.1)"),
        ("tcp://a..b:80", "'a..b' is not the name of a host (letters, digits, `-` and `.`)"),
        ("tcp://" + "a" * 64 + ":80", "is not the name of a host"),
        ("tcp://" + "a." * 127 + "a:80", "is not the name of a host"),
        ("tcp://m\u00fcller:80", "is not the name of a host"),
        ("tcp://a\0b:80", "is not the name of a host"),
        ("unix:@abstract", "abstract sockets have no permissions and are not offered"),
        ("unix: /run/a", "' /run/a' has blanks around it, or what cannot be shown (write a path)"),
        ("unix:/run/a\x1b[2J", "has blanks around it, or what cannot be shown (write a path)"),
        ("unix:/run/a\0", "has blanks around it, or what cannot be shown (write a path)"),
        ("unix:/\ud800", "has blanks around it, or what cannot be shown (write a path)"),
        ("unix:/" + "a" * 107, "the path has 108 bytes, and 107 may be (shorten it)"),
        ("unix-dgram:/" + "\u00e9" * 54, "the path has 109 bytes, and 107 may be (shorten it)"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_told_with_its_remedy(wrong: object, text: str) -> None:
    """The text says what is wrong, and how it is written."""
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_address(wrong)
    with pytest.raises(ValidationError, match=re.escape(text)):
        TypeAdapter(ListenAddress).validate_python(wrong)


@given(
    st.one_of(
        st.text(),
        st.integers() | st.none() | st.binary(),
        st.builds(
            "{}{}{}{}".format,
            st.sampled_from(["tcp://", "udp://", "unix:", "unix-dgram:", "fd:", "tcp:", ""]),
            st.text(max_size=20) | st.ip_addresses().map(str)
            | st.ip_addresses(v=6).map("[{}]".format)
            | st.from_regex(r"[a-z0-9.\[\]:%/@-]{0,20}"),
            st.sampled_from([":", ""]),
            st.integers(-5, 70_000) | st.text(max_size=4),
        ),
    )
)  # fmt: skip
@example("tcp://[fe80::1%\0]:80")
@example("tcp://[fe80::1%a b]:80")
def test_whatever_is_written_is_an_address_or_a_value_error(text: object) -> None:
    """Nothing that a configuration holds fails in another way, or later for its form."""
    try:
        address = parse_address(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - or it is none
        return
    assert parse_address(str(address)) == address
    schema = TypeAdapter(ListenAddress).json_schema()
    assert re.search(schema["pattern"], str(text))
    assert str(address).isprintable()
    address.host.encode("idna" if address.scheme in ("tcp", "udp") else "utf-8")


@given(st.sampled_from(["tcp", "udp"]), st.ip_addresses(), st.integers(0, 65_535))
def test_every_ip_address_survives_being_written(scheme: str, host: Any, port: int) -> None:
    """What a dump of the configuration shows can be used as a configuration."""
    address = Address(scheme, str(host), port)
    assert parse_address(str(address)) == address
    assert TypeAdapter(ListenAddress).dump_python(address, mode="json") == str(address)
