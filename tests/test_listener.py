"""Listening sockets: bound, and as they were asked for."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from harness import PATIENCE
from pydantic import ValidationError

from netd import listener
from netd.address import UNIX_PATH_LIMIT, Address, parse_address
from netd.handler import RequestHandler
from netd.listener import Listening, SocketOptions, explain, name_of, resolve
from netd.server import TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer

INET = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM]
# Addresses of the documentation (RFC 5737, RFC 3849): no machine has them.
NOBODYS = [(socket.AF_INET, "203.0.113.77"), (socket.AF_INET6, "2001:db8::77")]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")


class Silent(RequestHandler):
    """Serves anything with nothing."""

    def data_received(self, data: bytes) -> None:
        """Takes it."""

    def datagram_received(self, data: bytes) -> None:
        """Takes it."""


def options(**keys: Any) -> SocketOptions:
    return SocketOptions.model_validate(keys)


@contextmanager
def bound(family: int, kind: int, sockaddr: Any, **keys: Any) -> Iterator[socket.socket]:
    """A socket bound as netd binds it."""
    with socket.socket(family, kind) as sock:
        sock.settimeout(PATIENCE)
        listener.bind(sock, sockaddr, options(**keys))
        yield sock


@contextmanager
def connected(server: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """(client, accepted) on a listening socket."""
    with ExitStack() as closing:
        client = closing.enter_context(socket.socket(server.family, server.type))
        client.settimeout(PATIENCE)
        client.connect(server.getsockname())
        yield client, closing.enter_context(server.accept()[0])


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def nobody() -> Iterator[None]:
    """Without the powers of root, for a while."""
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a short name: the path of a socket has 107 bytes."""
    with TemporaryDirectory(prefix="netd-") as name:
        yield Path(name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tcp://127.0.0.1:80", [(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 80))]),
        ("udp://[::1]:80", [(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", 80, 0, 0))]),
        ("unix:/a", [(socket.AF_UNIX, socket.SOCK_STREAM, "/a")]),
        ("unix-dgram:/a", [(socket.AF_UNIX, socket.SOCK_DGRAM, "/a")]),
    ],
)
def test_an_address_is_resolved(text: str, found: list[Any]) -> None:
    """To what a socket is made and bound with."""
    assert resolve(parse_address(text)) == found


def test_a_name_stands_for_each_of_its_addresses_once() -> None:
    """However often it stands in /etc/hosts."""
    found = resolve(parse_address("tcp://localhost:80"))
    assert (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 80)) in found
    assert len(found) == len(set(found))


def test_what_cannot_be_resolved_is_an_os_error() -> None:
    """Which says why in its own words."""
    with pytest.raises(OSError, match="not known") as caught:
        resolve(parse_address("tcp://[fe80::1%nosuchdevice]:80"))
    assert explain(caught.value) == "Name or service not known"


# -- IP sockets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "host"), INET)
def test_a_socket_is_bound_and_knows_its_address(family: int, host: str, kind: int) -> None:
    """Port 0 has become a real one."""
    with bound(family, kind, (host, 0)) as sock:
        address, scheme = name_of(sock), "tcp" if kind == socket.SOCK_STREAM else "udp"
        assert address == Address(scheme, host, sock.getsockname()[1])
        assert address.port > 0
        assert resolve(parse_address(str(address)))[0][2] == sock.getsockname()


@pytest.mark.parametrize(("family", "host"), INET)
def test_accepted_sockets_have_the_options_of_their_listener(family: int, host: str) -> None:
    """Without a call for each of them."""
    with bound(family, socket.SOCK_STREAM, (host, 0)) as sock:
        sock.listen()
        with connected(sock) as (_, accepted):
            tcp = socket.IPPROTO_TCP
            assert accepted.getsockopt(tcp, socket.TCP_NODELAY) == 1
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(tcp, socket.TCP_KEEPIDLE) == 60
            assert accepted.getsockopt(tcp, socket.TCP_KEEPINTVL) == 15
            assert accepted.getsockopt(tcp, socket.TCP_KEEPCNT) == 4
            assert accepted.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 120_000


@pytest.mark.parametrize(("family", "host"), INET)
def test_what_is_accepted_is_a_socket_like_any_other(family: int, host: str) -> None:
    """Though it is made at half the price."""
    with bound(family, socket.SOCK_STREAM, (host, 0)) as server:
        server.__class__ = Listening
        server.listen()
        with connected(server) as (_, accepted):
            assert type(accepted) is socket.socket
            assert (accepted.family, accepted.type) == (family, socket.SOCK_STREAM)
            assert isinstance(accepted.family, socket.AddressFamily)


def test_options_can_be_turned_off() -> None:
    """What is on by default."""
    off = {"no_delay": False, "keep_alive": False}
    with bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0), **off) as sock:
        sock.listen()
        with connected(sock) as (_, accepted):
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_options_are_set_on_a_socket_that_was_bound_by_another() -> None:
    """One that systemd has passed, or that a changed service takes over, obeys the keys too."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with TCPServer(sock.getsockname(), Silent, bound=sock.dup()) as server:
            found = server.socket
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        listener.set_options(sock, options(no_delay=False, keep_alive=False))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_are_as_large_as_asked_for(kind: int) -> None:
    """The kernel doubles the figure, for its own book-keeping (socket(7))."""
    sizes = {"receive_buffer": "64KiB", "send_buffer": 100_000}
    with bound(socket.AF_INET, kind, ("127.0.0.1", 0), **sizes) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 65_536
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 200_000


def test_a_burst_of_datagrams_finds_room() -> None:
    """4 MiB, or what the system grants to one without CAP_NET_ADMIN."""
    granted = int(Path("/proc/sys/net/core/rmem_max").read_text())
    with bound(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 2 * min(granted, 4 * 2**20)


@needs_root
def test_without_capabilities_a_buffer_is_what_the_system_grants() -> None:
    """The service starts all the same."""
    granted = int(Path("/proc/sys/net/core/rmem_max").read_text())
    with (
        nobody(),
        bound(
            socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0), receive_buffer=granted + 1000
        ) as sock,
    ):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * granted


@pytest.mark.parametrize("wrong", [-1, "2GiB", 2**31, "lots"])
def test_a_buffer_that_no_system_has_is_refused(wrong: object) -> None:
    """By the configuration, not by the kernel."""
    with pytest.raises(ValidationError, match="receive_buffer"):
        options(receive_buffer=wrong)


@pytest.mark.parametrize(("family", "host"), INET)
def test_a_port_that_is_listened_on_is_in_use(family: int, host: str) -> None:
    """For TCP, whose listeners are bound with SO_REUSEADDR."""
    with bound(family, socket.SOCK_STREAM, (host, 0)) as sock:
        sock.listen()
        with pytest.raises(OSError, match="in use") as caught:
            TCPServer(sock.getsockname(), Silent)
    assert caught.value.errno == errno.EADDRINUSE
    assert explain(caught.value) == "the address is in use (`ss -lnp` shows by whom)"


def test_a_port_in_time_wait_can_be_listened_on() -> None:
    """A restart need not wait for connections that are over."""
    with bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)) as sock:
        sock.listen()
        name = sock.getsockname()
        with connected(sock) as (client, accepted):
            accepted.shutdown(socket.SHUT_WR)  # who closes first waits
            assert client.recv(1) == b""
            client.close()
            assert accepted.recv(1) == b""
    with bound(socket.AF_INET, socket.SOCK_STREAM, name) as again:
        assert again.getsockname() == name


@pytest.mark.parametrize(("family", "host"), INET)
def test_a_udp_port_is_never_shared(family: int, host: str) -> None:
    """With SO_REUSEADDR the last to bind it would be sent all datagrams, and the first none."""
    with UDPServer((host, 0), Silent) as server:
        assert server.allow_reuse_address
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        with pytest.raises(OSError, match="in use") as caught:
            UDPServer(server.server_address, Silent)
        assert caught.value.errno == errno.EADDRINUSE
        with socket.socket(family, socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(server.server_address)


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_is_shared_when_asked_for(kind: int) -> None:
    """Among those that all ask for it."""
    share = {"reuse_port": True}
    with bound(socket.AF_INET, kind, ("127.0.0.1", 0), **share) as one:
        with bound(socket.AF_INET, kind, one.getsockname(), **share) as other:
            assert one.getsockname() == other.getsockname()
        if kind == socket.SOCK_STREAM:
            one.listen()
        with pytest.raises(OSError, match="in use"), bound(socket.AF_INET, kind, one.getsockname()):
            pass


@pytest.mark.parametrize("kind", KINDS)
def test_both_wildcards_can_be_listened_on(kind: int) -> None:
    """By default [::] is IPv6 alone."""

    def both_bound() -> bool:
        # Somebody else may have the port that was free for one of them.
        with (
            bound(socket.AF_INET6, kind, ("::", 0)) as six,
            suppress(OSError),
            bound(socket.AF_INET, kind, ("0.0.0.0", six.getsockname()[1])),
        ):
            return True
        return False

    assert any(both_bound() for _ in range(10))


def test_one_wildcard_can_serve_both_families() -> None:
    """Where that is asked for."""
    with bound(socket.AF_INET6, socket.SOCK_STREAM, ("::", 0), ipv6_only=False) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            accepted, peer = sock.accept()
            accepted.close()
            assert peer[:2] == ("::ffff:127.0.0.1", client.getsockname()[1])


@pytest.mark.parametrize(("family", "host"), NOBODYS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_address_to_come_needs_free_bind(family: int, host: str, kind: int) -> None:
    """The error names the key; with it the socket is bound."""
    with (
        pytest.raises(OSError, match="assign requested address") as caught,
        bound(family, kind, (host, 0)),
    ):
        pass
    assert explain(caught.value) == (
        "this machine has no such address (see `ip addr`, or set free_bind)"
    )
    with bound(family, kind, (host, 0), free_bind=True) as sock:
        assert name_of(sock).host == host


@needs_root
def test_a_listener_can_be_bound_to_an_interface() -> None:
    """By name; one that is not there is an error in the system's words."""
    device = {"bind_to_device": "lo"}
    with bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0), **device) as sock:
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert found.rstrip(b"\0") == b"lo"
    device = {"bind_to_device": "nosuchdevice"}
    with (
        pytest.raises(OSError, match="No such device") as caught,
        bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0), **device),
    ):
        pass
    assert explain(caught.value) == "No such device"


def test_a_link_local_address_is_named_with_its_interface() -> None:
    """Else it could not be bound again."""
    lines = Path("/proc/net/if_inet6").read_text().splitlines()
    local = [line.split() for line in lines if line.startswith("fe80")]
    if not local:
        pytest.skip("no interface has a link-local address")
    host, device = ":".join(re.findall("....", local[0][0])), local[0][5]
    address = parse_address(f"tcp://[{host}%{device}]:0")
    with bound(*resolve(address)[0]) as sock:
        found = name_of(sock)
        assert found.host.endswith(f"%{device}")
        assert resolve(parse_address(str(found)))[0][2] == sock.getsockname()


@needs_root
def test_a_privileged_port_is_not_permitted() -> None:
    """To one without CAP_NET_BIND_SERVICE, as far as the system keeps such ports."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("this system has no privileged ports")
    with (
        nobody(),
        pytest.raises(PermissionError) as caught,
        bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 1)),
    ):
        pass
    assert explain(caught.value) == "not permitted"


# -- UNIX sockets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", ["0600", "0660", "0666", "0777", "0000"])
def test_a_socket_file_has_the_mode_that_was_asked_for(
    folder: Path, mode: str, mask: int, kind: int
) -> None:
    """Whatever the umask."""
    path = folder / "s"
    with umask(mask), bound(socket.AF_UNIX, kind, str(path), socket_mode=mode) as sock:
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        assert path.is_socket()
        assert str(name_of(sock)) == f"unix{'' if kind == socket.SOCK_STREAM else '-dgram'}:{path}"


@pytest.mark.parametrize("server_class", [UnixStreamServer, UnixDatagramServer])
def test_a_server_makes_and_removes_its_file(folder: Path, server_class: Any) -> None:
    """By default the owner and the group may connect."""
    path = folder / "s"
    with umask(0), server_class(str(path), Silent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


@needs_root
def test_a_socket_file_is_never_open_to_more_than_was_asked_for(folder: Path) -> None:
    """Not even between being made and being given its owner, under the widest umask."""
    path = folder / "s"
    group = grp.getgrgid(1).gr_name
    seen: set[tuple[int, int]] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            seen.add((stat.S_IMODE(status.st_mode), status.st_gid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with umask(0):
        for times in range(30_000):
            if times >= 300 and seen:
                break
            keys = {"socket_mode": "0660", "socket_group": group}
            with bound(socket.AF_UNIX, socket.SOCK_STREAM, str(path), **keys):
                pass
            path.unlink()
    done.set()
    watcher.join()
    assert seen
    assert all(not mode & 0o117 for mode, _ in seen)
    assert all(gid == 1 for mode, gid in seen if mode & 0o070)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_may_have_107_bytes(folder: Path, kind: int) -> None:
    """108 are one too many for the system, and the error says so."""
    path = str(folder / "s").ljust(UNIX_PATH_LIMIT, "x")
    with bound(socket.AF_UNIX, kind, path) as sock:
        assert name_of(sock).host == path
    with (
        pytest.raises(OSError, match="path too long") as caught,
        bound(socket.AF_UNIX, kind, path + "x"),
    ):
        pass
    assert explain(caught.value) == "AF_UNIX path too long"
    assert os.listdir(folder) == [Path(path).name]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dead", KINDS)
def test_the_file_of_a_dead_process_is_replaced(folder: Path, kind: int, dead: int) -> None:
    """A crash does not keep a service from starting."""
    path = str(folder / "s")
    with socket.socket(socket.AF_UNIX, dead) as sock:
        sock.bind(path)
        inode = os.lstat(path).st_ino
        if dead == socket.SOCK_STREAM:
            sock.listen()
        moved = os.open(path, os.O_PATH)  # so that its inode is not used again
    with bound(socket.AF_UNIX, kind, path):
        assert os.lstat(path).st_ino != inode
    os.close(moved)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alive", ["stream", "full", "datagram"])
def test_the_file_of_a_living_process_is_left_alone(folder: Path, kind: int, alive: str) -> None:
    """Also when it has no room for another client, or is of the other kind."""
    path = str(folder / "s")
    of_kind = socket.SOCK_DGRAM if alive == "datagram" else socket.SOCK_STREAM
    with ExitStack() as closing:
        living = closing.enter_context(bound(socket.AF_UNIX, of_kind, path))
        if alive != "datagram":
            living.listen(0)
        if alive == "full":
            client = closing.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
        with pytest.raises(OSError, match="in use") as caught, bound(socket.AF_UNIX, kind, path):
            pass
        assert explain(caught.value) == "the address is in use (`ss -lnp` shows by whom)"
        assert living.getsockname() == path
        assert Path(path).is_socket()


def make_in_the_way(path: Path, what: str) -> None:
    """Something that is no socket of a dead process, under the name of a socket to be."""
    if what == "file":
        path.write_text("precious")
    elif what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        target = path.with_name("target")
        if what == "link to a file":
            target.write_text("precious")
        elif what == "link to a dead socket":
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(target))
        path.symlink_to(target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "what",
    ["file", "folder", "fifo", "link to a file", "link to nothing", "link to a dead socket"],
)
def test_what_is_no_socket_is_not_touched(folder: Path, what: str, kind: int) -> None:
    """A mistaken path does not cost a file, nor where a link points to."""
    path = folder / "s"
    make_in_the_way(path, what)
    before = {name: os.lstat(folder / name) for name in os.listdir(folder)}
    with (
        pytest.raises(OSError, match="no socket") as caught,
        bound(socket.AF_UNIX, kind, str(path), socket_mode="0777"),
    ):
        pass
    assert caught.value.errno == errno.EADDRINUSE
    assert explain(caught.value) == "what is at this path is no socket (move it)"
    assert {name: os.lstat(folder / name) for name in os.listdir(folder)} == before


def test_a_lack_of_descriptors_is_told() -> None:
    """With the remedy."""
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert explain(error) == (
        "no descriptors are left (raise LimitNOFILE in netd.service, or ulimit -n)"
    )


def test_a_folder_that_is_not_there_is_told(folder: Path) -> None:
    """With the remedy."""
    (folder / "file").write_text("")
    for path in (folder / "no" / "s", folder / "file" / "s"):
        with (
            pytest.raises(OSError, match="directory") as caught,
            bound(socket.AF_UNIX, socket.SOCK_STREAM, str(path)),
        ):
            pass
        assert explain(caught.value) == "the folder does not exist (create it)"


@needs_root
def test_a_socket_file_is_given_to_its_owner(folder: Path) -> None:
    """User, group, or both; what is not named stays."""
    path = folder / "s"
    user, group = pwd.getpwuid(1).pw_name, grp.getgrgid(2).gr_name
    for keys, owner in [
        ({"socket_user": user}, (1, 0)),
        ({"socket_group": group}, (0, 2)),
        ({"socket_user": user, "socket_group": group}, (1, 2)),
        ({}, (0, 0)),
    ]:
        with bound(socket.AF_UNIX, socket.SOCK_STREAM, str(path), **keys):
            status = path.stat()
            assert (status.st_uid, status.st_gid) == owner
            assert stat.S_IMODE(status.st_mode) == 0o660


@pytest.mark.parametrize("key", ["socket_user", "socket_group"])
def test_an_unknown_owner_is_told_before_anything_is_made(folder: Path, key: str) -> None:
    """By name, with the keys to look at."""
    path = folder / "s"
    with (
        pytest.raises(OSError, match="no-such-name") as caught,
        bound(socket.AF_UNIX, socket.SOCK_STREAM, str(path), **{key: "no-such-name"}),
    ):
        pass
    assert "(see socket_user, socket_group)" in explain(caught.value)
    assert not os.listdir(folder)


@needs_root
def test_a_file_that_cannot_be_given_away_is_removed(folder: Path) -> None:
    """Else it would be in the way of the next attempt."""
    folder.chmod(0o777)
    path = folder / "s"
    with (
        nobody(),
        pytest.raises(PermissionError) as caught,
        bound(socket.AF_UNIX, socket.SOCK_STREAM, str(path), socket_group=grp.getgrgid(1).gr_name),
    ):
        pass
    assert explain(caught.value) == "not permitted"
    assert not os.listdir(folder)


@needs_root
def test_a_folder_of_somebody_else_is_not_permitted(folder: Path) -> None:
    """A service that may not write there says so."""
    folder.chmod(0o755)
    with (
        nobody(),
        pytest.raises(PermissionError) as caught,
        bound(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "s")),
    ):
        pass
    assert explain(caught.value) == "not permitted"
