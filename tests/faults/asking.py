"""The control socket of a daemon that is in trouble: an administrator asks what it is."""

from __future__ import annotations

from contextlib import closing
from time import monotonic
from typing import Any

from controls import Client, path_of

from faults.fault import LateError
from faults.target import Target


def client_of(target: Target) -> Client:
    """A client of the control socket, for the time of the fault."""
    return target.clients.enter_context(closing(Client(path_of(target.netd))))


def status_within(target: Target, seconds: float) -> dict[str, Any]:
    """The status, which a new client is told within so many seconds."""
    began = monotonic()
    with closing(Client(path_of(target.netd))) as client:
        found: dict[str, Any] = client.data("status")
    took = monotonic() - began
    if took >= seconds:
        raise LateError(f"the status was told after {took:.3f} s")
    return found
