"""Which protocols and handlers can be had, and what is said of those that cannot."""

from __future__ import annotations

import re
import socketserver
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd import catalog
from netd.catalog import UnknownHandlerError
from netd.handler import RequestHandler
from netd.protocols.echo import EchoHandler
from netd.stanza import Stanza

MODULE = """
    import socketserver
    from netd.handler import RequestHandler
    from netd.stanza import Stanza

    class Options(Stanza):
        speed: int = 1

    class Steps(RequestHandler):
        Options = Options
        def data_received(self, data): ...

    class Greeting(RequestHandler):
        def connection_made(self): ...

    class Talk(RequestHandler):
        def handle(self): ...

    class Answers(RequestHandler):
        def datagram_received(self, data): ...

    class Both(Steps, Answers): ...

    class Stream(socketserver.StreamRequestHandler): ...
    class Datagram(socketserver.DatagramRequestHandler): ...
    class Any(socketserver.BaseRequestHandler): ...

    class Neither(RequestHandler): ...
    class Torn(Steps, Talk): ...
    class Outer:
        Steps = Steps
    number = 5
"""
BROKEN = {
    "syntax": "def :",
    "raises": "raise RuntimeError('two\\nlines')",
    "leaves": "import sys; sys.exit(3)",
    "needs": "import nosuchmodule",
    "package/__init__": "",
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules that can be imported for the time of a test, and distributions."""
    for name, text in {"given": MODULE, **BROKEN}.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    catalog.offered.cache_clear()
    yield tmp_path
    catalog.offered.cache_clear()
    for name in ("given", *BROKEN):
        sys.modules.pop(name.partition("/")[0], None)


def offer(folder: Path, points: str) -> None:
    """Installs a distribution with entry points."""
    info = folder / "netd_test-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: netd-test\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{catalog.GROUP}]\n{dedent(points)}")
    catalog.offered.cache_clear()


def refusal(reference: str) -> str:
    """What is said of a class that cannot be had."""
    with pytest.raises(UnknownHandlerError) as caught:
        catalog.load(reference)
    return str(caught.value)


@pytest.mark.parametrize("name", catalog.own_names())
def test_each_own_protocol_has_one_handler(name: str) -> None:
    """A module of netd.protocols defines one class, and its options have defaults."""
    handler = catalog.find(name)
    assert handler.__module__ == f"netd.protocols.{name}"
    assert issubclass(handler, RequestHandler)
    assert catalog.transports_of(handler)
    assert isinstance(catalog.options_of(handler)(), Stanza)


def test_the_protocols_of_netd_are_named() -> None:
    """By their modules."""
    assert {"upper", "echo", "discard", "chargen", "daytime", "qotd", "time", "users"} <= {
        *catalog.names()
    }
    assert catalog.find("echo") is EchoHandler


@pytest.mark.parametrize("name", ["uper", "", ".", "..", "__init__", "echo.py", "a" * 10_000, "\0"])
def test_a_protocol_that_there_is_not_is_refused(name: str) -> None:
    """Whatever its name."""
    with pytest.raises(UnknownHandlerError, match=r"^there is no protocol '"):
        catalog.find(name)


def test_other_distributions_offer_protocols(modules: Path) -> None:
    """By entry points; a name of netd's own stays netd's."""
    offer(modules, """
        fast = given:Steps
        nested = given:Outer.Steps
        extra = given:Talk [speed]
        echo = given:Talk
    """)  # fmt: skip
    import given  # type: ignore[import-not-found]

    assert {"fast", "nested", "extra"} <= {*catalog.names()}
    assert catalog.find("fast") is catalog.find("nested") is given.Steps
    assert catalog.find("extra") is given.Talk
    assert catalog.find("echo") is EchoHandler


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("given:Stream", "given:Stream is not a subclass of netd.handler.RequestHandler"),
        ("given:None_", "'given:None_' cannot be imported: AttributeError: "
         "module 'given' has no attribute 'None_'"),
        ("given", "'given' names no class (write package.module:Class)"),
        ("needs:X", "'needs:X' cannot be imported: "
         "ModuleNotFoundError: No module named 'nosuchmodule'"),
    ],
)  # fmt: skip
def test_what_is_offered_may_be_of_no_use(modules: Path, value: str, said: str) -> None:
    """The fault is told when the protocol is asked for, and not before."""
    offer(modules, f"bad = {value}")
    assert "bad" in catalog.names()
    with pytest.raises(UnknownHandlerError, match=f"^{re.escape(said)}$"):
        catalog.find("bad")


def test_any_handler_class_can_be_named() -> None:
    """netd's own kind, and that of the standard library."""
    assert catalog.load("netd.protocols.echo:EchoHandler") is EchoHandler
    assert catalog.load("socketserver:StreamRequestHandler") is socketserver.StreamRequestHandler
    assert catalog.load("given:Outer.Steps") is catalog.load("given:Steps")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("given", "'given' names no class (write package.module:Class)"),
        ("given.Steps", "'given.Steps' names no class (write package.module:Class)"),
        ("given:", "'given:' names no class (write package.module:Class)"),
        (":Steps", "':Steps' names no class (write package.module:Class)"),
        ("", "'' names no class (write package.module:Class)"),
        ("nosuch:X", "'nosuch:X' cannot be imported:"
         " there is no module nosuch (install it, or set PYTHONPATH)"),
        ("package.nosuch:X", "'package.nosuch:X' cannot be imported:"
         " there is no module package.nosuch (install it, or set PYTHONPATH)"),
        ("nosuch.inner:X", "'nosuch.inner:X' cannot be imported:"
         " there is no module nosuch (install it, or set PYTHONPATH)"),
        ("needs:X", "'needs:X' cannot be imported:"
         " ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("given:Stepz", "'given:Stepz' cannot be imported:"
         " AttributeError: module 'given' has no attribute 'Stepz'"),
        ("syntax:X", "'syntax:X' cannot be imported:"
         " SyntaxError: invalid syntax (syntax.py, line 1)"),
        ("raises:X", "'raises:X' cannot be imported: RuntimeError: two lines"),
        ("leaves:X", "'leaves:X' cannot be imported: SystemExit: 3"),
        ("given:number", "'given:number' is not a class"),
        ("given:Options", "given:Options is not a request handler class"),
        ("given:Neither", "given:Neither defines none of handle, data_received and"
         " datagram_received"),
        ("given:Torn", "given:Torn defines handle and data_received"
         " (a conversation, or steps?)"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_had_is_told_with_the_reason(reference: str, said: str) -> None:
    """In one line, whatever another's module does when it is imported."""
    assert refusal(reference) == said


@given(st.text() | st.from_regex(r"[a-z.:]{0,10}", fullmatch=True).map("nosuch{}".format))
def test_no_reference_is_too_strange(reference: str) -> None:
    """Whatever is named, it is refused in words."""
    assert refusal(reference)


@pytest.mark.parametrize(
    ("name", "transports"),
    [
        ("Steps", {"stream"}),
        ("Greeting", {"stream"}),
        ("Talk", {"stream"}),
        ("Answers", {"datagram"}),
        ("Both", {"stream", "datagram"}),
        ("Stream", {"stream"}),
        ("Datagram", {"datagram"}),
        ("Any", {"stream", "datagram"}),
    ],
)
def test_what_a_handler_serves_shows_in_its_methods(name: str, transports: set[str]) -> None:
    """Streams, datagrams, or both; a plain BaseRequestHandler may do with either."""
    assert catalog.transports_of(catalog.load(f"given:{name}")) == transports


def test_options_are_those_of_the_handler() -> None:
    """A handler of the standard library has none."""
    assert [*catalog.options_of(catalog.load("given:Steps")).model_fields] == ["speed"]
    assert not catalog.options_of(catalog.load("given:Talk")).model_fields
    assert not catalog.options_of(catalog.load("given:Stream")).model_fields
