"""Which protocols there are: netd's own, one module each in `netd.protocols`, and those that other
distributions offer in the entry-point group `netd.protocols`."""

from __future__ import annotations

import importlib
import pkgutil
import socketserver
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter

from netd import protocols
from netd.handler import RequestHandler, check, overrides
from netd.stanza import Stanza

GROUP = "netd.protocols"
Handler = type[socketserver.BaseRequestHandler]


class UnknownHandlerError(Exception):
    """There is no such protocol or class, or it cannot be used; the text says why."""


@cache
def own_names() -> list[str]:
    """The protocols that netd brings along."""
    return sorted(module.name for module in pkgutil.iter_modules(protocols.__path__))


@cache
def offered() -> dict[str, EntryPoint]:
    """The protocols that other distributions offer, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def names() -> list[str]:
    """All protocols."""
    return sorted({*own_names(), *offered()})


def find(name: str) -> type[RequestHandler]:
    """The handler class of a protocol. Raises UnknownHandlerError."""
    if name in own_names():
        return _handler_in(name)
    point = offered().get(name)
    if point is None:
        raise UnknownHandlerError(f"there is no protocol {name!r}")
    handler = load(point.value.partition("[")[0].strip())  # extras say what to install with it
    if not issubclass(handler, RequestHandler):
        raise UnknownHandlerError(f"{point.value} is not a subclass of netd.handler.RequestHandler")
    return handler


def _handler_in(name: str) -> type[RequestHandler]:
    module = importlib.import_module(f"{GROUP}.{name}")
    (handler,) = (
        found
        for found in vars(module).values()
        if isinstance(found, type)
        and issubclass(found, RequestHandler)
        and found.__module__ == module.__name__
    )
    return handler


def load(reference: str) -> Handler:
    """The class that `package.module:Class` names. Raises UnknownHandlerError."""
    module_name, _, class_name = reference.partition(":")
    if not (module_name and class_name):
        raise UnknownHandlerError(f"{reference!r} names no class (write package.module:Class)")
    try:
        found = attrgetter(class_name)(importlib.import_module(module_name))
    except (Exception, SystemExit) as fault:  # another's code: it must not end netd
        reason = _in_words(fault, module_name)
        raise UnknownHandlerError(f"{reference!r} cannot be imported: {reason}") from fault
    if not isinstance(found, type):
        raise UnknownHandlerError(f"{reference!r} is not a class")
    try:
        check(found)
    except TypeError as fault:
        raise UnknownHandlerError(str(fault)) from fault
    return found


def _in_words(fault: BaseException, module_name: str) -> str:
    """Why an import failed, in one line."""
    missing = fault.name if isinstance(fault, ModuleNotFoundError) else None
    if missing and f"{module_name}.".startswith(f"{missing}."):
        return f"there is no module {missing} (install it, or set PYTHONPATH)"
    return " ".join(f"{type(fault).__name__}: {fault}".split())


def options_of(handler: Handler) -> type[Stanza]:
    """The class of a handler's options; a stock handler has none."""
    return handler.Options if issubclass(handler, RequestHandler) else Stanza


def transports_of(handler: Handler) -> frozenset[str]:
    """What a handler can serve: "stream", "datagram", or both."""
    if not issubclass(handler, RequestHandler):
        if issubclass(handler, socketserver.StreamRequestHandler):
            return frozenset({"stream"})
        if issubclass(handler, socketserver.DatagramRequestHandler):
            return frozenset({"datagram"})
        return frozenset({"stream", "datagram"})
    streams = ("handle", "data_received", "connection_made")
    kinds = {"stream"} if any(overrides(handler, name) for name in streams) else set()
    return frozenset(kinds | ({"datagram"} if overrides(handler, "datagram_received") else set()))
