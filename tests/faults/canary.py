"""A canary: a process that asks an echo service ten times a second, and notes how long it took.

    python canary.py HOST PORT        (a path, and 0, for a UNIX socket)

It obeys single bytes on its standard input: `0` has it sing over one connection, `1` also over a
new one each time, and `.` ends the song after one more round. A note is a line with the seconds
that the slower of the two took. After the last one comes `stop`, or `end` when netd has closed the
connection or takes no other. It is a process of its own, since a thread would wait for the
interpreter's lock while the fault is provoked, and that is not netd's fault.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from time import monotonic

INTERVAL = 0.1
PATIENCE = 5.0


def connect(host: str, port: int) -> socket.socket:
    """A connection to the echo service."""
    if port:
        return socket.create_connection((host, port), PATIENCE)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(host)
    return sock


def ask(sock: socket.socket) -> None:
    """One echo. Raises OSError when there is none."""
    sock.sendall(b"tweet")
    answer = b""
    while len(answer) < 5:
        chunk = sock.recv(5 - len(answer))
        if not chunk:
            raise ConnectionResetError("the stream has ended")
        answer += chunk


def sing(host: str, port: int, fresh: bool) -> None:
    """Asks until it is told to stop. Raises OSError when netd ends before."""
    with connect(host, port) as kept:
        last = False
        while True:
            began = monotonic()
            ask(kept)
            took = monotonic() - began
            if fresh:
                began = monotonic()
                with connect(host, port) as new:
                    ask(new)
                took = max(took, monotonic() - began)
            print(f"{took:.4f}", flush=True)
            if last:
                return
            last = bool(select.select([0], [], [], max(0.0, INTERVAL - took))[0])


def main() -> None:
    """Sings whenever it is told to."""
    host, port = sys.argv[1], int(sys.argv[2])
    while command := os.read(0, 1):
        if command == b".":
            continue
        try:
            sing(host, port, command == b"1")
        except TimeoutError:
            print(f"{PATIENCE}\nstop", flush=True)
        except OSError:
            print("end", flush=True)
        else:
            print("stop", flush=True)


if __name__ == "__main__":
    main()
