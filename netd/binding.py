"""From the addresses of a configuration to listeners that are bound, and why some could not be."""

from __future__ import annotations

import errno
import os
import pwd
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from netd import catalog, listener
from netd.address import Address
from netd.config import ServiceStanza
from netd.errors import StartError
from netd.listener import SocketOptions
from netd.pool import Pool
from netd.server import Server, TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer
from netd.service import Service
from netd.succession import Place, Succession, inherited_place, place_of, unshare

# Exit statuses, after sysexits.h.
CANNOT_BIND, PERMISSION = 71, 77
_SERVERS: dict[tuple[bool, bool], type[Server]] = {
    (True, True): UnixStreamServer,
    (True, False): UnixDatagramServer,
    (False, True): TCPServer,
    (False, False): UDPServer,
}
Listen = Callable[[int, int, Any], Server]
"""Makes a bound server, from a family, a type and a socket address."""
Make = Callable[[int, Any, SocketOptions], Server]
"""Makes a server that is not bound yet, from a family and a socket address."""

_DENIED = (errno.EACCES, errno.EPERM)
# Not there: the address on this machine, or the whole family in its kernel.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_OF_IPV6 = ("::", "::1")
_FIRST_FREE_PORT = 1024
_PRIVILEGED = (
    "ports below 1024 need CAP_NET_BIND_SERVICE: in netd.service set"
    " AmbientCapabilities=CAP_NET_BIND_SERVICE, or let systemd bind them (listen: [fd:NAME]"
    " and a .socket unit), or choose a port from 1024 on; a netd that root has started binds them"
    " then, and no later: restart it"
)


@dataclass(frozen=True)
class Failure:
    """An address that could not be bound."""

    service: str
    address: Address
    error: OSError

    def __str__(self) -> str:
        why = listener.explain(self.error)
        if self.address.scheme.startswith("unix") and self.error.errno in _DENIED:
            folder = os.path.dirname(self.address.host)
            why = f"{why} (let this user write to {folder}, or move the socket)"
        return f"{self.service}: cannot listen on {self.address}: {why}"

    @property
    def lacks_ipv6(self) -> bool:
        """Whether it would be there on every machine that has IPv6."""
        return self.address.host in _OF_IPV6 and self.error.errno in _ABSENT

    @property
    def is_privileged(self) -> bool:
        """Whether a privilege is wanting for the port."""
        return self.error.errno in _DENIED and 0 < self.address.port < _FIRST_FREE_PORT


class Binder:
    """Binds addresses one after the other, and remembers those that it could not."""

    def __init__(
        self,
        pool: Pool,
        inherited: dict[str, list[socket.socket]],
        owner: tuple[str, str] | None = None,
        succession: Succession | None = None,
    ) -> None:
        """`inherited` are the sockets from systemd by name; `owner` is the user and group that
        UNIX sockets are given to, in place of those of this process; `succession` has the servers
        that are to go."""
        self._pool = pool
        self._inherited = inherited
        self._claimed: dict[str, str] = {}
        self._owner = owner
        self._succession = succession or Succession()
        self._failures: list[Failure] = []
        self.left_out: list[Failure] = []
        """IPv6 addresses of services that have others, where the machine has no IPv6 at all."""

    @property
    def unclaimed(self) -> list[str]:
        """The names of the sockets from systemd that no service listens on."""
        return sorted(self._inherited.keys() - self._claimed)

    def bind(self, stanza: ServiceStanza, service: Service) -> list[Server]:
        """The listeners of a service, as far as they could be bound. They take clients in, who
        wait until they are served."""
        servers: list[Server] = []
        failures: list[Failure] = []
        for address in stanza.listen:
            try:
                if address.scheme == "fd":
                    servers += self._take_over(address.host, stanza, service)
                else:
                    servers += self._open(address, partial(self._find, address, stanza, service))
            except OSError as error:
                failures.append(Failure(service.name, address, error))
        for failure in failures:
            known = self.left_out if servers and failure.lacks_ipv6 else self._failures
            known.append(failure)
        return servers

    def check(self) -> None:
        """Raises StartError, with a line for each address, if any could not be bound."""
        if not self._failures:
            return
        lines = [str(failure) for failure in self._failures]
        privileged = any(failure.is_privileged for failure in self._failures)
        if privileged:
            lines.append(_PRIVILEGED)
        denied = all(failure.error.errno in _DENIED for failure in self._failures)
        raise StartError("\n".join(lines), PERMISSION if denied or privileged else CANNOT_BIND)

    def bind_other(
        self, name: str, address: Address, options: SocketOptions, make: Make
    ) -> list[Server]:
        """The listeners at an address of netd itself, made by `make`; none if it cannot be had."""
        owned = self._owned(options)
        try:
            return self._open(address, lambda *place: _bound(make(place[0], place[2], owned)))
        except OSError as error:
            self._failures.append(Failure(name, address, error))
        return []

    # -- sockets of our own

    def _open(self, address: Address, listen: Listen) -> list[Server]:
        """A name may stand for several addresses. One of them that this machine does not have,
        such as ::1 where IPv6 is switched off, is left out as long as there is another."""
        servers: list[Server] = []
        absent = None
        try:
            for family, kind, sockaddr in dict.fromkeys(listener.resolve(address)):
                try:
                    servers.append(listen(family, kind, sockaddr))
                except OSError as error:
                    if error.errno not in _ABSENT:
                        raise
                    absent = error
            if absent is not None and not servers:
                raise absent
        except OSError:
            for server in servers:
                server.server_close()
            raise
        return servers

    def _find(
        self, address: Address, stanza: ServiceStanza, service: Service,
        family: int, kind: int, sockaddr: Any,
    ) -> Server:  # fmt: skip
        """A server at a place that is new, or that another leaves."""
        place = place_of(family, kind, sockaddr, stanza, service.name)
        if (old := self._succession.find(place)) is not None:
            return self._succeed(old, stanza, service)
        try:
            server = self._listen(stanza, service, family, kind, sockaddr)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self._succession.make_way(address):
                raise
            shared = stanza.model_copy(update={"reuse_port": True})
            server = self._listen(shared, service, family, kind, sockaddr)
            server.socket_options = self._owned(stanza)
            unshare(server)
        server.place = place
        return server

    def _listen(
        self, stanza: ServiceStanza, service: Service, family: int, kind: int, sockaddr: Any
    ) -> Server:
        make = _SERVERS[family == socket.AF_UNIX, kind == socket.SOCK_STREAM]
        server = make(
            sockaddr, stanza.handler_class, False,
            service=service, options=self._owned(stanza), pool=self._pool,
        )  # fmt: skip
        _bound(server)
        if self._owner is not None and os.geteuid() == 0:
            # Two sockets of one port are one user's (SO_REUSEPORT): see `Succession.make_way`.
            os.fchown(server.fileno(), pwd.getpwnam(self._owner[0]).pw_uid, -1)
        return server

    def _succeed(self, old: Server, stanza: ServiceStanza, service: Service) -> Server:
        server = self._serve(old.socket.dup(), stanza, service)
        try:
            self._succession.take_over(old, server)
        except OSError:
            server.server_close()
            raise
        return server

    def _owned(self, options: SocketOptions) -> SocketOptions:
        """The socket options, with the owner that netd is about to become."""
        if self._owner is None:
            return options
        user, group = self._owner
        return options.model_copy(
            update={
                "socket_user": options.socket_user or user,
                "socket_group": options.socket_group or group,
            }
        )

    # -- sockets of systemd

    def _take_over(self, name: str, stanza: ServiceStanza, service: Service) -> list[Server]:
        if name in self._claimed:
            raise OSError(errno.EEXIST, f"the service {self._claimed[name]} listens on it")
        sockets = self._inherited.get(name)
        if sockets is None:
            raise OSError(
                errno.ENOENT,
                f"systemd has passed no socket of that name (set FileDescriptorName={name} in a"
                " .socket unit for netd.service, and start that)",
            )
        self._claimed[name] = service.name
        for sock in sockets:
            _check_kind(sock, stanza)
        return [
            self._inherit(sock, inherited_place(name, index), stanza, service)
            for index, sock in enumerate(sockets)
        ]

    def _inherit(
        self, sock: socket.socket, place: Place, stanza: ServiceStanza, service: Service
    ) -> Server:
        """A server on a duplicate: a service that comes later may listen on the socket again."""
        if (old := self._succession.find(place)) is not None:
            return self._succeed(old, stanza, service)
        server = self._serve(sock.dup(), stanza, service)
        server.server_activate()
        server.place = place
        return server

    def _serve(self, sock: socket.socket, stanza: ServiceStanza, service: Service) -> Server:
        make = _SERVERS[sock.family == socket.AF_UNIX, sock.type == socket.SOCK_STREAM]
        return make(
            sock.getsockname(), stanza.handler_class, False,
            service=service, options=self._owned(stanza), pool=self._pool, bound=sock,
        )  # fmt: skip


def _bound(server: Server) -> Server:
    """The server, bound and listening. Raises OSError, and it is closed."""
    try:
        server.server_bind()
        # With SO_REUSEADDR two processes can bind a port, and the second to listen is refused.
        server.server_activate()
    except OSError:
        server.server_close()
        raise
    return server


def _check_kind(sock: socket.socket, stanza: ServiceStanza) -> None:
    """Raises OSError for a socket that the service cannot be offered on."""
    kinds = {socket.SOCK_STREAM: "stream", socket.SOCK_DGRAM: "datagram"}
    kind = kinds.get(sock.type)
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or kind is None:
        raise OSError(
            errno.EPROTOTYPE,
            "it is not a TCP, UDP or UNIX socket (in the .socket unit keep to ListenStream= and"
            " ListenDatagram=)",
        )
    if kind not in catalog.transports_of(stanza.handler_class):
        wanted = "ListenStream=" if kind == "datagram" else "ListenDatagram="
        raise OSError(
            errno.EPROTOTYPE,
            f"{stanza.protocol or stanza.handler} does not serve {kind}s (in the .socket unit"
            f" write {wanted})",
        )
    if kind == "datagram" and stanza.guards:
        raise OSError(
            errno.EPROTOTYPE,
            f"{' and '.join(stanza.guards)} cannot hold for datagrams (in the .socket unit write"
            " ListenStream=, or give them a service without)",
        )
    if kind == "stream" and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(errno.EINVAL, "it is not listening (in the .socket unit set Accept=no)")
