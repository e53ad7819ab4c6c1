"""From addresses to listeners: names, sockets from systemd, and what cannot be bound."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, python_path, read_all, read_exactly, run_netd

from netd.binding import Binder
from netd.errors import StartError
from netd.pool import Pool
from netd.server import Server
from netd.service import Service
from netd.service_config import ServiceStanza


@contextmanager
def bound(
    *listen: str, inherited: dict[str, list[socket.socket]] | None = None, **keys: str
) -> Iterator[tuple[Binder, list[Server]]]:
    """A binder, and the listeners of one service, for the time of a `with`."""
    binder = Binder(Pool(), inherited or {})
    keys = keys or {"protocol": "echo"}
    stanza = ServiceStanza.model_validate({**keys, "listen": [*listen]})
    servers = binder.bind(stanza, Service("it"))
    try:
        yield binder, servers
    finally:
        for server in servers:
            server.server_close()


def refusal(*listen: str, **keys: Any) -> str:
    """Why the addresses cannot be bound."""
    with bound(*listen, **keys) as (binder, servers):
        assert servers == []
        with pytest.raises(StartError) as caught:
            binder.check()
    assert caught.value.status == 71
    return str(caught.value)


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """What closes the sockets of a test."""
    with ExitStack() as closing:
        yield closing


def passed(sockets: ExitStack, family: int, kind: int, listen: bool = True) -> socket.socket:
    """A socket as a service manager passes it."""
    sock = sockets.enter_context(socket.socket(family, kind))
    if family == socket.AF_INET:
        sock.bind(("127.0.0.1", 0))
    if listen and kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def test_a_listener_takes_clients_in_before_it_is_served() -> None:
    """Whoever connects between the bind and the start waits, and is not refused."""
    with bound("tcp://127.0.0.1:0") as (binder, (server,)):
        binder.check()
        socket.create_connection(server.server_address, PATIENCE).close()


def test_a_name_is_listened_on_at_each_of_its_addresses() -> None:
    """`localhost` is one listener for each address, and each only once."""
    found = {info[4][0] for info in socket.getaddrinfo("localhost", 0, 0, socket.SOCK_STREAM)}
    with bound("tcp://localhost:0", "udp://localhost:0") as (binder, servers):
        binder.check()
        names = [server.server_address[0] for server in servers]
        assert sorted(names) == sorted([*found] * 2)


def test_the_daemon_serves_a_name() -> None:
    """The log tells the ports that were picked."""
    service = {"protocol": "echo", "listen": ["tcp://localhost:0"]}
    with run_netd({"services": {"echo": service}}) as netd:
        client = netd.connect("echo")
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"


# A machine may have no ::1 in its own /etc/hosts.
HOSTS = r"""
mount -t tmpfs none /dev/shm
printf '127.0.0.1 localhost\n::1 localhost\n' >/dev/shm/hosts
mount --bind /dev/shm/hosts /etc/hosts
ip link set lo up
"""


def in_a_network(script: str = "") -> list[str]:
    """A command that runs another one in a network of its own, in which `localhost` has two
    addresses, after a shell script."""
    whole = f'set -e\n{HOSTS}\n{script}\nexec "$@"'
    prefix = ["unshare", "--net", "--mount", "sh", "-c", whole, "sh"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("a network of its own takes root, unshare and ip")
    return prefix


@pytest.fixture
def without_ipv6() -> list[str]:
    """A command that runs another one where there is no IPv6, although `localhost` has ::1."""
    return in_a_network("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")


def test_a_name_does_without_the_addresses_that_are_not_there(without_ipv6: list[str]) -> None:
    """Where IPv6 is switched off, `localhost` is 127.0.0.1; an address that was asked for by
    itself is missed."""
    found = subprocess.check_output([*without_ipv6, "getent", "ahosts", "localhost"], text=True)
    assert "::1" in found
    service = {"protocol": "echo", "listen": ["tcp://localhost:0"]}
    with run_netd({"services": {"echo": service}}, prefix=without_ipv6) as netd:
        assert {address.host for address in netd.addresses["echo"]} == {"127.0.0.1"}
    service = {"protocol": "echo", "listen": ["tcp://[::1]:0"]}
    with run_netd({"services": {"echo": service}}, prefix=without_ipv6, ready=False) as netd:
        assert netd.wait() == 71
        assert "tcp://[::1]:0: this machine has no such address" in netd.log[0]


# Binds a name with two addresses, of which the second is taken; then the first by itself.
TAKEN = """
import socket, sys
from netd.binding import Binder
from netd.errors import StartError
from netd.pool import Pool
from netd.service import Service
from netd.service_config import ServiceStanza

def bind(address):
    stanza = ServiceStanza.model_validate({"protocol": "echo", "listen": [address]})
    binder = Binder(Pool(), {})
    servers = binder.bind(stanza, Service("it"))
    binder.check()
    for server in servers:
        server.server_close()

found = [info[4][0] for info in socket.getaddrinfo("localhost", 0, 0, socket.SOCK_STREAM)]
assert len(found) == 2, found
first = f"[{found[0]}]" if ":" in found[0] else found[0]
family = socket.AF_INET6 if ":" in found[1] else socket.AF_INET
with socket.create_server((found[1], 9007), family=family):
    try:
        bind("tcp://localhost:9007")
        sys.exit("bound")
    except StartError as error:
        print(error)
    bind(f"tcp://{first}:9007")
"""


def test_a_name_is_bound_whole_or_not_at_all() -> None:
    """When one of its addresses is in use, the others are given back."""
    prefix = in_a_network()
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", TAKEN], text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": python_path()},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "it: cannot listen on tcp://localhost:9007: the address is in use"
    )


def test_ipv6_loopback_is_left_out_beside_other_addresses(without_ipv6: list[str]) -> None:
    """The built-in configuration names [::1] too, and serves where there is no IPv6."""
    service = {"protocol": "echo", "listen": ["tcp://127.0.0.1:0", "tcp://[::1]:9007"]}
    with run_netd({"services": {"echo": service}}, prefix=without_ipv6) as netd:
        assert {address.host for address in netd.addresses["echo"]} == {"127.0.0.1"}
        netd.wait_for_log(r"has no IPv6, so these are left out: tcp://\[::1\]:9007$")


def test_what_one_address_of_a_name_lacks_is_told(sockets: ExitStack) -> None:
    """An address of the name that is in use is no address that can be done without."""
    taken = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
    address = f"tcp://localhost:{taken.getsockname()[1]}"
    assert refusal(address).startswith(f"it: cannot listen on {address}: the address is in use")


def test_a_socket_file_is_removed_when_another_address_is_taken(tmp_path: Path) -> None:
    """Closing the listeners undoes all that binding has done."""
    with bound(f"unix:{tmp_path}/it"):
        assert (tmp_path / "it").exists()
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_from_systemd_is_served(sockets: ExitStack, kind: int) -> None:
    """It is served under the name that it was passed by."""
    sock = passed(sockets, socket.AF_INET, kind)
    with bound("fd:it", inherited={"it": [sock]}) as (binder, (server,)):
        binder.check()
        assert os.path.sameopenfile(server.fileno(), sock.fileno())
        assert binder.unclaimed == []


def test_all_sockets_of_a_name_are_served(sockets: ExitStack) -> None:
    """A socket unit gives one name to all of its sockets."""
    pair = [passed(sockets, socket.AF_INET, k) for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    with bound("fd:it", inherited={"it": pair}) as (_, servers):
        assert all(map(os.path.sameopenfile, map(socket.socket.fileno, pair),
                       [server.fileno() for server in servers]))  # fmt: skip


def test_what_nobody_listens_on_is_known(sockets: ExitStack) -> None:
    """The names are told, so that they can be put in a warning."""
    sock = passed(sockets, socket.AF_INET, socket.SOCK_STREAM)
    with bound("tcp://127.0.0.1:0", inherited={"spare": [sock]}) as (binder, _):
        assert binder.unclaimed == ["spare"]


def test_a_socket_that_was_not_passed_is_named() -> None:
    """The message has the line that is missing in the socket unit."""
    said = refusal("fd:echo")
    assert "it: cannot listen on fd:echo: systemd has passed no socket of that name" in said
    assert "FileDescriptorName=echo" in said


def test_a_socket_is_for_one_service_alone(sockets: ExitStack) -> None:
    """The second one is told who has it."""
    sock = passed(sockets, socket.AF_INET, socket.SOCK_STREAM)
    with bound("fd:it", "fd:it", inherited={"it": [sock]}) as (binder, servers):
        assert len(servers) == 1
        with pytest.raises(StartError, match="fd:it: the service it listens on it"):
            binder.check()


def test_a_socket_of_another_kind_than_the_protocol_is_refused(sockets: ExitStack) -> None:
    """A handler may serve streams alone, and the message has what to write."""
    sock = passed(sockets, socket.AF_INET, socket.SOCK_DGRAM)
    said = refusal("fd:it", handler="socketserver:StreamRequestHandler", inherited={"it": [sock]})
    assert "does not serve datagrams (in the .socket unit write ListenStream=)" in said


@pytest.mark.parametrize(
    ("family", "kind"),
    [(socket.AF_UNIX, socket.SOCK_SEQPACKET), (socket.AF_NETLINK, socket.SOCK_RAW)],
)
def test_a_socket_of_a_foreign_kind_is_refused(sockets: ExitStack, family: int, kind: int) -> None:
    """A socket unit can pass more than netd can serve."""
    sock = passed(sockets, family, kind)
    said = refusal("fd:it", inherited={"it": [sock]})
    assert "it is not a TCP, UDP or UNIX socket" in said


def test_a_socket_that_does_not_listen_is_refused(sockets: ExitStack) -> None:
    """Such a one is passed where Accept=yes is written."""
    sock = passed(sockets, socket.AF_INET, socket.SOCK_STREAM, listen=False)
    said = refusal("fd:it", inherited={"it": [sock]})
    assert "it is not listening (in the .socket unit set Accept=no)" in said


def test_the_daemon_warns_of_a_socket_that_nobody_serves(sockets: ExitStack) -> None:
    """It may be a slip in a name, and it would be silent for ever."""
    sock = passed(sockets, socket.AF_INET, socket.SOCK_STREAM)
    script = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=ecco; exec "$@"'
    prefix = ["bash", "-c", script, str(sock.fileno())]
    service = {"protocol": "daytime", "listen": ["tcp://127.0.0.1:0"]}
    with run_netd(
        {"services": {"daytime": service}}, prefix=prefix, pass_fds=[sock.fileno()]
    ) as netd:
        netd.wait_for_log(
            "warning netd: sockets that systemd passed and no service listens on: ecco"
            r" \(add listen: \[fd:ecco\]\)"
        )
        assert read_all(netd.connect("daytime"))
