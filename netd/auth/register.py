"""Changes of the file of users: made by one at a time, and found whole or not at all.

The new file takes the place of the old one by a rename, once all of it is on the disk. Whoever
changes it holds a lock on the file itself, and looks after that whether it is still the one that
stands there.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

from netd.auth.source import read_private, why
from netd.auth.userfile import MADE_BY, KeyStanza, UserFile, UserStanza, parse
from netd.errors import ConfigError
from netd.scram import SLOTS
from netd.secret import Secret
from netd.verifier import Verifier

PATIENCE: Final = 10.0
"""Seconds for which another one is let finish its change."""
_HEAD: Final = "# The users of netd. `netctl users` writes this file anew, without comments.\n"
_POLL: Final = 0.05


class Register:
    """The users in a file, while it is being changed."""

    def __init__(self, file: UserFile) -> None:
        self.file = file

    # -- what can be done

    def add(self, name: str, now: datetime, end: datetime | None = None, **keys: Any) -> Secret:
        """Adds a user with a new key, which is returned; `keys` are further ones of its stanza.
        Raises ConfigError."""
        if name in self.file.users:
            raise ConfigError(f"{name} is there already (`netctl users rotate` makes a new key)")
        secret, key = self._make_key(name, now, end)
        self._put(name, UserStanza(keys=[key], **keys))
        return secret

    def remove(self, name: str) -> None:
        """Takes a user out. Raises ConfigError."""
        self._find(name)
        users = {known: stanza for known, stanza in self.file.users.items() if known != name}
        self.file = self.file.model_copy(update={"users": users})

    def rotate(
        self, name: str, now: datetime, over: datetime, end: datetime | None = None
    ) -> Secret:
        """Adds a key, which is returned, and has the others end at the point `over`. Raises
        ConfigError when that would be too many."""
        stanza = self._find(name)
        secret, key = self._make_key(name, now, end)
        kept = [
            old if old.end is not None and old.end <= over else old.model_copy(update={"end": over})
            for old in stanza.keys
        ]
        kept = [old for old in kept if not old.is_over(now)]
        if len(kept) >= SLOTS:
            raise ConfigError(
                f"{name} has {len(kept)} keys still in use (wait until one has ended, or end them"
                " now with --keep 0)"
            )
        self._put(name, stanza.model_copy(update={"keys": [key, *kept]}))
        return secret

    # -- inside

    def _find(self, name: str) -> UserStanza:
        try:
            return self.file.users[name]
        except KeyError:
            raise ConfigError(f"there is no user {name} (`netctl users list` shows all)") from None

    def _put(self, name: str, stanza: UserStanza) -> None:
        users = {**self.file.users, name: stanza}
        self.file = self.file.model_copy(update={"users": users})

    def _make_key(self, name: str, now: datetime, end: datetime | None) -> tuple[Secret, KeyStanza]:
        if self.file.seed is None:
            self.file = self.file.model_copy(update={"seed": Secret.make()})
        seed = self.file.seed
        assert seed is not None
        old = self.file.users.get(name, UserStanza()).keys
        salts = [key.verifier.salt for key in old if key.verifier is not None]
        salt = [*salts, Verifier.decoy(seed.reveal(), name).salt][0]
        secret = Secret.make()
        verifier = Verifier.of(secret.reveal(), salt)
        return secret, KeyStanza(secret=secret, verifier=verifier, start=now, end=end)


@contextmanager
def change(
    path: Path, create: bool = False, owner: tuple[int, int] | None = None
) -> Iterator[Register]:
    """The users of a file, for the time of a `with`; what they are after it is written, unless it
    raises. Raises ConfigError; with `create` not for a file that is not there yet, which is made
    then, and given to the `owner`, by numbers of user and group."""
    path = Path(os.path.realpath(path))
    if create:
        _create(path, owner)
    with _locked(path) as held:
        register = Register(parse(held, str(path)))
        before = register.file
        yield register
        if register.file != before:
            text = to_yaml(register.file)
            parse(text.encode(), str(path))  # nothing is written that would not be read
            _replace(path, text)


def to_yaml(file: UserFile) -> str:
    """The file as it is written, keys included."""
    tree = file.model_dump(mode="json", exclude_defaults=True, exclude={"seed", "users"})
    if file.seed is not None:
        tree["seed"] = file.seed.reveal().decode()
    tree["users"] = {name: _plain(user) for name, user in file.users.items()}
    dumped: str = yaml.safe_dump(tree, sort_keys=False, width=10**6, default_flow_style=None)
    return _HEAD + dumped


def _plain(user: UserStanza) -> dict[str, Any]:
    tree = user.model_dump(mode="json", exclude_defaults=True, exclude={"keys"})
    keys = []
    for key in user.keys:
        known = key.model_dump(mode="json", exclude_none=True, exclude={"secret", "verifier"})
        if key.secret is not None:
            known = {"secret": key.secret.reveal().decode(), **known}
        if key.verifier is not None:
            known["verifier"] = str(key.verifier)
        keys.append(known)
    return {**tree, "keys": keys} if keys else tree


def _create(path: Path, owner: tuple[int, int] | None) -> None:
    """Makes an empty file, unless there is one."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    try:
        if owner is not None:
            os.fchown(fd, *owner)
    finally:
        os.close(fd)


@contextmanager
def _locked(path: Path) -> Iterator[bytes]:
    """What a file holds, which nobody else changes meanwhile."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise ConfigError(f"{path}: {why(error, MADE_BY)}") from None
        try:
            if _lock(fd) and _is_the_one(fd, path):
                yield read_private(path)
                return
        finally:
            os.close(fd)
        if time.monotonic() >= end:
            raise ConfigError(f"{path}: another one is changing it (try again)")
        time.sleep(_POLL)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_the_one(fd: int, path: Path) -> bool:
    """Whether it has not been replaced before it was locked."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


def _replace(path: Path, text: str) -> None:
    """Puts a file with this text in the place of another one, whose owner it keeps."""
    # Nobody else does this, as the old one is locked; whoever was killed meanwhile left it there.
    new = path.with_name(f".{path.name}.new")
    try:
        owner = path.stat()
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, text.encode(), owner)
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        _sync(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: it is as it was: {error.strerror}") from None


def _write(fd: int, data: bytes, owner: os.stat_result) -> None:
    """Writes a file to the disk, and gives it to its owner."""
    if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(fd, owner.st_uid, owner.st_gid)
    while data:
        data = data[os.write(fd, data) :]
    os.fsync(fd)


def _sync(folder: Path) -> None:
    """Has a rename in it outlast a loss of power."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
