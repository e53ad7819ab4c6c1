"""One running netd: its runtime folder, its locks, its user, its limits."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import grp
import os
import pwd
import resource
import stat
from contextlib import suppress
from pathlib import Path

from netd.errors import StartError

Owner = tuple[int, int]
"""User and group, as numbers."""

_FAILED, _RUNNING, _PERMISSION, _CONFIGURATION = 71, 75, 77, 78
_LONGEST_PID = 32
_PR_SET_NO_NEW_PRIVS = 38


def control_path() -> Path:
    """Where the control socket lies unless the configuration says otherwise; absolute.

    It depends on the effective user: ask before `drop_privileges`, and keep the answer.
    """
    if given := os.environ.get("NETD_CONTROL"):
        return Path(given).absolute()
    return _own_folder() / "control.sock"


def runtime_folder() -> Path:
    """The folder of the control socket, where relative UNIX addresses lie too; absolute."""
    return control_path().parent


def _own_folder() -> Path:
    # systemd makes it for RuntimeDirectory=, and lists several with colons.
    if given := os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/run/netd")
    # A relative path is invalid and to be ignored, says the XDG Base Directory Specification.
    if (session := os.environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(session, "netd")
    return Path(f"/tmp/netd-{os.geteuid()}")


def prepare_folder(folder: Path, owner: Owner | None = None) -> None:
    """Make `folder`, or see that nobody else can put something into it.

    `owner` is who netd is going to be after `drop_privileges`; netd's own default folder, and
    one that was made here, are given to it, another one never (NETD_CONTROL may lie in /run).
    Raises StartError.
    """
    # Root's is under /run, and the modes of the sockets in it decide; a user's may be in /tmp.
    mode = 0o755 if os.geteuid() == 0 else 0o700
    try:
        created = _create(folder, mode)
        # Checked and changed through one descriptor, which nobody can exchange for another.
        descriptor = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _secure(folder, descriptor, created, owner)
            if created:  # under the umask
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
    except OSError as error:
        fault = "it is a symbolic link" if folder.is_symlink() else error.strerror
        raise StartError(
            f"cannot use {folder} as the runtime folder: {fault} (create it for this user, or"
            " place the control socket elsewhere with NETD_CONTROL)",
            _PERMISSION,
        ) from error


def _create(folder: Path, mode: int) -> bool:
    with suppress(FileExistsError):
        folder.mkdir(mode)
        return True
    return False


def _secure(folder: Path, descriptor: int, created: bool, owner: Owner | None) -> None:
    found = os.fstat(descriptor)
    default = os.geteuid() == 0 and folder == _own_folder()
    fault = ""
    if found.st_mode & stat.S_IWOTH:
        fault = "is writable by everybody"
    elif not default and found.st_uid not in (0, os.geteuid(), owner[0] if owner else 0):
        fault = f"belongs to another user (uid {found.st_uid})"
    if fault:
        raise StartError(
            f"the runtime folder {folder} {fault}, who could put sockets of their own into it"
            " (give NETD_CONTROL a folder of netd's own)",
            _PERMISSION,
        )
    if owner and (created or default) and found.st_uid != owner[0]:
        os.fchown(descriptor, *owner)


class PidFile:
    """A file that holds our pid, locked for as long as this process lives.

    The lock is flock(2)'s: the kernel lifts it when the last holder of the open description
    dies, so that no kill -9 leaves one behind, and a fork hands it on. `fileno()` has to be
    kept open across `detach`, and `rewrite()` called in the process that goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._descriptor: int | None = None
        self._writer = 0

    def fileno(self) -> int:
        """The locked descriptor; the file has to be acquired."""
        assert self._descriptor is not None
        return self._descriptor

    def acquire(self) -> None:
        """Lock the file and write our pid. Raises StartError: 75 when another process has it."""
        while self._descriptor is None:
            descriptor = self._open()
            try:
                self._lock(descriptor)
                self._check(descriptor)
            except StartError:
                os.close(descriptor)
                raise
            if self._is_named(descriptor):
                self._descriptor = descriptor
            else:
                # Its last holder removed it between our open and our lock: a lock on a file
                # without a name keeps nobody out.
                os.close(descriptor)
        self.rewrite()

    def rewrite(self) -> None:
        """Write the pid of this process, which now owns the file. Raises StartError."""
        text = f"{os.getpid()}\n".encode()
        try:
            # In this order the first line is a whole pid at every moment.
            os.pwrite(self.fileno(), text, 0)
            os.ftruncate(self.fileno(), len(text))
        except OSError as error:
            raise StartError(f"cannot write {self.path}: {error.strerror}", _FAILED) from error
        self._writer = os.getpid()

    def release(self) -> None:
        """Remove the file if it is still ours, and unlock it; harmless when not acquired."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        # A child that was forked holds the lock with us, but may not remove our file.
        if self._writer == os.getpid():
            # The folder may be root's, and its rights dropped: an empty file misleads nobody.
            os.ftruncate(descriptor, 0)
            # Removed before it is unlocked, hence never the file of a successor.
            if self._is_named(descriptor):
                with suppress(OSError):
                    self.path.unlink()
        os.close(descriptor)

    def _open(self) -> int:
        # O_NONBLOCK: whatever the path names, opening it does not hang.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(self.path, flags, 0o644)
        except OSError as error:
            link = error.errno == errno.ELOOP
            denied = link or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            fault = "it is a symbolic link" if link else error.strerror
            raise StartError(
                f"cannot open {self.path}: {fault} (remove it if it is there, or choose a folder"
                " in which this user may write)",
                _PERMISSION if denied else _FAILED,
            ) from error

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(descriptor, _LONGEST_PID, 0).decode("ascii", "replace").strip()
            raise StartError(self._taken(pid if pid.isdigit() else "unknown"), _RUNNING) from error
        except OSError as error:
            raise StartError(f"cannot lock {self.path}: {error.strerror}", _FAILED) from error

    def _taken(self, pid: str) -> str:
        return (
            f"the pid file {self.path} is held by a running process (pid {pid}): stop it, or"
            " name another file with --pid-file"
        )

    def _check(self, descriptor: int) -> None:
        # `--pid-file /etc/passwd`, or /dev/null, is a slip that must not cost the file.
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        text = os.pread(descriptor, _LONGEST_PID, 0).strip() if regular else b""
        if not regular or (text and not text.isdigit()):
            raise StartError(
                f"{self.path} exists and is not a pid file, so it is left alone (name another"
                " file, or remove this one)",
                _FAILED,
            )

    def _is_named(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.lstat())
        except OSError:
            return False


class InstanceLock(PidFile):
    """Keeps a second netd off the control socket `control`, through a file beside it."""

    def __init__(self, control: Path) -> None:
        super().__init__(control.with_name(control.name + ".lock"))
        self._control = control.absolute()

    def _taken(self, pid: str) -> str:
        return (
            f"another netd (pid {pid}) is running with control socket {self._control} (stop it"
            " with `netctl shutdown`, or set NETD_CONTROL to run a second one)"
        )


def default_user() -> str:
    """Whom netd becomes when root starts it and the configuration names nobody."""
    try:
        return pwd.getpwnam("netd").pw_name
    except KeyError:
        return "nobody"


def drop_privileges(user: str, group: str | None = None) -> None:
    """Become `user` for good, with its groups; `group` replaces its primary one.

    Call it before the first thread is started: PR_SET_NO_NEW_PRIVS holds for the calling
    thread and those that it starts. Raises StartError.
    """
    try:
        account = pwd.getpwnam(user)
        gid = grp.getgrnam(group).gr_gid if group else account.pw_gid
    except KeyError as error:
        raise StartError(
            f"cannot become {user!r} with group {group!r}: {error.args[0]} (create it, as with"
            " `useradd --system netd`, or name another one)",
            _CONFIGURATION,
        ) from error
    if account.pw_uid == 0:
        raise StartError("netd does not serve as root: name another user", _CONFIGURATION)
    if {*os.getresuid()} != {account.pw_uid} or gid not in (os.getegid(), *os.getgroups()):
        _become(account, gid)
    _forbid_new_privileges()
    os.environ.update(HOME=account.pw_dir, USER=user, LOGNAME=user)


def _become(account: pwd.struct_passwd, gid: int) -> None:
    # The kernel makes a process that changes its user undumpable (prctl(2), PR_SET_DUMPABLE),
    # and it is left so: no core files, and no command that netd runs as the same user can trace
    # it and read its keys. The price is that what has mode 0400 in /proc/self, `environ` and
    # `io`, is root's from now on; `fd`, `status`, `stat` and `limits` can still be read.
    try:
        os.initgroups(account.pw_name, gid)
        os.setresgid(*[gid] * 3)
        os.setresuid(*[account.pw_uid] * 3)
    except OSError as error:
        raise StartError(
            f"cannot become user {account.pw_name}: {error.strerror} (start netd as root, or as"
            " that user and in that group)",
            _PERMISSION,
        ) from error
    with suppress(PermissionError):
        os.setuid(0)
        raise StartError(
            f"became user {account.pw_name}, but could become root again: privileges survive"
            " (start netd without capabilities and secure bits)",
            _FAILED,
        )


def _forbid_new_privileges() -> None:
    # Set-user-ID programs, sudo among them, give nothing to what netd runs.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise StartError(f"cannot forbid new privileges: {reason}", _FAILED)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # fs.nr_open may have been lowered below the hard limit since: then nothing changes.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft
