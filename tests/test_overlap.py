"""Addresses that collide: what is refused is what the kernel refuses."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import cheap, free_port

from netd import overlap
from netd.address import parse_address
from netd.document import Mark
from netd.overlap import Claim

TWICE = "is listened on already"


def problems(*addresses: str | Claim) -> list[str]:
    """The problems of addresses, each in a line of its own of the file `f`."""
    claims = [
        Claim(parse_address(address), Mark("f", line, 1)) if isinstance(address, str) else address
        for line, address in enumerate(addresses, 1)
    ]
    return [str(problem) for problem in overlap.find(claims)]


def claim(address: str, line: int, **options: object) -> Claim:
    """An address with socket options."""
    return Claim(parse_address(address), Mark("f", line, 1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("tcp://127.0.0.1:9", "tcp://127.0.0.1:9", TWICE),
        ("udp://127.0.0.1:9", "udp://127.0.0.1:9", TWICE),
        ("tcp://localhost:9", "tcp://LocalHost:9", TWICE),
        ("tcp://[::1]:9", "tcp://[0:0:0:0:0:0:0:1]:9", TWICE),
        ("tcp://[fe80::A]:9", "tcp://[fe80:0::a]:9", TWICE),
        ("tcp://[::ffff:127.0.0.1]:9", "tcp://127.0.0.1:9", TWICE),
        ("tcp://0.0.0.0:9", "tcp://127.0.0.1:9", "collides with tcp://0.0.0.0:9"),
        ("tcp://127.0.0.1:9", "tcp://0.0.0.0:9", "collides with tcp://127.0.0.1:9"),
        ("tcp://0.0.0.0:9", "tcp://host:9", "collides with tcp://0.0.0.0:9"),
        ("udp://[::]:9", "udp://[::1]:9", "collides with udp://[::]:9"),
        ("udp://[0::0]:9", "udp://[::]:9", TWICE),
        ("unix:/x/a", "unix:/x/a", TWICE),
        ("unix:/x/a", "unix:/x/y/../a", TWICE),
        ("unix:/x/a", "unix-dgram:/x/a", TWICE),
        ("fd:a", "fd:a", TWICE),
    ],
)
def test_of_two_addresses_that_collide_the_second_is_told(
    first: str, second: str, what: str
) -> None:
    """With the place of the first."""
    assert problems(first, "tcp://192.0.2.1:1", second) == [f"f:3:1: {second} {what} (see f:1:1)"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tcp://127.0.0.1:9", "tcp://127.0.0.1:10"),
        ("tcp://127.0.0.1:9", "udp://127.0.0.1:9"),
        ("tcp://127.0.0.1:9", "tcp://127.0.0.2:9"),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0"),
        ("tcp://0.0.0.0:0", "tcp://0.0.0.0:0"),
        ("tcp://0.0.0.0:9", "tcp://[::]:9"),
        ("tcp://0.0.0.0:9", "tcp://[::1]:9"),
        ("tcp://[::]:9", "tcp://127.0.0.1:9"),
        ("unix:/x/a", "unix:/x/A"),
        ("unix:/x/a", "fd:/x/a"),
        ("fd:a", "fd:b"),
    ],
)
def test_addresses_that_do_not_collide_are_left_alone(first: str, second: str) -> None:
    """IPv6 sockets serve IPv6 alone, and port 0 is another port each time."""
    assert not problems(first, second)


def test_a_third_address_is_told_with_the_place_of_the_first() -> None:
    """Each is told once."""
    address = "tcp://127.0.0.1:9"
    assert problems(address, address, address) == [
        f"f:2:1: {address} {TWICE} (see f:1:1)",
        f"f:3:1: {address} {TWICE} (see f:1:1)",
    ]


def test_a_dual_stack_wildcard_covers_ipv4() -> None:
    """Without ipv6_only `[::]` takes IPv4 too."""
    wide = claim("tcp://[::]:9", 1, ipv6_only=False)
    for narrow in ("tcp://127.0.0.1:9", "tcp://0.0.0.0:9"):
        assert problems(wide, claim(narrow, 2)) == [
            f"f:2:1: {narrow} collides with tcp://[::]:9 (see f:1:1)"
        ]


def test_interfaces_keep_addresses_apart() -> None:
    """Two sockets that are bound to two interfaces do not meet."""
    one, two = (claim("tcp://0.0.0.0:9", n, device=f"eth{n}") for n in (1, 2))
    again = claim("tcp://0.0.0.0:9", 3, device="eth1")
    assert problems(one, two, again) == [f"f:3:1: tcp://0.0.0.0:9 {TWICE} (see f:1:1)"]


def test_shared_ports_may_be_covered() -> None:
    """With reuse_port on both, a wildcard goes with an address; the same one twice is a slip."""
    wide = claim("udp://0.0.0.0:9", 1, reuse_port=True)
    narrow, again = (claim("udp://127.0.0.1:9", n, reuse_port=True) for n in (2, 3))
    assert not problems(wide, narrow)
    assert problems(narrow, again) == [f"f:3:1: udp://127.0.0.1:9 {TWICE} (see f:2:1)"]
    assert problems(wide, claim("udp://127.0.0.1:9", 2))


def test_a_path_through_a_symbolic_link_is_the_same(tmp_path: Path) -> None:
    """/var/run/netd is /run/netd."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert problems(f"unix:{tmp_path}/a", f"unix:{tmp_path}/link/a")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    ("hosts", "ipv6_only"),
    [
        (("127.0.0.1", "127.0.0.1"), True),
        (("127.0.0.1", "127.0.0.2"), True),
        (("0.0.0.0", "127.0.0.1"), True),
        (("127.0.0.1", "0.0.0.0"), True),
        (("::", "::1"), True),
        (("::", "127.0.0.1"), True),
        (("::", "127.0.0.1"), False),
        (("::", "0.0.0.0"), False),
        (("0.0.0.0", "::"), False),
        (("::1", "::"), False),
        (("::ffff:127.0.0.1", "127.0.0.1"), False),
    ],
)
def test_the_kernel_agrees(
    hosts: tuple[str, str], ipv6_only: bool, kind: socket.SocketKind
) -> None:
    """Two sockets collide exactly where a problem is told."""
    scheme = "tcp" if kind == socket.SOCK_STREAM else "udp"
    with ExitStack() as closing:
        collide, port = False, free_port(kind)
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = closing.enter_context(socket.socket(family, kind))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
            try:
                sock.bind((host, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen()
            except OSError:
                collide = True
    claims = [
        claim(
            f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", line, ipv6_only=ipv6_only
        )
        for line, host in enumerate(hosts, 1)
    ]
    assert bool(problems(*claims)) == collide


def test_ten_thousand_addresses_are_compared_in_no_time() -> None:
    """Each only with those that it could meet."""
    addresses = [f"tcp://10.0.{n >> 8}.{n & 255}:9" for n in range(10_000)]
    with cheap(1):
        assert not problems(*addresses)
