"""Where keys come from: a file that nobody else may read, a credential of systemd, the environment.

/etc/netd/users.yaml    a file of mode 0600
credential:NAME         what LoadCredential=NAME:… of the unit has systemd pass
env:NAME                a variable, which EnvironmentFile=… of the unit may set
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from netd.errors import ConfigError
from netd.secret import PREFIX, SHORTEST
from netd.stanza import parse_path

LARGEST = 1 << 20
"""Bytes of a file with keys, as of any file of the configuration."""
_CREDENTIAL, _VARIABLE = "credential:", "env:"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

State = tuple[int, ...]
"""Differs once a file has been changed."""


@dataclass(frozen=True, slots=True)
class Source:
    """A place that keys are read from."""

    path: Path | None
    variable: str = ""
    credential: str = ""

    def __str__(self) -> str:
        if self.variable:
            return _VARIABLE + self.variable
        return _CREDENTIAL + self.credential if self.credential else str(self.path)

    def file(self) -> Path:
        """The file that it is, or stands for. Raises ConfigError."""
        if self.path is not None:
            return self.path
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ConfigError(
                f"{self}: systemd has passed no credentials"
                f" (in netd.service set LoadCredential={self.credential}:FILE)"
            )
        return Path(folder, self.credential)

    def read(self, made_by: str = "") -> bytes:
        """What stands there. Raises ConfigError, which does not repeat it; `made_by` is what makes
        such a file, if there is none yet."""
        if self.variable:
            found = os.environ.get(self.variable)
            if found is None:
                raise ConfigError(
                    f"{self}: there is no such variable (set it in the EnvironmentFile= of"
                    " netd.service)"
                )
            return found.encode(errors="surrogateescape")
        # systemd sees to it that a credential can be read by nobody else, by means of ACLs that
        # look like a mode of 0440.
        return read_private(self.file(), guarded=not self.credential, made_by=made_by)

    def is_readable(self) -> bool:
        """Whether it can be read by who this process is now."""
        try:
            return bool(self.variable) or os.access(self.file(), os.R_OK, effective_ids=True)
        except ConfigError:
            return False

    def state(self) -> State:
        """What tells whether it was changed; nothing does for a variable, or when it is gone."""
        if self.variable:
            return ()
        try:
            found = self.file().stat()
        except (OSError, ConfigError):
            return ()
        return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def read_private(path: Path, guarded: bool = True, made_by: str = "") -> bytes:
    """What a file holds, which nobody but its owner may read. Raises ConfigError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            mode = os.fstat(fd).st_mode
            data = _all_of(fd) if stat.S_ISREG(mode) else b""
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(f"{path}: {why(error, made_by)}") from None
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: it is no regular file (name one that holds the keys)")
    if guarded and mode & _OTHERS:
        raise ConfigError(
            f"{path}: others than its owner may use it, as its mode is {stat.S_IMODE(mode):04o}"
            f" (chmod 600 {path}; if they have read it, change the keys)"
        )
    if len(data) > LARGEST:
        raise ConfigError(f"{path}: it has over {LARGEST >> 20} MiB (name a file with keys)")
    return data


def _all_of(fd: int) -> bytes:
    """What a file holds, up to a byte more than it may."""
    with open(fd, "rb", closefd=False) as file:
        return file.read(LARGEST + 1)


def why(error: OSError, made_by: str = "") -> str:
    """Why a file with keys cannot be used, and what to do."""
    text = error.strerror or str(error)
    if error.errno == errno.ENOENT and made_by:
        return f"{text} ({made_by} makes it)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{text} (it has to belong to the user that netd runs as)"
    return text


def parse_source(text: object, info: ValidationInfo) -> Source:
    """A source as it is written. A relative path begins in the folder of the configuration."""
    if isinstance(text, Source):
        return text
    if isinstance(text, str):
        if text.startswith(PREFIX) and len(text) >= SHORTEST:
            raise ValueError("a key stands where its file belongs (put it into one of mode 0600)")
        for prefix in (_CREDENTIAL, _VARIABLE):
            name = text.removeprefix(prefix)
            if name != text and (not name or "/" in name or "\0" in name or name in (".", "..")):
                raise ValueError(f"{text!r} names nothing (write it like {prefix}upper_key)")
        if text.startswith(_CREDENTIAL):
            return Source(None, credential=text.removeprefix(_CREDENTIAL))
        if text.startswith(_VARIABLE):
            return Source(None, variable=text.removeprefix(_VARIABLE))
    return Source(parse_path(text, info))


KeySource = Annotated[
    Source,
    PlainValidator(parse_source),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["/etc/netd/users.yaml"]}),
]
"""A source of keys, as a key of the configuration."""
