"""From a valid configuration to a daemon that serves, each step undone when a later one fails.

    signals → locks → sockets → privileges → log → serving threads

With --daemon all of it happens in the background process, while the one that was started waits
for the outcome: it exits 0 when the daemon serves, or shows what went wrong on the terminal.
"""

from __future__ import annotations

import faulthandler
import grp
import logging
import os
import pwd
import socket
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from netd import detach, instance, log, systemd
from netd.config import Config, Source
from netd.daemon import Daemon
from netd.errors import ConfigError, StartError
from netd.signals import Signals

logger = logging.getLogger("netd")

# Exit status, after sysexits.h.
CONFIGURATION = 78
# What netd makes may be read by its group, and written by nobody but itself; a pid is no secret.
UMASK, PID_FILE_UMASK = 0o027, 0o022


class Startup:
    """One run of the daemon: `start`, or else `start_detached`, then `serve`; in a `with`, which
    leaves nothing behind."""

    def __init__(
        self,
        config: Config,
        source: Source,
        pid_file: str | None = None,
    ) -> None:
        """Takes what is to be had from the process as it was started: paths are taken from its
        working directory, and systemd's sockets are meant for its pid. `source` is where the
        configuration is from. Raises StartError."""
        self._config = config
        self._account = _account(config) if os.geteuid() == 0 else None
        control = config.control.path
        self._control = Path(control).absolute() if control else instance.control_path()
        self._source = replace(source, control=self._control)
        self._locks: list[instance.PidFile] = [instance.InstanceLock(self._control)]
        if pid_file is not None:
            self._locks.append(instance.PidFile(Path(pid_file)))
        self._inherited = systemd.inherited()
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._closing.close()
        for sock in self._sockets():
            sock.close()

    def start_detached(self) -> None:
        """Goes on in the background and starts there; raises StartError here."""
        detach.detach([sock.fileno() for sock in self._sockets()], UMASK, self.start)

    def start(self) -> None:
        """Starts, or raises StartError and leaves nothing behind."""
        with ExitStack() as closing:
            self._daemon = self._start(closing)
            self._closing = closing.pop_all()

    def serve(self) -> None:
        """Serves until a signal ends it."""
        self._daemon.run()

    def _start(self, closing: ExitStack) -> Daemon:
        # The stack of every thread, when the interpreter crashes, and on the SIGABRT that systemd
        # sends when the watchdog was not fed.
        faulthandler.enable()
        threading.excepthook = _log_fault
        signals = closing.enter_context(Signals())
        closing.callback(log.output().close)
        closing.callback(logger.info, "stopped")
        os.umask(PID_FILE_UMASK)
        instance.prepare_folder(self._control.parent, self._owner())
        for lock in self._locks:
            lock.acquire()
            closing.callback(lock.release)
        os.umask(UMASK)
        limit = instance.raise_descriptor_limit()
        daemon = Daemon(
            self._config, self._source, signals, self._inherited, limit, self._control,
            self._account,
        )  # fmt: skip
        closing.callback(daemon.close)
        daemon.bind()
        if self._account is not None:
            instance.drop_privileges(*self._account)
        try:
            log.setup(self._config.log)
        except ConfigError as error:
            raise StartError(str(error), CONFIGURATION) from error
        self._warn()
        daemon.start()
        return daemon

    def _sockets(self) -> list[socket.socket]:
        return [sock for sockets in self._inherited.values() for sock in sockets]

    def _owner(self) -> instance.Owner | None:
        if self._account is None:
            return None
        user, group = self._account
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid

    def _warn(self) -> None:
        wanted = self._config.user
        if self._account is None and wanted is not None and not _is_me(wanted):
            logger.warning("user: %s is ignored, as netd was not started by root", wanted)


def _log_fault(fault: threading.ExceptHookArgs) -> None:
    """Tells of a thread that has ended by an exception, in the log where others tell it too."""
    name = fault.thread.name if fault.thread else "unknown"
    trace = fault.exc_type, fault.exc_value or fault.exc_type(), fault.exc_traceback
    logger.error("the thread %s has failed and is no more", name, exc_info=trace)


def _is_me(user: str) -> bool:
    try:
        return pwd.getpwnam(user).pw_uid == os.geteuid()
    except KeyError:
        return False


def _account(config: Config) -> tuple[str, str]:
    """The user and group that netd is to become. Raises StartError."""
    user = config.user or instance.default_user()
    try:
        gid = pwd.getpwnam(user).pw_gid
    except KeyError:
        raise StartError(
            f"there is no user {user!r} to become (create it with `useradd --system {user}`, or"
            " name another one with the key user)",
            CONFIGURATION,
        ) from None
    try:
        return user, (grp.getgrnam(config.group) if config.group else grp.getgrgid(gid)).gr_name
    except KeyError:
        raise StartError(
            f"there is no group {config.group or gid!r} for the user {user} (create it with"
            " `groupadd --system`, or name another one with the key group)",
            CONFIGURATION,
        ) from None
