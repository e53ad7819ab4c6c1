"""The service manager: notifications, the watchdog, and the sockets that it passes.

Nothing here needs systemd's library or systemd itself: the three interfaces are environment
variables, a datagram socket and inherited descriptors, and without the variables every
function does nothing.

Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Event, Thread
from time import monotonic, monotonic_ns

from netd.errors import StartError

# systemd drops a notification of more than 4096 bytes whole, READY=1 with it: 1,000 characters
# of status are at most 4,000 bytes of UTF-8.
_LONGEST_STATUS = 1000
_FIRST = 3
_UNNAMED = "unknown"
# The kernel has no higher pid (PID_MAX_LIMIT), and a process no more descriptors than that.
_LARGEST = 2**22
_LISTEN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FAILED = 71

_log = logging.getLogger("netd")


def notify(*assignments: str) -> bool:
    """Tell the service manager `assignments` (`READY=1`) in one datagram, without waiting.

    True when it was sent; False when no manager listens, or its queue is full. See sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(assignments).encode("utf-8", "replace")
    # One socket for each call: a kept one would have to survive --daemon, which closes what it
    # does not know, and would stay connected to a manager that is gone.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.connect(address)
        manager.send(message)
        return True
    return False


def ready(status: str = "") -> bool:
    """The daemon serves; also ends what `reloading` began. `status` is a line for people."""
    return notify("READY=1", *([_status(status)] if status else []))


def stopping() -> bool:
    """The daemon drains and will end."""
    return notify("STOPPING=1")


def reloading() -> bool:
    """A reload begins; `ready` ends it, whether it succeeded or not.

    `Type=notify-reload` wants the time at which it began, in µs of CLOCK_MONOTONIC.
    """
    return notify("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")


def status(text: str) -> bool:
    """The line that `systemctl status` shows."""
    return notify(_status(text))


def watchdog() -> bool:
    """Sign of life."""
    return notify("WATCHDOG=1")


def _status(text: str) -> str:
    # A newline would begin a further assignment, MAINPID= for example.
    return "STATUS=" + " ".join(text.split())[:_LONGEST_STATUS]


def watchdog_interval() -> float | None:
    """Seconds after which the manager kills us without a sign of life; None: it does not watch.

    Half of it is the period in which to feed it. See sd_watchdog_enabled(3).
    """
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    microseconds = _number(os.environ.get("WATCHDOG_USEC", ""))
    # 2**64 - 1 is systemd's infinity.
    return microseconds / 1e6 if microseconds and microseconds < 2**64 - 1 else None


def _number(text: str) -> int | None:
    # int() alone would take "1_0", " 1", "+1" and all of Unicode's digits, or raise at 5,000.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


class Watchdog(Thread):
    """Feeds the manager's watchdog as long as every serving loop answers.

    `interval` is `watchdog_interval()`, in seconds. `alive` is called at start and then every
    half interval, in this thread, and returns the names of the serving loops that have not
    answered since its last call; it must not block. An exception that it raises ends the
    thread, hence the feeding, hence the process: a daemon that cannot tell is not healthy.
    """

    def __init__(self, interval: float, alive: Callable[[], Sequence[str]]) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._period = interval / 2
        self._alive = alive
        self._stopped = Event()
        # When each stuck loop was last known to answer, in seconds of the monotonic clock.
        self._stuck: dict[str, float] = {}

    def run(self) -> None:
        """For threading."""
        answered = monotonic()
        while not self._stopped.is_set():
            now = monotonic()
            stuck = {name: self._stuck.get(name, answered) for name in self._alive()}
            self._tell(stuck, now)
            self._stuck, answered = stuck, now
            if not stuck:
                watchdog()
            self._stopped.wait(self._period)

    def _tell(self, stuck: dict[str, float], now: float) -> None:
        for name in stuck.keys() - self._stuck.keys():
            silence = now - stuck[name]
            text = "serving loop of %s has not answered for %.0f s; the watchdog is not fed"
            _log.error(text, name, silence)
        for name in self._stuck.keys() - stuck.keys():
            silence = now - self._stuck[name]
            _log.warning("serving loop of %s answers again, after %.0f s", name, silence)

    def stop(self) -> None:
        """End the feeding, and wait for the thread unless it was never started."""
        self._stopped.set()
        if self.is_alive():
            self.join()


def inherited() -> dict[str, list[socket.socket]]:
    """The sockets that the service manager passed, by name, in its order. See sd_listen_fds(3).

    Call it once and before `detach`: LISTEN_PID no longer fits after a fork. The variables are
    removed, and the descriptors are closed on exec, so that no child takes them for its own.
    Raises StartError when they contradict themselves or name what is not a socket.
    """
    variables = {key: os.environ.pop(key) for key in _LISTEN if key in os.environ}
    names = listen_names(variables, os.getpid())
    passed = list(enumerate(names, _FIRST))
    for descriptor, name in passed:
        _check_socket(descriptor, name)
        os.set_inheritable(descriptor, False)
    sockets: dict[str, list[socket.socket]] = {}
    for descriptor, name in passed:
        sockets.setdefault(name, []).append(socket.socket(fileno=descriptor))
    return sockets


def listen_names(variables: Mapping[str, str], pid: int) -> list[str]:
    """One name for each descriptor passed to process `pid`, the first being descriptor 3.

    Empty when the variables are absent or meant for another process. Raises StartError.
    """
    if "LISTEN_PID" not in variables:
        return []
    meant = _required(variables, "LISTEN_PID")
    if meant != pid:
        return []
    count = _required(variables, "LISTEN_FDS")
    if "LISTEN_FDNAMES" not in variables:
        return [_UNNAMED] * count
    text = variables["LISTEN_FDNAMES"]
    names = [name or _UNNAMED for name in text.split(":")] if text or count else []
    if len(names) != count:
        raise StartError(
            f"LISTEN_FDS announces {count} sockets, but LISTEN_FDNAMES names {len(names)}"
            f" ({text!r}): start netd through its socket unit, or unset both variables",
            _FAILED,
        )
    return names


def _required(variables: Mapping[str, str], key: str) -> int:
    number = _number(variables.get(key, ""))
    if number is None or number > _LARGEST:
        raise StartError(
            f"{key}={variables.get(key, '')!r} in the environment is not a number from 0 to"
            f" {_LARGEST}: start netd through its socket unit, or unset LISTEN_PID",
            _FAILED,
        )
    return number


def _check_socket(descriptor: int, name: str) -> None:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError as error:
        raise StartError(
            f"descriptor {descriptor} ({name}), announced by LISTEN_FDS, is not open:"
            " start netd through its socket unit, or unset LISTEN_PID and LISTEN_FDS",
            _FAILED,
        ) from error
    if not stat.S_ISSOCK(mode):
        raise StartError(
            f"descriptor {descriptor} ({name}), passed by the service manager, is {_kind(mode)},"
            " not a socket: keep to ListenStream= and ListenDatagram= in the socket unit",
            _FAILED,
        )


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "something else")
