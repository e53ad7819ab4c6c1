"""The tutorials' clients, as they are in the tutorials: one send and one recv for each input.

    python clients.py tcp HOST PORT
    python clients.py udp HOST PORT
    python clients.py unix PATH -
    python clients.py hmac-DIGEST HOST PORT        (`hmac-` for the default that Python had to 3.7)

Each line of standard input is sent without its end, and what came back is printed. Nothing here is
newer than Python 3.7, which the tutorials were written for, and nothing is of netd.
"""

import hmac
import socket
import sys

SECRET = b"linhaifeng bang bang bang"


def ask(client, text):
    """Sends, and prints what a single recv returns."""
    client.send(text.encode("utf-8"))
    print(client.recv(1024).decode("utf-8"))


def connect(family, address):
    """A client that is connected, and does not wait for ever."""
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect(address)
    return client


def authenticate(client, digest):
    """Answers the challenge of the server."""
    message = client.recv(32)
    answer = hmac.new(SECRET, message, digest) if digest else hmac.new(SECRET, message)
    client.sendall(answer.digest())


def main():
    """Asks what stands on standard input."""
    kind, host, port = sys.argv[1:]
    lines = sys.stdin.read().splitlines()
    if kind == "udp":
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(10)
        for line in lines:
            client.sendto(line.encode("utf-8"), (host, int(port)))
            print(client.recvfrom(1024)[0].decode("utf-8"))
        return
    if kind == "unix":
        client = connect(socket.AF_UNIX, host)
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        client = connect(family, (host, int(port)))
    if kind.startswith("hmac-"):
        authenticate(client, kind[5:])
    for line in lines:
        ask(client, line)
    client.close()


main()
