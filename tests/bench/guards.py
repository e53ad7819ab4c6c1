"""What may stand before a service, and the clients that get past it: nothing, authentication, TLS.

A client does one step at a time, so that many can come in at once: whoever runs it polls its
socket, and calls `go_on` whenever there is something to read.
"""

from __future__ import annotations

import hmac
import os
import pwd
import shutil
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path
from secrets import token_urlsafe

KEY = token_urlsafe(32).encode()
"""What clients show that they have; another one in each run."""
KEY_FILE = "shared.key"
CERTIFICATE, CERTIFICATE_KEY = "server.pem", "server.key"
"""The names of files, in the folder of the configuration."""
CHALLENGE = 32
"""Bytes that netd sends first where it asks who is there."""
_ENDED = "the server ended the connection"


class Client:
    """Comes in without being asked, and has one message echoed."""

    stanza = ""
    """What the configuration of netd has for such clients, below the service."""

    def __init__(self, sock: socket.socket, message: bytes) -> None:
        self.sock = sock
        self.message = message
        self.begin()

    @staticmethod
    def lay_out(folder: Path) -> None:
        """Makes the files that servers need."""

    def begin(self) -> None:
        """Says what can be said before the server has said anything."""
        self.sock.sendall(self.message)

    def go_on(self) -> bool:
        """Answers what has come; whether that was the whole echo. Raises ConnectionError."""
        _take(self.sock, len(self.message))
        return True

    def close(self) -> None:
        """Leaves in order."""
        self.sock.close()


class KnowingClient(Client):
    """Answers the challenge first, with its message right behind."""

    stanza = f"auth: {{method: hmac, digest: auto, key: {KEY_FILE}}}"

    @staticmethod
    def lay_out(folder: Path) -> None:
        file = folder / KEY_FILE
        file.touch(mode=0o600)
        file.write_bytes(KEY + b"\n")
        if os.geteuid() == 0:
            shutil.chown(file, _user_of_netd())  # else netd warns that it cannot follow the file

    def begin(self) -> None:
        self.is_known = False

    def go_on(self) -> bool:
        if self.is_known:
            return super().go_on()
        answer = hmac.digest(KEY, _take(self.sock, CHALLENGE), "sha256")
        self.sock.sendall(answer + self.message)
        self.is_known = True
        return False


class TlsClient(Client):
    """Does a full handshake first, whatever certificate there is; it resumes no session."""

    stanza = f"tls: {{certificate: {CERTIFICATE}, key: {CERTIFICATE_KEY}}}"

    @staticmethod
    def lay_out(folder: Path) -> None:
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-keyout", CERTIFICATE_KEY, "-out", CERTIFICATE,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl makes no certificate: {done.stderr}")
        (folder / CERTIFICATE_KEY).chmod(0o600)

    def begin(self) -> None:
        # Not blocking: neither the handshake nor a record comes in one piece.
        self.sock.setblocking(False)
        self.secured = _TRUSTING.wrap_socket(self.sock, do_handshake_on_connect=False)
        self.sock = self.secured
        self.is_secure = False
        self.missing = len(self.message)
        self.go_on()

    def go_on(self) -> bool:
        try:
            if not self.is_secure:
                self.secured.do_handshake()
                self.is_secure = True
                self.secured.sendall(self.message)
                return False
            came = len(self.secured.recv(self.missing))
        except ssl.SSLWantReadError:
            return False  # half a record, or tickets
        if not came:
            raise ConnectionError(_ENDED)
        self.missing -= came
        return not self.missing

    def close(self) -> None:
        # It says the end of TLS, but does not wait for the server's own.
        with suppress(OSError):
            self.secured.unwrap()
        self.secured.close()


CLIENTS: dict[str, type[Client]] = {"": Client, "hmac": KnowingClient, "tls": TlsClient}
"""By what stands before the service."""


def _trusting() -> ssl.SSLContext:
    """The context of clients that trust everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_TRUSTING = _trusting()


def _take(sock: socket.socket, size: int) -> bytes:
    """So many bytes of which the first have come."""
    data = sock.recv(size, socket.MSG_WAITALL)
    if len(data) != size:
        raise ConnectionError(_ENDED)
    return data


def _user_of_netd() -> str:
    """Whom netd becomes when root starts it."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "netd" if "netd" in known else "nobody"
