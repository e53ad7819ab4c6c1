"""What is answered to which request: paths, host names, headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from types import MappingProxyType

from netd.report import Report
from netd.status.exposition import Exposition
from netd.status.page import Page

TEXT = "text/plain; charset=utf-8"
_PATHS = "/, /status.json, /metrics, /healthz"
# A browser takes nothing of this for something else, keeps none of it, shows it in no frame of
# another page, and tells nobody where it has been.
HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
)


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: HTTPStatus
    body: bytes
    kind: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)
    """Beside HEADERS, or in their place."""


def refusal(status: HTTPStatus, text: str, **headers: str) -> Answer:
    """A response that says in a line why there is no better one."""
    return Answer(status, f"{status.value} {text}\n".encode(), headers=headers)


class Site:
    """The paths that there are, and who may ask for them."""

    def __init__(self, report: Report, hosts: Collection[str]) -> None:
        """`hosts` are the names that it answers to, beside addresses and localhost."""
        self._report = report
        self._hosts = {"localhost"} | {host.lower() for host in hosts}
        self._exposition = Exposition(report)
        self._page = Page()
        self._paths: dict[str, Callable[[str], Answer]] = {
            "/": self._show_page,
            "/status.json": self._tell_status,
            "/metrics": self._expose_metrics,
            "/healthz": self._tell_health,
        }

    def answer(self, target: str, hosts: Collection[str], accept: str) -> Answer:
        """The response to a GET for a target, with the values of the request's Host headers."""
        if len(hosts) > 1 or not all(self._is_ours(host) for host in hosts):
            text = "netd does not go by that name here (add it to status.hosts, or use an address)"
            return refusal(HTTPStatus.MISDIRECTED_REQUEST, text)
        path = target.partition("?")[0]
        if (answer := self._paths.get(path)) is None:
            return refusal(HTTPStatus.NOT_FOUND, f"not found (there are: {_PATHS})")
        return answer(accept)

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names an address, which nobody else's name stands for, or one of
        the names that are known."""
        name = host_name(host)
        return name is not None and (name in self._hosts or is_address(name))

    def _show_page(self, _accept: str) -> Answer:
        headers = {"Content-Security-Policy": self._page.policy}
        return Answer(HTTPStatus.OK, self._page.html, "text/html; charset=utf-8", headers)

    def _tell_status(self, _accept: str) -> Answer:
        return _in_json(HTTPStatus.OK, self._report.status())

    def _expose_metrics(self, accept: str) -> Answer:
        return Answer(HTTPStatus.OK, *self._exposition.encode(accept))

    def _tell_health(self, _accept: str) -> Answer:
        health = self._report.health()
        status = HTTPStatus.SERVICE_UNAVAILABLE if health["stuck"] else HTTPStatus.OK
        return _in_json(status, health)


def _in_json(status: HTTPStatus, content: object) -> Answer:
    text = json.dumps(content, separators=(",", ":")) + "\n"
    return Answer(status, text.encode(), "application/json")


def host_name(host: str) -> str | None:
    """The name or address in a Host header, in lower case and without brackets and port; None
    when it is not one (RFC 9110 section 7.2)."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket or ":" not in name:
            return None
    else:
        name, colon, port = host.partition(":")
        rest = colon + port
    if rest and not (rest[0] == ":" and (rest[1:].isdecimal() or rest == ":")):
        return None
    return name.lower() or None


def is_address(name: str) -> bool:
    """Whether it is an IPv4 or IPv6 address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
