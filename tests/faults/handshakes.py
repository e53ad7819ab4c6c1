"""What comes before a protocol, done wrong: the PROXY header and the handshake of TLS."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import certificates
from harness import COMMAND, PATIENCE, environment, new_folder, read_all, read_exactly

from faults.fault import ANY, Fault, LateError, Refusals, Sessions, Setup, ends_in_time
from faults.masses import measure
from faults.setups import config, running, service
from faults.target import Target
from netd.entrance import MAX_UNANNOUNCED

_MANY = 1000
_SOON = 0.25
"""Seconds within which a handshake is over, whatever others do."""
_PROXIES, _WAITING = 300, MAX_UNANNOUNCED
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends an RST
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def _proxied(**keys: Any) -> dict[str, Any]:
    """The stanza of a service behind a proxy, which is on this machine."""
    proxies = {"proxy_protocol": {"from": ["127.0.0.1"]}, "banner_fail": "{reason}\r\n"}
    return service("upper", **(proxies | keys))


def _secured(protocol: str = "upper", **keys: Any) -> dict[str, Any]:
    """The stanza of a service that speaks TLS."""
    return service(protocol, tls=certificates.make("server").stanza, **keys)


@contextmanager
def _running() -> Iterator[Target]:
    services = {
        "secure": _secured(),
        "secure-lines": _secured("Lines"),
        "secure-mute": _secured(handshake_timeout="2s"),
        "clear": service("upper"),
        "proxied": _proxied(),
        "proxied-mute": _proxied(handshake_timeout="1s"),
        "strange": _proxied(proxy_protocol={"from": ["192.0.2.0/24"]}, banner_fail=""),
        "both": _proxied(tls=certificates.make("server").stanza),
    }
    with running(config(services)) as target:
        yield target


SECURED = Setup(_running, lambda: certificates.MISSING)
"""Speaks TLS, and the PROXY protocol."""


# -- TLS


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.root().certificate)


def _hello() -> bytes:
    """What a client of TLS says first."""
    outgoing = ssl.MemoryBIO()
    half = _context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


def _secure(target: Target, name: str, said: bytes = b"") -> ssl.SSLSocket:
    """A client whose handshake is done."""
    client = target.connect(name)
    client.sendall(said)
    secured = _context().wrap_socket(
        client, server_hostname="localhost", do_handshake_on_connect=False,
        suppress_ragged_eofs=False,
    )  # fmt: skip
    target.clients.enter_context(secured)
    secured.do_handshake()
    return secured


def _is_served_soon(target: Target, name: str) -> None:
    """Asserts that another client is, from its connection to its answer."""
    began = monotonic()
    client = _secure(target, name)
    client.sendall(b"abc")
    assert read_exactly(client, 3) == b"ABC"
    took = monotonic() - began
    client.unwrap().close()
    if took > _SOON:
        raise LateError(f"a handshake took {took:.3f} s")


def _stay_mute(target: Target, said: bytes) -> None:
    """Says nothing, or half of a hello, with a thousand connections."""
    clients = []
    for _ in range(_MANY):
        clients.append(target.connect("secure-mute"))
        clients[-1].sendall(said)
    began = monotonic()
    _is_served_soon(target, "secure-mute")
    for client in clients:
        assert _rest_of(client) == b""
    ends_in_time(began, 1, 3.5)


def _rest_of(client: socket.socket) -> bytes:
    """All that comes; what was not read at the other end makes its end a reset."""
    try:
        return read_all(client)
    except ConnectionResetError:
        return b""


def _stop_half_way(target: Target, number: int) -> None:
    """Says hello, is answered, and says no more."""
    clients = []
    for _ in range(number):
        clients.append(target.connect("secure-mute"))
        clients[-1].sendall(_hello())
    for client in clients:
        assert read_exactly(client, 1) == b"\x16"
    _is_served_soon(target, "secure-mute")
    for client in clients:
        assert len(read_all(client)) > 500


def _trickle(target: Target) -> None:
    """Says hello a byte at a time, more slowly than the deadline allows."""
    client, hello, began = target.connect("secure-mute"), _hello(), monotonic()
    client.settimeout(0.02)
    for byte in hello * 10:
        try:
            client.sendall(bytes([byte]))
            if client.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    ends_in_time(began, 1.9, 3)


def _say_hello_by_bytes(target: Target) -> None:
    """Says hello a byte at a time, in time, and is served."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    sock = target.connect("secure")
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            for byte in outgoing.read():
                sock.sendall(bytes([byte]))
            incoming.write(sock.recv(65_536))
    client.write(b"abc")
    sock.sendall(outgoing.read())
    answer = b""
    while not answer:
        incoming.write(sock.recv(65_536))
        with suppress(ssl.SSLWantReadError):  # a ticket came before it
            answer = client.read(3)
    assert answer == b"ABC"


def _babble(target: Target) -> None:
    """Sends what is no TLS, and is told so."""
    for words, answer in (
        (b"hello\r\n", b"this port speaks TLS\r\n"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"\x80\x2e\x01\x03\x01\x00\x15", b"\x15\x03"),  # the hello of SSL 2
        (b"\x16\x03\x01\x00\x05" + bytes(5), b"\x15\x03"),
        (bytes(100_000), b"\x15\x03"),
    ):
        client = target.connect("secure")
        client.sendall(words)
        assert _rest_of(client).startswith(answer), words[:20]


def _speak_an_old_version(target: Target) -> None:
    """Asks for TLS 1.1, and is told by an alert."""
    hello = "0302" + 32 * "00" + "00" + "0006c013c009002f" + "0100"
    body = bytes.fromhex("010000" + f"{len(hello) // 2:02x}" + hello)
    client = target.connect("secure")
    client.sendall(b"\x16\x03\x01" + struct.pack("!H", len(body)) + body)
    assert read_all(client) == bytes.fromhex("15 0302 0002 02 46")  # protocol_version


def _leave(target: Target, how: str) -> None:
    """Goes in the middle of the handshake."""
    for said in (b"", _hello()[:100], _hello()):
        client = target.connect("secure")
        client.sendall(said)
        if len(said) > 100:
            read_exactly(client, 100)
        if how == "RST":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)
            _rest_of(client)


def _speak_tls_in_the_clear(target: Target) -> None:
    """Says hello where nobody speaks TLS."""
    client = target.connect("clear")
    client.sendall(_hello())
    assert read_exactly(client, 3) == b"\x16\x03\x01"  # in capitals, which they are


def _cut_off(target: Target, name: str) -> None:
    """Ends the stream in the middle of a line, without the end that TLS has."""
    client = _secure(target, name)
    client.sendall(b"half a line")
    socket.socket.shutdown(client, socket.SHUT_WR)  # the FIN alone
    data = bytearray()
    with suppress(ssl.SSLError):
        while True:
            data += client.recv(100)
    assert data == {"secure": b"HALF A LINE", "secure-lines": b""}[name]


def _damage(target: Target, name: str) -> None:
    """Sends a record that does not decrypt."""
    client = _secure(target, name)
    socket.socket.sendall(client, b"\x17\x03\x03\x00\x40" + bytes(64))
    with suppress(OSError):
        client.recv(1)


def _check_pair(target: Target, stanza: dict[str, str], column: int, expected: str) -> None:
    """Has `netd -t` look at a service with these files."""
    file = target.netd.folder / "checked.yaml"
    tls = ", ".join(f"{key}: {value}" for key, value in stanza.items())
    file.write_text(
        "services:\n  upper:\n    protocol: upper\n    listen: [tcp://127.0.0.1:9999]\n"
        f"    tls: {{{tls}}}\n"
    )
    ran = subprocess.run(
        [*COMMAND, "-t", "-c", str(file)],
        env=environment(target.netd.folder), capture_output=True, text=True, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert ran.returncode == 78
    assert f"{file}:5:{column}: {expected}" in ran.stderr


def _mismatch(target: Target) -> None:
    key = certificates.make("newer").key
    stanza = {**certificates.make("server").stanza, "key": str(key)}
    column = 31 + len(stanza["certificate"])
    _check_pair(target, stanza, column, f"{key}: the key is not that of")


def _open_key(target: Target) -> None:
    with new_folder() as folder:
        pair = certificates.make("server")
        key: Path = folder / "open.key"
        key.write_bytes(pair.key.read_bytes())
        key.chmod(0o644)
        stanza = {**pair.stanza, "key": str(key)}
        column = 31 + len(stanza["certificate"])
        _check_pair(target, stanza, column, f"{key}: others can read the key")


def _fail_by_the_thousand(target: Target) -> dict[str, int]:
    """Handshakes that OpenSSL refuses, and others that do not come so far; nothing is kept."""
    address = target.address("secure")

    def come(_target: Target, number: int) -> int:
        for words in (b"\x16\x03\x01\x00\x05" + bytes(5), b"hello") * (number // 2):
            with socket.create_connection((address.host, address.port)) as client:
                client.sendall(words)
                assert _rest_of(client)
        return number

    number = measure(target, come)
    return {"secure.admitted": number, "secure.refused.handshake": number}


# -- PROXY


_V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\r\n"


def _v2(kind: int, addresses: bytes, tlvs: bytes = b"") -> bytes:
    rest = addresses + tlvs
    return _SIGNATURE + struct.pack("!BBH", 0x21, kind, len(rest)) + rest


_INET = bytes([198, 51, 100, 7, 192, 0, 2, 1]) + struct.pack("!HH", 56_324, 443)
_LONGEST = _v2(0x11, _INET, bytes(65_535 - len(_INET)))
_UNIX = _v2(0x31, b"/run/x\n".ljust(216, b"\0"))


def _announce(target: Target, name: str, header: bytes, rest: bytes, piece: int = 0) -> None:
    """Sends a header, whole or by pieces, and is answered what stands behind it."""
    client, data = target.connect(name), header + rest
    for at in range(0, len(data), piece or len(data)):
        client.sendall(data[at : at + (piece or len(data))])
    assert read_exactly(client, len(rest)) == rest.upper()


def _announce_over_tls(target: Target) -> None:
    client = _secure(target, "both", _V1)
    client.sendall(b"abc")
    assert read_exactly(client, 3) == b"ABC"
    client.unwrap().close()


def _announce_wrong(target: Target) -> None:
    """Sends what is no header, or less than one."""
    for data in (b"", b"hello\r\n", _V1[:20], _v2(0x11, _INET)[:20], _v2(0x11, b"abc"), _hello()):
        client = target.connect("proxied")
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"proxy\r\n", data


def _announce_as_a_stranger(target: Target) -> None:
    client = target.connect("strange")
    client.sendall(_V1 + b"abc")
    assert _rest_of(client) == b""


def _announce_nothing(target: Target) -> None:
    """Connects and waits, with more than are let wait; who says for whom it comes is served."""
    clients = [target.connect("proxied-mute") for _ in range(_PROXIES)]
    began = monotonic()
    known = target.connect("proxied")
    known.sendall(_V1 + b"abc")
    assert read_exactly(known, 3) == b"ABC"
    known.close()
    for client in clients[_WAITING:]:
        assert read_all(client) == b"proxy\r\n"
        client.close()
    for client in clients[:_WAITING]:
        assert read_all(client) == b"handshake_timeout\r\n"
    ends_in_time(began, 1, 2.5)


def _admitted(name: str, number: int) -> dict[str, int]:
    """Those who were let in before they were turned away."""
    return {f"{name}.admitted": number}


def _served(name: str, size: int) -> dict[str, int]:
    """One who was, and got as many bytes as it had sent."""
    return {
        f"{name}.admitted": 1, f"{name}.ended.eof": 1,
        f"{name}.bytes_in": size, f"{name}.bytes_out": size,
    }  # fmt: skip


_SERVED = Sessions("secure-mute", 1, "eof", 3, 3)
_PEER = r" peer=198\.51\.100\.7:56324 "

FAULTS = [
    Fault(
        "1,000 mute clients of TLS", SECURED, partial(_stay_mute, said=b""),
        (Sessions("secure-mute", _MANY, "handshake_timeout", 0, 0), _SERVED),
        alone=True,
    ),
    Fault(
        "1,000 clients that begin a hello", SECURED,
        partial(_stay_mute, said=b"\x16\x03\x01\x02\x00\x01"),
        (Sessions("secure-mute", _MANY, "handshake_timeout", 0, 0), _SERVED),
        alone=True,
    ),
    Fault(
        "200 clients that stop half way", SECURED, partial(_stop_half_way, number=200),
        (Sessions("secure-mute", 200, "handshake_timeout", 0, 0), _SERVED),
        alone=True,
    ),
    Fault(
        "a hello that never ends", SECURED, _trickle,
        (Sessions("secure-mute", 1, "handshake_timeout", 0, 0),),
    ),
    Fault(
        "a handshake byte by byte", SECURED, _say_hello_by_bytes,
        (Sessions("secure", 1, "truncated", 3, 3),),
    ),
    Fault(
        "what is no TLS on a port for it", SECURED, _babble, (Refusals("secure", 5, "handshake"),),
        counters=_admitted("secure", 5),
    ),
    Fault(
        "TLS 1.1", SECURED, _speak_an_old_version, (Refusals("secure", 1, "handshake"),),
        counters=_admitted("secure", 1),
    ),
    *(
        Fault(
            f"{how} in the handshake", SECURED, partial(_leave, how=how),
            (Sessions("secure", 3, reason, 0, 0),),
        )
        for how, reason in (("FIN", "eof"), ("RST", "reset"))
    ),
    Fault(
        "TLS on a port in the clear", SECURED, _speak_tls_in_the_clear,
        (Sessions("clear", 1, "reset"),),
    ),
    Fault(
        "TLS cut off, steps", SECURED, partial(_cut_off, name="secure"),
        (Sessions("secure", 1, "truncated", 11, 11),),
    ),
    Fault(
        "TLS cut off, conversation", SECURED, partial(_cut_off, name="secure-lines"),
        (Sessions("secure-lines", 1, "truncated", 11, 0),),
    ),
    *(
        Fault(
            f"a damaged record to {name}", SECURED, partial(_damage, name=name),
            (Sessions(name, 1, "protocol_error", 0, 0),),
        )
        for name in ("secure", "secure-lines")
    ),
    Fault("a key that is not the certificate's", SECURED, _mismatch),
    Fault("a key of TLS that others can read", SECURED, _open_key),
    Fault(
        "a PROXY header byte by byte", SECURED,
        partial(_announce, name="proxied", header=_V1, rest=b"abc", piece=1),
        log={rf"info +proxied: session .*{_PEER}.* reason=eof$": 1},
        counters=_served("proxied", 3),
    ),
    Fault(
        "a PROXY header with 64 KiB of TLVs", SECURED,
        partial(_announce, name="proxied", header=_LONGEST, rest=b"abc", piece=10_000),
        log={rf"info +proxied: session .*{_PEER}.* reason=eof$": 1},
        counters=_served("proxied", 3),
    ),
    Fault(
        "a PROXY header with a UNIX address", SECURED,
        partial(_announce, name="proxied", header=_UNIX, rest=b"abc"),
        log={r"info +proxied: session .* peer=127\.0\.0\.1:\d+ .* reason=eof$": 1},
        counters=_served("proxied", 3),
    ),
    Fault(
        "a PROXY header twice", SECURED,
        partial(_announce, name="proxied", header=_V1, rest=_V1),
        log={rf"info +proxied: session .*{_PEER}.* reason=eof$": 1},
        counters=_served("proxied", len(_V1)),
    ),
    Fault(
        "a PROXY header before TLS", SECURED, _announce_over_tls,
        log={rf"info +both: session .*{_PEER}.* reason=eof$": 1},
        counters=_served("both", 3),
    ),
    Fault(
        "no PROXY header, or half of one", SECURED, _announce_wrong,
        (Refusals("proxied", 6, "proxy"),),
    ),
    Fault(
        "a PROXY header from a stranger", SECURED, _announce_as_a_stranger,
        (Refusals("strange", 1, "proxy"),),
    ),
    Fault(
        f"{_PROXIES} proxies that say nothing", SECURED, _announce_nothing,
        (Refusals("proxied-mute", _PROXIES - _WAITING, "proxy"),
         Refusals("proxied-mute", _WAITING, "handshake_timeout"),
         Sessions("proxied", 1, "eof", 3, 3)),
    ),
]  # fmt: skip
"""Rows of the table; see `faults`."""

SOAKS = [
    Fault(
        "100,000 failed handshakes", SECURED, _fail_by_the_thousand,
        log={r"info +secure: refused .* reason=handshake$": ANY},
    )
]  # fmt: skip
"""Those that take minutes."""
