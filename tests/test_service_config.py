"""One service of a configuration: what can be wrong with it, and what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from written import faults, loaded

from netd import catalog, instance
from netd.address import UNIX_PATH_LIMIT
from netd.protocols.daytime import DaytimeHandler
from netd.protocols.upper import UpperHandler
from netd.service_config import ServiceStanza
from netd.stanza import descriptions

HANDLERS = """
import socketserver
from netd.handler import RequestHandler
class Stream(socketserver.StreamRequestHandler): ...
class Datagram(socketserver.DatagramRequestHandler): ...
class Talk(RequestHandler):
    def handle(self): ...
"""


@pytest.fixture(autouse=True)
def handlers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Handlers of our own, in a module that can be imported."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "ownhandlers.py").write_text(HANDLERS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("ownhandlers", None)


def service(folder: Path, keys: str) -> ServiceStanza:
    """The service `s` that has such keys, written in braces."""
    return loaded(folder, f"services: {{s: {{{keys}}}}}").services["s"]


MISSING = " ".join(f"the key listen is missing ({descriptions(ServiceStanza)['listen']})".split())
HEAD = "services:\n  s:\n    protocol: upper\n    listen: [tcp://127.0.0.1:9]\n"

# What is appended to HEAD, and the faults from line 5 on.
FAULTS = [
    ("    idle_timout: 5m", ["5:5: unknown key 'idle_timout' (did you mean idle_timeout?)"]),
    ("    xyzzy: 5m", ["5:5: unknown key 'xyzzy' (`netd --schema` lists all keys)"]),
    ("    source_prefix: {ipv5: 3}", ["5:21: unknown key 'ipv5' (did you mean ipv6?)"]),
    ("    source_prefix: 24", ["5:20: source_prefix: expected keys with values, not 24"
     " (there are: ipv4, ipv6)"]),
    ("    source_prefix: {ipv4: 33}", ["5:27: ipv4: 33 is too large (at most 32)"]),
    ("    access_times: [mo-fr 08:00-18:00]", ["5:20: access_times[0]: 'mo' is not a day of the"
     " week (write mon, tue, wed, thu, fri, sat, sun)"]),
    ("    access_times: 22:00-06:00", ["5:19: access_times: expected a list, not '22:00-06:00'"
     ' (write ["22:00-06:00"])']),
    ("    time_zone: Europe/Viena", ["5:16: time_zone: 'Europe/Viena' is not a time zone"
     " (write Europe/Vienna)"]),
    ("    max_load: 4", []),
    ("    max_load: 0", ["5:15: max_load: 0 is too small (at least 0.01)"]),
    ("    over_limit: wait", ["5:17: over_limit: 'wait' is not one of refuse, queue"]),
    ("    rate_per_source: 10/s", ["5:22: rate_per_source: expected keys with values, not '10/s'"
     " (there are: action, burst, rate)"]),
    ("    rate_per_source: {rate: 10}", ["5:29: rate: 10 is not a rate"
     " (write it like 10/s, 600/m or 100/h; or none)"]),
    ("    rate: {rate: 10/s, action: delay}", ["5:24: unknown key 'action'"
     " (there are: burst, rate)"]),
    ("    penalties: {protocol_error: 5}", ["5:33: protocol_error: a duration needs a unit"
     " (write 5s, 5m or 5h)"]),
    ("    enabled: no", ["5:14: enabled: expected true or false, not 'no' (write false)"]),
    ("    enabled: off", ["5:14: enabled: expected true or false, not 'off' (write false)"]),
    ("    banner: 22:22", []),
    ("    socket_mode: 0600", []),
    ("    socket_mode: 0o600", ["5:18: socket_mode: 384 is not a file mode"
     ' (write octal digits in quotes: "0660")']),
    ("    socket_mode: 600", ["5:18: socket_mode: 600 is not a file mode"
     ' (write octal digits in quotes: "0660")']),
    ('    socket_mode: "0888"', ["5:18: socket_mode: '0888' is not a file mode"
     ' (write octal digits in quotes: "0660")']),
    ("    backlog: 0600", ["5:14: backlog: expected a number, not '0600'"
     " (write 600, without quotes or leading zeros)"]),
    ("    backlog: 0", ["5:14: backlog: 0 is too small (at least 1)"]),
    ("    idle_timeout: 5", ["5:19: idle_timeout: a duration needs a unit (write 5s, 5m or 5h)"]),
    ("    idle_timeout: 5 minutes", ["5:19: idle_timeout: '5 minutes' is not a duration"
     " (write it like 500ms, 10s, 5m, 1h or 1d)"]),
    ("    idle_timeout: 0s", ["5:19: idle_timeout: '0s' is out of range"
     " (more than 0, at most 3650d; or none)"]),
    ("    receive_buffer: 64kb", ["5:21: receive_buffer: '64kb' is not a size"
     " (write it like 512B, 64KiB, 10MB or 1GiB)"]),
    ("    reply_rate: 10", ["5:17: reply_rate: 10 is not a rate"
     " (write it like 10/s, 600/m or 100/h; or none)"]),
    ("    only_from: 10.0.0.0/8", ["5:16: only_from: expected a list, not '10.0.0.0/8'"
     ' (write ["10.0.0.0/8"])']),
    ("    only_from:", ["5:15: only_from: nothing stands below it"
     " (write items below it, or take it out)"]),
    ("    only_from: [10.0.0.1/8]", ["5:17: only_from[0]: '10.0.0.1/8' has host bits set"
     " (write 10.0.0.0/8, or 10.0.0.1)"]),
    ("    only_from: ['::1', example.org]", ["5:24: only_from[1]: 'example.org' is not an address"
     " or CIDR block (write it like 192.0.2.0/24 or ::1)"]),
    ("    socket_user: nobody-here", ["5:18: socket_user: this machine has no user 'nobody-here'"
     " (`getent passwd` lists them)"]),
    ("    socket_group: 'a\\nb'", [r"5:19: socket_group: this machine has no group 'a\nb'"
     " (`getent group` lists them)"]),
    ("    options: {loud: true}", ["5:15: unknown key 'loud'"
     " (take it out: no key can stand here)"]),
    ("    options: 5", ["5:14: options: expected keys with values, not 5"]),
    ("    options: false", ["5:14: options: expected keys with values, not false"]),
    ("    options:", []),
    ("    handler: x:y", ["5:5: a service has a protocol or a handler, not both"
     " (take one of them out)"]),
    ("  t:", ["5:3: t: nothing stands below it (write protocol: and listen: below it)"]),
    ("  t: upper", ["5:3: t: expected keys with values, not 'upper'"
     " (write protocol: and listen: below it)"]),
    ("  t: {}", [f"5:3: t: {MISSING}",
     "5:3: t: it has no protocol, and no handler (write protocol: upper)"]),
    ("  t: {protocol: upper}", [f"5:3: t: {MISSING}"]),
    ("  t: {protocol: upper, listen: []}", ["5:32: listen: it is empty (write at least 1)"]),
    ("  t: {protocol: upper, listen: [tcp://h:99999]}", ["5:33: listen[0]: port 99999 is out of"
     " range (0 to 65535; 0 picks a free one)"]),
    ("  t: {protocol: uper, listen: [fd:t]}", ["5:17: protocol: there is no protocol 'uper'"
     " (did you mean upper?)"]),
    ("  t: {protocol: '', listen: [fd:t]}", ["5:17: protocol: there is no protocol ''"
     " (there are: {protocols})"]),
    ("  t: {protocol: 5, listen: [fd:t]}", ["5:17: protocol: expected text, not 5"
     " (put it in quotes)"]),
    ("  t: {handler: upper, listen: [fd:t]}", ["5:16: handler: 'upper' names no class"
     " (write package.module:Class)"]),
    ("  t: {handler: nosuch:X, listen: [fd:t]}", ["5:16: handler: 'nosuch:X' cannot be imported:"
     " there is no module nosuch (install it, or set PYTHONPATH)"]),
    ("  t: {handler: 'ownhandlers:Talk', listen: [fd:t], options: {x: 1}}",
     ["5:62: unknown key 'x' (take it out: no key can stand here)"]),
    ("  t: {handler: 'ownhandlers:Stream', listen: [udp://h:1, unix:a, unix-dgram:b, fd:t]}", [
     "5:47: udp://h:1: ownhandlers:Stream does not serve datagrams (use tcp:// or unix:)",
     "5:66: unix-dgram:b: ownhandlers:Stream does not serve datagrams (use tcp:// or unix:)"]),
    ("  t: {handler: 'ownhandlers:Datagram', listen: [udp://h:1, unix:a]}", [
     "5:60: unix:a: ownhandlers:Datagram does not serve streams (use udp:// or unix-dgram:)"]),
    ("  a b: {protocol: upper, listen: [fd:t]}", ["5:3: 'a b' is not a service name"
     " (letters, digits, '_', '.' and '-', at most 64, beginning with a letter or digit)"]),
    ('  "x\\e[2J": {protocol: upper, listen: [fd:t]}',
     [r"5:3: 'x\x1b[2J' is not a service name"
      " (letters, digits, '_', '.' and '-', at most 64, beginning with a letter or digit)"]),
    ("  t: {protocol: upper, listen: [unix:control.sock]}",
     ["5:33: unix:control.sock: the control socket lies there (choose another name)"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), FAULTS, ids=[text.strip() for text, _ in FAULTS])
def test_faults_of_a_service_are_told(tmp_path: Path, text: str, said: list[str]) -> None:
    """With place and remedy; and what looks like a fault but is none is taken."""
    expected = [
        f"netd.yaml:{line}".replace("{protocols}", ", ".join(catalog.names())) for line in said
    ]
    if expected:
        assert faults(tmp_path, HEAD + text) == expected
    else:
        assert loaded(tmp_path, HEAD + text)


def test_all_faults_of_a_service_are_told_in_one_go(tmp_path: Path) -> None:
    """One fault does not hide another, in whichever step it is found."""
    text = """
        services:
          s:
            protocol: daytime
            listen: [tcp://127.0.0.1:9, tcp://127.0.0.1:9, unix:control.sock]
            idle_timeout: 5
            enabled: yes
            socket_group: none-such
            only_from: [x, '::1', y]
            bogus: 1
            options: {utc: 1, formt: "%H"}
          t:
            protocol: dytime
            listen: nowhere
          u:
            handler: none:such
            listen: [tcp://127.0.0.1:9]
    """
    assert [line.partition(" (")[0] for line in faults(tmp_path, text)] == [
        "netd.yaml:5:33: tcp://127.0.0.1:9 is listened on already",
        "netd.yaml:5:52: unix:control.sock: the control socket lies there",
        "netd.yaml:6:19: idle_timeout: a duration needs a unit",
        "netd.yaml:7:14: enabled: expected true or false, not 'yes'",
        "netd.yaml:8:19: socket_group: this machine has no group 'none-such'",
        "netd.yaml:9:17: only_from[0]: 'x' is not an address or CIDR block",
        "netd.yaml:9:27: only_from[2]: 'y' is not an address or CIDR block",
        "netd.yaml:10:5: unknown key 'bogus'",
        "netd.yaml:11:20: utc: expected true or false, not 1",
        "netd.yaml:11:23: unknown key 'formt'",
        "netd.yaml:13:15: protocol: there is no protocol 'dytime'",
        "netd.yaml:14:13: listen: expected a list, not 'nowhere'",
        "netd.yaml:16:14: handler: 'none:such' cannot be imported: there is no module none",
        "netd.yaml:17:14: tcp://127.0.0.1:9 is listened on already",
    ]


def test_a_relative_unix_socket_lies_beside_the_control_socket(tmp_path: Path) -> None:
    """And an absolute one where it says."""
    text = """
        control: {path: /run/there/control.sock}
        services: {s: {protocol: upper, listen: ["unix:a.sock", "unix-dgram:/x/b", "fd:c"]}}
    """
    listen = loaded(tmp_path, text).services["s"].listen
    assert [*map(str, listen)] == ["unix:/run/there/a.sock", "unix-dgram:/x/b", "fd:c"]


def test_without_the_key_the_runtime_folder_is_that_of_the_user(tmp_path: Path) -> None:
    """Where netctl looks for the control socket too."""
    (address,) = service(tmp_path, "protocol: upper, listen: [unix:a.sock]").listen
    assert address.host == str(instance.runtime_folder() / "a.sock")


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_the_path_of_a_socket_is_measured_in_full(tmp_path: Path, letter: str) -> None:
    """In bytes, with the folder that a relative one lies in."""
    folder = "/run/somewhere"
    room = UNIX_PATH_LIMIT - len(folder) - 1
    fitting = letter * (room // len(letter.encode()))
    for name, fits in ((fitting, True), (fitting + letter, False)):
        text = f"""
            control: {{path: {folder}/control.sock}}
            services: {{s: {{protocol: upper, listen: ["unix:{name}"]}}}}
        """
        if fits:
            assert loaded(tmp_path, text)
        else:
            assert faults(tmp_path, text) == [
                f"netd.yaml:3:42: {folder}/{name}: a socket's path has at most 107 bytes"
                " (choose a shorter one)"
            ]


def test_the_handler_is_the_class_that_serves(tmp_path: Path) -> None:
    """Of the protocol, or the one that is named."""
    own = service(tmp_path, "protocol: upper, listen: [fd:a]")
    assert own.handler_class is UpperHandler
    other = service(tmp_path, "handler: 'ownhandlers:Stream', listen: [tcp://h:1]")
    assert other.handler_class.__name__ == "Stream"


def test_options_become_those_of_the_protocol(tmp_path: Path) -> None:
    """With their own defaults."""
    given = service(tmp_path, "protocol: daytime, listen: [fd:a], options: {utc: true}")
    assert given.options == DaytimeHandler.Options(utc=True)
    for none in ("", ", options: {}", ", options: null"):
        assert service(tmp_path, f"protocol: daytime, listen: [fd:a]{none}").options == (
            DaytimeHandler.Options()
        )


def test_files_of_options_lie_beside_the_file_of_the_service(tmp_path: Path) -> None:
    """Each in the folder of the file in which it is named, whatever the working directory."""
    text = "services: {NAME: {protocol: qotd, listen: [fd:NAME], options: {file: quotes.txt}}}"
    others = {"conf.d/a.yaml": text.replace("NAME", "inner"),
              "conf.d/quotes.txt": "an inner quote", "quotes.txt": "an outer quote"}  # fmt: skip
    main = f"include: [conf.d/a.yaml]\n{text.replace('NAME', 'outer')}"
    services = loaded(tmp_path, main, others).services
    assert {name: found.options.file.quotes for name, found in services.items()} == {
        "outer": [b"an outer quote\r\n"],
        "inner": [b"an inner quote\r\n"],
    }
    assert services["inner"].options.file.path == tmp_path / "conf.d/quotes.txt"


def test_a_file_of_options_that_is_missing_is_told(tmp_path: Path) -> None:
    """With its whole path."""
    text = "services: {s: {protocol: qotd, listen: [fd:s], options: {file: none.txt}}}"
    assert faults(tmp_path, text) == [
        "netd.yaml:1:64: file: ~/none.txt cannot be read: No such file or directory (see `ls -l`)"
    ]


def test_defaults_hold_where_a_service_has_no_key_of_its_own(tmp_path: Path) -> None:
    """Also those of included files; a list is replaced as a whole."""
    main = """
        include: [a.yaml]
        defaults: {idle_timeout: 7s, only_from: [10.0.0.0/8], protocol: upper, enabled: false}
        services:
          s: {listen: [fd:s]}
          t: {listen: [fd:t], idle_timeout: none, only_from: [], protocol: echo, enabled: true}
    """
    services = loaded(tmp_path, main, {"a.yaml": "services: {u: {listen: [fd:u]}}"}).services
    assert services["s"].idle_timeout == services["u"].idle_timeout == 7.0
    assert [*map(str, services["u"].only_from)] == ["10.0.0.0/8"]
    assert (services["s"].protocol, services["s"].enabled) == ("upper", False)
    own = services["t"]
    assert (own.idle_timeout, own.only_from, own.protocol, own.enabled) == (None, [], "echo", True)


def test_a_handler_takes_the_place_of_a_default_protocol(tmp_path: Path) -> None:
    """It is one or the other, and the service's own word counts."""
    text = """
        defaults: {protocol: upper}
        services: {s: {handler: "ownhandlers:Stream", listen: [tcp://h:1]}}
    """
    found = loaded(tmp_path, text).services["s"]
    assert (found.protocol, found.handler) == (None, "ownhandlers:Stream")


def test_a_fault_in_the_defaults_is_told_once_and_there(tmp_path: Path) -> None:
    """However many services there are, and none of them is blamed for it."""
    text = """
        defaults:
          idle_timeout: 5
          bogus: 1
          listen: nowhere
          protocol: 7
          source_prefix: {ipv4: 99}
        services:
          s: {}
          t: {idle_timeout: 1s}
          u: {listen: [fd:u], protocol: upper}
    """
    assert faults(tmp_path, text) == [
        "netd.yaml:3:17: idle_timeout: a duration needs a unit (write 5s, 5m or 5h)",
        "netd.yaml:4:3: unknown key 'bogus' (`netd --schema` lists all keys)",
        "netd.yaml:5:11: listen: expected a list, not 'nowhere' (write [\"nowhere\"])",
        "netd.yaml:6:13: protocol: expected text, not 7 (put it in quotes)",
        "netd.yaml:7:25: ipv4: 99 is too large (at most 32)",
    ]


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ("socket_group: none-such", "2:17: socket_group: this machine has no group 'none-such'"
         " (`getent group` lists them)"),
        ("protocol: uper", "2:13: protocol: there is no protocol 'uper' (did you mean upper?)"),
        ("options: {loud: 1}", "2:13: unknown key 'loud' (take it out: no key can stand here)"),
    ],
)  # fmt: skip
def test_what_only_shows_in_services_is_told_once_too(
    tmp_path: Path, defaults: str, said: str
) -> None:
    """At the place in the defaults that they all share."""
    own = "" if "protocol" in defaults else "protocol: upper, "
    names = ("s", "t", "u")
    services = "\n".join(f"  {name}: {{{own}listen: [fd:{name}]}}" for name in names)
    text = f"defaults:\n  {defaults}\nservices:\n{services}"
    assert faults(tmp_path, text) == [f"netd.yaml:{said}"]


@pytest.mark.parametrize("services", ["", "services: {}", "services:"])
def test_defaults_are_looked_at_without_any_service(tmp_path: Path, services: str) -> None:
    """A slip there would show only later."""
    assert faults(tmp_path, f"defaults: {{idle_timout: 5m}}\n{services}") == [
        "netd.yaml:1:12: unknown key 'idle_timout' (did you mean idle_timeout?)"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: 5", "1:11: defaults: expected keys with values, not 5"),
        ("defaults:", "1:10: defaults: nothing stands below it"
         " (write keys below it, or take it out)"),
    ],
)  # fmt: skip
def test_defaults_are_keys_with_values(tmp_path: Path, text: str, said: str) -> None:
    """Nothing else."""
    assert faults(tmp_path, text) == [f"netd.yaml:{said}"]


def test_the_files_of_default_options_lie_beside_the_main_file(tmp_path: Path) -> None:
    """That is the file in which they are named."""
    main = """
        include: [conf.d/a.yaml]
        defaults: {protocol: qotd, options: {file: quotes.txt}}
    """
    others = {"conf.d/a.yaml": "services: {s: {listen: [fd:s]}}", "quotes.txt": "a quote"}
    options = loaded(tmp_path, main, others).services["s"].options
    assert options.file.path == tmp_path / "quotes.txt"


@pytest.mark.parametrize(
    "text",
    [
        "services:\n  s:\n    protocol: upper\n    banner: 'open",
        "services:\n  s:\n    listen: [fd:s]\n    banner: 'open",
        "services:\n  s: {listen: [fd:s], protocol: upper}\n  t: {protocol: upper, listen: [",
    ],
)
def test_what_could_not_be_read_is_not_missed(tmp_path: Path, text: str) -> None:
    """After a fault of syntax only what was read before it is looked at."""
    (line,) = faults(tmp_path, text)
    assert "missing" not in line
    assert "has no protocol" not in line


def test_services_that_are_not_enabled_may_share_an_address(tmp_path: Path) -> None:
    """One stands ready to take the place of the other."""
    text = """
        services:
          s: {protocol: upper, listen: [tcp://h:1]}
          t: {protocol: echo, listen: [tcp://h:1], enabled: false}
    """
    assert len(loaded(tmp_path, text).services) == 2
    assert faults(tmp_path, text.replace("false", "true")) == [
        "netd.yaml:4:32: tcp://h:1 is listened on already (see netd.yaml:3:33)".replace(
            "see netd", f"see {'~/'}netd"
        )
    ]


def test_the_working_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for addresses, and not for files."""
    text = "services: {s: {protocol: users, listen: [unix:a], options: {file: utmp}}}"
    absolute = loaded(tmp_path, text).services["s"]
    monkeypatch.chdir(tmp_path)
    relative = loaded(Path(), text).services["s"]
    assert absolute == relative
    assert absolute.options.file == tmp_path / "utmp"
