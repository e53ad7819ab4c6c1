"""A client on another machine, which is a network namespace.

    python far_end.py datagram HOST PORT INTERFACE    sends one to it, then prints what came back
    python far_end.py connect HOST PORT...            connects to each

Each prints a line when that is done, and then waits for a line on its standard input.
"""

from __future__ import annotations

import socket
import sys


def send_datagram(host: str, port: int, interface: str) -> None:
    """Sends a datagram by an interface; everybody may be meant."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setblocking(False)
    scope = (0, socket.if_nametoindex(interface)) if ":" in host else ()
    sock.sendto(b"abc", (host, port, *scope))
    print("sent", flush=True)
    sys.stdin.readline()
    try:
        print(sock.recv(100), flush=True)
    except BlockingIOError:
        print("nothing", flush=True)


def connect(host: str, *ports: str) -> None:
    """Connects, and reads nothing."""
    clients = [socket.create_connection((host, int(port)), 5) for port in ports]
    print(len(clients), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    if sys.argv[1] == "datagram":
        send_datagram(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        connect(*sys.argv[2:])
