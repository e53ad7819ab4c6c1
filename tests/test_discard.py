"""discard, over each transport."""

from __future__ import annotations

import pytest
from harness import DATAGRAMS, STREAMS, ask, serve, wait_until

from netd.protocols.discard import DiscardHandler


@pytest.mark.parametrize("transport", STREAMS)
def test_a_stream_is_read_and_never_answered(transport: str) -> None:
    """All of it is taken, and nothing comes back before the end, nor at it."""
    with serve(DiscardHandler, transport) as served:
        assert ask(served.connect(), b"anything\r\n" * 100_000) == b""
        counters = served.service.counters
        wait_until(lambda: counters.ended["eof"] == 1)
        assert (counters.bytes_in, counters.bytes_out) == (1_000_000, 0)


@pytest.mark.parametrize("transport", DATAGRAMS)
def test_datagrams_are_read_and_never_answered(transport: str) -> None:
    """Neither an empty datagram nor a large one: an answer would be there once all are read."""
    datagrams = [b"", b"x", b"anything\r\n", b"x" * 9000]
    with serve(DiscardHandler, transport) as served:
        client = served.connect()
        for datagram in datagrams:
            client.send(datagram)
        counters = served.service.counters
        wait_until(lambda: counters.datagrams_in == len(datagrams))
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        assert counters.bytes_in == sum(map(len, datagrams))
        assert (counters.datagrams_out, dict(counters.datagrams_dropped)) == (0, {})
