"""Listening sockets that go from one server to the next, so that no client is refused between.

A server that is asked to listen where one that is to go listens already gets a duplicate of its
descriptor: the socket, with all who wait to be accepted, is the same.
"""

from __future__ import annotations

import errno
import socket
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from netd import listener
from netd.address import Address
from netd.listener import SocketOptions
from netd.server import Server

Place = tuple[Any, ...]
"""Where, and how, a server was asked to listen: what cannot be changed once a socket is bound."""


def place_of(family: int, kind: int, sockaddr: Any, options: SocketOptions, owner: str) -> Place:
    """The place of a socket that netd binds for a service of the name `owner`."""
    if family == socket.AF_UNIX:
        return family, kind, sockaddr
    # Whoever asks for any free port asks for one of its own.
    whose = "" if sockaddr[1] else owner
    how = options.bind_to_device, options.ipv6_only, options.free_bind, options.reuse_port
    return family, kind, sockaddr, whose, *how


def inherited_place(name: str, index: int) -> Place:
    """The place of a socket that systemd has bound."""
    return "fd", name, index


class Succession:
    """The servers that are to go, and those that take their sockets over. Nothing has happened to
    the former until `Intake.hand_over`; after `undo` nothing ever does."""

    def __init__(self, leaving: Iterable[Server] = ()) -> None:
        self._leaving: defaultdict[Place, list[Server]] = defaultdict(list)
        for server in leaving:
            if server.fileno() >= 0:
                self._leaving[server.place].append(server)
        self.successors: dict[Server, Server] = {}
        """The server that has the socket of another."""
        self._sharing: list[Server] = []

    def find(self, place: Place) -> Server | None:
        """A server whose place becomes free; from now on it is taken."""
        found = self._leaving.get(place)
        # Without its file a UNIX socket cannot be reached: another one has to be bound.
        return found.pop(0) if found and found[0].has_its_file else None

    def take_over(self, old: Server, new: Server) -> None:
        """Has a server that was made with a duplicate of another's socket take its place.
        Raises OSError."""
        path = _path_of(old)
        if path is not None:
            _give(path, new.socket_options)
        new.server_activate()
        new.place = old.place
        self.successors[old] = new

    def make_way(self, address: Address) -> bool:
        """Lets another socket be bound to an address that those which are to go are in the way of,
        such as 0.0.0.0 beside 127.0.0.1; whether there are any."""
        found = [server for server in self._all() if _is_in_the_way(server, address)]
        for server in found:
            server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._sharing += found
        return bool(found)

    def undo(self) -> None:
        """The servers that were to go stay, as they were."""
        for old in self.successors:
            if (path := _path_of(old)) is not None:
                with suppress(OSError):  # then it could not be changed either
                    listener.set_owner_and_mode(path, old.socket_options)
            listener.set_options(old.socket, old.socket_options)
            old.server_activate()
        for server in self._sharing:
            unshare(server)

    def _all(self) -> list[Server]:
        return [server for servers in self._leaving.values() for server in servers]


def _give(path: str, options: SocketOptions) -> None:
    try:
        listener.set_owner_and_mode(path, options)
    except PermissionError as error:
        what = "this user may not give the socket to another one"
        hint = "restart netd as root, or leave socket_user and socket_group as they are"
        raise OSError(errno.EINVAL, f"{what} ({hint})") from error


def unshare(server: Server) -> None:
    """Keeps other processes from binding the port too, unless that was asked for."""
    if not server.socket_options.reuse_port:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _path_of(server: Server) -> str | None:
    """The path of a UNIX socket that netd has bound."""
    if server.address_family != socket.AF_UNIX or server.place[0] == "fd":
        return None
    path: str = server.socket.getsockname()
    return path


def _is_in_the_way(server: Server, address: Address) -> bool:
    if address.scheme not in ("tcp", "udp") or server.address_family == socket.AF_UNIX:
        return False
    of_one_kind = (server.socket.type == socket.SOCK_STREAM) == address.is_stream
    port: int = server.socket.getsockname()[1]
    return of_one_kind and port == address.port
