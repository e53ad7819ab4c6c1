"""The status page in a real browser: what it shows after traffic, and that it stays what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PROGRAM, Tab, browser
from harness import Netd, ask, read_all, run_netd, wait_until

SCRIPTED = "<img src=x onerror=alert(1)>"
CONFIG: dict[str, Any] = {
    "status": {"listen": "127.0.0.1:0"},
    "services": {
        "loud": {"protocol": "upper", "listen": ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"]},
        "closed": {
            "protocol": "echo", "listen": ["tcp://127.0.0.1:0"], "only_from": ["192.0.2.0/24"],
        },
        "asleep": {"protocol": "echo", "listen": ["tcp://127.0.0.1:0"], "enabled": False},
    },
}  # fmt: skip
LOOKS = [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")]
TABLE = """Object.fromEntries([...document.querySelectorAll('#services tbody tr')].map(row =>
    [row.cells[0].firstChild.textContent, [...row.cells].map(cell => cell.innerText.trim())]))"""
SHOWN = "document.querySelectorAll('#services tbody tr').length"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """A tab of a browser that all tests use in turn."""
    with browser() as opened:
        yield opened


def open_page(tab: Tab, netd: Netd) -> None:
    """Goes to the daemon's page, and waits until it shows the services."""
    (address,) = netd.addresses["status"]
    # The page that was shown before may still miss the daemon that it was of.
    tab.open("about:blank")
    tab.wait_for("location.href === 'about:blank'")
    tab.complaints.clear()
    tab.look(1280, 900, "light")
    tab.open(f"http://127.0.0.1:{address.port}/")
    tab.wait_for(SHOWN)


def make_traffic(netd: Netd) -> None:
    """Three sessions of five bytes, and two clients that are turned away."""
    for _ in range(3):
        assert ask(netd.connect("loud"), b"hello") == b"HELLO"
    for _ in range(2):
        read_all(netd.connect("closed"))
    wait_until(lambda: netd.state()["loud"]["ended"] == {"eof": 3})


def test_the_page_shows_the_services_and_their_figures(tab: Tab) -> None:
    """State, listeners, sessions, refusals with their reason, bytes; and it follows what happens
    without being loaded again."""
    with run_netd(CONFIG) as netd:
        open_page(tab, netd)
        assert tab.evaluate(TABLE)["loud"][3] == "0"
        make_traffic(netd)
        tab.wait_for(f"({TABLE}).loud[3] === '3' && ({TABLE}).closed[4].startsWith('2')")
        table = tab.evaluate(TABLE)
        assert list(table) == ["closed", "loud", "asleep"]
        assert table["loud"][0].split() == ["loud", "serving"]
        assert str(netd.addresses["loud"][0].port) in table["loud"][1]
        assert table["loud"][2:7] == ["0", "3", "0", "15 B", "15 B"]
        assert table["closed"][3] == "0"
        assert table["closed"][4].split("\n") == ["2", "address 2"]
        assert table["asleep"][0].split() == ["asleep", "disabled"]
        client = netd.connect("loud")
        tab.wait_for(f"({TABLE}).loud[2] === '1'")
        label = "document.querySelector('#plot-sessions svg').getAttribute('aria-label')"
        tab.wait_for(f"{label}.includes('open now 1')")
        assert len(tab.evaluate("document.querySelector('#plot-traffic path').getAttribute('d')"))
        client.close()
        assert tab.evaluate("document.querySelector('#health').textContent") == "serving"
        assert not tab.complaints


def test_refusals_and_errors_are_listed(tab: Tab, tmp_path: Path) -> None:
    """The last of them, equal ones once with their number; what is in them is text, not markup."""
    (tmp_path / "faulty.py").write_text(
        "from netd.handler import RequestHandler\n"
        "class Faulty(RequestHandler):\n"
        "    def data_received(self, data):\n"
        f"        raise ValueError({SCRIPTED!r})\n"
    )
    faulty = {"handler": "faulty:Faulty", "listen": ["tcp://127.0.0.1:0"]}
    config = CONFIG | {"services": CONFIG["services"] | {"faulty": faulty}}
    path = {"PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{tmp_path}"}
    tmp_path.chmod(0o755)
    with run_netd(config, env=path) as netd:
        open_page(tab, netd)
        assert tab.evaluate("document.querySelector('#events').hidden")
        make_traffic(netd)
        ask(netd.connect("faulty"), b"x")
        text = "document.querySelector('#events').innerText"
        tab.wait_for(f"{text}.includes('onerror') && {text}.includes('× 2')")
        listed = tab.evaluate(text)
        assert SCRIPTED in listed
        assert "turned away: address" in listed
        assert tab.evaluate("document.querySelectorAll('img').length") == 0
        assert tab.evaluate(TABLE)["faulty"][8] == "1"
        assert not tab.complaints


@pytest.mark.parametrize(
    "attempt",
    [
        "document.body.innerHTML = '<b>x</b>'",
        "document.createElement('img').setAttribute('onerror', 'x')",
        "document.createElement('script').textContent = 'x'",
        "document.createElement('script').src = 'https://other.example/x.js'",
    ],
)
def test_the_policy_lets_no_other_script_in(tab: Tab, attempt: str) -> None:
    """Not even the page's own script could be brought to make one of what it was told."""
    with run_netd(CONFIG) as netd:
        open_page(tab, netd)
        outcome = f"(() => {{ try {{ {attempt}; }} catch (e) {{ return e.name; }} }})()"
        assert tab.evaluate(outcome) == "TypeError"


def test_the_page_asks_nobody_but_netd(tab: Tab) -> None:
    """All that it needs is in it."""
    with run_netd(CONFIG) as netd:
        open_page(tab, netd)
        loaded = tab.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
        (address,) = netd.addresses["status"]
        here = f"http://127.0.0.1:{address.port}/status.json"
        assert {name for name in loaded if not name.startswith("data:")} == {here}


def test_a_daemon_that_is_gone_is_told(tab: Tab) -> None:
    """The figures stay, and the page says that they are old."""
    with run_netd(CONFIG) as netd:
        open_page(tab, netd)
        assert netd.stop() == 0
        tab.wait_for("document.querySelector('#health').textContent.startsWith('no answer')")
        assert tab.evaluate(SHOWN) == 3


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_fits_every_window(tab: Tab, width: int, scheme: str) -> None:
    """On a telephone nothing is cut off, and the dark page is dark. With NETD_SCREENSHOTS in the
    environment, a folder, the pictures are left there."""
    with run_netd(CONFIG) as netd:
        open_page(tab, netd)
        make_traffic(netd)
        tab.look(width, 800, scheme)
        tab.wait_for(f"innerWidth === {width} && ({TABLE}).loud[3] === '3'")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        shade = [int(part) for part in ground.removeprefix("rgb(").rstrip(")").split(",")]
        assert (max(shade) < 64) == (scheme == "dark")
        wide = tab.evaluate(
            "[...document.querySelectorAll('main *')].filter(node => node.getClientRects().length"
            f" && node.getBoundingClientRect().right > {width}).map(node => node.className)"
        )
        assert wide == []
        picture = tab.screenshot()
        assert picture.startswith(b"\x89PNG")
        if folder := os.environ.get("NETD_SCREENSHOTS"):
            Path(folder, f"status-{width}-{scheme}.png").write_bytes(picture)
