"""Which file of users a command is about."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import click

from netd import config
from netd.sources import Sources

_ACCOUNT = "netd"
_NO_FILES = ("credential:", "env:")


def find(named: Path | None, configuration: str | None) -> Path:
    """The file that was named, or else the one that a configuration names. Raises UsageError when
    there are several, or none."""
    if named is not None:
        return named
    chosen = config.choose_file(configuration)
    found = sorted(set(_named_in(Sources(chosen))))
    if len(found) != 1:
        what = "several" if found else "no"
        listed = f": {', '.join(map(str, found))}" if found else ""
        raise click.UsageError(f"{chosen} names {what} files of users{listed} (choose by --file)")
    return found[0]


def owner(configuration: str | None) -> tuple[int, int] | None:
    """Who a new file is for, when root makes it, by numbers of user and group: whom netd becomes,
    since it has to read it."""
    if os.geteuid() != 0:
        return None
    user = Sources(config.choose_file(configuration)).top.get("user") or _ACCOUNT
    try:
        found = pwd.getpwnam(str(user))
    except (KeyError, ValueError):
        return None
    return found.pw_uid, found.pw_gid


def _named_in(sources: Sources) -> Iterator[Path]:
    """The files of users that a configuration names. It need not be sound, as one that names a
    file which is not there yet is not."""
    stanzas = [(sources.defaults, sources.folder)]
    stanzas += [(entry.value, entry.folder) for entry in sources.services.values()]
    for stanza, folder in stanzas:
        for place, key in (("auth", "users"), ("tls", "psk")):
            inner = stanza.get(place) if isinstance(stanza, dict) else None
            named = inner.get(key) if isinstance(inner, dict) else None
            if isinstance(named, str) and named and not named.startswith(_NO_FILES):
                yield folder / named
