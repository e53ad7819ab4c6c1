"""The PROXY protocol: its headers, of whom they are believed, and what the rest of netd sees."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from harness import (
    STREAMS,
    read_all,
    read_exactly,
    serve,
    wait_until,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_prelude import HANDLERS, Echo, only_session, password

from netd.gate import Admission
from netd.proxy_protocol import LOOK, Announcement, Header, ProxyError, ProxyProtocol, parse

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21


def rules(*networks: str, **more: Any) -> ProxyProtocol:
    """The stanza, as the file has it."""
    return ProxyProtocol.model_validate({"from": list(networks), **more})


def v2(command: int, kind: int, addresses: bytes = b"", tlvs: bytes = b"") -> bytes:
    """A header of version 2."""
    rest = addresses + tlvs
    return SIGNATURE + struct.pack("!BBH", command, kind, len(rest)) + rest


def inet(source: str, port: int, target: str = "192.0.2.1", target_port: int = 443) -> bytes:
    """The addresses of a header of version 2, whose kind is 0x11 or 0x21."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    packed = socket.inet_pton(family, source), socket.inet_pton(family, target)
    return b"".join(packed) + struct.pack("!HH", port, target_port)


V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\r\n"
V1_SIX = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n"
V2 = v2(PROXY, 0x11, inet("198.51.100.7", 56324))
V2_SIX = v2(PROXY, 0x21, inet("2001:db8::7", 56324, "2001:db8::1"))
FOUR, SIX = ("198.51.100.7", 56324), ("2001:db8::7", 56324, 0, 0)
TLV = b"\x04" + struct.pack("!H", 300) + bytes(300)

GOOD = [
    (V1, 1, FOUR),
    (V1_SIX, 1, SIX),
    (b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", 1, ("255.255.255.255", 65535)),
    (b"PROXY UNKNOWN\r\n", 1, None),
    (b"PROXY UNKNOWN ffff::1 and whatever else\r\n", 1, None),
    (b"PROXY UNKNOWN " + bytes(91) + b"\r\n", 1, None),
    (V2, 2, FOUR),
    (V2_SIX, 2, SIX),
    (v2(PROXY, 0x12, inet("198.51.100.7", 56324)), 2, FOUR),
    (v2(PROXY, 0x11, inet("198.51.100.7", 56324), TLV), 2, FOUR),
    (v2(PROXY, 0x21, inet("2001:db8::7", 56324, "::1"), bytes(65_535 - 36)), 2, SIX),
    (v2(PROXY, 0x00), 2, None),
    (v2(PROXY, 0x00, tlvs=TLV), 2, None),
    (v2(PROXY, 0x31, bytes(216)), 2, None),
    (v2(PROXY, 0x32, b"/run/x".ljust(216, b"\0"), TLV), 2, None),
    (v2(LOCAL, 0x00), 2, None),
    (v2(LOCAL, 0x11, inet("198.51.100.7", 56324)), 2, None),
    (v2(LOCAL, 0xFF, b"abc"), 2, None),
]
"""(header, version, client)."""

BAD = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"PROXYTCP4 198.51.100.7 192.0.2.1 56324 443\r\n",
    b"proxy TCP4 198.51.100.7 192.0.2.1 56324 443\r\n",
    b"PROXY \r\n",
    b"PROXY TCP5 198.51.100.7 192.0.2.1 56324 443\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 56324\r\n",
    b"PROXY TCP4  198.51.100.7 192.0.2.1 56324 443\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443 \r\n",
    b"PROXY TCP4 198.51.100.07 192.0.2.1 56324 443\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 56324 443\r\n",
    b"PROXY TCP6 198.51.100.7 192.0.2.1 56324 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::1 56324 443\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 65536 443\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 056 443\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 -1 443\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 99999999999999999999 443\r\n",
    b"PROXY TCP4 198.51.100.7 \xff\xfe 56324 443\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\n" + b" " * 80,
    b"PROXY UNKNOWN " + bytes(92) + b"\r\n",
    v2(0x22, 0x11, inet("198.51.100.7", 1)),
    v2(0x11, 0x11, inet("198.51.100.7", 1)),
    v2(PROXY, 0x41, bytes(216)),
    v2(PROXY, 0x13, inet("198.51.100.7", 1)),
    v2(PROXY, 0x11, bytes(11)),
    v2(PROXY, 0x21, bytes(35)),
    v2(PROXY, 0x31, bytes(215)),
]


@pytest.mark.parametrize(("header", "version", "peer"), GOOD)
def test_a_header_says_whom_the_proxy_speaks_for(header: bytes, version: int, peer: Any) -> None:
    """Whole, with what follows it, and cut to what a decision takes."""
    expected = (version, Header(len(header), peer))
    for data in (header, header + b"\0hello", (header + V1)[:LOOK]):
        assert parse(data) == expected


@pytest.mark.parametrize(("header", "version", "peer"), GOOD)
def test_a_header_may_come_byte_by_byte(header: bytes, version: int, peer: Any) -> None:
    """There is no answer before it can be known, and then it is the same."""
    size = next(size for size in range(1, len(header) + 1) if parse(header[:size]) is not None)
    assert size <= LOOK
    assert parse(header[:size]) == (version, Header(len(header), peer))


@pytest.mark.parametrize("header", BAD)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    """Also when it comes byte by byte, and with something behind it."""
    for data in (header, header + b"\r\nmore"):
        with pytest.raises(ProxyError):
            parse(data)
    with pytest.raises(ProxyError):
        [parse(header[:size]) for size in range(len(header) + 1)]


@given(
    st.binary(max_size=400)
    | st.binary(max_size=300).map(SIGNATURE.__add__)
    | st.binary(max_size=120).map(b"PROXY ".__add__)
)
def test_any_bytes_have_one_meaning(data: bytes) -> None:
    """However many are seen at once, the outcome is the same, and LOOK bytes decide."""
    outcomes = []
    for seen in (data, data[:LOOK]):
        try:
            outcomes.append(parse(seen))
        except ProxyError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]
    for size in range(len(data)):
        try:
            found = parse(data[:size])
        except ProxyError:
            with pytest.raises(ProxyError):
                parse(data)
            return
        if found is not None:
            assert parse(data) == found
            return


@given(st.ip_addresses(), st.integers(0, 65_535), st.binary(max_size=500))
def test_what_is_written_is_read_back(address: Any, port: int, tlvs: bytes) -> None:
    """Both versions carry any address and any port."""
    kind, target = (0x11, "192.0.2.1") if address.version == 4 else (0x21, "2001:db8::1")
    line = f"PROXY TCP{address.version if address.version == 4 else 6}"
    v1 = f"{line} {address} {target} {port} 443\r\n".encode()
    binary = v2(PROXY, kind, inet(str(address), port, target), tlvs)
    for version, header in ((1, v1), (2, binary)):
        found = parse(header + tlvs)
        assert found is not None
        assert found[0] == version
        assert (found[1].size, found[1].peer[:2]) == (len(header), (str(address), port))


# -- on sockets


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("transport", STREAMS)
@pytest.mark.parametrize("header", [V1, V1_SIX, V2, V2_SIX], ids=["v1", "v1-6", "v2", "v2-6"])
def test_the_session_is_the_clients(handler: Any, transport: str, header: bytes) -> None:
    """The gate, the log and the handler see the client, whatever the proxy connects by."""
    stage = Announcement(rules("127.0.0.1", "::1"))
    with serve(handler, transport, announcement=stage) as served:
        client = served.connect()
        client.sendall(header + b"hello\n")
        assert read_exactly(client, 11) == b"None:hello\n"
        session = only_session(served)
        expected = SIX if b"TCP6" in header or header == V2_SIX else FOUR
        assert session.client_address == expected
        assert session.origin == expected[0]
        assert session.peer in ("198.51.100.7:56324", "[2001:db8::7]:56324")


@pytest.mark.parametrize("transport", STREAMS)
def test_whoever_is_on_the_way_is_named_by_the_header(transport: str) -> None:
    """One that never gets to its handler is logged as the client too, not as the proxy."""
    stage = Announcement(rules("127.0.0.1", "::1"))
    with serve(Echo, transport, announcement=stage, stages=(password,)) as served:
        client = served.connect()
        client.sendall(V1)
        assert read_exactly(client, 1) == b"?"
        assert only_session(served).peer == "198.51.100.7:56324"


def test_a_second_header_is_the_first_message() -> None:
    """Whoever sits behind the proxy cannot announce itself anew."""
    with serve(Echo, announcement=Announcement(rules("127.0.0.1"))) as served:
        client = served.connect()
        client.sendall(V1 + b"PROXY TCP4 203.0.113.1 192.0.2.1 1 1\r\n")
        assert read_exactly(client, 5 + 38) == b"None:PROXY TCP4 203.0.113.1 192.0.2.1 1 1\r\n"
        assert only_session(served).client_address == FOUR


@pytest.mark.parametrize(
    "header", [v2(LOCAL, 0), b"PROXY UNKNOWN\r\n", v2(PROXY, 0x31, bytes(216))]
)
def test_who_names_nobody_is_the_peer_itself(header: bytes) -> None:
    """LOCAL, UNKNOWN and UNIX addresses leave the real address in place."""
    with serve(Echo, announcement=Announcement(rules("127.0.0.1"))) as served:
        client = served.connect()
        client.sendall(header + b"x")
        assert read_exactly(client, 6) == b"None:x"
        assert only_session(served).client_address == client.getsockname()


def test_tlvs_of_64_kib_are_skipped_piece_by_piece() -> None:
    """However long a header is, the protocol begins right behind it."""
    header = v2(PROXY, 0x11, inet("198.51.100.7", 56324), bytes(65_535 - 12))
    with serve(Echo, announcement=Announcement(rules("127.0.0.1"))) as served:
        client = served.connect()
        client.sendall(header[:30_000])
        assert not only_session(served).admitted
        client.sendall(header[30_000:] + b"x")
        assert read_exactly(client, 6) == b"None:x"


def refused(served: Any) -> dict[str, int]:
    """Why clients were turned away, and how many; once there is one."""
    return dict(wait_until(lambda: served.service.gate.refused))


@pytest.mark.parametrize("sent", [b"", V1[:-1], V2[:-1], b"hello\n", bytes(200)])
def test_a_proxy_that_sends_no_whole_header_is_turned_away(sent: bytes) -> None:
    """Cut, absent or wrong: the reason is `proxy`, and nobody was admitted."""
    stage = Announcement(rules("127.0.0.1"))
    with serve(Echo, announcement=stage, banner_fail="{reason}\n") as served:
        client = served.connect()
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"proxy\n"
        assert refused(served) == {"proxy": 1}
        assert served.service.gate.admitted == 0


def test_a_stranger_is_turned_away_with_its_header() -> None:
    """Only the proxies that are named are believed, and only they may connect."""
    with serve(Echo, announcement=Announcement(rules("192.0.2.0/24"))) as served:
        client = served.connect()
        client.sendall(V1)
        try:
            assert read_all(client) == b""
        except ConnectionResetError:
            pass
        assert refused(served) == {"proxy": 1}


def test_a_version_that_is_not_wanted_is_turned_away() -> None:
    """`versions` says which headers are understood."""
    stage = Announcement(rules("127.0.0.1", versions=[2]))
    with serve(Echo, announcement=stage, banner_fail="{reason}\n") as served:
        client = served.connect()
        client.sendall(V1)
        assert read_all(client) == b"proxy\n"
        client = served.connect()
        client.sendall(V2 + b"x")
        assert read_exactly(client, 6) == b"None:x"


def test_limits_count_clients_and_not_the_proxy() -> None:
    """Two clients behind one proxy are two sources, for a list and for a limit."""
    limits = Admission(max_connections_per_source=1, no_access=["203.0.113.0/24"])
    stage = Announcement(rules("127.0.0.1"))
    with serve(Echo, announcement=stage, rules=limits, banner_fail="{reason}\n") as served:
        outcomes = []
        clients = [served.connect() for _ in range(4)]
        for client, host in zip(
            clients, ["198.51.100.1", "198.51.100.2", "198.51.100.1", "203.0.113.9"], strict=True
        ):
            client.sendall(f"PROXY TCP4 {host} 192.0.2.1 1 1\r\nx".encode())
            outcomes.append(client.recv(100)[:5])
        assert outcomes == [b"None:", b"None:", b"per_s", b"addre"]


def test_the_stanza_needs_to_know_the_proxies() -> None:
    """Nobody is trusted by default, and no version but two exists."""
    for wrong in ({}, {"from": []}, {"from": ["127.0.0.1"], "versions": [3]}, {"from_": ["::1"]}):
        with pytest.raises(ValidationError):
            ProxyProtocol.model_validate(wrong)
