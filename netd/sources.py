"""The files of a configuration: the one that was named, and those that it includes."""

from __future__ import annotations

import glob
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path as File
from typing import Any

from netd import document, findings
from netd.document import Document, Mark, Problem

# Files that may be included; what is more is a mistake, such as `include: [/usr/*/*/*]`.
MAX_FILES = 1000
MAX_PATTERN = 500  # characters; glob calls itself for each folder in a pattern
_INCLUDED_KEYS = ("services", "include")


@dataclass(frozen=True, slots=True)
class Entry:
    """A service as it was written."""

    document: Document
    value: Any
    folder: File
    """The folder of its file, where its relative paths begin; absolute."""


class Sources:
    """All files, read and parsed, and what is wrong with them as files.

    `root` is the document that was named, `top` its keys but for those in `services` and
    `include`; `services` holds all services by name, in the order in which they were found."""

    def __init__(self, file: File, may_be_empty: bool = True) -> None:
        """Unless they `may_be_empty`, included files without a single character are a problem."""
        self._may_be_empty = may_be_empty
        self.problems: list[Problem] = []
        self.services: dict[str, Entry] = {}
        self._seen = {os.path.realpath(file)}
        self.folder = file.absolute().parent
        self.root, fault, _ = _open(file)
        if fault:
            self._say(self.root.mark(()), f"the file {fault}", "name another one with -c")
        # Not by recursion: files may include each other a thousand deep.
        self._waiting: deque[tuple[Mark, File]] = deque()
        self.top = self._take(self.root, file)
        while self._waiting:
            self._take_included(*self._waiting.popleft())

    @property
    def defaults(self) -> dict[str, Any]:
        """What stands below `defaults`."""
        defaults = self.top.get("defaults")
        return defaults if isinstance(defaults, dict) else {}

    def _say(self, mark: Mark, what: str, hint: str = "") -> None:
        self.problems.append(Problem(mark, what, hint))

    def _take(self, found: Document, file: File) -> dict[str, Any]:
        """Takes in the services of a file, and notes what it includes. Returns its other keys."""
        self.problems += found.problems
        keys = self._keys(found, found.value)
        for name, value in self._keys(found, keys.get("services"), "services").items():
            self._add_service(name, Entry(found, value, file.absolute().parent))
        for mark, pattern in self._patterns(found, keys.get("include", [])):
            self._include(mark, pattern, file.parent)
        return {key: value for key, value in keys.items() if key not in _INCLUDED_KEYS}

    def _keys(self, found: Document, value: object, *path: str) -> dict[str, Any]:
        """The keys with their values that stand at a path; none are also fine."""
        if isinstance(value, dict):
            return value
        if value is not None:
            what, _ = findings.expected_keys(value)
            hint = "write names and below each its keys" if path else "such as services:"
            self._say(found.mark(path), "".join(f"{part}: " for part in path) + what, hint)
        return {}

    def _add_service(self, name: str, entry: Entry) -> None:
        if name in self.services:
            path = ("services", name)
            first = self.services[name].document.key_mark(path)
            what = f"the service {findings.shown(name)} is there already"
            self._say(entry.document.key_mark(path), what, f"see {first}")
        else:
            self.services[name] = entry

    def _patterns(self, found: Document, value: object) -> Iterator[tuple[Mark, str]]:
        if not isinstance(value, list):
            what, hint = findings.expected_list(value)
            self._say(found.mark(("include",)), f"include: {what}", hint)
            return
        for index, pattern in enumerate(value):
            mark = found.mark(("include", index))
            text = pattern if isinstance(pattern, str) and "\0" not in pattern else ""
            if 0 < len(text) <= MAX_PATTERN:
                yield mark, text
            else:
                what = f"include[{index}]: expected a path, not {findings.shown(pattern)}"
                self._say(mark, what, "write it like conf.d/*.yaml")

    def _include(self, mark: Mark, pattern: str, folder: File) -> None:
        """Notes the files that a pattern stands for, by the alphabet."""
        for file in self._matches(mark, pattern, folder):
            if len(self._seen) > MAX_FILES:
                self._say(mark, f"more than {MAX_FILES} files are included")
                return
            if (real := os.path.realpath(file)) in self._seen:
                self._say(mark, f"{file} is included already", "include each file once")
            else:
                self._seen.add(real)
                self._waiting.append((mark, file))

    def _matches(self, mark: Mark, pattern: str, folder: File) -> list[File]:
        if not glob.has_magic(pattern):
            return [folder / pattern]
        plain = takewhile(lambda part: not glob.has_magic(part), File(pattern).parts)
        searched = folder.joinpath(*plain)
        if os.path.isdir(searched) and not os.access(searched, os.R_OK | os.X_OK):
            self._say(mark, f"{searched} cannot be searched: permission denied")
        # Without `recursive`: a `**` would search all that lies below, be it /proc or a share.
        return [folder / match for match in sorted(glob.glob(pattern, root_dir=folder))]

    def _take_included(self, mark: Mark, file: File) -> None:
        found, fault, is_blank = _open(file)
        if fault:
            hint = "write conf.d/*.yaml for the files in conf.d" if os.path.isdir(file) else ""
            self._say(mark, f"{file} {fault}", hint)
        elif is_blank and not self._may_be_empty:
            self._say(mark, f"{file} is empty", "remove it, or write services: {} in it")
        for key in self._take(found, file):
            what = f"the key {findings.shown(key)} cannot stand in an included file"
            hint = f"only {' and '.join(_INCLUDED_KEYS)} can; move it to the file that includes it"
            self._say(found.key_mark((key,)), what, hint)


def _open(file: File) -> tuple[Document, str, bool]:
    """The file as a document, why it cannot be read if it cannot, and whether nothing is in it."""
    data, fault = b"", ""
    try:
        data = read_file(file)
    except OSError as error:
        fault = f"cannot be read: {error.strerror or error}"
    return document.parse(data, str(file)), fault, not data.strip()


def read_file(file: File) -> bytes:
    """The content of a regular file, and no more than a configuration may hold. Raises OSError."""
    # Looked at before it is opened, as to open a device may set something going; and once more
    # after that, as it may have been exchanged. O_NONBLOCK: a FIFO without a writer is a wait.
    _check_regular(os.stat(file))
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_regular(os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as opened:
            return opened.read(document.MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
