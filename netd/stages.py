"""What comes before the handler of a service, as its stanza has it; see `netd.prelude`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from netd.config import ServiceStanza
from netd.handshake import Handshake
from netd.prelude import Stage
from netd.proxy_protocol import Announcement
from netd.service import Service
from netd.tls import Tls, TlsStanza

if TYPE_CHECKING:
    from netd.auth.preshared import Preshared


def announcement_of(stanza: ServiceStanza) -> Stage | None:
    """What happens before admission."""
    rules = stanza.proxy_protocol
    return None if rules is None else Announcement(rules)


def stages_of(name: str, stanza: ServiceStanza) -> Iterator[Stage]:
    """What happens between admission and the handler. Raises ConfigError when the files that it
    needs have been changed since they were checked."""
    if stanza.tls is not None:
        yield Handshake(Tls(stanza.tls), _preshared(name, stanza.tls))
    if stanza.auth is not None:
        # Here, as it costs some time and memory, which services without users are spared.
        from netd.auth.stage import Authentication

        yield Authentication(name, stanza.auth)


def _preshared(name: str, stanza: TlsStanza) -> Preshared | None:
    if stanza.psk is None:
        return None
    from netd.auth.preshared import Preshared  # here, for the same reason

    return Preshared(name, stanza.psk)


def renew(service: Service) -> None:
    """Reads the certificates of a service anew, for clients that come from now on; sessions go on.
    Raises ConfigError, and then all stays as it is. May be called from any thread."""
    for tls in _tls_of(service):
        tls.renew()


def warnings(service: Service) -> Iterator[str]:
    """What is not wrong with the certificates and the keys of a service, but keeps clients away,
    or lets some in for too long."""
    for stage in service.stages:
        if isinstance(stage, Handshake):
            yield from stage.tls.contexts.warnings()
            if stage.preshared is not None:
                yield from stage.preshared.keys.warnings()
        else:
            # Here, for the same reason.
            from netd.auth.stage import Authentication

            if isinstance(stage, Authentication):
                yield from stage.keys.warnings()


def _tls_of(service: Service) -> Iterator[Tls]:
    return (stage.tls for stage in service.stages if isinstance(stage, Handshake))
