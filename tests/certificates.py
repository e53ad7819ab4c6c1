"""Certificates for tests, made by openssl(1): a root, and what it has signed.

pair = certificates.make("server", names=["localhost"])
config = {"certificate": str(pair.certificate), "key": str(pair.key)}
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

MISSING = "" if which("openssl") else "openssl is not installed"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def stanza(self) -> dict[str, str]:
        """The two as the configuration names them."""
        return {"certificate": str(self.certificate), "key": str(self.key)}


@cache
def _folder() -> TemporaryDirectory[str]:
    """Where all of them are, for as long as the tests run."""
    folder = TemporaryDirectory(prefix="netd-certificates-")
    Path(folder.name).chmod(0o755)
    return folder


def _openssl(*words: str | Path, text: str = "") -> None:
    command = ["openssl", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, input=text, timeout=60)
    assert done.returncode == 0, done.stderr


def _new_key(name: str, kind: str) -> Path:
    file = Path(_folder().name, f"{name}.key")
    option = "ec_paramgen_curve:P-256" if kind == "EC" else "rsa_keygen_bits:2048"
    _openssl("genpkey", "-algorithm", kind, "-pkeyopt", option, "-out", file)
    file.chmod(0o600)
    return file


@cache
def root() -> Pair:
    """A root that everybody in the tests trusts."""
    key, file = _new_key("root", "EC"), Path(_folder().name, "root.pem")
    usage = "keyUsage=critical,keyCertSign,cRLSign"
    _openssl("req", "-x509", "-key", key, "-out", file, "-days", "30", "-subj", "/CN=A Root",
             "-addext", usage)  # fmt: skip
    return Pair(file, key)


@cache
def make(
    name: str, names: tuple[str, ...] = ("localhost",), kind: str = "EC", days: int = 90
) -> Pair:
    """A certificate for these names of servers, signed by the root; with negative `days` it has
    expired. Its common name is `name`."""
    folder, key, authority = Path(_folder().name), _new_key(name, kind), root()
    request, file, extensions = (folder / f"{name}.{end}" for end in ("csr", "pem", "ext"))
    alternatives = ",".join([*(f"DNS:{each}" for each in names), "IP:127.0.0.1"])
    extensions.write_text(
        f"subjectAltName={alternatives}\nbasicConstraints=CA:FALSE\n"
        "keyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
        "crlDistributionPoints=URI:http://localhost/root.crl\n"
    )
    _openssl("req", "-new", "-key", key, "-subj", f"/O=Tests/CN={name}", "-out", request)
    prefix = [] if days > 0 else ["faketime", f"{2 * days} days"]
    command = [
        *prefix, "openssl", "x509", "-req", "-in", request, "-CA", authority.certificate,
        "-CAkey", authority.key, "-CAcreateserial", "-days", str(abs(days)), "-extfile",
        extensions, "-out", file,
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    return Pair(file, key)


def client(name: str) -> Pair:
    """A certificate of a client by that name."""
    return make(name, ())


@cache
def stranger() -> Pair:
    """A certificate that is its own root, which nobody trusts."""
    key, file = _new_key("stranger", "EC"), Path(_folder().name, "stranger.pem")
    _openssl("req", "-x509", "-key", key, "-out", file, "-days", "30", "-subj", "/CN=stranger")
    return Pair(file, key)


def lay_out(folder: Path, *names: str) -> None:
    """Puts the server's pair into a folder, as NAME.pem and NAME.key for each name."""
    pair = make("server")
    for name in names:
        for source, end in ((pair.certificate, "pem"), (pair.key, "key")):
            target = folder / f"{name}.{end}"
            target.write_bytes(source.read_bytes())
            target.chmod(0o600)
