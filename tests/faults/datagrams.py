"""Datagrams: odd ones, large ones, and those that would make netd a reflector."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from harness import wait_until

from faults.fault import Fault, Sessions
from faults.setups import CLASSIC, STANDARD
from faults.target import Target

LARGEST = 65_507  # bytes of a datagram over IPv4
_GROUP = "239.255.77.77"


def _taken(target: Target, service: str) -> int:
    """How many datagrams a service, or each of all, has taken in; cut ones too."""
    found = target.counters()
    return sum(
        number
        for name, number in found.items()
        if name.startswith(service) and name.endswith((".datagrams_in", ".datagrams_dropped.cut"))
    )


def _waiting(client: socket.socket) -> list[bytes]:
    """What has come. On one machine an answer is there as soon as it has been sent."""
    found = []
    client.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            found.append(client.recv(LARGEST + 100))
    return found


def _ask(
    target: Target, service: str, clients: Sequence[socket.socket], requests: Sequence[bytes]
) -> list[list[bytes]]:
    """What each of the clients is answered to its request, by one service or, if that is "", by
    several."""
    expected = _taken(target, service) + len(requests)
    for client, request in zip(clients, requests, strict=True):
        client.send(request)
    wait_until(lambda: _taken(target, service) >= expected)
    return [_waiting(client) for client in clients]


# -- size


def _amplify(target: Target, service: str) -> Mapping[str, int]:
    """Asks with every size that might be worth it."""
    requests = [bytes(size) for size in (0, 1, 3, 4, 63, 64, 65, 512, 1024, LARGEST)]
    clients = [target.datagrams(service) for _ in requests]
    answers = _ask(target, service, clients, requests)
    for request, found in zip(requests, answers, strict=True):
        assert sum(map(len, found)) <= max(len(request), 64), (len(request), found)
        assert len(found) <= 1
    return {
        f"{service}.datagrams_in": len(requests),
        f"{service}.bytes_in": sum(map(len, requests)),
        f"{service}.datagrams_out": sum(map(len, answers)),
        f"{service}.bytes_out": sum(len(answer) for found in answers for answer in found),
    }


def _send_empty(target: Target, service: str, answers: int, longest: int) -> Mapping[str, int]:
    """Asks with nothing."""
    (found,) = _ask(target, service, [target.datagrams(service)], [b""])
    assert len(found) == answers
    size = sum(map(len, found))
    assert size <= longest
    return {f"{service}.bytes_out": size}


def _send_largest(target: Target) -> None:
    """Has 65,507 bytes sent back whole."""
    request = bytes(range(256)) * 256
    ((answer,),) = _ask(target, "upper", [target.datagrams("upper")], [request[:LARGEST]])
    assert answer == request[:LARGEST].upper()


def _unix_client(target: Target, service: str, name: str) -> socket.socket:
    """A client of a UNIX datagram socket, which the daemon may answer whoever it has become."""
    path = target.netd.folder / name
    path.unlink(missing_ok=True)
    sock = target.clients.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    sock.bind(str(path))
    path.chmod(0o777)
    sock.connect(target.address(service, "unix-dgram").host)
    return sock


def _send_too_large(target: Target) -> None:
    """Sends datagrams of more than 64 KiB, and one of just as much."""
    client = _unix_client(target, "local", "large")
    requests = [bytes(65_537), bytes(65_536), bytes(100_000), b"abc"]
    answers = _ask(target, "local", [client] * 4, requests)
    assert [len(answer) for answer in answers[0]] == [65_536, 3]


# -- who may be answered


def _ask_all(target: Target, source: tuple[str, int], silent: str) -> Mapping[str, int]:
    """Asks all services from one address; none of them answers."""
    clients = [target.datagrams(service, source, shared=True) for service in CLASSIC]
    assert _ask(target, "", clients, [b"abc"] * len(CLASSIC)) == [[]] * len(CLASSIC)
    expected: dict[str, int] = {}
    for service in CLASSIC:
        expected |= {f"{service}.datagrams_in": 1, f"{service}.bytes_in": 3}
        if service != "discard":
            expected[f"{service}.datagrams_dropped.{silent}"] = 1
    return expected


def _ask_from_port(target: Target, port: int) -> Mapping[str, int]:
    return _ask_all(target, ("127.0.0.1", port), "service_port")


def _ask_from_own_port(target: Target) -> Mapping[str, int]:
    """Asks from the port that netd's echo has, on another address."""
    return _ask_all(target, ("127.0.0.2", target.address("echo", "udp").port), "service_port")


def _forge(target: Target, source_port: int) -> Mapping[str, int]:
    """Asks upper in the name of another port, with a raw socket."""
    before = _taken(target, "upper")
    port = target.address("upper", "udp").port
    datagram = struct.pack("!HHHH", source_port, port, 8 + 3, 0) + b"abc"
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.bind(("127.0.0.1", 0))
        raw.sendto(datagram, ("127.0.0.1", 0))
    wait_until(lambda: _taken(target, "upper") > before)
    return {
        "upper.datagrams_in": 1, "upper.bytes_in": 3, "upper.datagrams_dropped.service_port": 1,
    }  # fmt: skip


def _forge_own(target: Target) -> Mapping[str, int]:
    """Sets two services upon each other (CVE-2024-2169)."""
    return _forge(target, target.address("echo", "udp").port)


def _broadcast(target: Target) -> None:
    """Asks everybody."""
    client = target.clients.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    client.connect(("127.255.255.255", target.address("wild", "udp", "0.0.0.0").port))
    assert _ask(target, "wild", [client], [b"abc"]) == [[]]


def _multicast(target: Target) -> None:
    """Asks a group that somebody on this machine has joined."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        group, loopback = socket.inet_aton(_GROUP), socket.inet_aton("127.0.0.1")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + loopback)
        client = target.clients.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        client.connect((_GROUP, target.address("wild", "udp", "0.0.0.0").port))
        assert _ask(target, "wild", [client], [b"abc"]) == [[]]


# -- those who do not listen


def _go_away(target: Target) -> None:
    """Asks and is gone; the answers come back as ICMP errors."""
    before = _taken(target, "echo")
    for _ in range(100):
        with target.datagrams("echo") as client:
            client.send(b"abc")
    wait_until(lambda: _taken(target, "echo") >= before + 100)


def _never_read(target: Target) -> Mapping[str, int]:
    """Asks by a UNIX socket whose queue of answers is soon full."""
    client = _unix_client(target, "local", "deaf")
    (found, *_) = _ask(target, "local", [client] * 100, [b"abc"] * 100)
    return {
        "local.datagrams_out": len(found),
        "local.bytes_out": 3 * len(found),
        "local.datagrams_dropped.unsent": 100 - len(found),
    }


def _knock(target: Target) -> None:
    """Asks 500 times where nobody from here may."""
    client = target.datagrams("closed")
    assert _ask(target, "closed", [client] * 500, [b"abc"] * 500) == [[]] * 500


def _ask_by_an_evil_name(target: Target) -> None:
    """Asks from a socket whose path would draw over the terminal of whoever reads the log."""
    client = _unix_client(target, "named", "evil\n\x1b[31m x")
    client.settimeout(5)
    client.send(b"abc")
    assert client.recv(10) == b"abc"


# -- what this machine lacks


def _cannot_bind(port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except PermissionError:
            return f"UDP port {port} needs CAP_NET_BIND_SERVICE"
    return ""


def _cannot_forge() -> str:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP).close()
    except PermissionError:
        return "a raw socket needs CAP_NET_RAW"
    return ""


# To an empty datagram: how many answers, and how long they are at most.
_EMPTY = {
    "upper": (1, 0), "echo": (1, 0), "discard": (0, 0), "daytime": (1, 64), "qotd": (1, 64),
    "time": (1, 4), "users": (1, 64), "chargen": (1, 0),
}  # fmt: skip
_TO_MANY = {
    "wild.datagrams_in": 1, "wild.bytes_in": 3, "wild.datagrams_dropped.broadcast": 1,
}  # fmt: skip

FAULTS = [
    *(
        Fault(f"datagrams of all sizes to {service}", STANDARD, partial(_amplify, service=service))
        for service in CLASSIC
    ),
    *(
        Fault(
            f"empty datagram to {service}", STANDARD,
            partial(_send_empty, service=service, answers=answers, longest=longest),
            counters={f"{service}.datagrams_in": 1, f"{service}.datagrams_out": answers},
        )
        for service, (answers, longest) in _EMPTY.items()
    ),
    Fault(
        "datagram of 65,507 bytes", STANDARD, _send_largest,
        counters={
            "upper.datagrams_in": 1, "upper.bytes_in": LARGEST,
            "upper.datagrams_out": 1, "upper.bytes_out": LARGEST,
        },
    ),
    Fault(
        "datagrams of more than 64 KiB", STANDARD, _send_too_large,
        counters={
            "local.datagrams_in": 2, "local.bytes_in": 65_539,
            "local.datagrams_out": 2, "local.bytes_out": 65_539,
            "local.datagrams_dropped.cut": 2,
        },
    ),
    *(
        Fault(
            f"datagrams from port {port}", STANDARD, partial(_ask_from_port, port=port),
            missing=partial(_cannot_bind, port),
        )
        for port in (7, 13, 17, 19, 37)
    ),
    Fault("datagrams from a port that netd serves", STANDARD, _ask_from_own_port),
    Fault(
        "datagram forged to come from netd itself", STANDARD, _forge_own, missing=_cannot_forge
    ),
    Fault(
        "datagram forged to come from port 0", STANDARD, partial(_forge, source_port=0),
        missing=_cannot_forge,
    ),
    Fault("datagram to a broadcast address", STANDARD, _broadcast, counters=_TO_MANY),
    Fault("datagram to a multicast address", STANDARD, _multicast, counters=_TO_MANY),
    Fault(
        "datagrams from clients that are gone", STANDARD, _go_away,
        counters={
            "echo.datagrams_in": 100, "echo.bytes_in": 300,
            "echo.datagrams_out": 100, "echo.bytes_out": 300,
        },
    ),
    Fault(
        "datagrams from a client that never reads", STANDARD, _never_read,
        counters={"local.datagrams_in": 100, "local.bytes_in": 300},
    ),
    Fault(
        "datagrams from an address that is refused", STANDARD, _knock,
        log={r"info +netd: closed: \d+ datagrams refused \(address\)$": 1},
        counters={
            "closed.datagrams_in": 500, "closed.bytes_in": 1500, "closed.refused.address": 500,
            "closed.datagrams_dropped.address": 500,
        },
    ),
    Fault(
        "datagram from a socket of an evil name", STANDARD, _ask_by_an_evil_name,
        (Sessions("named", 1, "done", 3, 3),),
        log={},
        counters={"named.datagrams_in": 1, "named.datagrams_out": 1},
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""
