"""The keys `tls` and `proxy_protocol` in a configuration: what is wrong with them, and where."""

from __future__ import annotations

import os
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certificates
import pytest
from harness import AS_ROOT, CHECKOUT, read_exactly, run_netd
from hypothesis import given
from hypothesis import strategies as st
from pages import Block, blocks
from pydantic import ValidationError
from written import faults as all_faults
from written import loaded

from netd.dump import to_yaml
from netd.pem import LARGEST_FILE, certificate_in, validity
from netd.tls import Tls, TlsStanza

pytestmark = pytest.mark.skipif(bool(certificates.MISSING), reason=certificates.MISSING)

PAGE = CHECKOUT / "docs" / "tls.md"
HEAD = "services:\n  s:\n    protocol: upper\n    listen: [tcp://127.0.0.1:9]\n"


def faults(folder: Path, text: str) -> list[str]:
    """What is wrong with netd.yaml, without its name; the folder is written as `~`."""
    return [fault.removeprefix("netd.yaml:") for fault in all_faults(folder, text)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a configuration, with certificates in it."""
    for name, pair in (
        ("a", certificates.make("server")), ("b", certificates.make("newer")),
        ("root", certificates.root()),
    ):  # fmt: skip
        shutil.copy(pair.certificate, tmp_path / f"{name}.pem")
        shutil.copy(pair.key, tmp_path / f"{name}.key")
    both = (tmp_path / "a.pem").read_bytes() + (tmp_path / "a.key").read_bytes()
    (tmp_path / "both.pem").write_bytes(both)
    (tmp_path / "both.pem").chmod(0o640)
    (tmp_path / "open.key").write_bytes((tmp_path / "a.key").read_bytes())
    (tmp_path / "open.key").chmod(0o644)
    (tmp_path / "empty.pem").touch()
    (tmp_path / "bad.pem").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    (tmp_path / "large.pem").write_bytes(b" " * (LARGEST_FILE + 1))
    (tmp_path / "locked.key").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


GOOD = [
    "{certificate: a.pem, key: a.key}",
    "{certificate: both.pem}",
    "{certificate: a.pem, key: a.key, min_version: 1.3}",
    "{certificate: a.pem, key: a.key, min_version: '1.2', alpn: [http/1.1, h2]}",
    "{certificate: a.pem, key: a.key, client_ca: root.pem}",
    "{certificate: a.pem, key: a.key, client_ca: root.pem, client_certificate: optional}",
    "{certificate: a.pem, key: a.key, client_certificate: none}",
    "{certificate: a.pem, key: a.key, sni: {WWW.example.org: {certificate: b.pem, key: b.key},"
    " '*.example.org': {certificate: both.pem}}}",
]


@pytest.mark.parametrize("tls", GOOD)
def test_paths_begin_in_the_folder_of_the_configuration(folder: Path, tls: str) -> None:
    """What was read is dumped, and read again as the same."""
    config = loaded(folder, f"{HEAD}    tls: {tls}")
    stanza = config.services["s"].tls
    assert stanza is not None
    assert stanza.certificate.parent == folder
    assert loaded(folder, to_yaml(config)) == config


BAD = [
    ("{key: a.key}", "5:10: tls has no certificate (add certificate: server.pem, or psk: "),
    ("{certificate: none.pem}", "5:24: ~/none.pem: No such file or directory (name a PEM file)"),
    ("{certificate: a.pem}", "5:24: ~/a.pem: there is no key in it (name a PEM file)"),
    ("{certificate: a.key, key: a.key}", "5:24: ~/a.key: there is no certificate in it"),
    ("{certificate: empty.pem, key: a.key}", "5:24: ~/empty.pem: there is no certificate in it"),
    ("{certificate: bad.pem, key: a.key}", "5:24: ~/bad.pem: "),
    ("{certificate: large.pem, key: a.key}", "5:24: ~/large.pem: it has more than 1,048,576"),
    ("{certificate: fifo, key: a.key}", "5:24: ~/fifo: it is not a file"),
    ("{certificate: a.pem, key: /dev/zero}", "5:36: /dev/zero: it is not a file"),
    ("{certificate: a.pem, key: .}", "5:36: key: '.' is not the path of a file"),
    ("{certificate: a.pem, key: locked.key}", "5:36: ~/locked.key: the key has a password"),
    ("{certificate: a.pem, key: open.key}",
     "5:36: ~/open.key: others can read the key (chmod it to 0640 or less)"),
    ("{certificate: a.pem, key: b.key}",
     "5:36: ~/b.key: the key is not that of ~/a.pem (name the two that belong together)"),
    ("{certificate: a.pem, key: a.key, client_ca: a.key}", "5:54: ~/a.key: no certificate or crl"),
    ("{certificate: a.pem, key: a.key, client_certificate: required}",
     "5:63: nothing says whose certificates are good (add client_ca)"),
    ("{certificate: a.pem, key: a.key, client_ca: root.pem, client_certificate: none}",
     "5:84: client_ca is there, but no certificate is asked for (write optional or required)"),
    ("{certificate: a.pem, key: a.key, min_version: TLSv1.1}", "5:56: min_version: 'TLSv1.1' is"),
    ("{certificate: a.pem, key: a.key, sni: {www..org: {certificate: a.pem}}}", "5:"),
    ("{certificate: a.pem, key: a.key, sni: {w.org: {certificate: b.pem, key: a.key}}}",
     "5:82: ~/a.key: the key is not that of ~/b.pem"),
]  # fmt: skip


@pytest.mark.parametrize(("tls", "start"), BAD)
def test_each_fault_has_its_place(folder: Path, tls: str, start: str) -> None:
    """File, line and column, what is wrong, and what to do."""
    found = faults(folder, f"{HEAD}    tls: {tls}")
    assert len(found) == 1
    assert found[0].startswith(start)


def test_a_file_that_may_not_be_read_is_named(folder: Path) -> None:
    """Root's own key, for a netd that is not root."""
    if AS_ROOT:
        pytest.skip("root may read everything")
    (folder / "a.key").chmod(0)
    found = faults(folder, f"{HEAD}    tls: {{certificate: a.pem, key: a.key}}")
    assert found == [f"5:36: {folder}/a.key: Permission denied (let the user of netd read it)"]


def test_datagrams_cannot_be_guarded(folder: Path) -> None:
    """A service that has both would be open by the other door."""
    text = HEAD.replace("tcp://127.0.0.1:9]", "tcp://127.0.0.1:9, udp://127.0.0.1:9]")
    both = "proxy_protocol: {from: ['::1']}\n    tls: {certificate: a.pem, key: a.key}"
    assert faults(folder, f"{text}    {both}") == [
        "4:33: udp://127.0.0.1:9: proxy_protocol and tls cannot hold for datagrams"
        " (give them a service without)"
    ]


PROXY_FAULTS = [
    ("{}", "5:5: proxy_protocol: the key from is missing"),
    ("{from: []}", "5:28: from: it is empty (write at least 1)"),
    ("{from: [10.0.0.1/8]}", "5:29: from[0]: '10.0.0.1/8' has host bits set"),
    ("{frm: ['::1']}", "5:22: unknown key 'frm' (did you mean from?)"),
    ("{from_: ['::1']}", "5:22: unknown key 'from_' (did you mean from?)"),
    ("{from: ['::1'], versions: [3]}", "5:48: versions[0]: 3 is not one of 1, 2"),
]


@pytest.mark.parametrize(("stanza", "start"), PROXY_FAULTS)
def test_each_fault_of_the_proxies_has_its_place(folder: Path, stanza: str, start: str) -> None:
    """By the names that stand in the file."""
    found = faults(folder, f"{HEAD}    proxy_protocol: {stanza}")
    assert any(fault.startswith(start) for fault in found), found


def test_the_proxies_are_dumped_as_they_are_written(folder: Path) -> None:
    """`from` is no name in Python, and is one in the file."""
    config = loaded(folder, f"{HEAD}    proxy_protocol: {{from: [127.0.0.1, '2001:db8::/32']}}")
    text = to_yaml(config)
    assert "      from:\n" in text
    assert loaded(folder, text) == config


def test_a_certificate_that_has_expired_is_served_with_a_warning() -> None:
    """Clients that do not look are better served than none; the log says what to do."""
    pair = certificates.make("expired", days=-5)
    stanza = {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"], "tls": pair.stanza}
    with run_netd({"services": {"upper": stanza}}) as netd:
        netd.wait_for_log(
            rf"warning upper: the certificate {pair.certificate} expired on 20..-..-.. ..:.. UTC"
            r" \(renew it, and reload\)$"
        )


def test_validity_is_told_before_and_after_it() -> None:
    """By the clock that it is given."""
    pair = certificates.make("server")
    contexts = Tls(TlsStanza.model_validate(pair.stanza)).contexts
    begin, end = validity(certificate_in(pair.certificate))
    assert begin < datetime.now(UTC) < end
    assert list(contexts.warnings()) == []
    (early,) = contexts.warnings(begin - timedelta(days=1))
    (late,) = contexts.warnings(end + timedelta(seconds=1))
    assert "is not valid before" in early
    assert "expired on" in late


@given(st.binary(max_size=300))
def test_a_damaged_certificate_is_a_fault_and_no_more(data: bytes) -> None:
    """Whatever stands between the two lines."""
    try:
        validity(data)
    except ValueError:
        return
    raise AssertionError("random bytes are no certificate")


@pytest.mark.parametrize("name", ["", ".", "a..b", "-a.org", "a b", "*", "*.", "a.*.org", "x" * 64])
def test_a_name_of_a_server_is_one(name: str) -> None:
    """As it may stand in a certificate."""
    pair = certificates.make("server").stanza
    with pytest.raises(ValidationError):
        TlsStanza.model_validate({**pair, "sni": {name: pair}})


@pytest.mark.parametrize(
    "block", [block for block in blocks(PAGE) if block.language == "yaml"], ids=lambda b: b.line
)
def test_every_configuration_of_the_page_is_valid(block: Block, tmp_path: Path) -> None:
    """Each example can be read as it stands, where its files are there."""
    certificates.lay_out(tmp_path, "server", "other", "clients")
    assert loaded(tmp_path, block.text).services


def test_the_daemon_serves_over_tls() -> None:
    """From a file with relative paths to an answer."""
    pair = certificates.make("server")
    tls = {**pair.stanza, "min_version": "TLSv1.3"}
    stanza = {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"], "tls": tls}
    with run_netd({"services": {"upper": stanza}}, unprivileged=False) as netd:
        context = ssl.create_default_context(cafile=certificates.root().certificate)
        with context.wrap_socket(netd.connect("upper"), server_hostname="localhost") as client:
            client.sendall(b"abc")
            assert read_exactly(client, 3) == b"ABC"
