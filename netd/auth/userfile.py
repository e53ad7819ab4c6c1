"""The file of users: who they are, their keys, and what they may do.

    roles:
      staff: {services: [upper, exec], commands: [uptime], roots: [public]}
    users:
      alice:
        roles: [staff]
        keys:
          - {secret: netd_…, verifier: SCRAM-SHA-256$4096:…, start: "2026-11-20T09:00:00Z"}
          - {secret: netd_…, verifier: SCRAM-SHA-256$4096:…, end: "2026-11-21T09:00:00Z"}
      backup: {uid: 34, certificate: backup.example.org}

It is YAML, for `netctl users` and for people. Whatever is wrong with it is told by file, line and
column, without repeating what stands there: it may be a key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)

from netd import document
from netd.auth.keyring import MAX_KEYS, Key, Keyring, User
from netd.auth.rights import Rights
from netd.auth.source import Source
from netd.document import Document
from netd.errors import ConfigError
from netd.scram import SLOTS
from netd.secret import PREFIX, Secret
from netd.stanza import Stanza
from netd.verifier import Verifier

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}"
"""A user's name. It stands in the log, in commands and in SCRAM's messages as it is."""
MADE_BY: Final = "`netctl users add NAME`"
"""What makes such a file."""
SHARED: Final = "shared"
"""Who comes in by a key that is nobody's in particular."""

# Enough for MAX_KEYS of them as `netctl users` writes them, with roles; read in some 100 ms.
_MAX_NODES: Final = 24 * MAX_KEYS
_TOO_LARGE: Final = "the file has over "
_NO_TREE: Final = ("model_type", "dict_type")

LONGEST_CERTIFICATE: Final = 255
"""Characters of the name in a certificate."""

CertificateName = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_CERTIFICATE)]
UserName = Annotated[str, StringConstraints(pattern=f"^(?:{NAME})$")]


def parse_moment(text: object) -> datetime:
    """A point of time such as `2026-11-20T09:00:00Z`. Raises ValueError."""
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError('it is no point of time (write it like "2026-11-20T09:00:00Z")')
    return moment.astimezone(UTC)


def format_moment(moment: datetime) -> str:
    """The way to write a point of time that `parse_moment` reads back, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Moment = Annotated[
    datetime,
    BeforeValidator(parse_moment),
    PlainSerializer(format_moment, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
VerifierText = Annotated[
    Verifier, PlainValidator(Verifier.parse), WithJsonSchema({"type": "string"})
]


class RoleStanza(Stanza):
    """What whoever has a role may do; what is not named here is not restricted by it."""

    services: list[str] | None = None
    """Services that may be used."""
    commands: list[str] | None = None
    """Commands that may be run."""
    roots: list[str] | None = None
    """Folders that may be used, by the names that a service of files gives them."""

    def rights(self) -> Rights:
        """The same, as it is asked for."""
        lists = (self.services, self.commands, self.roots)
        return Rights(*(None if names is None else frozenset(names) for names in lists))


class KeyStanza(Stanza):
    """One key."""

    secret: Secret | None = None
    """The key itself; without it only clients of version 2 can use it."""
    verifier: VerifierText | None = None
    """What SCRAM needs of it; without this it is computed from the key."""
    start: Moment | None = None
    """When it begins to be a key."""
    end: Moment | None = None
    """When it is none any more."""

    def is_over(self, now: datetime) -> bool:
        """Whether it has ended for good."""
        return self.end is not None and self.end <= now


class UserStanza(Stanza):
    """One user. Without roles it may do everything."""

    roles: list[str] = []
    """What it may do: names of the roles in this file."""
    keys: Annotated[list[KeyStanza], Field(max_length=SLOTS)] = []
    """Its keys: one, or while another one takes over, two."""
    uid: Annotated[int, Field(ge=0, le=2**32 - 2)] | None = None
    """Its number on this machine, for `method: peer`."""
    certificate: CertificateName | None = None
    """The name in its certificate, for `method: certificate`."""


class UserFile(Stanza):
    """All of it."""

    seed: Secret | None = None
    """What the salts of users who do not exist are made of, so that a restart of netd does not
    change them; `netctl users` makes one."""
    roles: dict[UserName, RoleStanza] = {}
    """Roles by name."""
    users: dict[UserName, UserStanza] = {}
    """Users by name."""

    def faults(self) -> Iterator[tuple[document.Path, str]]:
        """What is wrong with it as a whole, and where."""
        number = sum(len(user.keys) for user in self.users.values())
        if number > MAX_KEYS:
            yield ("users",), f"{number} keys are too many (at most {MAX_KEYS} in one file)"
        seen: dict[Any, str] = {}
        for name, user in self.users.items():
            for index, role in enumerate(user.roles):
                if role not in self.roles:
                    known = ", ".join(sorted(self.roles)) or "none yet"
                    yield ("users", name, "roles", index), f"no such role (there are: {known})"
            yield from _key_faults(("users", name, "keys"), user.keys)
            for path, mark in _marks(name, user):
                if (other := seen.setdefault(mark, name)) != name or mark in _repeated(user):
                    yield path, f"{other} has the same (each has to be one user's alone)"

    def keyring(self) -> Keyring:
        """Its users and keys, as a service asks for them."""
        seed = self.seed.reveal() if self.seed else os.urandom(32)
        users = [_user(self, name, stanza) for name, stanza in self.users.items()]
        keys = [key for user in users for key in _keys(user, self.users[user.name].keys, seed)]
        return Keyring(users, keys, seed)


def _marks(name: str, user: UserStanza) -> Iterator[tuple[document.Path, Any]]:
    """What tells this user from others, and where it stands."""
    path: document.Path = ("users", name)
    if user.uid is not None:
        yield (*path, "uid"), user.uid
    if user.certificate is not None:
        yield (*path, "certificate"), user.certificate
    for index, key in enumerate(user.keys):
        if key.secret is not None:
            yield (*path, "keys", index, "secret"), key.secret.reveal()


def _repeated(user: UserStanza) -> set[bytes]:
    secrets = [key.secret.reveal() for key in user.keys if key.secret is not None]
    return {secret for secret in secrets if secrets.count(secret) > 1}


def _key_faults(path: document.Path, keys: list[KeyStanza]) -> Iterator[tuple[document.Path, str]]:
    salts = set()
    for index, key in enumerate(keys):
        if key.secret is None and key.verifier is None:
            yield (*path, index), "it has neither a secret nor a verifier"
        if key.start is not None and key.end is not None and key.start >= key.end:
            yield (*path, index, "end"), "it ends before it begins"
        if key.verifier is not None:
            salts.add((key.verifier.salt, key.verifier.iterations))
    if len(salts) > 1:
        yield path, "their verifiers have different salts (a user has one salt for all its keys)"


def _user(file: UserFile, name: str, stanza: UserStanza) -> User:
    rights = Rights.of(file.roles[role].rights() for role in stanza.roles)
    return User(name, rights, stanza.uid, stanza.certificate)


def _keys(user: User, stanzas: list[KeyStanza], seed: bytes) -> Iterator[Key]:
    given = [key.verifier for key in stanzas if key.verifier is not None]
    salt = [*given, Verifier.decoy(seed, user.name)][0].salt
    for stanza in stanzas:
        secret = stanza.secret.reveal() if stanza.secret is not None else None
        verifier = stanza.verifier or Verifier.of(secret or b"", salt)
        start, end = (m.timestamp() if m else None for m in (stanza.start, stanza.end))
        yield Key(user, verifier, secret, start, end)


# -- reading


def parse(data: bytes, name: str) -> UserFile:
    """The file, by what it holds. Raises ConfigError."""
    found = document.parse(data, name, nodes=_MAX_NODES)
    if found.problems:
        raise ConfigError(*map(_reading_line, found.problems))
    try:
        file = UserFile.model_validate({} if found.value is None else found.value)
    except ValidationError as error:
        raise ConfigError(*_lines(found, error)) from None
    if faults := [_line(found.mark(path), _joined(path, what)) for path, what in file.faults()]:
        raise ConfigError(*faults)
    return file


def _reading_line(problem: document.Problem) -> str:
    if problem.what.startswith(_TOO_LARGE):
        return _line(problem.mark, problem.what, f"it may hold {MAX_KEYS} keys")
    # What is said may repeat a part of the file; the hint does not.
    return _line(problem.mark, "it cannot be read here", problem.hint)


def _lines(found: Document, error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        path = fault["loc"]
        what = fault["msg"].removeprefix("Value error, ")
        if fault["type"] in _NO_TREE:
            what = "expected keys with values"
        if fault["type"] == "extra_forbidden":
            yield _line(found.key_mark(path), "this key means nothing here")
        else:
            yield _line(found.mark(path), _joined(path, what[:1].lower() + what[1:]))


def _joined(path: document.Path, what: str) -> str:
    # A key of ours in the place of a name is a slip of whoever wrote the file.
    parts = ["…" if str(part).startswith(PREFIX) else str(part) for part in path if part != "[key]"]
    return f"{'.'.join(parts)}: {what}" if parts else what


def _line(mark: document.Mark, what: str, hint: str = "") -> str:
    return f"{mark}: {what}" + (f" ({hint})" if hint else "")


def read(source: Source) -> UserFile:
    """The file as it stands there. Raises ConfigError."""
    return parse(source.read(MADE_BY), str(source))


def load(source: Source) -> Keyring:
    """The keys of all users. Raises ConfigError."""
    return read(source).keyring()


def load_shared(source: Source) -> Keyring:
    """The keys that are nobody's in particular, each on a line of its own. Raises ConfigError."""
    text = source.read("`(umask 77; openssl rand -hex 32 > FILE)`").decode(errors="replace")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    given = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(given) <= SLOTS:
        raise ConfigError(
            f"{source}: it holds {len(given)} keys (write one on a line, or two while the one takes"
            " over from the other)"
        )
    secrets = []
    for number, line in given:
        try:
            secrets.append(Secret.parse(line).reveal())
        except ValueError as error:
            raise ConfigError(f"{source}:{number}:1: {error}") from None
    user, seed = User(SHARED), os.urandom(32)
    salt = Verifier.decoy(seed, SHARED).salt
    keys = [Key(user, Verifier.of(secret, salt), secret) for secret in secrets]
    return Keyring([user], keys, seed)
