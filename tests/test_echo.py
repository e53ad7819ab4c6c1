"""echo, over each transport."""

from __future__ import annotations

import socket

import pytest
from harness import DATAGRAMS, STREAMS, TRANSPORTS, ask, read_exactly, serve
from hypothesis import given
from hypothesis import strategies as st

from netd.protocols.echo import EchoHandler

ALL_BYTES = bytes(range(256))
LARGEST_DATAGRAM = 65_507


@pytest.mark.parametrize("transport", STREAMS)
def test_each_chunk_comes_back_at_once(transport: str) -> None:
    """No line end and no end of the stream is waited for."""
    with serve(EchoHandler, transport) as served:
        client = served.connect()
        for chunk in [b"a", b"\0", b"line\r\n", b"\xc3", ALL_BYTES, ALL_BYTES * 40]:
            client.sendall(chunk)
            assert read_exactly(client, len(chunk)) == chunk


@pytest.mark.parametrize("transport", STREAMS)
def test_a_half_closed_client_gets_all_back(transport: str) -> None:
    """What was sent before the end of the client's side comes back after it."""
    with serve(EchoHandler, transport) as served:
        assert ask(served.connect(), ALL_BYTES * 20_000) == ALL_BYTES * 20_000
        assert ask(served.connect(), b"") == b""


@pytest.mark.parametrize("transport", DATAGRAMS)
@pytest.mark.parametrize("size", [0, 1, 64, 65, 1472, 1473, LARGEST_DATAGRAM])
def test_each_datagram_comes_back(transport: str, size: int) -> None:
    """Whole and alone, from the empty one to the largest that IPv4 can carry."""
    datagram = (ALL_BYTES * 256)[:size]
    with serve(EchoHandler, transport) as served:
        client = served.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * LARGEST_DATAGRAM)
        client.send(datagram)
        assert client.recv(65_536) == datagram


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_any_bytes_come_back(transport: str) -> None:
    """Whatever bytes they are, the same come back."""
    with serve(EchoHandler, transport) as served:
        client = served.connect()

        @given(st.binary(min_size=1, max_size=2000))
        def check(data: bytes) -> None:
            client.sendall(data)
            assert read_exactly(client, len(data)) == data

        check()
