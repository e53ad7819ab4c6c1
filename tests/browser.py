"""A real browser without a window, driven through the DevTools protocol over a pair of pipes.

    with browser() as tab:
        tab.open("http://127.0.0.1:9464/")
        tab.wait_for("document.querySelector('h1').textContent == 'netd'")

https://chromedevtools.github.io/devtools-protocol/; a message is JSON that ends in NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any

from harness import wait_until

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PATIENCE = 30.0
"""Seconds that a browser may take for one thing; its start is slow."""
_OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars",
    "--remote-debugging-pipe", "about:blank",
]  # fmt: skip


class Tab:
    """The one tab of a browser."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._numbers = count(1)
        self._rest = b""
        self._session: str | None = None
        self.complaints: list[str] = []
        """What the browser had to say about the page: errors, warnings, violated policies."""
        targets = self._ask("Target.getTargets")["targetInfos"]
        (page,) = (target for target in targets if target["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def _ask(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while (answer := self._read(end)).get("id") != number:
            self._hear(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self, end: float) -> Any:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reads], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the browser has not answered within {PATIENCE} s"
            data = os.read(self._reads, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _hear(self, event: Any) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(event["params"]["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(str(event["params"]["entry"]))

    def open(self, address: str) -> None:
        """Goes to a page."""
        self._ask("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, as plain data."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of an expression, as soon as that is true."""
        return wait_until(lambda: self.evaluate(expression), PATIENCE)

    def look(self, width: int, height: int, scheme: str) -> None:
        """Has the page shown in a window of that size, `light` or `dark`."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", features=features)

    def screenshot(self) -> bytes:
        """The whole page as a PNG file."""
        answer = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])


@contextmanager
def browser() -> Iterator[Tab]:
    """A browser for the time of a `with`, with a profile of its own."""
    assert PROGRAM is not None
    to_it, we_write = os.pipe()
    we_read, from_it = os.pipe()
    with TemporaryDirectory(prefix="netd-", ignore_cleanup_errors=True) as profile:
        # The shell moves the pipes to the descriptors 3 and 4, where the browser expects them.
        shell = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", shell, "browser", str(to_it), str(from_it),
             PROGRAM, f"--user-data-dir={profile}", *_OPTIONS],
            pass_fds=(to_it, from_it), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": profile},
        )  # fmt: skip
        os.close(to_it)
        os.close(from_it)
        try:
            yield Tab(we_read, we_write)
        finally:
            os.killpg(process.pid, 9)
            process.wait()
            os.close(we_read)
            os.close(we_write)
