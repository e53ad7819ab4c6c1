"""Clients that show who they are, for tests on real sockets."""

from __future__ import annotations

import socket
from typing import Literal

from harness import read_exactly

from netd import frames
from netd.challenge import SIZE, answer
from netd.scram import Client


def by_hmac(
    sock: socket.socket, key: bytes, digest: Literal["md5", "sha256"] = "sha256", more: bytes = b""
) -> None:
    """Answers the challenge as the tutorials' clients do, with `more` at once behind the answer."""
    sock.sendall(answer(read_exactly(sock, SIZE), key, digest) + more)


def read_reply(sock: socket.socket) -> frames.Header:
    """A frame without a body."""
    length = read_exactly(sock, 4)
    return frames.decode(
        length + read_exactly(sock, int.from_bytes(length, "little")), body_limit=0
    )[0]


def by_scram(
    sock: socket.socket, user: str, key: bytes, binding: bytes | None = None, more: bytes = b""
) -> frames.Header:
    """Answers the challenge by SCRAM, with `more` at once behind the last message; the server's
    last one. Raises Unauthenticated when it does not let us in, or cannot show that it may."""
    read_exactly(sock, SIZE)
    client = Client(user, key, binding)
    sock.sendall(client.hello())
    sock.sendall(client.final(read_reply(sock)) + more)
    reply = read_reply(sock)
    client.check(reply)
    return reply
