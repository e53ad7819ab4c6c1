"""One service of the configuration: its keys, and all that can be wrong with them.

A key is declared in the module that obeys it; `ServiceStanza` merely gathers them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path as File
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from netd import accounts, catalog, findings, tls
from netd.address import UNIX_PATH_LIMIT, Address, ListenAddress
from netd.admission import Admission
from netd.auth import stanza as auth
from netd.auth.stanza import AuthStanza
from netd.deadline import Timeouts
from netd.document import Document, Mark, Path, Problem
from netd.listener import SocketOptions
from netd.overlap import Claim
from netd.proxy_protocol import ProxyProtocol
from netd.sources import Sources
from netd.stanza import Stanza
from netd.tls import TlsStanza

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_NAME_HINT = "letters, digits, '_', '.' and '-', at most 64, beginning with a letter or digit"
_ALTERNATIVES = {"protocol", "handler"}
# Stands in for addresses that have a fault, so that the other keys can be looked at.
_NOWHERE = Address("fd", "")
_SPARE: dict[str, Any] = {"listen": [_NOWHERE]}

ServiceName = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]


class ServiceStanza(Admission, Timeouts, SocketOptions):
    """One service."""

    protocol: str | None = None
    """The protocol to speak: one of netd's own, or one that another package offers."""
    handler: str | None = None
    """In place of `protocol`: any handler class, as `package.module:Class`, also one written for
    the standard library's socketserver."""
    listen: Annotated[list[ListenAddress], Field(min_length=1)]
    """Where to listen: tcp://HOST:PORT, udp://HOST:PORT, unix:PATH, unix-dgram:PATH, or fd:NAME
    for a socket from systemd. Port 0 picks a free one."""
    enabled: bool = True
    """Whether the service is started."""
    on_reload: Literal["keep", "recheck", "drain"] = "keep"
    """What becomes of sessions when a reload has changed something here: they go on as they began;
    or those end that would not be let in now; or all may go on for `drain_timeout`, then end."""
    proxy_protocol: ProxyProtocol | None = None
    """Proxies in front of the service, which say whom they speak for; null: none."""
    tls: TlsStanza | None = None
    """The certificate and what else TLS needs; null: connections are in the clear."""
    auth: AuthStanza | None = None
    """Who has to show who it is before the protocol begins, and how; null: nobody."""
    banner: Annotated[str, Field(max_length=4096)] = ""
    """Sent to each client that is let in, before the protocol begins."""
    banner_fail: Annotated[str, Field(max_length=4096)] = ""
    """Sent to each client that is turned away; `{reason}` stands for the reason word."""
    options: Any = None
    """The protocol's own options."""

    @property
    def speaks(self) -> str:
        """Its protocol, or else its handler."""
        return self.protocol or self.handler or ""

    @property
    def guards(self) -> list[str]:
        """The keys in force that only connections can obey, and not datagrams."""
        keys = ("proxy_protocol", "tls", "auth")
        return [key for key in keys if getattr(self, key) is not None]

    @property
    def handler_class(self) -> catalog.Handler:
        """The class that serves it."""
        if self.protocol is not None:
            return catalog.find(self.protocol)
        return catalog.load(self.handler or "")


def check_defaults(sources: Sources) -> dict[str, Any]:
    """The values in `defaults` that have no fault; the others become problems."""
    given = sources.defaults
    stanza, faults, faulty = findings.validate(
        ServiceStanza, _SPARE | given, {"folder": sources.folder}, _SPARE
    )
    origin = partial(_below, sources.root, ("defaults",))
    sources.problems += findings.of_validation(faults, ServiceStanza, origin)
    return {key: getattr(stanza, key) for key in given if key not in faulty}


def _below(document: Document, base: Path, path: Path) -> tuple[Document, Path]:
    return document, base + path


class Check:
    """Validates one service, and adds what is wrong with it to the problems of the sources."""

    def __init__(self, sources: Sources, defaults: dict[str, Any], name: str) -> None:
        """`defaults` are those that `check_defaults` returned."""
        self._sources = sources
        self._name = name
        self._entry = sources.services[name]
        value = self._entry.value
        self._own: dict[str, Any] = value if isinstance(value, dict) else {}
        replaced = {*self._own}
        if _ALTERNATIVES & replaced:
            replaced |= _ALTERNATIVES
        self._defaults = {key: value for key, value in defaults.items() if key not in replaced}
        # What has a default is not missing here, even if the default has a fault of its own.
        self._faulty = {*sources.defaults} - {*defaults} - replaced
        self._complete = sources.root.complete and self._entry.document.complete

    def run(self, control: File) -> ServiceStanza | None:
        """The service, its relative addresses resolved beside the control socket. Where there are
        problems, it is without the keys that they are about; None when there is nothing left."""
        if not re.fullmatch(_NAME, self._name):
            what = f"{findings.shown(self._name)} is not a service name"
            self._say(Problem(self._key_mark(), what, _NAME_HINT))
        if not isinstance(self._entry.value, dict):
            what, _ = findings.expected_keys(self._entry.value)
            what = f"{self._name}: {what}"
            self._say(Problem(self._key_mark(), what, "write protocol: and listen: below it"))
            return None
        stanza = self._validate()
        user, group = ("socket_user", stanza.socket_user), ("socket_group", stanza.socket_group)
        self._say(*accounts.find_problems(user, group, self._mark))
        addresses = [] if stanza.listen == [_NOWHERE] else stanza.listen
        self._check_guards(stanza, addresses)
        update: dict[str, Any] = {"listen": list(self._resolve(addresses, control))}
        if handler := self._find_handler(stanza):
            self._check_transports(addresses, handler, stanza.protocol or stanza.handler)
            update["options"] = self._check_options(stanza.options, handler)
        return stanza.model_copy(update=update)

    def claims(self, stanza: ServiceStanza) -> Iterator[Claim]:
        """What the service listens on."""
        device, ipv6_only, reuse = stanza.bind_to_device, stanza.ipv6_only, stanza.reuse_port
        for index, address in enumerate(stanza.listen):
            yield Claim(address, self._mark("listen", index), device, ipv6_only, reuse)

    def _say(self, *problems: Problem) -> None:
        self._sources.problems += problems

    def _origin(self, path: Path) -> tuple[Document, Path]:
        if path and path[0] in self._defaults:
            return self._sources.root, ("defaults", *path)
        return self._entry.document, ("services", self._name, *path)

    def _mark(self, *path: str | int) -> Mark:
        document, place = self._origin(path)
        return document.mark(place)

    def _key_mark(self, *path: str | int) -> Mark:
        document, place = self._origin(path)
        return document.key_mark(place)

    def _validate(self) -> ServiceStanza:
        defaults = {key: self._sources.defaults[key] for key in self._defaults}
        spare = _SPARE if "listen" in self._faulty or not self._complete else {}
        values = spare | defaults | self._own
        context = {"folder": self._entry.folder}
        stanza, faults, faulty = findings.validate(ServiceStanza, values, context, _SPARE)
        self._say(*findings.of_validation(faults, ServiceStanza, self._origin))
        self._faulty |= faulty
        # A path in the defaults begins in the folder of the file that they are in.
        return stanza.model_copy(update=self._defaults)

    def _resolve(self, addresses: list[Address], control: File) -> Iterator[Address]:
        for index, address in enumerate(addresses):
            if address.scheme not in ("unix", "unix-dgram"):
                yield address
                continue
            path = control.parent / address.host
            mark = self._mark("listen", index)
            if len(os.fsencode(path)) > UNIX_PATH_LIMIT:
                what = f"{path}: a socket's path has at most {UNIX_PATH_LIMIT} bytes"
                self._say(Problem(mark, what, "choose a shorter one"))
            if os.path.normpath(path) == os.path.normpath(control):
                what = f"{address}: the control socket lies there"
                self._say(Problem(mark, what, "choose another name"))
            yield Address(address.scheme, str(path))

    def _check_guards(self, stanza: ServiceStanza, addresses: list[Address]) -> None:
        """What comes before the handler."""
        if stanza.tls is not None:
            for fault in tls.find_faults(stanza.tls):
                self._say(Problem(self._mark("tls", *fault.path), fault.what, fault.hint))
            if (psk := stanza.tls.psk) is not None:
                self._say(*auth.find_key_problems("tls", "psk", psk, self._mark))
        if stanza.auth is not None:
            proxied = stanza.proxy_protocol is not None
            found = auth.find_problems(stanza.auth, addresses, stanza.tls, self._mark, proxied)
            self._say(*found)
        guards = [key for key in stanza.guards if key != "auth"]
        for index, address in enumerate(addresses):
            if guards and address.scheme in ("udp", "unix-dgram"):
                what = f"{address}: {' and '.join(guards)} cannot hold for datagrams"
                hint = "give them a service without"
                self._say(Problem(self._mark("listen", index), what, hint))

    def _find_handler(self, stanza: ServiceStanza) -> catalog.Handler | None:
        if self._faulty & _ALTERNATIVES:
            return None
        if stanza.protocol is None and stanza.handler is None:
            if self._complete:
                what = f"{self._name}: it has no protocol, and no handler"
                self._say(Problem(self._key_mark(), what, "write protocol: upper"))
            return None
        if stanza.protocol is not None and stanza.handler is not None:
            what = "a service has a protocol or a handler, not both"
            self._say(Problem(self._key_mark("handler"), what, "take one of them out"))
            return None
        key = "handler" if stanza.protocol is None else "protocol"
        name = stanza.protocol or stanza.handler or ""
        try:
            return stanza.handler_class
        except catalog.UnknownHandlerError as error:
            misnamed = key == "protocol" and name not in catalog.names()
            hint = findings.nearest(name, catalog.names()) if misnamed else ""
            self._say(findings.said(self._mark(key), key, error, name, hint))
        return None

    def _check_transports(
        self, addresses: list[Address], handler: catalog.Handler, name: str | None
    ) -> None:
        able = catalog.transports_of(handler)
        for index, address in enumerate(addresses):
            kind = "stream" if address.is_stream else "datagram"
            if address.scheme != "fd" and kind not in able:
                what = f"{address}: {name} does not serve {kind}s"
                instead = "udp:// or unix-dgram:" if address.is_stream else "tcp:// or unix:"
                self._say(Problem(self._mark("listen", index), what, f"use {instead}"))

    def _check_options(self, options: object, handler: catalog.Handler) -> Stanza | None:
        model = catalog.options_of(handler)
        given = {} if options is None else options
        own = "options" in self._own
        folder = self._entry.folder if own else self._sources.folder
        try:
            return model.model_validate(given, context={"folder": folder})
        except ValidationError as error:
            self._say(
                *findings.of_validation(
                    error.errors(include_url=False),
                    model,
                    lambda path: self._origin(("options", *path)),
                )
            )
        return None
