"""`netd --daemon`: leave the terminal and go on in the background, through python-daemon.

python-daemon (PEP 3143) is imported here alone, and only when it is asked for. What it does by
default and netd does otherwise:

- umask 0, which makes every file and socket writable by all: the caller gives the mask;
- it decides by itself not to detach below init or a superserver: netd was told to, so it does;
- its own SIGTERM handler, and its lock file, which survives a kill -9: netd has its own
  signals and its own flock (instance.py);
- the first parent exits before anything is settled. An init script then reads a pid file that
  names the wrong process, and a daemon started by a session leader (`ssh -t host netd -D`) can
  meet the hangup of that session before it has left it. Here the process that was started
  waits until the daemon is settled, and only then exits 0; or it raises what went wrong there.

What it does by default and netd keeps: no core files, since the process holds keys; `/` as the
working directory, so that no file system is kept busy: make paths absolute before. The exit
handler that it registers does nothing without its lock file.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from netd.errors import StartError

_FAILED = 71
_STANDARD = ("stdin", "stdout", "stderr")
_SETTLED = b"\0"


def fill_standard_streams() -> None:
    """Open /dev/null in the place of each standard stream that was closed at start.

    To be called first of all: otherwise the first socket becomes descriptor 0, 1 or 2, and
    takes what is printed, or is replaced by /dev/null when the daemon detaches.
    """
    for number, name in enumerate(_STANDARD):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one, since those below it are open by now.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def detach(keep: Collection[int], umask: int, settle: Callable[[], None] | None = None) -> None:
    """Go on as a daemon: own session, no terminal, `/` as working directory, no core files.

    Every descriptor that is not in `keep` is closed, under whatever object owns it; 0, 1 and 2
    become /dev/null. `settle` is called in the daemon, before the process that was started
    exits 0: the place to do whatever may fail. Returns in the daemon alone; raises StartError in
    the process that was started, and there alone, so that the terminal sees it.
    """
    # fork() copies the calling thread and no other: a thread that was already started would be
    # missing in the daemon, and a lock that it held would stay locked for ever.
    assert threading.active_count() == 1, "detach before the first thread is started"
    library = _library()
    if any(number < len(_STANDARD) for number in keep):
        raise StartError(
            "cannot detach: a standard stream was closed when netd was started, and a socket or"
            " file has taken its place (start it with `</dev/null >/dev/null 2>&1`)",
            _FAILED,
        )
    fill_standard_streams()
    _flush()
    told, tell = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(told)
        os.close(tell)
        raise StartError(
            f"cannot detach: {error.strerror} (too many processes?)", _FAILED
        ) from error
    if child:
        os.close(tell)
        _follow(told)
    os.close(told)
    _settle(library, [*keep, tell], umask, tell, settle)


def _library() -> Any:
    try:
        return import_module("daemon.daemon")
    except ImportError as error:
        raise StartError(
            "--daemon needs python-daemon, which cannot be imported"
            f" ({error}): `pip install python-daemon`, or run netd in the foreground",
            _FAILED,
        ) from error


def _flush() -> None:
    # What is buffered now would be written twice, or to /dev/null in the daemon's name.
    for name in _STANDARD[1:]:
        with suppress(OSError, ValueError):
            getattr(sys, name).flush()


def _follow(told: int) -> NoReturn:
    with open(told, "rb") as pipe:
        verdict = pipe.read()
    if verdict == _SETTLED:
        # Without the exit handlers: sockets, locks and buffers are the daemon's now.
        os._exit(0)
    if verdict:
        raise StartError(verdict[1:].decode(), verdict[0])
    raise StartError(
        "the daemon ended before it was settled (run netd without --daemon to see why)", _FAILED
    )


def _settle(
    library: Any, keep: list[int], umask: int, tell: int, settle: Callable[[], None] | None
) -> None:
    _bound_closing(library)
    context = library.DaemonContext(
        files_preserve=keep, umask=umask, detach_process=True, signal_map={}
    )
    try:
        context.open()
        # /dev/null takes 0, 1 and 2 through os.open(), hence close-on-exec: without this, the
        # first file that a child opens would become its standard input.
        for number in range(len(_STANDARD)):
            os.set_inheritable(number, True)
        if settle is not None:
            settle()
    except (OSError, StartError) as error:
        status, text = _FAILED, f"cannot detach: {error}"
        if isinstance(error, StartError):
            status, text = error.status, str(error)
        with suppress(BrokenPipeError):
            os.write(tell, bytes([status]) + text.encode("utf-8", "replace"))
        os._exit(status)
    # A starter that was interrupted in the meantime does not read it: BrokenPipeError then ends
    # the daemon, since whoever started it believes that it does not run.
    os.write(tell, _SETTLED)
    os.close(tell)


def _bound_closing(library: Any) -> None:
    # python-daemon closes every number up to the hard limit. That is one close_range(2) for
    # each gap, but in a Python built against a C library without it (glibc < 2.34, which the
    # portable builds of Python are) it is a call for each number: minutes, where a container
    # runtime sets 2**30. It has no option for it. Should the name go, closing gets slow again.
    with suppress(OSError):
        highest = max(map(int, os.listdir("/proc/self/fd")))
        library._total_file_descriptor_range = range(highest + 1)
