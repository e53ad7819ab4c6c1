"""The configuration: YAML files → one validated object, or every fault that they have.

    read the file and what it includes → lay the defaults below each service → validate

A key is declared once, in the module that obeys it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Annotated, Any

from pydantic import Field

from netd import accounts, findings, instance, overlap, service_config
from netd.control import stanza as control_stanza
from netd.control.stanza import ControlStanza
from netd.document import Mark, Problem
from netd.errors import ConfigError
from netd.log import LogOptions
from netd.overlap import Claim
from netd.pool import MAX_THREADS
from netd.service_config import ServiceName, ServiceStanza
from netd.sources import Sources
from netd.stanza import Duration, Stanza
from netd.status import stanza as status_stanza
from netd.status.stanza import StatusStanza
from netd.text import printable

__all__ = ["Config", "ServiceStanza", "choose_file", "load"]

DEFAULT_FILE = File("/etc/netd/netd.yaml")
BUILT_IN_FILE = File(__file__).with_name("default.yaml")


class Config(Stanza):
    """The whole configuration."""

    control: ControlStanza = ControlStanza()
    """The control socket: where it is, who may open it, and who may do what."""
    status: StatusStanza = StatusStanza()
    """The status page, with `/metrics` for Prometheus and `/healthz`, over HTTP."""
    log: LogOptions = LogOptions()
    """What is logged, where to, and how."""
    include: list[str] = []
    """Further files, with more services: paths or patterns, relative to this file's folder."""
    user: str | None = None
    """The user that netd becomes once its sockets are bound, when it is started as root. null:
    netd where there is such a user, else nobody."""
    group: str | None = None
    """The group that it becomes; null: the user's own."""
    drain_timeout: Duration = 10.0
    """How long sessions may go on once netd was told to stop."""
    max_connections: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Connections to all services together; null: as many as there are descriptors."""
    max_threads: Annotated[int, Field(ge=1, le=100_000)] = MAX_THREADS
    """Threads for conversations, of all services together."""
    defaults: dict[str, Any] = {}
    """Any keys of a service, for all that do not have their own."""
    services: dict[ServiceName, ServiceStanza] = {}
    """The services, by name."""


def choose_file(named: str | None) -> File:
    """The file to read: the one named, else /etc/netd/netd.yaml, else the one in the package."""
    if named is not None:
        return File(named)
    try:
        DEFAULT_FILE.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return BUILT_IN_FILE
    except OSError:  # it may be there, and then nothing else is to be served in its place
        pass
    return DEFAULT_FILE


def load(file: File, may_be_empty: bool = True, control: File | None = None) -> Config:
    """Reads and validates a configuration. Raises ConfigError with all that is wrong with it.

    In the result the defaults and the included files have become part of the services. A file that
    is empty while netd serves is likely being written: nobody means to end what was in it.
    `control` is the control socket that there is already, whatever the configuration says; relative
    UNIX sockets lie beside it."""
    sources = Sources(file, may_be_empty)
    if sources.root.value is None and not sources.problems and not may_be_empty:
        raise ConfigError(f"{file}:1:1: the file is empty (to serve nothing, write services: {{}})")
    config = _check_top(sources)
    if control is None:
        control = File(config.control.path) if config.control.path else instance.control_path()
    defaults = service_config.check_defaults(sources)
    services: dict[str, ServiceStanza] = {}
    status = status_stanza.resolve(config.status, control)
    claims = [*_check_status(sources, status, control)]
    for name in sources.services:
        check = service_config.Check(sources, defaults, name)
        if (found := check.run(control)) is not None:
            services[name] = found
            claims += check.claims(found) if found.enabled else ()
    sources.problems += overlap.find(claims)
    if sources.problems:
        raise ConfigError(*_told(sources.problems))
    return config.model_copy(update={"services": services, "defaults": {}, "status": status})


@dataclass(frozen=True)
class Source:
    """Where the configuration of a daemon is from, to be read again and again."""

    file: File
    log_level: str | None = None
    """What the command line has in place of the configuration's."""
    control: File | None = None
    """The control socket of the daemon that reads it. Where that lies depends on the user, who may
    be another one since netd has started; and another path takes a restart."""

    def absolute(self) -> Source:
        """The same for a process in another working directory."""
        return replace(self, file=self.file.absolute())

    def load(self, may_be_empty: bool = False) -> Config:
        """As `load`."""
        found = load(self.file, may_be_empty, self.control)
        if self.log_level is None:
            return found
        options = found.log.model_copy(update={"level": self.log_level})
        return found.model_copy(update={"log": options})


def _check_status(sources: Sources, status: StatusStanza, control: File) -> Iterator[Claim]:
    """What the status page listens on; what is wrong with that becomes a problem."""

    def mark(key: str) -> Mark:
        return sources.root.mark(("status", key))

    sources.problems += status_stanza.find_problems(status, control, mark)
    if status.listen is not None:
        yield Claim(status.listen, mark("listen"))


def _told(problems: list[Problem]) -> list[str]:
    """The problems as lines, in the order of the file, each once: of services that share a default
    that has a fault, each has found it."""
    problems = sorted(problems, key=lambda p: (p.mark.file, p.mark.line, p.mark.column))
    return [*dict.fromkeys(printable(str(problem)) for problem in problems)]


def _check_top(sources: Sources) -> Config:
    """All but the services, without what is wrong with it."""
    root = sources.root
    config, faults, _ = findings.validate(Config, sources.top, {"folder": sources.folder}, {})
    sources.problems += findings.of_validation(faults, Config, lambda path: (root, path))
    user, group = ("user", config.user), ("group", config.group)
    sources.problems += accounts.find_problems(user, group, lambda key: root.mark((key,)))
    sources.problems += control_stanza.find_problems(
        config.control, lambda *path: root.mark(("control", *path))
    )
    if config.user is not None and accounts.is_root(config.user):
        what = "user: netd does not serve as root"
        sources.problems.append(Problem(root.mark(("user",)), what, "name another one"))
    return config
