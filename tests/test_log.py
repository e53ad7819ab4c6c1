"""The log on real pipes, files and terminals: what is written, and that nothing ever waits."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import select
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd import log
from netd.errors import ConfigError
from netd.log import LogOptions, LogOutput, Policy, peer_text
from netd.text import printable

PATIENCE = 20.0
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
logger = logging.getLogger("netd.upper")


def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + PATIENCE
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        never.wait(0.002)


class Reader:
    """The far end of a pipe that holds no more than 4 KiB, so that it is full at once."""

    def __init__(self) -> None:
        self.fd, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        self.data = b""

    def wait(self) -> None:
        """Wait until something can be read, but leave it."""
        assert select.select([self.fd], [], [], PATIENCE)[0], "nothing was written"

    def lines(self, count: int) -> list[str]:
        """The next lines, which have to be this many and no more."""
        while self.data.count(b"\n") < count:
            self.wait()
            self.data += os.read(self.fd, 65536)
        text, self.data = self.data.decode(), b""
        lines = text.split("\n")
        assert lines.pop() == ""
        assert len(lines) == count
        return lines

    def rest(self) -> list[str]:
        """All that is left, once nobody can write any more."""
        os.close(self.writer)
        self.writer = -1
        while more := os.read(self.fd, 65536):
            self.data += more
        return self.lines(self.data.count(b"\n"))

    def close(self) -> None:
        """Close both ends, so that a writer that is stuck comes loose."""
        for fd in (self.fd, self.writer):
            if fd >= 0:
                os.close(fd)
        self.fd = self.writer = -1


@pytest.fixture(autouse=True)
def _off_afterwards() -> Iterator[None]:
    """Leave the logging of the process as it was found."""
    yield
    log.output().close()
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def pipe() -> Iterator[Reader]:
    """A pipe to log to."""
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture
def stuck(pipe: Reader) -> LogOutput:
    """An output whose thread stands in a write that ends once the pipe is read."""
    output = log.setup(LogOptions(format="text"), pipe.writer)
    output.write(b"x" * 200_000 + b"\n")
    pipe.wait()
    return output


def run_python(code: str, *args: str, stderr: int = subprocess.PIPE) -> tuple[str, str, int]:
    """What another Python prints on both its outputs, and its status."""
    run = subprocess.run(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=Path(__file__).parents[1],
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return run.stdout, run.stderr, run.returncode


def session(output: LogOutput, peer: str = "127.0.0.1:52344") -> None:
    """Log the session of the examples."""
    output.access("session", "upper", "4f2a-17", peer, 0.0031, 6, 7, "eof")


def journal_stream(fd: int) -> str:
    """What systemd puts into JOURNAL_STREAM for this descriptor."""
    status = os.fstat(fd)
    return f"{status.st_dev}:{status.st_ino}"


# The forms


def test_text_has_time_level_and_name(pipe: Reader) -> None:
    """A line of text begins with local time, level and service."""
    log.setup(LogOptions(), pipe.writer)
    logger.info("listens on %s", "tcp://127.0.0.1:9000")
    logging.getLogger("netd").error("no descriptor left")
    logging.getLogger("elsewhere.deep").critical("boom")
    lines = pipe.lines(3)
    assert re.fullmatch(STAMP + "info    upper: listens on tcp://127.0.0.1:9000", lines[0])
    assert re.fullmatch(STAMP + "error   netd: no descriptor left", lines[1])
    assert re.fullmatch(STAMP + "critical elsewhere.deep: boom", lines[2])
    stamp = time.mktime(time.strptime(lines[0][:19], "%Y-%m-%d %H:%M:%S"))
    assert abs(stamp - time.time()) < PATIENCE


def test_text_access_line(pipe: Reader) -> None:
    """A session is one line of fields, and so is a refusal."""
    output = log.setup(LogOptions(), pipe.writer)
    session(output)
    output.access("refused", "echo", "-", "[::1]:99", 0.0, 0, 0, "per_source_limit")
    first, second = pipe.lines(2)
    assert re.fullmatch(
        STAMP + r"info    upper: session id=4f2a-17 peer=127\.0\.0\.1:52344"
        " duration=0.003 in=6 out=7 reason=eof",
        first,
    )
    assert second.endswith(
        "info    echo: refused id=- peer=[::1]:99 duration=0.000 in=0 out=0 reason=per_source_limit"
    )


def test_the_user_of_a_session_is_named(pipe: Reader) -> None:
    """Beside the peer, if the client has shown who it is; no name passes for another field."""
    for name in ("text", "json"):
        output = log.setup(LogOptions(format=name), pipe.writer)
        output.access("session", "upper", "1", "[::1]:99", 0.0, 0, 0, "eof", "alice")
        output.access("refused", "upper", "-", "[::1]:99", 0.0, 0, 0, "auth", "a peer=b\nc")
        first, second = pipe.lines(2)
        if name == "text":
            assert first.endswith(
                "id=1 peer=[::1]:99 user=alice duration=0.000 in=0 out=0 reason=eof"
            )
            assert r" user=a\x20peer=b\nc duration=" in second
        else:
            assert json.loads(first)["user"] == "alice"
            assert json.loads(second)["user"] == "a peer=b\nc"


def test_json_access_line_is_typed(pipe: Reader) -> None:
    """In JSON a session is an object whose numbers are numbers, its time RFC 3339 in UTC."""
    before = time.time()
    session(log.setup(LogOptions(format="json"), pipe.writer))
    after = time.time()
    fields = json.loads(pipe.lines(1)[0])
    stamp = fields.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    assert before - 0.001 <= datetime.fromisoformat(stamp).timestamp() <= after
    assert fields == {
        "level": "info", "service": "upper", "event": "session", "id": "4f2a-17",
        "peer": "127.0.0.1:52344", "duration": 0.003, "in": 6, "out": 7, "reason": "eof",
    }  # fmt: skip


def test_text_has_local_time_and_json_has_utc() -> None:
    """East of Greenwich the text is ahead of the JSON, by the offset of the time zone."""
    code = """if True:
        import os, time
        os.environ["TZ"] = "NET-9"
        time.tzset()
        from netd import log
        output = log.setup(log.LogOptions(), 1)
        output.access("session", "upper", "1", "-", 0.0, 0, 0, "eof")
        output.reconfigure(log.LogOptions(format="json"))
        output.access("session", "upper", "1", "-", 0.0, 0, 0, "eof")
        output.close(10)
    """
    text, line = run_python(code)[0].splitlines()
    ahead = datetime.fromisoformat(text[:19] + "Z") - datetime.fromisoformat(
        json.loads(line)["time"]
    )
    assert abs(ahead.total_seconds() - 9 * 3600) < PATIENCE


def test_json_message_holds_its_traceback(pipe: Reader) -> None:
    """In JSON a traceback is a field, with its own line ends."""
    log.setup(LogOptions(format="json"), pipe.writer)
    logger.warning("plain")
    try:
        raise RuntimeError("line one\nline two")
    except RuntimeError:
        logger.exception("the handler failed")
    plain, failed = (json.loads(line) for line in pipe.lines(2))
    assert (plain["level"], plain["service"], plain["message"]) == ("warning", "upper", "plain")
    assert "traceback" not in plain
    assert (failed["level"], failed["message"]) == ("error", "the handler failed")
    assert failed["traceback"].startswith("Traceback (most recent call last):\n")
    assert failed["traceback"].endswith("RuntimeError: line one\nline two")


def test_text_traceback_cannot_forge_a_record(pipe: Reader) -> None:
    """Every line of a traceback is indented and escaped, what the exception quotes included."""
    output = log.setup(LogOptions(), pipe.writer)
    try:
        raise RuntimeError("\x1b[2J\n2026-11-20 05:44:07 info    upper: forged")
    except RuntimeError:
        logger.exception("failed")
    output.close(PATIENCE)
    lines = pipe.rest()
    assert re.fullmatch(STAMP + "error   upper: failed", lines[0])
    assert lines[1] == "  Traceback (most recent call last):"
    assert lines[-2] == "  RuntimeError: \\x1b[2J"
    assert lines[-1] == "  2026-11-20 05:44:07 info    upper: forged"
    assert all(line.startswith("  ") and line.isprintable() for line in lines[1:])


def test_stack_info_is_written(pipe: Reader) -> None:
    """The stack that a caller asks for follows its message."""
    output = log.setup(LogOptions(), pipe.writer)
    output.handle(
        logging.makeLogRecord({"name": "x", "msg": "here", "stack_info": "Stack:\n  a frame"})
    )
    assert pipe.lines(3)[1:] == ["  Stack:", "    a frame"]


def test_journal_gets_priorities_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the very stream that JOURNAL_STREAM names, every line carries its priority instead."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setenv("JOURNAL_STREAM", journal_stream(ours.fileno()))
        output = log.setup(LogOptions(level="debug"), ours.fileno())
        session(output)
        logger.debug("d")
        logger.warning("w")
        try:
            raise KeyError("k")
        except KeyError:
            logger.exception("e")
        output.close(PATIENCE)
        lines = theirs.recv(65536).decode().splitlines()
    assert lines[0].startswith("<6>info    upper: session id=4f2a-17 ")
    assert lines[1:3] == ["<7>debug   upper: d", "<4>warning upper: w"]
    assert lines[3:5] == ["<3>error   upper: e", "<3>  Traceback (most recent call last):"]
    assert lines[-1] == "<3>  KeyError: 'k'"
    assert all(line.startswith("<3>  ") for line in lines[4:])


@pytest.mark.parametrize(
    ("form", "pattern"),
    [("auto", "<6>info .*"), ("text", STAMP + "info .*"), ("json", r"\{.*\}")],
)
def test_only_auto_fits_itself_to_the_journal(
    form: str, pattern: str, pipe: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A format that was asked for is what the journal gets too."""
    monkeypatch.setenv("JOURNAL_STREAM", journal_stream(pipe.writer))
    session(log.setup(LogOptions.model_validate({"format": form}), pipe.writer))
    assert re.fullmatch(pattern, pipe.lines(1)[0])


def test_another_stream_than_the_journal_gets_time(
    pipe: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JOURNAL_STREAM is inherited by redirected descriptors too, so it has to match."""
    monkeypatch.setenv("JOURNAL_STREAM", journal_stream(pipe.writer))
    output = log.setup(LogOptions(file=str(tmp_path / "log")), pipe.writer)
    session(output)
    output.close(PATIENCE)
    assert re.match(STAMP, (tmp_path / "log").read_text())


def test_terminal_gets_text_without_colour() -> None:
    """On a terminal the log is the same plain text."""
    master, slave = pty.openpty()
    output = log.setup(LogOptions(), slave)
    session(output)
    output.close(PATIENCE)
    line = os.read(master, 4096).decode()
    os.close(master)
    os.close(slave)
    assert re.fullmatch(STAMP + "info .*reason=eof\r\n", line)


# Text from others


any_text = st.text(st.characters(exclude_categories=()), max_size=60) | st.text(
    st.sampled_from("\0\n\r\t\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\ud800\udfff %{}\"'\\=a"),
    max_size=20,
)


@settings(max_examples=40)
@given(st.lists(st.tuples(*[any_text] * 7), min_size=1, max_size=20))
def test_any_text_stays_on_its_line(records: list[tuple[str, ...]]) -> None:
    """Any text in any field of a session or message gives one line without control characters."""
    reader = Reader()
    output = log.setup(LogOptions(), reader.writer)
    for event, service, id, peer, reason, name, text in records:
        output.access(event, service, id, peer, 1.5, 1, 2, reason)
        output.handle(logging.LogRecord(name, logging.INFO, "", 0, text, None, None))
    lines = reader.lines(2 * len(records))
    output.close(PATIENCE)
    reader.close()
    for line, (*_, text) in zip(lines[1::2], records, strict=True):
        assert line.endswith(f": {printable(text)}")
    assert all(line.isprintable() and re.match(STAMP, line) for line in lines)


@settings(max_examples=40)
@given(st.lists(st.tuples(*[any_text] * 7), min_size=1, max_size=20))
def test_json_gives_back_any_text(records: list[tuple[str, ...]]) -> None:
    """In JSON any text comes back, out of one line of printable ASCII that strict readers take.

    Except for lone surrogates, which no text of Unicode has: they come back as escapes.
    """
    reader = Reader()
    output = log.setup(LogOptions(format="json"), reader.writer)
    for event, service, id, peer, reason, name, text in records:
        output.access(event, service, id, peer, 1.5, 1, 2, reason)
        output.handle(logging.LogRecord(name, logging.INFO, "", 0, text, None, None))
    lines = reader.lines(2 * len(records))
    output.close(PATIENCE)
    reader.close()
    assert all(line.isascii() and line.isprintable() for line in lines)
    loaded = [json.loads(line) for line in lines]
    for one, other, record in zip(loaded[::2], loaded[1::2], records, strict=True):
        event, service, id, peer, reason, name, text = record
        given = map(_without_lone_surrogates, (event, service, id, reason))
        assert [one[key] for key in ("event", "service", "id", "reason")] == list(given)
        assert one["peer"] == peer_text(peer, "full")
        assert (one["duration"], one["in"], one["out"]) == (1.5, 1, 2)
        assert other["service"] == _without_lone_surrogates(name.removeprefix("netd."))
        assert other["message"] == _without_lone_surrogates(text)


def _without_lone_surrogates(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)


def test_long_message_loses_its_middle(pipe: Reader) -> None:
    """What a peer can make a line hold has a limit, and both ends of it are kept."""
    log.setup(LogOptions(), pipe.writer)
    logger.warning("begin%send", "x" * 10_000_000)
    (line,) = pipe.lines(1)
    assert line.endswith("xend")
    assert len(line) < log.TEXT_LIMIT + 100
    assert " … " in line
    assert "upper: begin" in line


def test_faulty_log_call_is_a_line_and_no_noise() -> None:
    """A message that cannot be formatted tells where it is, and its caller goes on."""
    code = """if True:
        import logging
        from netd import log
        output = log.setup(log.LogOptions())
        logging.getLogger("netd.upper").info("%d", "not a number")
        print("goes on")
    """
    stdout, stderr, _ = run_python(code)
    assert stdout == "goes on\n"
    assert re.fullmatch(STAMP + r"info    upper: TypeError in the log call <string>:5\n", stderr)


def test_warnings_are_logged(pipe: Reader) -> None:
    """What a library warns of is in the log."""
    log.setup(LogOptions(), pipe.writer)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old call", UserWarning, stacklevel=1)
    assert "warning py.warnings: " in (line := pipe.lines(1)[0])
    assert "UserWarning: old call" in line


# Levels


def test_level_holds_for_messages_and_sessions(pipe: Reader) -> None:
    """Above info no session is logged; set_level changes it at once."""
    output = log.setup(LogOptions(level="warning"), pipe.writer)
    session(output)
    logger.info("unseen")
    logger.warning("first")
    output.set_level("debug")
    logger.debug("second")
    session(output)
    output.set_level("error")
    session(output)
    logger.error("third")
    words = [line.split(": ")[1].split()[0] for line in pipe.lines(4)]
    assert words == ["first", "second", "session", "third"]


def test_unknown_level_changes_nothing(pipe: Reader) -> None:
    """A level that does not exist is refused, and the one in force stays."""
    output = log.setup(LogOptions(), pipe.writer)
    with pytest.raises(ValueError, match="LOUD"):
        output.set_level("loud")
    session(output)
    assert "session" in pipe.lines(1)[0]


# Peers


@pytest.mark.parametrize(
    ("peer", "policy", "written"),
    [
        ("192.0.2.77:567", "full", "192.0.2.77:567"),
        ("192.0.2.77:567", "prefix", "192.0.2.0/24"),
        ("192.0.2.77:567", "none", "-"),
        ("[2001:db8:1:2::3]:567", "full", "[2001:db8:1:2::3]:567"),
        ("[2001:db8:1:2::3]:567", "prefix", "2001:db8:1::/48"),
        ("[fe80::1%eth0]:567", "prefix", "fe80::/48"),
        ("[::ffff:192.0.2.77]:567", "prefix", "192.0.2.0/24"),
        ("unix:uid=0,pid=17", "hash", "unix:uid=0,pid=17"),
        ("unix:uid=0,pid=17", "none", "unix:uid=0,pid=17"),
        ("unix:/run/x y\x1b=1", "prefix", "unix:/run/x\\x20y\\x1b=1"),
        ("somebody:567", "prefix", "-"),
        ("somebody", "hash", "-"),
        ("", "prefix", "-"),
    ],
)
def test_peer_is_written_by_policy(peer: str, policy: Policy, written: str) -> None:
    """Each policy shows as much as it says, and nothing of what it cannot read."""
    assert peer_text(peer, policy) == written


def test_hash_tells_addresses_apart_but_not_ports() -> None:
    """A hash is twelve hex digits, the same for every port and way of writing one address."""
    hashed = peer_text("192.0.2.7:1", "hash")
    assert re.fullmatch("[0-9a-f]{12}", hashed)
    assert peer_text("192.0.2.7:2", "hash") == hashed
    assert peer_text("[::ffff:192.0.2.7]:3", "hash") == hashed
    assert peer_text("192.0.2.8:1", "hash") != hashed
    assert peer_text("[::1]:1", "hash") == peer_text("[0:0:0:0:0:0:0:1]:1", "hash")


def test_hash_key_differs_between_processes() -> None:
    """Whoever has the log of one run cannot look addresses up in another."""
    code = "from netd.log import peer_text; print(peer_text('192.0.2.7:1', 'hash'))"
    stdout, _, status = run_python(code)
    assert status == 0
    assert stdout.strip() != peer_text("192.0.2.7:1", "hash")


@given(st.ip_addresses(), st.integers(0, 65535), st.sampled_from(["prefix", "hash", "none"]))
def test_hidden_address_never_shows(address: object, port: int, policy: Policy) -> None:
    """No policy but full lets the port through, or more than the prefix of the address."""
    host = f"[{address}]" if ":" in str(address) else str(address)
    written = peer_text(f"{host}:{port}", policy)
    assert re.fullmatch(r"[0-9a-f]{12}|[0-9.]+\.0/24|[0-9a-f:]+::/48|::/48|-", written)


def test_output_applies_its_policy(pipe: Reader) -> None:
    """The access line and whoever asks the output for it write a peer alike."""
    output = log.setup(LogOptions(address="prefix"), pipe.writer)
    session(output, "198.51.100.9:4")
    assert output.address("198.51.100.9:4") == "198.51.100.0/24"
    assert " peer=198.51.100.0/24 " in pipe.lines(1)[0]


# A descriptor that does not take it


def test_stuck_pipe_stops_nobody_and_losses_are_told(pipe: Reader, stuck: LogOutput) -> None:
    """Into a full pipe nobody waits, losses are counted exactly, and told once it is read."""
    before = stuck.dropped
    for number in range(log.QUEUE_LIMIT + 37):
        stuck.write(b"line %d\n" % number)
    assert stuck.dropped - before == 37
    lines = pipe.lines(log.QUEUE_LIMIT + 2)
    assert lines[0] == "x" * 200_000
    report = "warning log: 37 log lines dropped, as they could not be written"
    assert lines[1].endswith(report)
    assert lines[2:] == [f"line {number}" for number in range(log.QUEUE_LIMIT)]
    session(stuck)
    assert pipe.lines(1)[0].endswith(" in=6 out=7 reason=eof")
    assert stuck.dropped - before == 37


def test_losses_of_many_threads_are_counted_exactly(pipe: Reader, stuck: LogOutput) -> None:
    """Every record that several threads offer a full queue is either queued or counted."""
    before = stuck.dropped
    each, threads = log.QUEUE_LIMIT, 3

    def produce() -> None:
        for _ in range(each):
            stuck.write(b"line\n")

    producers = [threading.Thread(target=produce) for _ in range(threads)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join(PATIENCE)
    lost = stuck.dropped - before
    # One may slip past the limit for each other thread that is between looking and queueing.
    assert 0 <= each * (threads - 1) - lost < threads
    queued = each * threads - lost
    lines = pipe.lines(queued + 2)
    assert f" {lost} log lines dropped" in lines[1]
    assert lines[2:] == ["line"] * queued


def test_close_leaves_a_stuck_pipe(stuck: LogOutput) -> None:
    """close() gives up at its time limit, and what is logged after it goes nowhere."""
    logger.info("never written")
    before = time.monotonic()
    stuck.close(0.2)
    assert 0.2 <= time.monotonic() - before < PATIENCE / 2
    session(stuck)
    stuck.close(PATIENCE)
    assert time.monotonic() - before < PATIENCE / 2


def test_reload_to_a_file_gets_round_a_stuck_pipe(stuck: LogOutput, tmp_path: Path) -> None:
    """Another target has its own thread, so that it works though the old one never ends."""
    stuck.reconfigure(LogOptions(file=str(tmp_path / "log")))
    session(stuck)
    stuck.close(PATIENCE)
    assert "reason=eof" in (tmp_path / "log").read_text()


def test_process_ends_though_its_log_is_stuck() -> None:
    """A process whose standard error nobody reads exits, with its own status."""
    code = """if True:
        import sys
        from netd import log
        output = log.setup(log.LogOptions())
        for _ in range(20_000):
            output.write(b"x" * 99 + b"\\n")
        print(output.dropped > 0)
        sys.exit(7)
    """
    reader, writer = os.pipe()
    stdout, _, status = run_python(code, stderr=writer)
    os.close(writer)
    os.close(reader)
    assert (stdout, status) == ("True\n", 7)


def test_reader_that_went_away_costs_lines_only(pipe: Reader) -> None:
    """Into a broken pipe records are lost one by one, each counted."""
    output = log.setup(LogOptions(), pipe.writer)
    before = output.dropped
    os.close(pipe.fd)
    pipe.fd = -1
    for _ in range(5):
        session(output)
    until(lambda: output.dropped == before + 5)


def test_closed_descriptor_costs_lines_only() -> None:
    """With standard error closed, setup works, and every record is counted as lost."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.close(fd)
    output = log.setup(LogOptions(), fd)
    before = output.dropped
    for _ in range(5):
        session(output)
    output.close(PATIENCE)
    assert output.dropped == before + 5


def test_full_disk_costs_lines_only(tmp_path: Path) -> None:
    """On a full disk records are counted as lost; on another file the log tells and goes on."""
    output = log.setup(LogOptions(file="/dev/full"))
    before = output.dropped
    for _ in range(5):
        session(output)
    until(lambda: output.dropped == before + 5)
    output.reconfigure(LogOptions(file=str(tmp_path / "log")))
    session(output)
    output.close(PATIENCE)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0].endswith("reason=eof")
    assert lines[1].endswith("warning log: 5 log lines dropped, as they could not be written")
    assert len(lines) == 2


def test_record_torn_by_a_full_disk_is_completed(tmp_path: Path) -> None:
    """When the disk fills in the middle of a record, its rest goes first once there is room."""
    code = """if True:
        import resource, sys, time
        from netd import log
        path = sys.argv[1]
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1005, hard))
        output = log.setup(log.LogOptions(file=path))
        for number in range(200):
            output.write(b"line %3d \\n" % number)
        while output.dropped < 99:
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        output.write(b"line 200 \\n")
        output.close(10)
        print(output.dropped)
    """
    path = tmp_path / "log"
    assert run_python(code, str(path)) == ("99\n", "", 0)
    lines = path.read_text().splitlines()
    assert lines[:102] == [f"line {number:3} " for number in [*range(101), 200]]
    assert lines[102].endswith("99 log lines dropped, as they could not be written")
    assert len(lines) == 103


def test_torn_record_that_is_never_completed_is_lost(tmp_path: Path) -> None:
    """When there is no room again before the end, the torn record counts as lost too."""
    code = """if True:
        import resource, sys
        from netd import log
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1005, hard))
        output = log.setup(log.LogOptions(file=sys.argv[1]))
        for number in range(200):
            output.write(b"line %3d \\n" % number)
        output.close(10)
        print(output.dropped)
    """
    assert run_python(code, str(tmp_path / "log")) == ("100\n", "", 0)


def test_partial_writes_tear_no_line(pipe: Reader) -> None:
    """A non-blocking pipe takes a little at a time; all lines arrive whole and in order."""
    os.set_blocking(pipe.writer, False)
    output = log.setup(LogOptions(), pipe.writer)
    before = output.dropped
    expected = [f"{number} " + "y" * (number % 211) for number in range(3000)]
    for line in expected:
        output.write(f"{line}\n".encode())
    assert pipe.lines(len(expected)) == expected
    assert output.dropped == before


# Threads, files, life


def test_order_is_kept_for_each_thread(pipe: Reader) -> None:
    """What one thread logs is written in its order, whatever the others do."""
    output = log.setup(LogOptions(), pipe.writer)

    def produce(name: int) -> None:
        for number in range(1000):
            output.write(b"%d %d\n" % (name, number))

    producers = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
    for producer in producers:
        producer.start()
    numbers: dict[str, list[int]] = {}
    for line in pipe.lines(4000):
        name, number = line.split()
        numbers.setdefault(name, []).append(int(number))
    for producer in producers:
        producer.join(PATIENCE)
    assert numbers == {str(name): list(range(1000)) for name in range(4)}


def test_reopen_follows_logrotate(tmp_path: Path) -> None:
    """After a rename, reopen() begins a new file; no line is lost or torn between the two."""
    path, rotated = tmp_path / "log", tmp_path / "log.1"
    output = log.setup(LogOptions(file=str(path)))
    for number in range(100):
        output.write(b"%d\n" % number)
    until(lambda: path.read_text().endswith("99\n"))
    path.rename(rotated)
    for number in range(100, 200):
        output.write(b"%d\n" % number)
    output.reopen()
    for number in range(200, 300):
        output.write(b"%d\n" % number)
    output.close(PATIENCE)
    until(lambda: rotated.read_text().endswith("199\n"))
    assert rotated.read_text().split() == [str(number) for number in range(200)]
    assert path.read_text().split() == [str(number) for number in range(200, 300)]
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_truncated_file_goes_on_from_its_start(tmp_path: Path) -> None:
    """A file that logrotate copies and truncates gets no hole."""
    path = tmp_path / "log"
    output = log.setup(LogOptions(file=str(path)))
    output.write(b"one\n")
    until(lambda: path.read_text() == "one\n")
    os.truncate(path, 0)
    output.write(b"two\n")
    output.close(PATIENCE)
    assert path.read_text() == "two\n"


def test_reopen_lets_go_of_the_old_file(tmp_path: Path) -> None:
    """The file that was rotated away is closed soon, though nothing more is logged."""
    path = tmp_path / "log"
    output = log.setup(LogOptions(file=str(path)))
    path.rename(tmp_path / "log.1")
    output.reopen()
    until(lambda: str(tmp_path / "log.1") not in _open_files())
    assert str(path) in _open_files()


def _open_files() -> set[str]:
    names = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return names


def test_failed_reopen_keeps_the_old_file(tmp_path: Path) -> None:
    """A file that cannot be opened again is named in the one that stays in use."""
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "log"
    output = log.setup(LogOptions(file=str(path)))
    (tmp_path / "sub").rename(tmp_path / "away")
    output.reopen()
    session(output)
    output.close(PATIENCE)
    lines = (tmp_path / "away" / "log").read_text().splitlines()
    assert f"error   log: log.file: cannot open '{path}': No such file or directory (" in lines[0]
    assert lines[1].endswith("reason=eof")


def test_reopen_of_standard_error_changes_nothing(pipe: Reader) -> None:
    """Without a file there is nothing to open again."""
    output = log.setup(LogOptions(), pipe.writer)
    threads = threading.enumerate()
    output.reopen()
    assert threading.enumerate() == threads
    session(output)
    assert "session" in pipe.lines(1)[0]


def test_reconfigure_changes_format_policy_and_target(pipe: Reader, tmp_path: Path) -> None:
    """A reload changes every key without a new set-up, and leads back to standard error."""
    output = log.setup(LogOptions(), pipe.writer)
    session(output)
    pipe.lines(1)
    output.reconfigure(LogOptions(format="json", address="none", file=str(tmp_path / "log")))
    session(output)
    output.reconfigure(LogOptions())
    session(output)
    assert re.match(STAMP, pipe.lines(1)[0])
    until(lambda: (tmp_path / "log").read_text().endswith("\n"))
    assert json.loads((tmp_path / "log").read_text())["peer"] == "-"


@pytest.mark.parametrize("name", ["missing/log", ""])
def test_file_that_cannot_be_opened_is_refused(name: str, pipe: Reader, tmp_path: Path) -> None:
    """A file out of reach is an error with its name, and the log in use goes on unchanged."""
    output = log.setup(LogOptions(), pipe.writer)
    path = str(tmp_path / name)
    with pytest.raises(ConfigError, match=r"log\.file: cannot open .*name a file") as caught:
        output.reconfigure(LogOptions(format="json", file=path))
    assert repr(path) in str(caught.value)
    session(output)
    assert re.match(STAMP, pipe.lines(1)[0])


def test_fifo_without_reader_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO that nobody reads does not hold up the start."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="fifo"):
        log.setup(LogOptions(file=str(tmp_path / "fifo")))


def test_setup_may_be_repeated(pipe: Reader) -> None:
    """A later set-up takes the place of the former: a line is written once, to where it says."""
    for _ in range(3):
        output = log.setup(LogOptions(), pipe.writer)
    logger.info("once")
    assert pipe.lines(1)[0].endswith("upper: once")
    other = Reader()
    assert log.setup(LogOptions(), other.writer) is output is log.output()
    logger.info("elsewhere")
    assert other.lines(1)[0].endswith("upper: elsewhere")
    other.close()
    assert pipe.rest() == []


def test_close_writes_what_is_queued_and_ends_its_thread(pipe: Reader) -> None:
    """After close() all is written, and neither thread nor descriptor is left."""
    output = log.setup(LogOptions(), pipe.writer)
    for _ in range(20):
        session(output)
    output.close(PATIENCE)
    assert len(pipe.lines(20)) == 20
    assert "log" not in {thread.name for thread in threading.enumerate()}
    os.close(pipe.writer)
    pipe.writer = -1
    assert os.read(pipe.fd, 1) == b""


def test_after_close_all_is_as_before_setup() -> None:
    """What comes after close() is neither written nor counted; messages have the last resort."""
    code = """if True:
        import logging
        from netd import log
        output = log.setup(log.LogOptions(), 1)
        output.close(10)
        for _ in range(log.QUEUE_LIMIT + 1):
            output.access("session", "upper", "1", "127.0.0.1:5", 0.1, 1, 1, "eof")
        logging.getLogger("netd").warning("late")
        print(output.dropped)
    """
    assert run_python(code) == ("0\n", "late\n", 0)


def test_before_setup_sessions_are_silent_and_messages_are_not() -> None:
    """Without a set-up the standard library's last resort shows warnings, and that is all."""
    code = """if True:
        import logging
        from netd import log
        log.output().access("session", "upper", "1", "127.0.0.1:5", 0.1, 1, 1, "eof")
        log.output().write(b"bytes")
        logging.getLogger("netd").warning("early")
        print(log.output().dropped, log.output().address("192.0.2.1:5"))
    """
    assert run_python(code) == ("0 192.0.2.1:5\n", "early\n", 0)


def test_options_refuse_what_they_do_not_know() -> None:
    """A misspelt value is an error, and the defaults are those of the design."""
    with pytest.raises(ValueError, match="format"):
        LogOptions.model_validate({"format": "xml"})
    assert LogOptions().model_dump() == {
        "format": "auto", "level": "info", "address": "full", "file": None,
    }  # fmt: skip
