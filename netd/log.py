"""Logging: its set-up, its formats, and the access line that ends every session.

Whoever logs formats the record and queues its bytes; a thread named "log" writes them. So if
nobody reads standard error, that thread alone stands still. What the queue cannot take or the
descriptor refuses is counted, and a line tells the number once writing works again.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2s
from ipaddress import ip_address, ip_network
from pathlib import Path
from queue import SimpleQueue
from threading import Event, RLock, Thread
from time import gmtime, localtime, strftime, time
from typing import Literal

from netd.errors import ConfigError
from netd.stanza import FilePath, Stanza
from netd.text import field, printable, quoted

QUEUE_LIMIT = 10_000  # records: a third of a second of the busiest access log, about 1 MB
TEXT_LIMIT = 16_384  # characters of a message or a traceback, without the middle of a longer one
GATHER = 0.03  # seconds that a line may wait, so that the writer takes the GIL 33 times a second

Policy = Literal["full", "prefix", "hash", "none"]
_HASH_KEY = os.urandom(32)
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # sd-daemon(3)
_JSON = '%s"event":%s,"id":%s,"peer":%s%s,"duration":%.3f,"in":%d,"out":%d,"reason":%s}\n'


class LogOptions(Stanza):
    """What is logged, where to, and how."""

    format: Literal["auto", "text", "json"] = "auto"
    """`text` for people, `json` for programs; `auto` is text, as the journal likes it there."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are logged; sessions are logged at `info`."""
    address: Policy = "full"
    """How peers are written: in `full`, as `prefix` (/24, /48), as keyed `hash`, or `none`."""
    file: FilePath | None = None
    """A file to append to, opened anew on SIGUSR2; standard error without one."""


def peer_text(peer: str, policy: Policy) -> str:
    """A peer such as `192.0.2.7:52344`, `[::1]:52344` or `unix:…` as the policy has it written.

    A `unix:` peer is no address of a person and stays. What is not understood becomes `-`.
    """
    if policy == "full" or peer.startswith("unix:"):
        return field(peer)
    # The cache is asked without the port, which differs in nearly every session.
    return "-" if policy == "none" else _disguise(peer.rpartition(":")[0].strip("[]"), policy)


@lru_cache(maxsize=4096)
def _disguise(host: str, policy: Policy) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return "-"
    address = getattr(address, "ipv4_mapped", None) or address
    if policy == "hash":
        return blake2s(address.packed, key=_HASH_KEY, digest_size=6).hexdigest()
    return str(ip_network((address.packed, 24 if address.version == 4 else 48), strict=False))


class _Writer:
    """A queue, and the thread that alone writes to the descriptor and closes it."""

    def __init__(self, fd: int, output: LogOutput) -> None:
        self.fd, self._output, self._rest, self._closing = fd, output, b"", Event()
        # Its put() may be re-entered from a signal handler, and wakes the thread only if it waits.
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, record: bytes) -> None:
        if self._queue.qsize() < QUEUE_LIMIT:
            self._queue.put(record)
        else:
            self._output.lose(1)

    def __len__(self) -> int:
        return self._queue.qsize()

    def close(self, timeout: float) -> None:
        self._closing.set()
        self._queue.put(b"")
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing.is_set() or not self._queue.empty():
            batch = [self._queue.get()]
            self._closing.wait(GATHER)
            batch += [self._queue.get() for _ in range(self._queue.qsize())]
            lost, dropped = self._send(batch), self._output.dropped
            self._output.lose(lost)
            if lost or dropped == self._output.told:
                continue
            text = f"{dropped - self._output.told} log lines dropped, as they could not be written"
            fields = {"name": "netd.log", "levelname": "WARNING", "msg": text}
            if not self._send([self._output.render(logging.makeLogRecord(fields))]):
                self._output.told = dropped
        self._output.lose(bool(self._rest))
        os.close(self.fd)

    def _send(self, records: list[bytes]) -> int:
        """Write and return how many are lost; the rest of a torn one goes before the next."""
        data = b"".join([self._rest, *records])
        view, done = memoryview(data), 0
        while done < len(data):
            try:
                done += os.write(self.fd, view[done:])
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.fd, select.POLLOUT)
                poll.poll()
            except OSError:
                break
        missing, lost = len(data) - done, 0
        while records and missing >= len(records[-1]):
            record = records.pop()
            missing, lost = missing - len(record), lost + bool(record)
        self._rest = data[done : done + missing]
        return lost


@lru_cache(maxsize=4)
def _clock(second: int, utc: bool) -> str:
    calendar, form = (gmtime, "%Y-%m-%dT%H:%M:%S") if utc else (localtime, "%Y-%m-%d %H:%M:%S ")
    return strftime(form, calendar(second))


@lru_cache(maxsize=64)
def _text_head(level: str, service: str, second: int, journal: bool) -> str:
    stamp = f"<{_PRIORITIES.get(level, 6)}>" if journal else _clock(second, False)
    return f"{stamp}{level:<7} {printable(service)}: "


def _message_and_trace(record: logging.LogRecord) -> list[str]:
    try:
        whole = logging.Formatter().format(record)
    except Exception as fault:  # a faulty log call must not end what it tells of
        return [f"{type(fault).__name__} in the log call {record.pathname}:{record.lineno}", ""]
    size, half = len(record.message), TEXT_LIMIT // 2
    parts = record.message, whole[size:].strip("\n")
    return [p if len(p) <= TEXT_LIMIT else f"{p[:half]} … {p[-half:]}" for p in parts]


def _open(path: Path | None, fd: int) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK  # for a FIFO
    try:
        return os.dup(fd) if path is None else os.open(path, flags, 0o640)
    except (OSError, ValueError) as fault:
        if path is None:
            return os.open(os.devnull, os.O_RDONLY)  # refuses a write as the closed one does
        why = f"{getattr(fault, 'strerror', fault)} (name a file that netd may write)"
        raise ConfigError(f"log.file: cannot open {str(path)!r}: {why}") from None


class LogOutput(logging.Handler):
    """Where the process logs to; `write(record)` queues finished bytes. See `setup()`."""

    def __init__(self) -> None:
        super().__init__()
        self.write: Callable[[bytes], object] = len  # to no effect, until there is a writer
        self.dropped = self.told = 0  # records never written; how many of them a line told of
        self._losing = RLock()  # as a signal handler that logs may interrupt its holder
        self._writer: _Writer | None = None
        self._options, self.fd = LogOptions(), 2
        self._mute, self._json, self._journal, self._full = True, False, False, True

    @property
    def waiting(self) -> int:
        """Records that are queued and not yet written."""
        return 0 if self._writer is None else len(self._writer)

    def access(self, event: str, service: str, id: str, peer: str, duration: float,
               bytes_in: int, bytes_out: int, reason: str,
               user: str | None = None) -> None:  # fmt: skip
        """Log the end of a session: `event` is session or refused, `duration` in seconds."""
        if self._mute:
            return
        if self._json:
            line = _JSON % (
                self._head("info", service, time()), quoted(event), quoted(id),
                quoted(self.address(peer)), "" if user is None else f',"user":{quoted(user)}',
                duration, bytes_in, bytes_out, quoted(reason),
            )  # fmt: skip
        else:
            head = self._head("info", service, time())
            # One look at all that is not escaped below, and is no number.
            if not f"{event}{id}{reason}".isprintable():
                event, id, reason = printable(event), printable(id), printable(reason)
            peer = field(peer) if self._full else self.address(peer)
            who = "" if user is None else f" user={field(user)}"
            line = (
                f"{head}{event} id={id} peer={peer}{who} duration={duration:.3f}"
                f" in={bytes_in} out={bytes_out} reason={reason}\n"
            )
        self.write(line.encode())

    def address(self, peer: str) -> str:
        """The peer, as the key `address` has it written."""
        return peer_text(peer, self._options.address)

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.render(record))

    def render(self, record: logging.LogRecord) -> bytes:
        """A record in the format in force, with its line ends."""
        (text, trace), name = _message_and_trace(record), record.name.removeprefix("netd.")
        head = self._head(record.levelname.lower(), name, record.created)
        if self._json:
            more = f',"traceback":{quoted(trace)}' if trace else ""
            return f'{head}"message":{quoted(text)}{more}}}\n'.encode()
        # Indented, so that no line of a traceback passes for a record.
        indent = head[:3] + "  " if self._journal else "  "
        lines = [indent + printable(line) for line in trace.split("\n") if line]
        return "\n".join([head + printable(text), *lines, ""]).encode()

    def _head(self, level: str, service: str, now: float) -> str:
        if self._json:
            stamp = f"{_clock(int(now), True)}.{int(now % 1 * 1000):03}Z"
            return f'{{"time":"{stamp}","level":{quoted(level)},"service":{quoted(service)},'
        return _text_head(level, service, 0 if self._journal else int(now), self._journal)

    def lose(self, records: int) -> None:
        """Count records that will never be written."""
        with self._losing:
            self.dropped += records

    def set_level(self, name: str) -> None:
        """Log what is at least this severe: debug, info, warning or error; else ValueError."""
        logging.getLogger().setLevel(name.upper())
        self._mute = name not in ("debug", "info")

    def reconfigure(self, options: LogOptions) -> None:
        """Obey other options; raises ConfigError, and changes nothing, if `file` will not open."""
        writer = self._writer
        if writer is None or options.file != self._options.file:
            writer = self._renew(options.file)
        self._options, self._json = options, options.format == "json"
        self._full = options.address == "full"
        stat, stream = os.fstat(writer.fd), os.environ.get("JOURNAL_STREAM")
        self._journal = options.format == "auto" and stream == f"{stat.st_dev}:{stat.st_ino}"
        self.set_level(options.level)

    def reopen(self) -> None:
        """Open `file` anew, as logrotate moved it; after a failure the old one stays in use."""
        try:
            if self._options.file:
                self._renew(self._options.file)
        except (ConfigError, RuntimeError) as fault:
            logging.getLogger("netd.log").error("%s; the file open so far stays in use", fault)

    def _renew(self, file: Path | None) -> _Writer:
        # Not the old one with another descriptor: it may be stuck for ever in its last write.
        old, self._writer = self._writer, _Writer(_open(file, self.fd), self)
        self.write = self._writer.write
        if old is not None:
            old.close(0)
        return self._writer

    def close(self, timeout: float = 1.0) -> None:
        """Write what is queued, for at most `timeout` seconds, and log nothing any more."""
        logging.getLogger().removeHandler(self)
        logging.captureWarnings(False)
        self.write = len
        if self._writer is not None:
            self._writer.close(timeout)
            self._writer, self.told = None, self.dropped


_output = LogOutput()
access = _output.access
"""Logs the end of a session, or a refusal, to that one output; see there."""


def output() -> LogOutput:
    """The one output of the process: silent before `setup()` and after `close()`."""
    return _output


def setup(options: LogOptions, fd: int | None = None) -> LogOutput:
    """Log from now on to `file`, or else to `fd`, by default standard error; raises ConfigError."""
    _output.close()
    _output.fd = 2 if fd is None else fd
    _output.reconfigure(options)
    logging.getLogger().addHandler(_output)
    logging.captureWarnings(True)
    return _output
