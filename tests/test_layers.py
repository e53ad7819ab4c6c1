"""The house: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "netd"

# From the roof to the cellar. A module imports what lies below it; modules of one row do not know
# each other.
ROWS = [
    {"cli.netd", "cli.netctl"},
    {"cli.verbs", "cli.top"},
    {"cli.users"},
    {"cli.userfiles"},
    {"cli.completion", "cli.status_view", "cli.explained", "cli.outcomes"},
    {"cli.listings"},
    {"cli.terminal"},
    {"cli.layout"},
    {"cli.figures", "cli.paint", "cli.keyboard"},
    {"client.control"},
    {"startup"},
    {"schema", "dump", "daemon"},
    {"services"},
    {"roster", "reloads", "intent"},
    {"status.server"},
    {"status.site"},
    {"control.server"},
    {"control.dispatcher", "control.connection"},
    {"control.lane", "control.commands"},
    {"control.request", "control.sessions", "control.turns", "control.crowd"},
    {"control.arguments", "control.operations", "control.privileges"},
    {"status.exposition"},
    {"report", "status.page", "statefile"},
    {"binding", "unit", "difference", "stages"},
    {"succession"},
    {"config", "auth.preshared"},
    {"service_config", "status.stanza", "control.stanza", "auth.stage"},
    {"sources", "accounts", "overlap", "auth.stanza"},
    {"findings"},
    {"server"},
    {"entrance", "shortage"},
    {"serving"},
    {"intake", "refusal", "delayed"},
    {"secured"},
    {"catalog"},
    {"protocols.*"},
    {"handler"},
    {"handshake", "auth.porter"},
    {"prelude"},
    {"steps", "conversation", "stock", "datagrams", "replysocket"},
    {"tls", "proxy_protocol"},
    {"tlssocket", "pem"},
    {"carrier"},
    {"connection"},
    {"service", "pulse"},
    {"loop", "pool", "listener", "systemd", "instance", "detach", "arena", "signals"},
    {"auth.keys", "auth.register"},
    {"auth.userfile"},
    {"auth.keyring"},
    {"scram"},
    {"frames", "replies", "lease", "challenge", "verifier", "hello"},
    {"fields", "gate"},
    {"lines", "admission", "metrics", "events", "log", "document"},
    {"conditions"},
    {"bans", "hours", "load", "penalties", "rates"},
    {"networks"},
    {"explanation"},
    {"deadline", "throttle", "segments", "auth.source"},
    {"stanza", "secret", "address"},
    {"errors", "text", "control.table", "identity"},
    {"auth.rights"},
]
# A protocol decides what to answer. Sockets, threads and time-outs are the daemon's.
FORBIDDEN_TO_PROTOCOLS = {"socket", "ssl", "select", "selectors", "socketserver", "threading"}
# Pure: bytes go in, decisions come out.
PURE = {"lines", "frames", "fields", "document", "findings", "challenge", "proxy_protocol", "hello"}
FORBIDDEN_TO_PURE = FORBIDDEN_TO_PROTOCOLS | {"time", "os", "asyncio"}
FORBIDDEN_TO_DAEMON = {"rich", "prompt_toolkit"}
DAEMON = "cli.netd"


def modules() -> dict[str, Path]:
    """Every module of the package, by its name below `netd`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            found[name] = path
    return found


def imports(path: Path, typing_only: bool = False) -> set[str]:
    """The modules that a file imports, those for annotations alone left out unless asked for."""
    tree = ast.parse(path.read_text())
    if not typing_only:
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def row_of(name: str) -> int:
    """How far down a module lies."""
    for index, row in enumerate(ROWS):
        if name in row or (f"{name.partition('.')[0]}.*" in row and "." in name):
            return index
    raise LookupError(name)


def own_imports(path: Path, known: dict[str, Path]) -> set[str]:
    """What a file imports from the package itself, by name below `netd`."""
    below = {name.removeprefix("netd.") for name in imports(path) if name.startswith("netd.")}
    return below & set(known)


@pytest.mark.parametrize("name", modules())
def test_every_module_has_its_row(name: str) -> None:
    """A new module is given a place in the house before it is used."""
    assert row_of(name) >= 0


@pytest.mark.parametrize("name", modules())
def test_imports_point_down(name: str) -> None:
    """No module imports one that lies above it, or beside it."""
    known = modules()
    wrong = {other for other in own_imports(known[name], known) if row_of(other) <= row_of(name)}
    assert not wrong


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("protocols.")])
def test_protocols_leave_sockets_and_threads_to_the_daemon(name: str) -> None:
    """A protocol imports nothing by which it could block or bypass the limits."""
    assert not imports(modules()[name], typing_only=True) & FORBIDDEN_TO_PROTOCOLS


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_touch_nothing(name: str) -> None:
    """A parser knows no socket, no clock and no file."""
    assert not imports(modules()[name], typing_only=True) & FORBIDDEN_TO_PURE


def test_the_daemon_imports_no_terminal_library() -> None:
    """What only a terminal needs costs the daemon neither time nor memory."""
    known = modules()
    found, waiting = {DAEMON}, [DAEMON]
    while waiting:
        more = own_imports(known[waiting.pop()], known) - found
        found |= more
        waiting += more
    assert "loop" in found
    assert "cli.netctl" not in found
    for name in found:
        tops = {other.partition(".")[0] for other in imports(known[name], typing_only=True)}
        assert not tops & FORBIDDEN_TO_DAEMON, name
