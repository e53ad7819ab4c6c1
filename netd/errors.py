"""What can go wrong, sorted by whose fault it is.

    NetdError
    ├── ConfigError        the administrator's file: refuse to start, name line and column
    ├── StartError         the machine: a port is taken, a capability is missing
    ├── BrokenStream       the peer has left, or its stream is beyond use: nobody is to be told
    └── RemoteError        the peer's fault: an info line, never a traceback
        ├── ProtocolError    the stream is out of step: answer if possible, then close
        ├── Refused          this request is not for you: answer, the connection stays
        └── Unauthenticated  it has not shown who it is: close

Anything else that a handler raises is our own fault: an error line with its traceback.
"""

from __future__ import annotations


class NetdError(Exception):
    """Base of every error that netd raises on purpose."""


class ConfigError(NetdError):
    """The configuration cannot be used; `problems` holds one sentence for each fault."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StartError(NetdError):
    """The daemon cannot start; `status` is its exit status (DESIGN: 71, 75, 77)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BrokenStream(NetdError, ConnectionError):
    """The stream has come to an end without a handler's doing, by this reason word: `eof`,
    `truncated` (TLS that was cut off), `protocol_error`, or whatever it was cut for."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason.replace("_", " "))
        self.reason = reason


class RemoteError(NetdError):
    """The peer did something that it may not do."""

    reason = "protocol_error"
    last_words: bytes | None = None
    """What a client is told that does not come as far as its handler; None: `banner_fail`."""
    user: str | None = None
    """Who it is, or says it is, if there is such a user: for the log."""


class ProtocolError(RemoteError):
    """What the peer sent leaves the stream out of step: the connection has to end."""


class Refused(RemoteError):
    """The request was understood and is refused: the stream is in step and stays open."""


class Unauthenticated(RemoteError):
    """The peer has not shown who it is, or is nobody who may use this service. What the error
    says is for the log alone: the peer learns no more than that it may not come in."""

    reason = "auth"

    def __init__(self, why: str, user: str | None = None) -> None:
        """`user` is who it is, or says it is, if there is such a user."""
        super().__init__(why)
        self.user = user


class Overdue(RemoteError):
    """A deadline passed; `reason` tells which: idle_timeout, session_timeout, write_timeout."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason.replace("_", " "))
        self.reason = reason
