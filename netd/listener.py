"""Listening sockets: how they are bound, and what the kernel is asked for."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo wants it, and perhaps after a change of user
import errno
import grp
import os
import pwd
import socket
import stat
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from netd.address import Address
from netd.stanza import Mode, Size, Stanza

_Buffer = Annotated[Size, Field(le=2**30)]


class SocketOptions(Stanza):
    """How the kernel treats the sockets of a service."""

    backlog: Annotated[int, Field(ge=1, le=65_535)] = 4096
    """Connections that may wait to be accepted (at most net.core.somaxconn)."""
    reuse_port: bool = False
    """SO_REUSEPORT: several processes share the port, and the kernel spreads the load."""
    no_delay: bool = True
    """TCP_NODELAY: small answers leave at once."""
    keep_alive: bool = True
    """TCP keep-alive: a peer that is gone is noticed within two minutes."""
    receive_buffer: _Buffer | None = None
    """SO_RCVBUF; null: the kernel's own choice, 4 MiB for UDP."""
    send_buffer: _Buffer | None = None
    """SO_SNDBUF; null: the kernel's own choice."""
    ipv6_only: bool = True
    """IPV6_V6ONLY: `[::]` serves IPv6 alone, so that `0.0.0.0` can be listened on beside it."""
    free_bind: bool = False
    """IP_FREEBIND: bind an address that this machine does not have yet."""
    bind_to_device: Annotated[str, Field(max_length=15)] | None = None
    """SO_BINDTODEVICE: the network interface to listen on."""
    socket_mode: Mode = 0o660
    """Permission bits of a UNIX socket: who may connect."""
    socket_user: str | None = None
    """Owner of a UNIX socket; null: the user that netd runs as."""
    socket_group: str | None = None
    """Group of a UNIX socket; null: the group that netd runs as."""


# A burst of datagrams waits here while the serving thread is busy; the kernel's default of
# 208 KiB holds some 300 of them.
_UDP_RECEIVE_BUFFER = 4 * 2**20
# A peer that is gone is noticed after 60 s of silence and 4 probes 15 s apart; one that does not
# acknowledge what was sent to it, after as long.
_KEEP_ALIVE = {
    "TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 120_000,  # milliseconds
}  # fmt: skip


class Listening(socket.socket):
    """A listening socket whose `accept` costs half of what that of `socket.socket` does: family and
    type do not become members of enumerations, and since Linux hands no time-out on to what is
    accepted, there is none to be taken off again."""

    __slots__ = ()
    family = socket.SocketType.family  # type: ignore[assignment]
    type = socket.SocketType.type  # type: ignore[assignment]

    def accept(self) -> tuple[socket.socket, Any]:
        """(socket, address) of the next client."""
        fd, address = self._accept()  # type: ignore[attr-defined]
        return socket.socket(self.family, self.type, self.proto, fd), address


def resolve(address: Address) -> list[tuple[int, int, Any]]:
    """(family, type, sockaddr) for each address that a name stands for. Raises OSError."""
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    if address.scheme in ("unix", "unix-dgram"):
        return [(socket.AF_UNIX, kind, address.host)]
    found = socket.getaddrinfo(address.host, address.port, 0, kind, 0, socket.AI_PASSIVE)
    # A host may stand twice in /etc/hosts.
    return list(dict.fromkeys((family, type_, name) for family, type_, _, _, name in found))


def bind(sock: socket.socket, sockaddr: Any, options: SocketOptions) -> None:
    """Sets the options and binds. Raises OSError."""
    set_options(sock, options)
    if sock.family == socket.AF_UNIX:
        _bind_unix(sock, sockaddr, options)
        return
    if sock.type == socket.SOCK_STREAM:
        # A restart must not wait for the last connections' TIME_WAIT to pass. On UDP the same
        # option would let another process take the datagrams.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, options.ipv6_only)
    if options.reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if options.free_bind:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    if options.bind_to_device:
        device = options.bind_to_device.encode()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
    sock.bind(sockaddr)


def set_options(sock: socket.socket, options: SocketOptions) -> None:
    """Sets what may be set at any time, also on a socket that somebody else has bound. Linux hands
    all of it on to the sockets that are accepted, at no cost per connection."""
    size = options.receive_buffer
    if size is None and sock.type == socket.SOCK_DGRAM and sock.family != socket.AF_UNIX:
        size = _UDP_RECEIVE_BUFFER
    if size is not None:
        _set_receive_buffer(sock, size)
    if options.send_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.send_buffer)
    if sock.type == socket.SOCK_STREAM and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, options.no_delay)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, options.keep_alive)
        for name, value in _KEEP_ALIVE.items() if options.keep_alive else ():
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


_IP_FREEBIND = 15  # ip(7); the socket module does not name it
_SO_RCVBUFFORCE = 33  # socket(7)


def _set_receive_buffer(sock: socket.socket, size: int) -> None:
    """With CAP_NET_ADMIN beyond net.core.rmem_max, without it up to that."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _bind_unix(sock: socket.socket, path: str, options: SocketOptions) -> None:
    _owner(options)  # before anything is made
    _remove_stale(path, sock.type)
    # The file is made with the bits of the socket's own inode, less the umask (unix_bind in the
    # kernel): nobody else has it open before it has the right owner.
    os.fchmod(sock.fileno(), options.socket_mode & 0o600)
    sock.bind(path)
    try:
        set_owner_and_mode(path, options)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise


def set_owner_and_mode(path: str, options: SocketOptions) -> None:
    """Says who may connect to a UNIX socket. Raises OSError."""
    os.chown(path, *_owner(options), follow_symlinks=False)
    os.chmod(path, options.socket_mode)


def _owner(options: SocketOptions) -> tuple[int, int]:
    """User and group id for a socket file; -1 for what stays as it is."""
    user, group = options.socket_user, options.socket_group
    try:
        uid = pwd.getpwnam(user).pw_uid if user is not None else -1
        gid = grp.getgrnam(group).gr_gid if group is not None else -1
    except KeyError as error:
        raise OSError(errno.EINVAL, f"{error.args[0]} (see socket_user, socket_group)") from None
    return uid, gid


def _remove_stale(path: str, type_: int) -> None:
    """Removes the socket file of a process that is gone. One in use, or anything that is no
    socket, stays, and makes bind fail."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "what is at this path is no socket (move it)")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, type_) as probe:
        probe.setblocking(False)  # a full backlog is a sign of life too
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            Path(path).unlink(missing_ok=True)


def name_of(sock: socket.socket) -> Address:
    """The address that a socket is really bound to, as an administrator writes it."""
    stream = sock.type == socket.SOCK_STREAM
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address("unix" if stream else "unix-dgram", os.fsdecode(name))
    # A link-local address is one only with its interface.
    host = f"{name[0]}%{socket.if_indextoname(name[3])}" if any(name[3:]) else name[0]
    return Address("tcp" if stream else "udp", host, name[1])


_REASONS = {
    errno.EADDRINUSE: "the address is in use (`ss -lnp` shows by whom)",
    errno.EADDRNOTAVAIL: "this machine has no such address (see `ip addr`, or set free_bind)",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "not permitted"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "the folder does not exist (create it)"),
    errno.EMFILE: "no descriptors are left (raise LimitNOFILE in netd.service, or ulimit -n)",
}


def explain(error: OSError) -> str:
    """Why a socket could not be bound, in a word or two and with the remedy."""
    if error.errno is None or error.strerror != os.strerror(error.errno):
        return error.strerror or str(error)  # it was raised here, or by getaddrinfo
    return _REASONS.get(error.errno, error.strerror)
