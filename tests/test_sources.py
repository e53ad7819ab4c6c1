"""The files of a configuration: includes, and all that can be wrong with files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from harness import cheap
from written import faults, faults_of, loaded, write

from netd import document, sources
from netd.sources import Sources

SERVICE = "services: {{{}: {{protocol: upper, listen: [tcp://127.0.0.1:0]}}}}"
ROOT_READS_ALL = os.geteuid() == 0 and "root may read every file"


def service(name: str) -> str:
    """A file with one service."""
    return SERVICE.format(name)


def names(folder: Path, text: str, others: dict[str, str]) -> list[str]:
    """The services of a configuration without faults."""
    return [*loaded(folder, text, others).services]


def test_files_are_included_by_name_and_by_pattern(tmp_path: Path) -> None:
    """In the order in which they are written, and those of a pattern by the alphabet."""
    others = {f"conf.d/{name}.yaml": service(name) for name in "cab"} | {
        "z.yaml": service("z"), "conf.d/note.txt": "no YAML: [", "conf.d/.old.yaml": "neither: [",
    }  # fmt: skip
    text = f"include: [z.yaml, 'conf.d/*.yaml']\n{service('own')}"
    assert names(tmp_path, text, others) == ["own", "z", "a", "b", "c"]


def test_included_files_include_files_beside_themselves(tmp_path: Path) -> None:
    """A path is relative to the file in which it stands."""
    others = {"a/one.yaml": "include: [two.yaml, ../top.yaml]", "a/two.yaml": service("two"),
              "top.yaml": service("top")}  # fmt: skip
    assert names(tmp_path, "include: [a/one.yaml]", others) == ["two", "top"]


def test_absolute_paths_may_be_included(tmp_path: Path) -> None:
    """By name, and by pattern."""
    folder = tmp_path / "else[where]"
    folder.mkdir()
    write(folder, service("there"))
    text = f"include: ['{tmp_path}/else*/*.yaml']"
    (tmp_path / "main").mkdir()
    assert names(tmp_path / "main", text, {}) == ["there"]


def test_a_folder_with_magic_in_its_name_is_no_pattern(tmp_path: Path) -> None:
    """Only what stands in the file is one."""
    folder = tmp_path / "[ab]*"
    folder.mkdir()
    assert names(folder, "include: ['conf.d/*']", {"conf.d/a": service("a")}) == ["a"]


def test_a_pattern_may_match_nothing(tmp_path: Path) -> None:
    """conf.d is empty on the first day, or not there."""
    assert names(tmp_path, "include: ['conf.d/*.yaml', '[x]*/*/y']", {}) == []


@pytest.mark.parametrize("text", ["", "# nothing", "services:", "services: {}", "{}"])
def test_a_configuration_may_be_empty(tmp_path: Path, text: str) -> None:
    """All services may have been taken out of it."""
    assert names(tmp_path, text, {}) == []


def test_a_thousand_files_may_include_each_other_in_a_row(tmp_path: Path) -> None:
    """No depth exhausts the stack."""
    others = {f"{n}.yaml": f"include: [{n + 1}.yaml]" for n in range(sources.MAX_FILES)}
    others[f"{sources.MAX_FILES - 1}.yaml"] = service("last")
    assert names(tmp_path, "include: [0.yaml]", others) == ["last"]


def test_more_than_a_thousand_files_are_a_mistake(tmp_path: Path) -> None:
    """Such as a pattern that matches what was not meant."""
    others = {f"d/{n}": "" for n in range(sources.MAX_FILES + 2)}
    assert faults(tmp_path, "include: ['d/*']", others) == [
        "netd.yaml:1:11: more than 1000 files are included"
    ]


FAULTS = [
    ("include: conf.d/*.yaml", "1:10: include: expected a list, not 'conf.d/*.yaml'"
     ' (write ["conf.d/*.yaml"])'),
    ("include:", "1:9: include: nothing stands below it (write items below it, or take it out)"),
    ("include: {a: b}", '1:10: include: expected a list, not {"a": "b"} (write a list: [a, b])'),
    ("include: [5]", "1:11: include[0]: expected a path, not 5 (write it like conf.d/*.yaml)"),
    ("include: ['']", "1:11: include[0]: expected a path, not '' (write it like conf.d/*.yaml)"),
    ('include: ["a\\0b"]',
     r"1:11: include[0]: expected a path, not 'a\x00b' (write it like conf.d/*.yaml)"),
    (f"include: ['{'*/' * 2000}']", f"1:11: include[0]: expected a path, not '{'*/' * 30}…'"
     " (write it like conf.d/*.yaml)"),
    ("include: [no.yaml]", "1:11: ~/no.yaml cannot be read: No such file or directory"),
    ("include: [folder]", "1:11: ~/folder cannot be read: it is not a regular file"
     " (write conf.d/*.yaml for the files in conf.d)"),
    ("include: [fifo]", "1:11: ~/fifo cannot be read: it is not a regular file"),
    ("include: [socket]", "1:11: ~/socket cannot be read: it is not a regular file"),
    ("include: [/dev/null]", "1:11: /dev/null cannot be read: it is not a regular file"),
    ("include: [knot]", "1:11: ~/knot cannot be read: Too many levels of symbolic links"),
    ("include: ['kno*']", "1:11: ~/knot cannot be read: Too many levels of symbolic links"),
    ("include: [netd.yaml]", "1:11: ~/netd.yaml is included already (include each file once)"),
    ("include: ['netd.*']", "1:11: ~/netd.yaml is included already (include each file once)"),
    ("include: [ok, ./folder/../ok]",
     "1:15: ~/folder/../ok is included already (include each file once)"),
    ("include: [ok, ok-link]", "1:15: ~/ok-link is included already (include each file once)"),
    ("services: [a]", '1:11: services: expected keys with values, not ["a"]'
     " (write names and below each its keys)"),
    ("services: upper", "1:11: services: expected keys with values, not 'upper'"
     " (write names and below each its keys)"),
    ("just text", "1:1: expected keys with values, not 'just text' (such as services:)"),
    ("[a, b]", '1:1: expected keys with values, not ["a", "b"] (such as services:)'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), FAULTS, ids=[text[:20] for text, _ in FAULTS])
def test_what_is_wrong_with_files_is_told(tmp_path: Path, text: str, said: str) -> None:
    """At the entry of `include` that names them; nothing hangs and nothing is opened by mistake."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "ok").write_text("")
    (tmp_path / "ok-link").symlink_to("ok")
    (tmp_path / "knot").symlink_to("knot")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(tmp_path / "socket"))
        assert faults(tmp_path, text) == [f"netd.yaml:{said}"]


def test_what_is_wrong_within_included_files_is_told_there(tmp_path: Path) -> None:
    """Each fault with the name of its own file, and all in one go."""
    others = {
        "a.yaml": "log: {level: debug}\ninclude: 5\nservices: {x: {}}",
        "b.yaml": "services: [1]\ndefaults: {}",
        "c.yaml": "5",
        "d.yaml": "a: 1\na: 2",
    }
    only = "(only services and include can; move it to the file that includes it)"
    found = faults(tmp_path, "include: ['?.yaml']", others)
    assert [line.partition(" (Where to")[0] for line in found] == [
        f"a.yaml:1:1: the key 'log' cannot stand in an included file {only}",
        "a.yaml:2:10: include: expected a list, not 5 (write [5])",
        "a.yaml:3:12: x: the key listen is missing",
        "a.yaml:3:12: x: it has no protocol, and no handler (write protocol: upper)",
        "b.yaml:1:11: services: expected keys with values, not [1]"
        " (write names and below each its keys)",
        f"b.yaml:2:1: the key 'defaults' cannot stand in an included file {only}",
        "c.yaml:1:1: expected keys with values, not 5 (such as services:)",
        f"d.yaml:1:1: the key 'a' cannot stand in an included file {only}",
        "d.yaml:2:1: the key 'a' stands in line 1 too (remove one)",
    ]


def test_a_service_that_is_there_twice_is_told_with_both_places(tmp_path: Path) -> None:
    """The first stays, whichever file it is in."""
    others = {"a.yaml": service("x"), "b.yaml": service("x")}
    assert faults(tmp_path, "include: [a.yaml, b.yaml]", others) == [
        f"b.yaml:1:12: the service 'x' is there already (see {tmp_path}/a.yaml:1:12)".replace(
            f"{tmp_path}/", "~/"
        )
    ]


def test_files_that_include_each_other_are_told(tmp_path: Path) -> None:
    """A circle ends where it began."""
    others = {"a.yaml": "include: [b.yaml]", "b.yaml": "include: [a.yaml]"}
    assert faults(tmp_path, "include: [a.yaml]", others) == [
        "b.yaml:1:11: ~/a.yaml is included already (include each file once)"
    ]


def test_a_file_of_ten_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody has written it by hand, and nobody waits for it."""
    (tmp_path / "big").write_bytes(b"x" * 10_000_000)
    with cheap(1):
        assert faults(tmp_path, "include: [big]") == [
            "big:1:1: the file has over 1 MiB (split it into several)"
        ]


def test_no_more_is_read_than_a_configuration_may_hold(tmp_path: Path) -> None:
    """A file may grow while it is read, or tell a wrong size."""
    (tmp_path / "big").write_bytes(b"x" * 10_000_000)
    assert len(sources.read_file(tmp_path / "big")) == document.MAX_BYTES + 1


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "knot"])
def test_the_main_file_that_cannot_be_read_is_told(tmp_path: Path, kind: str) -> None:
    """With a way out."""
    file = tmp_path / kind
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "knot":
        file.symlink_to(kind)
    why = {"missing": "No such file or directory", "knot": "Too many levels of symbolic links"}
    assert faults_of(file) == [
        f"{kind}:1:1: the file cannot be read: {why.get(kind, 'it is not a regular file')}"
        " (name another one with -c)"
    ]


@pytest.mark.skipif(bool(ROOT_READS_ALL), reason=str(ROOT_READS_ALL))
def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    """Not passed over, as if nothing were there."""
    others = {"a.yaml": "", "secret/a.yaml": ""}
    file = write(tmp_path, "include: [a.yaml, 'secret/*.yaml']", others)
    (tmp_path / "a.yaml").chmod(0)
    (tmp_path / "secret").chmod(0)
    try:
        assert faults_of(file) == [
            "netd.yaml:1:11: ~/a.yaml cannot be read: Permission denied",
            "netd.yaml:1:19: ~/secret cannot be searched: permission denied",
        ]
    finally:
        (tmp_path / "secret").chmod(0o700)


def test_control_characters_in_names_of_files_reach_no_terminal(tmp_path: Path) -> None:
    """A fault stays one line, whatever a file is called."""
    (tmp_path / "a\n\x1b[2J.yaml").write_text("5")
    assert faults(tmp_path, "include: ['a*']") == [
        r"a\n\x1b[2J.yaml:1:1: expected keys with values, not 5 (such as services:)"
    ]


def test_each_service_knows_its_document_and_folder(tmp_path: Path) -> None:
    """What is relative in it begins there, also when the file was named relatively."""
    others = {"d/a.yaml": service("inner")}
    file = write(tmp_path, f"include: [d/a.yaml]\n{service('outer')}", others)
    found = Sources(Path(os.path.relpath(file)))
    assert not found.problems
    assert (
        found.services["outer"].folder
        == found.folder
        == Path.cwd() / Path(os.path.relpath(tmp_path))
    )
    inner = found.services["inner"]
    assert inner.folder.resolve() == (tmp_path / "d").resolve()
    assert inner.document.mark(("services", "inner")).file.endswith("d/a.yaml")
    assert inner.value == {"protocol": "upper", "listen": ["tcp://127.0.0.1:0"]}
    assert found.top == {}
