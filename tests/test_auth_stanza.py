"""The key `auth` in a configuration: where it may stand, and what it needs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, environment, new_folder, run_netd, write_config

from netd import config
from netd.errors import ConfigError

KEY = "a key of twenty-odd characters"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a configuration, with keys and users in it."""
    for name, text in (
        ("key", KEY),
        ("users.yaml", f'users: {{alice: {{keys: [{{secret: "{KEY}"}}]}}}}'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def problems(folder: Path, auth: str, *listen: str) -> list[str]:
    """What is wrong with a service that has this `auth`."""
    file = folder / "netd.yaml"
    addresses = ", ".join(f'"{address}"' for address in listen or ("tcp://127.0.0.1:0",))
    file.write_text(
        f"services:\n  upper:\n    protocol: upper\n    auth: {auth}\n    listen: [{addresses}]\n"
    )
    try:
        config.load(file)
    except ConfigError as error:
        return [problem.removeprefix(f"{file}:") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "auth",
    ["{users: users.yaml}", "{key: key}", "{key: key, digest: md5}", "{key: key, digest: sha256}"],
)
@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:0", "tcp://[::1]:0", "tcp://localhost:0", "unix:upper.sock"]
)
def test_a_challenge_is_for_this_machine(folder: Path, auth: str, address: str) -> None:
    """Paths begin in the folder of the configuration."""
    assert problems(folder, auth, address) == []


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:5", "tcp://example.org:5", "fd:upper"],
)
def test_a_challenge_in_the_clear_is_not_for_strangers(folder: Path, address: str) -> None:
    """Unless whoever writes the file says that it is to be so."""
    (problem,) = problems(folder, "{key: key}", "tcp://127.0.0.1:0", address)
    assert problem.startswith(f"5:35: {address}: a challenge in the clear can be relayed")
    assert "insecure: true" in problem
    assert problems(folder, "{key: key, insecure: true}", address) == []


def test_behind_a_proxy_clients_are_strangers(folder: Path) -> None:
    """However near the proxy itself is."""
    (problem,) = problems(folder, "{key: key}\n    proxy_protocol: {from: [127.0.0.1]}")
    assert "a proxy brings clients from elsewhere" in problem
    secure = "{key: key, insecure: true}\n    proxy_protocol: {from: [127.0.0.1]}"
    assert problems(folder, secure) == []


@pytest.mark.parametrize("key", ["key", "users"])
def test_a_key_in_place_of_its_file_is_not_repeated(folder: Path, key: str) -> None:
    """It was to be in no file that others read, and is to be in no log."""
    made = "netd_" + "x" * 43
    (problem,) = problems(folder, f"{{{key}: {made}}}")
    assert "a key stands where its file belongs (put it into one of mode 0600)" in problem
    assert made not in problem


@pytest.mark.parametrize("address", ["udp://127.0.0.1:0", "unix-dgram:upper.dgram"])
def test_datagrams_are_not_asked(folder: Path, address: str) -> None:
    """They would be answered without."""
    (problem,) = problems(folder, "{key: key}", address)
    assert problem == (
        f"5:14: {address}: nobody can be asked there who sends datagrams"
        " (give them a service without auth)"
    )


@pytest.mark.parametrize(
    ("auth", "listen", "expected"),
    [
        ("{}", "tcp://127.0.0.1:0", "4:11: auth: method hmac needs users, or a key"),
        ("{key: key, users: users.yaml}", "tcp://127.0.0.1:0", "users or a key, not both"),
        ("{method: peer}", "unix:a.sock", "4:11: auth: method peer needs users"),
        ("{method: peer, key: key}", "unix:a.sock", "4:11: auth: method peer needs users"),
        ("{method: peer, users: users.yaml}", "tcp://127.0.0.1:0", "5:14: .*UNIX sockets alone"),
        ("{method: certificate, users: users.yaml}", "tcp://127.0.0.1:0", "5:14: .*tls.client_ca"),
        ("{method: pam}", "tcp://127.0.0.1:0", "4:20: method: 'pam' is not one of hmac, peer"),
        ("{key: absent}", "tcp://127.0.0.1:0", "4:17: key: .*absent: No such file .*openssl"),
        ("{users: users.yml}", "tcp://127.0.0.1:0", "4:19: users: .*`netctl users add NAME` makes"),
        ("{key: 'env:NETD_NO_KEY'}", "tcp://127.0.0.1:0", "4:17: key: env:NETD_NO_KEY: "),
        ("{key: 'credential:no'}", "tcp://127.0.0.1:0", "4:17: key: credential:no: "),
        ("{kye: key}", "tcp://127.0.0.1:0", "4:12: unknown key 'kye' .did you mean key"),
    ],
)  # fmt: skip
def test_faults_are_told_by_place_and_remedy(
    folder: Path, auth: str, listen: str, expected: str
) -> None:
    """As for any key."""
    found = problems(folder, auth, listen)
    assert any(re.search(expected, problem) for problem in found), found


def test_peers_of_unix_sockets_are_known_by_their_users(folder: Path) -> None:
    """Which needs nothing more."""
    assert problems(folder, "{method: peer, users: users.yaml}", "unix:upper.sock") == []


def test_the_user_of_a_proxy_is_not_that_of_its_clients(folder: Path) -> None:
    """Whoever came through it would be the user that it runs as."""
    auth = "{method: peer, users: users.yaml}\n    proxy_protocol: {from: [127.0.0.1]}"
    assert problems(folder, auth, "unix:a.sock") == [
        "4:11: auth: method peer knows the proxy, and would take each of its clients for that"
        " (use method: hmac, or leave out proxy_protocol)"
    ]


@pytest.mark.parametrize("text", ["", "p4ss", "x" * 15])
def test_an_empty_or_short_key_is_refused(folder: Path, text: str) -> None:
    """By the name of its file."""
    (folder / "key").write_text(text)
    (problem,) = problems(folder, "{key: key}")
    assert problem.startswith(f"4:17: key: {folder}/key:")
    assert not text or text not in problem


def test_what_a_key_file_holds_is_never_repeated(folder: Path) -> None:
    """Neither by a fault in the file of users, nor by `netd -T`."""
    (folder / "users.yaml").write_text(f"users: {{alice: {{keys: [{KEY}]}}}}")
    found = problems(folder, "{users: users.yaml}")
    assert found
    assert KEY not in str(found)
    assert problems(folder, "{key: key}") == []
    dumped = subprocess.run(
        [*COMMAND, "-T", "-c", folder / "netd.yaml"],
        env=environment(folder), capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert f"key: {folder}/key" in dumped.stdout
    assert KEY not in dumped.stdout + dumped.stderr


def stanza(**auth: Any) -> dict[str, Any]:
    service = {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"], "auth": auth}
    return {"services": {"upper": service}}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_netd_does_not_start_with_keys_that_others_may_read(mode: int) -> None:
    """Exit status 78, and the file is named."""
    with new_folder() as folder:
        (folder / "key").write_text(KEY)
        (folder / "key").chmod(mode)
        file = write_config(folder, stanza(key="key"))
        done = subprocess.run(
            [*COMMAND, "-c", file], env=environment(folder), capture_output=True, text=True,
            timeout=30,
        )  # fmt: skip
        assert done.returncode == 78
        assert f"{folder}/key: others than its owner may use it" in done.stderr
        assert KEY not in done.stderr


def test_a_service_without_auth_costs_nothing_more() -> None:
    """The library for SCRAM is not even loaded."""
    program = (
        "import sys; from netd import config, stages, daemon\n"
        "loaded = config.load(config.BUILT_IN_FILE)\n"
        "for item in loaded.services.items(): assert not [*stages.stages_of(*item)]\n"
        "assert not {'scramp', 'asn1crypto', 'netd.scram'} & set(sys.modules)"
    )
    with new_folder() as folder:
        subprocess.run([COMMAND[0], "-c", program], env=environment(folder), check=True, timeout=30)


def test_keys_come_from_the_environment_or_from_systemd() -> None:
    """A unit names them by EnvironmentFile= and LoadCredential=."""
    with new_folder() as folder:
        (folder / "upper").write_text(KEY)
        (folder / "upper").chmod(0o440)
        env = {"CREDENTIALS_DIRECTORY": str(folder), "UPPER_KEY": KEY}
        for source in ("credential:upper", "env:UPPER_KEY"):
            with run_netd(stanza(key=source), env=env) as netd:
                with netd.connect("upper") as client:
                    assert len(client.recv(32)) == 32
                assert netd.stop() == 0
