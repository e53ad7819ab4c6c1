"""What is known of a client before its handler is made: who it is, and by which TLS that came."""

from __future__ import annotations

from dataclasses import dataclass

from netd.auth.rights import Rights


@dataclass(frozen=True, slots=True)
class Identity:
    """What the stages before the handler have found out (`netd.prelude`)."""

    user: str | None = None
    """Who the client has shown to be; None when it has shown nothing."""
    rights: Rights | None = None
    """What it may do, when its user is one of those in a file of users."""
    tls: str = ""
    """Version and cipher, such as `TLSv1.3 TLS_AES_256_GCM_SHA384`; empty without TLS."""
    server_name: str = ""
    """The name that the client has asked for (SNI)."""
    application: str = ""
    """The application protocol that was agreed upon (ALPN)."""
    certificate_name: str | None = None
    """The name in the client's certificate, once that has been verified."""
    server_certificate: bytes = b""
    """The certificate that the client was shown (DER): what channel bindings are made of."""


NOBODY = Identity()
"""Of a client that nothing is known about."""
