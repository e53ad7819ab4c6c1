"""`netd -T`: YAML that reads back to the same configuration."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from harness import CHECKOUT, COMMAND, PATIENCE, environment
from hypothesis import example, given
from hypothesis import strategies as st
from written import loaded, write

from netd import config, dump
from netd.config import Config, ServiceStanza

SHIPPED = [config.BUILT_IN_FILE, CHECKOUT / "etc" / "netd.yaml"]


def reread(found: Config) -> Config:
    """What a configuration becomes when it is written and read again."""
    with TemporaryDirectory() as folder:
        return loaded(Path(folder), dump.to_yaml(found))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_the_files_of_netd_read_back_to_the_same(file: Path) -> None:
    """Both the one in the package and the one for production."""
    found = config.load(file)
    assert found.services
    assert reread(found) == found


def test_every_key_is_written_in_its_own_unit(tmp_path: Path) -> None:
    """As one would write it oneself, and what the service is comes first."""
    text = """
        control: {path: /run/x/control.sock}
        drain_timeout: 90s
        defaults: {session_timeout: 1h30m, only_from: ["10.0.0.0/8", "::1"]}
        services:
          s:
            listen: [unix:a, "tcp://[::1]:9"]
            idle_timeout: 500ms
            receive_buffer: 65536
            socket_mode: "660"
            reply_rate: 600/m
            banner: "a\\r\\n"
            protocol: daytime
            options: {utc: true}
    """
    lines = dump.to_yaml(loaded(tmp_path, text)).splitlines()
    assert lines[:3] == ["control:", "  path: /run/x/control.sock", "  mode: '0660'"]
    for line in (
        "drain_timeout: 90s",
        "    idle_timeout: 500ms",
        "    session_timeout: 90m",
        "    receive_buffer: 64KiB",
        "    socket_mode: '0660'",
        "    reply_rate: 10/s",
        r'    banner: "a\r\n"',
        "    - 10.0.0.0/8",
        "    - ::1/128",
        "    - unix:/run/x/a",
        "    - tcp://[::1]:9",
        "      utc: true",
        "    write_timeout: 30s",
    ):
        assert line in lines
    start = lines.index("  s:")
    assert lines[start + 1 : start + 4] == [
        "    protocol: daytime", "    handler: null", "    listen:",
    ]  # fmt: skip


def test_nothing_is_left_to_defaults_and_to_other_files(tmp_path: Path) -> None:
    """What they said is written below each service."""
    others = {"a.yaml": "services: {s: {listen: [fd:s]}}"}
    text = "include: [a.yaml]\ndefaults: {protocol: upper}"
    tree = yaml.safe_load(dump.to_yaml(loaded(tmp_path, text, others)))
    assert set(tree) == set(Config.model_fields) - {"include", "defaults"}
    assert set(tree["services"]["s"]) == set(ServiceStanza.model_fields)


def test_files_of_options_are_written_with_their_whole_path(tmp_path: Path) -> None:
    """The output may be read from another folder."""
    (tmp_path / "quotes").write_text("a quote")
    text = "services: {s: {protocol: qotd, listen: [fd:s], options: {file: quotes}}}"
    found = loaded(tmp_path, text)
    assert f"file: {tmp_path}/quotes\n" in dump.to_yaml(found)
    assert reread(found) == found


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.from_regex(
    r"[-+0-9.oxeE_:]{1,8}|[nN]o|[yY]es|[oO]ff|~|null|<<|=|true|\.nan|\.inf", fullmatch=True
)
DURATION = st.just("none") | st.from_regex(
    r"[1-9][0-9]{0,4}(\.[0-9]{1,3})?(ms|s|m)", fullmatch=True
)
SIZE = st.integers(0, 10**9) | st.from_regex(r"[0-9]{1,3}(B|KB|MB|KiB|MiB)", fullmatch=True)
RATE = st.just("none") | st.from_regex(r"[1-9][0-9]{0,8}/[smh]", fullmatch=True)
LIMIT = st.none() | st.integers(1, 10_000_000)
NETWORKS = st.lists(
    (st.ip_addresses(v=4) | st.ip_addresses(network="2001:db8::/32")).map(str), max_size=3
)
SERVICE: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"protocol": st.just("daytime")},
    optional={
        "enabled": st.booleans(),
        "banner": TEXT,
        "banner_fail": TEXT,
        "idle_timeout": DURATION,
        "session_timeout": DURATION,
        "send_buffer": SIZE,
        "reply_rate": RATE,
        "max_connections": LIMIT,
        "only_from": NETWORKS,
        "source_prefix": st.fixed_dictionaries({"ipv4": st.integers(0, 32)}),
        "socket_mode": st.integers(0, 0o777).map("{:04o}".format),
        "bind_to_device": TEXT.filter(lambda text: len(text) <= 15),
        "options": st.fixed_dictionaries({}, optional={"utc": st.booleans()}),
    },
)


@given(
    st.lists(SERVICE, max_size=3), st.fixed_dictionaries({}, optional={"drain_timeout": DURATION})
)
@example([{"protocol": "daytime", "banner": text} for text in ("0o17", "1e3", "22:22", "no")], {})
@example([{"protocol": "daytime", "banner": text} for text in ("\0\x85\u2028\ufeff", "\ud7ff")], {})
@example([{"protocol": "daytime", "banner": "a\n\n  b \t\n", "idle_timeout": "1.001ms"}], {})
def test_any_configuration_reads_back_to_the_same(
    services: list[dict[str, Any]], top: dict[str, Any]
) -> None:
    """Whatever its text looks like, to this version of YAML or to that."""
    named = {f"s{n}": {"listen": [f"fd:{n}"], **keys} for n, keys in enumerate(services)}
    with TemporaryDirectory() as folder:
        text = json.dumps({"services": named, **top}, ensure_ascii=False)
        # JSON would write half characters, which YAML does not know.
        escaped = re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", text)
        found = loaded(Path(folder), escaped)
    assert [*found.services] == [*named]
    for name, keys in named.items():
        assert found.services[name].banner == keys.get("banner", "")
    assert reread(found) == found


def test_the_command_prints_it(tmp_path: Path) -> None:
    """To standard output, and nothing else."""
    write(tmp_path, "services: {s: {protocol: upper, listen: [fd:s]}}")
    done = subprocess.run(
        [*COMMAND, "-T", "-c", "netd.yaml"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dump.to_yaml(config.load(tmp_path / "netd.yaml"))
