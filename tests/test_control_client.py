"""The control socket from outside: what is made of any answer, and of none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from harness import AS_ROOT, PATIENCE, SOON, new_folder, python_path, slowness
from hypothesis import given
from hypothesis import strategies as st

from netd.client import control
from netd.client.control import Control, ControlError, default_paths, read_reply
from netd.control.table import REQUEST_LIMIT

GOOD = b'{"netd": 1, "ok": true, "data": [1]}\n'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


class Peer:
    """A socket at which somebody answers each client with some pieces, then hangs up; and what
    it was asked."""

    def __init__(self, path: Path, pieces: Sequence[bytes], reads: bool = True) -> None:
        self.path = path
        self.asked: list[Any] = []
        self._pieces, self._reads = pieces, reads
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                if self._reads:
                    self.asked.append(json.loads(client.makefile().readline()))
                for piece in self._pieces:
                    client.sendall(piece)

    def close(self) -> None:
        """Ends it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path."""
    with new_folder() as path:
        yield path


@contextmanager
def peer(folder: Path, *pieces: bytes, reads: bool = True) -> Iterator[Peer]:
    """Somebody who answers so, for the time of a `with`."""
    found = Peer(folder / "control.sock", pieces, reads)
    try:
        yield found
    finally:
        found.close()


def fault(
    path: Path, timeout: float = PATIENCE, command: str = "list", **given: Any
) -> ControlError:
    """What becomes of a command."""
    with Control(path, timeout=timeout) as asking, pytest.raises(ControlError) as caught:
        asking.ask(command, given)
    return caught.value


# -- answers


@given(JSON)
def test_data_is_what_was_answered(data: Any) -> None:
    """Whatever JSON it is."""
    assert read_reply(json.dumps({"netd": 1, "ok": True, "data": data}).encode()) == data


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_other_answer_is_an_error(line: bytes) -> None:
    """With a word and a sentence, and no traceback."""
    with pytest.raises(ControlError) as caught:
        read_reply(line)
    assert caught.value.code == "protocol"
    assert "is not netd, or another version" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        b'{"netd": 2, "ok": true, "data": 1}',
        b'{"ok": true, "data": 1}',
        b'{"netd": 1, "ok": true}',
        b'{"netd": 1, "ok": 1, "data": 1}',
        b'{"netd": 1, "ok": false, "error": 5, "message": "m"}',
        b'{"netd": 1, "ok": false, "error": "usage"}',
        b"[" * 100_000,
    ],
)
def test_what_only_resembles_an_answer_is_none(line: bytes) -> None:
    """Such as that of a later version."""
    with pytest.raises(ControlError) as caught:
        read_reply(line)
    assert caught.value.code == "protocol"


def test_an_error_has_its_code_its_sentence_and_its_problems() -> None:
    """As the daemon told them."""
    reply = {"netd": 1, "ok": False, "error": "configuration", "message": "m", "problems": ["a"]}
    with pytest.raises(ControlError, match=r"^m$") as caught:
        read_reply(json.dumps(reply).encode())
    assert (caught.value.code, caught.value.problems) == ("configuration", ["a"])


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_an_answer_may_come_in_pieces(folder: Path, size: int) -> None:
    """Byte by byte too."""
    pieces = [GOOD[i : i + size] for i in range(0, len(GOOD), size)]
    with peer(folder, *pieces) as other, Control(other.path) as asking:
        assert asking.ask("list", {"service": "upper"}) == [1]
    assert other.asked == [{"netd": 1, "command": "list", "arguments": {"service": "upper"}}]


def test_what_follows_an_answer_is_left(folder: Path) -> None:
    """The first line alone is the answer."""
    with peer(folder, GOOD + b"more\n") as other, Control(other.path) as asking:
        assert asking.ask("list") == [1]


@pytest.mark.parametrize("pieces", [[], [b'{"netd": 1']])
def test_an_answer_that_is_cut_is_none(folder: Path, pieces: list[bytes]) -> None:
    """Nor is the end of the stream."""
    with peer(folder, *pieces) as other:
        error = fault(other.path)
    assert error.code == "protocol"
    assert f"no answer from {other.path}: it hung up before the end" in str(error)


def test_an_answer_without_end_is_cut_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not netd cannot fill the memory."""
    monkeypatch.setattr(control, "REPLY_LIMIT", 1000)
    with peer(folder, b"x" * 2000) as other:
        assert "longer than 1000 bytes" in str(fault(other.path))


def test_a_refusal_before_the_request_is_heard(folder: Path) -> None:
    """A daemon with too many clients answers and hangs up without reading."""
    busy = b'{"netd": 1, "ok": false, "error": "busy", "message": "too many"}\n'
    with peer(folder, busy, reads=False) as other:
        assert fault(other.path).code == "busy"


def test_a_connection_is_kept_and_made_anew_after_an_error(folder: Path) -> None:
    """So that one who asks each second is one client to the daemon, as long as all is well."""
    with peer(folder, GOOD) as other, Control(other.path) as asking:
        assert "not connected" in repr(asking)
        assert asking.ask("list") == [1]
        assert repr(asking) == f"<Control {other.path} connected>"
        with pytest.raises(ControlError, match="no answer"):
            asking.ask("list")  # this peer has hung up
        assert asking.ask("list") == [1]


def test_too_long_a_request_is_not_sent(folder: Path) -> None:
    """The daemon would not read it."""
    error = fault(folder / "none", ids=["1"] * REQUEST_LIMIT)
    assert (error.code, "name fewer at once" in str(error)) == ("usage", True)


# -- no answer


def test_silence_is_told_after_the_timeout(folder: Path) -> None:
    """With the place, and what to do."""
    with ExitStack() as closing:
        listener = closing.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(folder / "mute"))
        listener.listen()
        began = time.monotonic()
        error = fault(folder / "mute", timeout=0.2)
        assert 0.2 <= time.monotonic() - began < SOON * slowness()
    assert error.code == "timeout"
    assert f"does not answer on {folder}/mute within 0.2 s" in str(error)
    assert "--timeout" in str(error)


def test_a_drop_now_and_then_buys_no_time(folder: Path) -> None:
    """The time-out is for the whole answer."""

    def drip() -> None:
        client, _ = listener.accept()
        with client:
            while True:
                try:
                    client.sendall(b" ")
                except OSError:
                    return

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "slow"))
        listener.listen()
        dripping = Thread(target=drip)
        dripping.start()
        assert fault(folder / "slow", timeout=0.3).code == "timeout"
        dripping.join(PATIENCE)
        assert not dripping.is_alive()


def test_a_full_queue_of_clients_is_waited_for(folder: Path) -> None:
    """The kernel lets nobody in while a daemon that is stopped has as many clients as it takes."""
    with ExitStack() as closing:
        listener = closing.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(folder / "full"))
        listener.listen(0)
        others = [closing.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(str(folder / "full"))
        began = time.monotonic()
        assert fault(folder / "full", timeout=0.2).code == "timeout"
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("there", ["nothing", "a file", "nobody listens", "no folder"])
def test_no_daemon_is_told_with_its_place(folder: Path, there: str) -> None:
    """And what to do."""
    path = folder / "control.sock"
    if there == "a file":
        path.touch()
    elif there == "nobody listens":
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
    elif there == "no folder":
        (folder / "f").touch()
        path = folder / "f" / "control.sock"
    error = fault(path)
    assert error.code == "not-running"
    assert f"nobody listens on {path} (start it with `systemctl start netd`" in str(error)


def test_a_path_that_cannot_be_one_is_wrong_usage() -> None:
    """A socket's path has 107 bytes at most."""
    error = fault(Path("/tmp/" + "x" * 200))
    assert (error.code, "too long" in str(error)) == ("usage", True)


@pytest.mark.skipif(not AS_ROOT, reason="only root can ask as somebody else")
@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o755, "is for the group daemon"), (0o700, "is in a folder of another user")],
)
def test_a_socket_of_others_names_their_group(folder: Path, mode: int, said: str) -> None:
    """And how to become one of them."""
    with peer(folder) as other:
        os.chown(other.path, 0, 1)
        other.path.chmod(0o660)
        folder.chmod(mode)
        program = (
            "import os, sys; from pathlib import Path; from netd.client.control import *\n"
            "import encodings.idna; os.setgroups([]); os.setresgid(*[65534] * 3)\n"
            "os.setresuid(*[65534] * 3)\n"
            "try: Control(Path(sys.argv[1])).ask('list')\n"
            "except ControlError as error: print(error.code, error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(other.path)], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": python_path()}, timeout=PATIENCE,
        )  # fmt: skip
    assert done.stdout.startswith("permission no permission to ")
    assert said in done.stdout
    assert "root" in done.stdout


# -- where it is looked for


def test_a_named_socket_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants another netd to be told what that one was."""
    monkeypatch.setenv("NETD_CONTROL", "/x/control.sock")
    assert default_paths() == [Path("/x/control.sock")]


def test_the_systems_netd_is_found_by_every_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a netd of the user's own."""
    monkeypatch.delenv("NETD_CONTROL", raising=False)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/4711")
    system = Path("/run/netd/control.sock")
    assert default_paths() == [Path("/run/user/4711/netd/control.sock"), system]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_paths() == [system]


def test_the_first_place_with_a_daemon_is_used(folder: Path) -> None:
    """One that has ended without removing its socket does not stand in the way."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(folder / "stale"))
    none, stale = folder / "none", folder / "stale"
    with peer(folder, GOOD) as other, Control(none, stale, other.path) as asking:
        assert asking.ask("list") == [1]
    with Control(none, stale) as asking, pytest.raises(ControlError, match=f"{none} or {stale}"):
        asking.ask("list")
