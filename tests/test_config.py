"""A whole configuration: what is loaded, what is refused, and how `netd -t` tells it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from harness import COMMAND, PATIENCE, cheap, environment
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from written import faults, loaded, write

from netd import config, dump
from netd.address import UNIX_PATH_LIMIT
from netd.config import Config, ServiceStanza
from netd.errors import ConfigError

PLACED = re.compile(r"[^\n]+:[1-9][0-9]*:[1-9][0-9]*: [^\n]+")
USER = "root" if os.geteuid() else "nobody"

FAULTS = [
    ("log: {levle: info}", "1:7: unknown key 'levle' (did you mean level?)"),
    ("log: {level: warn}",
     "1:14: level: 'warn' is not one of debug, info, warning, error"),
    ("log: {format: yes}", "1:15: format: 'yes' is not one of auto, text, json"),
    ("log:", "1:5: log: nothing stands below it (write keys below it, or take it out)"),
    ("log: info", "1:6: log: expected keys with values, not 'info'"
     " (there are: address, file, format, level)"),
    ("contrl: {}", "1:1: unknown key 'contrl' (did you mean control?)"),
    ("service: {}", "1:1: unknown key 'service' (did you mean services?)"),
    ("xyzzy: {}", "1:1: unknown key 'xyzzy' (there are: control, defaults, drain_timeout, group,"
     " include, log, max_connections, max_threads, services, status, user)"),
    ("control: {path: run/netd/control.sock}", "1:17: path: 'run/netd/control.sock' is not an"
     " absolute path (write /run/netd/control.sock)"),
    ("control: {path: ''}",
     "1:17: path: '' is not an absolute path (write /run/netd/control.sock)"),
    ("control: {path: /run/netd/}",
     "1:17: path: '/run/netd/' is not an absolute path (write /run/netd/control.sock)"),
    ('control: {path: "/run/\\0"}',
     r"1:17: path: '/run/\x00' is not an absolute path (write /run/netd/control.sock)"),
    (f"control: {{path: /run/{'x' * 103}}}", f"1:17: path: '/run/{'x' * 55}…' is too long"
     f" (a socket's path has at most {UNIX_PATH_LIMIT} bytes)"),
    ("control: {paht: /run/x}", "1:11: unknown key 'paht' (did you mean path?)"),
    ("user: no-such-user",
     "1:7: user: this machine has no user 'no-such-user' (`getent passwd` lists them)"),
    ("group: no-such-group",
     "1:8: group: this machine has no group 'no-such-group' (`getent group` lists them)"),
    ("user: root", "1:7: user: netd does not serve as root (name another one)"),
    ("user: 0", "1:7: user: expected text, not 0 (put it in quotes)"),
    ("drain_timeout: 10", "1:16: drain_timeout: a duration needs a unit"
     " (write 10s, 10m or 10h)"),
    ("max_connections: '100'", "1:18: max_connections: expected a number, not '100'"
     " (write 100, without quotes or leading zeros)"),
    ("max_connections: 10k", "1:18: max_connections: expected a number, not '10k'"),
    ("max_threads: 0", "1:14: max_threads: 0 is too small (at least 1)"),
    ("max_threads: 1e3",
     "1:14: max_threads: expected a number, not 1000.0 (write a whole number)"),
    ("user: nobody\nuser: daemon", "2:1: the key 'user' stands in line 1 too (remove one)"),
    ("user: &x nobody",
     "1:7: the anchor &x is not accepted (write the value out; put text like &a in quotes)"),
    ("user: !!str nobody", "1:7: the tag !!str is not accepted (remove it, or put it in quotes)"),
    ("user: !!python/name:os.system nobody",
     "1:7: the tag !!python/name:os.system is not accepted (remove it, or put it in quotes)"),
    ("services:\n\tx: 1", "2:1: a tab stands where only spaces may (indent with spaces alone)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), FAULTS, ids=[text[:30] for text, _ in FAULTS])
def test_faults_outside_the_services_are_told(tmp_path: Path, text: str, said: str) -> None:
    """With place and remedy, in one line."""
    assert faults(tmp_path, text) == [f"netd.yaml:{said}"]


def test_all_faults_of_all_files_are_told_in_one_go(tmp_path: Path) -> None:
    """Ordered by file and line, whatever kind they are of."""
    main = """
        control: {path: here.sock}
        include: [b.yaml, none.yaml]
        defaults: {idle_timout: 1m}
        drain_timeout: 5
        drain_timeout: 6s
        services:
          s: {protocol: upper, listen: ["tcp://[::1]:9"], enabled: no}
    """
    others = {"b.yaml": 'services: {t: {protocol: echo, listen: ["tcp://[0::1]:9", "unix:x"]}}'}
    found = faults(tmp_path, main, others)
    assert [line.partition(" (")[0] for line in found] == [
        "b.yaml:1:41: tcp://[0::1]:9 is listened on already",
        "netd.yaml:2:17: path: 'here.sock' is not an absolute path",
        "netd.yaml:3:19: ~/none.yaml cannot be read: No such file or directory",
        "netd.yaml:4:12: unknown key 'idle_timout'",
        "netd.yaml:5:16: drain_timeout: a duration needs a unit",
        "netd.yaml:6:1: the key 'drain_timeout' stands in line 5 too",
        "netd.yaml:8:60: enabled: expected true or false, not 'no'",
    ]
    assert found[0].endswith("(see ~/netd.yaml:8:33)")


def test_what_is_not_written_has_its_default(tmp_path: Path) -> None:
    """An empty file is a whole configuration."""
    assert loaded(tmp_path, "") == Config()


def test_the_result_has_no_defaults_and_includes_of_its_own(tmp_path: Path) -> None:
    """They have become part of the services."""
    others = {"a.yaml": "services: {s: {listen: [fd:s]}}"}
    found = loaded(tmp_path, "include: [a.yaml]\ndefaults: {protocol: upper}", others)
    assert (found.include, found.defaults) == ([], {})
    assert found.services["s"].protocol == "upper"


def test_text_of_yaml_1_1_is_text(tmp_path: Path) -> None:
    """Nothing is turned into a truth, a date or a number to base 60."""
    words = ("no", "Off", "y", "22:22", "2026-01-01", "0x1G", "1_000", "=", "~x")
    listed = ", ".join(f"s{n}: {{protocol: upper, listen: [fd:{n}], banner: {word}}}"
                       for n, word in enumerate(words))  # fmt: skip
    services = loaded(tmp_path, f"services: {{{listed}}}").services
    assert [stanza.banner for stanza in services.values()] == [*words]


def test_the_file_that_is_named_is_chosen() -> None:
    """Whether it is there or not: there is nothing to be guessed."""
    assert config.choose_file("some/file") == Path("some/file")


@pytest.mark.parametrize("kind", ["file", "broken link", "folder"])
def test_without_a_name_the_one_in_etc_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Also when it cannot be read: to serve something else in its place would surprise."""
    file = tmp_path / "netd.yaml"
    if kind == "file":
        file.write_text("")
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("nowhere")
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    assert config.choose_file(None) == file


@pytest.mark.parametrize("name", ["none.yaml", "file/netd.yaml"])
def test_else_the_one_in_the_package_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """netd by itself shows what it can do."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / name)
    assert config.choose_file(None) == config.BUILT_IN_FILE


def test_the_built_in_file_serves_this_machine_alone_and_needs_no_privilege() -> None:
    """As DESIGN has it."""
    found = config.load(config.BUILT_IN_FILE)
    assert {"upper", "echo", "discard", "daytime", "time", "qotd", "chargen", "users"} <= {
        *found.services
    }
    addresses = [address for stanza in found.services.values() for address in stanza.listen]
    inet = [address for address in addresses if address.scheme in ("tcp", "udp")]
    assert {address.host for address in inet} == {"127.0.0.1", "::1"}
    assert min(address.port for address in inet) == 9000


# -- the command


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs netd in a folder."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


def test_a_configuration_without_faults_is_said_to_be_ok(tmp_path: Path) -> None:
    """On standard output, with status 0."""
    write(tmp_path, "services: {s: {protocol: upper, listen: [fd:s]}, t: {protocol: echo,"
          " listen: [fd:t]}}")  # fmt: skip
    done = run(tmp_path, "-t", "-c", "netd.yaml")
    assert done.stdout == "netd.yaml: configuration OK, 2 services\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["-t"], ["--check"], ["-T"], []])
def test_faults_go_to_standard_error_with_status_78(tmp_path: Path, arguments: list[str]) -> None:
    """Before anything is bound, whatever netd was told to do."""
    write(tmp_path, "services: {s: {protocol: uper, listen: ['tcp://h:1', 'tcp://h:1']}}")
    done = run(tmp_path, *arguments, "-c", "netd.yaml")
    assert done.stderr.splitlines() == [
        "netd.yaml:1:26: protocol: there is no protocol 'uper' (did you mean upper?)",
        "netd.yaml:1:54: tcp://h:1 is listened on already (see netd.yaml:1:41)",
    ]
    assert (done.returncode, done.stdout) == (78, "")


def test_a_file_that_is_not_there_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    """In the form of all others."""
    done = run(tmp_path, "-t", "-c", "none.yaml")
    assert done.stderr == (
        "none.yaml:1:1: the file cannot be read: No such file or directory"
        " (name another one with -c)\n"
    )
    assert done.returncode == 78


def test_a_fifo_does_not_keep_netd_waiting(tmp_path: Path) -> None:
    """Neither as the file itself nor as one that is included."""
    os.mkfifo(tmp_path / "fifo")
    write(tmp_path, "include: [fifo]")
    for file, place in (("fifo", "fifo:1:1: the file"), ("netd.yaml", "netd.yaml:1:11: fifo")):
        done = run(tmp_path, "-t", "-c", file)
        assert done.stderr.startswith(f"{place} cannot be read: it is not a regular file")
        assert done.returncode == 78


def test_a_handler_that_cannot_be_imported_leaves_no_traceback(tmp_path: Path) -> None:
    """One line with the reason, even when it ends the interpreter."""
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    write(tmp_path, "services: {s: {handler: 'leaves:X', listen: [fd:s]}}")
    done = subprocess.run(
        [*COMMAND, "-t", "-c", "netd.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
        env=environment(tmp_path) | {"PYTHONPATH": f"{Path(config.__file__).parents[1]}:."},
    )  # fmt: skip
    assert done.stderr == (
        "netd.yaml:1:25: handler: 'leaves:X' cannot be imported: SystemExit: 0\n"
    )
    assert done.returncode == 78


# -- speed


def test_five_hundred_services_are_loaded_in_no_time(tmp_path: Path) -> None:
    """In well under a second, also when each of them has several faults."""
    text = "services:\n" + "".join(
        f"  s{n}:\n    protocol: upper\n    listen: [tcp://10.0.0.1:{n + 1}, unix:s{n}.sock]\n"
        "    max_connections: 100\n    only_from: [10.0.0.0/8, 192.168.0.0/16]\n"
        "    idle_timeout: 1m\n"
        for n in range(500)
    )
    with cheap(0.9):
        assert len(loaded(tmp_path, text).services) == 500
    broken = text.replace("upper", "uper").replace("1m", "1").replace("only_from", "ony_from")
    with cheap(2):
        assert len(faults(tmp_path, broken)) == 1500


# -- whatever the file holds

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORDS = st.sampled_from([
    "upper", "daytime", "qotd", "x:y", "os:path", "netd.protocols.echo:EchoHandler", "5m", "none",
    "64KiB", "10/s", "0660", "10.0.0.0/8", "::1", "tcp://[::1]:9", "udp://h:0", "unix:a", "fd:a",
    "unix-dgram:/x", "root", "nobody", "netd.yaml", "*", "a*", "info", "json", "\0", "\x1b", "%H",
])  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | WORDS
KEYS = st.sampled_from([
    *Config.model_fields, *ServiceStanza.model_fields, "path", "level", "file", "format", "ipv4",
    "utc", "quotes", "pick", "s", "t",
]) | TEXT  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=12,
)
SERVICE = st.dictionaries(st.sampled_from([*ServiceStanza.model_fields]), VALUES, max_size=8)
FILES = VALUES | st.dictionaries(
    st.sampled_from([*Config.model_fields]), VALUES
) | st.fixed_dictionaries(
    {"services": st.dictionaries(TEXT | st.just("s"), SERVICE | VALUES, max_size=3)},
    optional={"defaults": SERVICE, "control": st.dictionaries(st.just("path"), VALUES)},
)  # fmt: skip


def read(file: Path, text: str) -> tuple[Config | None, tuple[str, ...]]:
    """The configuration in a text, or its faults; each of them is a line with its place."""
    file.write_text(text)
    try:
        return config.load(file), ()
    except ConfigError as error:
        problems = error.problems
    assert problems
    for line in problems:
        assert PLACED.fullmatch(line), line
        assert line.isprintable()
        assert line.startswith(f"{file}:")
        assert len(line) < 2000
    return None, problems


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(FILES)
@example({"services": {"s": {"protocol": "upper", "listen": ["fd:a\nb", "tcp://\x1b:1"]}}})
@example({"services": {"s": {"protocol": "upper", "listen": ["tcp://\x1b:1", "tcp://\x1b:1"]}}})
@example({"user": "\0", "services": {"s": {"socket_group": "\0", "handler": "\0:\0"}}})
@example({"defaults": {"options": {"a": 1}}, "services": {"s": {"protocol": "qotd"}}})
@example({"include": ["\0", "", "*/" * 100, "//", "."]})
def test_any_values_are_loaded_or_refused_with_their_places(values: Any) -> None:
    """Nothing but a ConfigError comes out, and every line of it has file, line and column."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "netd.yaml"
        found, _ = read(file, json.dumps(values, ensure_ascii=False))
        if found is not None:
            assert read(file, dump.to_yaml(found)) == (found, ())


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("{}[]:,-#&*!|>'\"% \nab1"))
def test_any_text_is_loaded_or_refused_with_its_places(text: str) -> None:
    """Whatever somebody saves."""
    with TemporaryDirectory() as folder:
        read(Path(folder) / "netd.yaml", text)


SOUND: dict[str, Any] = {
    "control": {"path": "/run/x/control.sock"},
    "log": {"level": "debug"},
    "include": ["conf.d/*.yaml"],
    "defaults": {"idle_timeout": "1m", "source_prefix": {"ipv4": 24}},
    "services": {
        "s": {"protocol": "daytime", "listen": ["tcp://h:1", "unix:a"], "options": {"utc": True}},
        "t": {"handler": "netd.protocols.echo:EchoHandler", "listen": ["fd:t"]},
    },
}

KINDS = ("protocol", "handler")  # they decide on other keys


def paths(tree: Any) -> list[tuple[Any, ...]]:
    """The path of each value in a tree."""
    if not isinstance(tree, Mapping | list):
        return [()]
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return [(), *((key, *path) for key, value in items for path in paths(value))]


@given(st.sampled_from([path for path in paths(SOUND) if path and path[-1] not in KINDS]), VALUES)
def test_a_fault_is_told_in_the_line_of_the_value_that_has_it(
    path: tuple[Any, ...], value: Any
) -> None:
    """In a file with one value in each line, a value that is wrong is found in its own lines."""
    tree = json.loads(json.dumps(SOUND))
    inner = tree
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = "\N{CYRILLIC SMALL LETTER A}"
    lines = json.dumps(tree, ensure_ascii=False, indent=1).split("\n")
    first = next(n for n, line in enumerate(lines, 1) if "\N{CYRILLIC SMALL LETTER A}" in line)
    inner[path[-1]] = value
    text = json.dumps(tree, ensure_ascii=False, indent=1)
    more = len(text.split("\n")) - len(lines)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "netd.yaml"
        _, problems = read(file, text)
        places = [line.removeprefix(f"{file}:").partition(":")[0] for line in problems]
    assert all(first <= int(place) <= first + more for place in places), problems


def test_a_log_file_begins_in_the_folder_of_the_configuration(tmp_path: Path) -> None:
    """Where netd was started from does not matter: in the background that is / anyway."""
    (tmp_path / "netd.yaml").write_text("log: {file: netd.log}\n")
    assert config.load(tmp_path / "netd.yaml").log.file == tmp_path / "netd.log"
