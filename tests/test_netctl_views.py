"""What each verb of netctl shows of the data that it gets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import cheap
from replies import EVIL, EXPLANATION, NOW, RELOAD, REPLIES, SESSION, event, service, status
from rich.cells import cell_len
from rich.text import Text

from netd.cli import explained, listings, netctl, outcomes, status_view, terminal, top
from netd.control.table import COMMANDS

VIEWS = netctl.views()


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock shows the time of nobody."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def plain(found: list[Text]) -> str:
    """What is seen, without colours."""
    return "\n".join(line.plain for line in found)


def spoilt(data: Any) -> Any:
    """Data whose every text is a client's that means harm."""
    if isinstance(data, dict):
        return {key: spoilt(value) for key, value in data.items()}
    if isinstance(data, list):
        return [spoilt(item) for item in data]
    return EVIL if isinstance(data, str) else data


def test_every_verb_has_its_view_and_its_example() -> None:
    """A command that is added to the table is shown, too."""
    asked = {name for name, entry in COMMANDS.items() if not entry.local}
    assert {*VIEWS} == {*REPLIES} == asked


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", [None, 20, 40, 80, 200])
def test_no_control_character_reaches_the_terminal(name: str, width: int | None) -> None:
    """Wherever in the data a client has put one."""
    found = plain(VIEWS[name](terminal.shown(spoilt(REPLIES[name])), width))
    assert found
    assert found.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["status", "list", "sessions", "stats", "explain", "bans"])
@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_tables_fit_the_terminal(name: str, width: int) -> None:
    """At 40 columns as well."""
    for line in VIEWS[name](REPLIES[name], width):
        assert line.cell_len <= width or not line.plain.strip()


STATUS = """\
● netd 0.1.0: serving
   Config: /etc/netd/netd.yaml
   Loaded: Tue 2026-11-24 09:50:00 UTC; 10min ago (2 reloads, 1 failed)
    Error: /etc/netd/netd.yaml:4:3: no such key
    Since: Tue 2026-11-24 07:55:00 UTC; 2h 5min ago
      PID: 4711
 Sessions: 2 of 16384
  Threads: 1 of 256
    Files: 40 of 1024
   Memory: 45.2 MiB
      CPU: 1min 3s
     Bans: 3

● upper (upper): serving
    Since: Tue 2026-11-24 07:55:00 UTC; 2h 5min ago
   Listen: tcp://127.0.0.1:9000
           udp://127.0.0.1:9000
 Sessions: 2 of 200
  Clients: 40 let in, 7 refused (rate 5, address 2)
    Bytes: 12.3 KiB in, 4.5 MiB out
Datagrams: 9 in, 7 out, 2 dropped (reply_rate 2)

○ echo (echo): disabled

Last events
11-24 09:59:00 refused upper: rate 192.0.2.7:5000 ×5
11-24 09:59:00 error echo: ValueError: x 192.0.2.7:5000"""


def test_status_reads_like_that_of_systemctl() -> None:
    """The daemon, each service, the last events."""
    data = status(upper=service(), echo={"state": "disabled", "protocol": "echo"})
    assert plain(status_view.status(data, 80)) == STATUS


def test_status_of_a_pipe_has_a_table_of_events() -> None:
    """With columns to be cut."""
    assert plain(status_view.status(status(), None)).endswith(
        "Last events\n"
        "TIME            KIND     SERVICE  CLIENT          TIMES  WHAT\n"
        "11-24 09:59:00  refused  upper    192.0.2.7:5000      5  rate"
    )


def test_events_of_other_services_are_left_out() -> None:
    """Where one service was asked for; otherwise the last ten are shown."""
    assert "ValueError" not in plain(status_view.status(status(upper=service()), 80))
    data = status(upper=service(), echo=service())
    data["events"] = [event(times=number) for number in range(20)]
    assert plain(status_view.status(data, 80)).count("\n11-24") == status_view.EVENTS


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"refused": {}}, "40 let in, 0 refused\n"),
        ({"errors": 3}, "Errors: 3 (see the log)"),
        ({"state": "stuck"}, "● upper (upper): stuck"),
        ({"state": "stopped"}, "○ upper (upper): stopped"),
        ({"max_connections": None}, "Sessions: 2\n"),
    ],
)
def test_status_tells_what_a_service_is_at(more: dict[str, Any], said: str) -> None:
    """In words, beside the colours."""
    assert said in plain(status_view.status(status(upper=service(**more)), 80)) + "\n"


def test_datagrams_are_told_where_there_are_any() -> None:
    """A service over TCP alone has no line for them."""
    none = {"datagrams_in": 0, "datagrams_out": 0, "datagrams_dropped": {}}
    assert "Datagrams" not in plain(status_view.status(status(upper=service(**none)), 80))


def test_a_full_log_is_told() -> None:
    """Since lines that are lost are missed."""
    data = status()
    data["daemon"] |= {"log_lines_waiting": 5, "log_lines_dropped": 7}
    assert "Log: 5 lines waiting, 7 lost" in plain(status_view.status(data, 80))


def test_a_daemon_without_faults_is_short() -> None:
    """What has not happened takes no line."""
    data = status()
    data["daemon"] |= {"bans": 0}
    data["daemon"]["configuration"] |= {
        "file": None, "error": None, "reloads": 0, "failed_reloads": 0,
    }  # fmt: skip
    found = plain(status_view.status(data | {"events": []}, 80))
    assert "Config: built in\n    Since:" in found
    for word in ("Loaded", "Error", "Bans", "Log", "events"):
        assert word not in found


def test_states_have_colours() -> None:
    """Green is well, red needs somebody."""
    head = status_view.status(status(upper=service(state="stuck")), 80)
    styles = {line.plain: str(line.spans[0].style) for line in head if line.spans}
    assert styles["● netd 0.1.0: serving"] == "green"
    assert styles["● upper (upper): stuck"] == "bold red"


def test_services_have_their_listeners_below_each_other() -> None:
    """On a terminal, where one line has no room."""
    assert plain(listings.services(REPLIES["list"], 70)) == (
        "SERVICE  PROTOCOL  STATE     OPEN  LISTEN\n"
        "upper    upper     serving      2  tcp://127.0.0.1:9000\n"
        "                                   unix:/run/netd/upper.sock\n"
        "echo     -         disabled     0  -"
    )


def test_sessions_of_a_pipe_are_fields() -> None:
    """As many in each line, whatever is known of a session."""
    found = [line.plain.split() for line in listings.sessions(REPLIES["sessions"], None)]
    assert found == [
        ["ID", "SERVICE", "PEER", "USER", "AGE", "IDLE", "IN", "OUT", "STATE", "TLS"],
        ["7", "upper", "[2001:db8::1]:5000", "-", "2h5m", "3s", "5", "2.0K", "open", "-"],
        ["12", "upper", "[2001:db8::1]:5000", "alice", "2h5m", "3s", "5", "2.0K", "open",
         "TLSv1.3"],
    ]  # fmt: skip


def test_many_sessions_are_shown_at_once() -> None:
    """Ten thousand of them take no time to speak of."""
    with cheap(2):
        assert len(listings.sessions([SESSION] * 10_000, 200)) == 10_001


@pytest.mark.parametrize(
    ("name", "said"),
    [("list", "no services"), ("sessions", "no open sessions"), ("bans", "no bans")],
)
def test_nothing_is_said_in_words(name: str, said: str) -> None:
    """Not as a heading without rows."""
    assert plain(VIEWS[name]([], 80)) == said


def test_bans_end() -> None:
    """At their time, or when somebody ends them."""
    assert plain(listings.bans(REPLIES["bans"], 80)) == (
        "NETWORK        UNTIL                        WHY\n"
        "192.0.2.0/24   Tue 2026-11-24 10:00:00 UTC  noise\n"
        "2001:db8::/32  unban                        -"
    )


def test_counters_are_fields_with_dotted_names() -> None:
    """One to a line, for grep; on a terminal below the name of their service."""
    found = plain(listings.stats(REPLIES["stats"], None))
    assert "\nupper  refused.rate                  5\n" in found
    assert "\nupper  durations                     30 8\n" in found
    found = plain(listings.stats(REPLIES["stats"], 80))
    assert "\n\nupper\n" in found
    assert "\n                refused.rate: 5\n" in found


EXPLAINED = """\
upper, 192.0.2.7:5000, now

  RULE                  VERDICT  COMPARED
  only_from, no_access  pass     only_from 192.0.2.0/24, no_access none
  bans                  pass     network none
  penalties             off      -
→ rate_per_source       refuse   tokens 0.25, burst 20, rate 10/s, wait 75ms
  rate                  refuse   tokens 0, burst 400, rate 200/s, wait 5ms

refused: rate (by rate_per_source)"""


def test_the_rule_that_decides_is_marked() -> None:
    """It is the first that refuses."""
    assert plain(explained.explained(EXPLANATION, 80)) == EXPLAINED


@pytest.mark.parametrize(
    ("decision", "verdict", "said"),
    [
        ("admit", "pass", "\n\nlet in"),
        ("delay", "delay", "→ rate_per_source  delay"),
        ("delay", "delay", "\n\nlet in, after a wait (by rate_per_source)"),
    ],
)
def test_other_decisions_are_told(decision: str, verdict: str, said: str) -> None:
    """With their rule, if there is one."""
    detail = {"until": None, "why": "", "load": 16_384.0, "left": 1.5}
    step = {"rule": "rate_per_source", "verdict": verdict, "reason": None, "detail": detail}
    data = EXPLANATION | {"decision": decision, "reason": None, "at": NOW, "steps": [step]}
    found = plain(explained.explained(data, 80))
    assert said in found
    assert found.startswith("upper, 192.0.2.7:5000, Tue 2026-11-24 10:00:00 UTC\n")
    assert "until unban, load 16384, left 2s" in found


def test_a_reload_is_shown_like_a_diff() -> None:
    """What goes, what comes, and what stays."""
    assert plain(outcomes.reloaded(RELOAD, 80)) == (
        "+ new\n- old\n~ echo\n    - max_connections: 100\n    + max_connections: 200\n"
        '    + banner: welcome\n    - only_from: ["192.0.2.0/24"]\n'
        "~ (netd as a whole)\n    - user: netd\n    + user: nobody\n"
        "services: 1 added, 1 removed, 1 changed, 3 unchanged; in 12ms\n"
        "only a restart changes: user\ndry run: nothing was changed"
    )


def test_a_reload_without_a_difference_says_so() -> None:
    """In one line."""
    same: dict[str, Any] = {key: [] for key in ("added", "removed", "daemon", "restart_needed")}
    same |= {"changed": {}, "dry_run": False}
    assert plain(outcomes.reloaded(RELOAD | same, 80)) == "services: 3 unchanged; in 12ms"
    assert plain(outcomes.reloaded(RELOAD | same | {"unchanged": 0}, 80)).startswith(
        "services: none;"
    )


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("start", REPLIES["start"], "upper: serving\necho: stopped\na-longer-name: paused"),
        ("kill", REPLIES["kill"], "ended 1 session"),
        ("kill", {"killed": [1, 2], "unknown": []}, "ended 2 sessions"),
        ("ban", REPLIES["ban"],
         "banned 192.0.2.0/24 until Tue 2026-11-24 10:00:00 UTC (noise)"),
        ("unban", REPLIES["unban"], "unbanned 192.0.2.0/24"),
        ("check", REPLIES["check"], "/etc/netd/netd.yaml: configuration OK, 8 services"),
        ("log-level", REPLIES["log-level"], "debug (was info)"),
        ("log-level", {"level": "info", "was": "info"}, "info"),
        ("shutdown", REPLIES["shutdown"],
         "netd drains: it takes nobody in any more, and ends when its sessions have ended"),
        ("shutdown", {"shutdown": "now"}, "netd ends now"),
    ],
)  # fmt: skip
def test_what_was_done_is_said_in_a_line(name: str, data: Any, said: str) -> None:
    """Or in a line for each of what was named."""
    assert plain(VIEWS[name](data, 80)) == said


@pytest.mark.parametrize(
    ("name", "arguments", "data", "said"),
    [
        ("kill", {}, REPLIES["kill"], "no such session: 8"),
        ("kill", {}, {"killed": ["7"], "unknown": []}, ""),
        ("unban", {"sources": ["a", "b"]}, REPLIES["unban"], "not banned before: 1 of 2"),
        ("unban", {"sources": ["a"]}, REPLIES["unban"], ""),
        ("start", {}, REPLIES["start"], ""),
        ("stop", {}, REPLIES["stop"], ""),
    ],
)
def test_what_was_done_in_part_is_told(
    name: str, arguments: dict[str, Any], data: Any, said: str
) -> None:
    """And nothing when all was done."""
    assert netctl.shortfall(name, arguments, data) == said


# -- top


def look(**more: Any) -> top.Look:
    """Two looks at a daemon, two seconds apart."""
    before, now = status(), status(upper=service(**more))
    before["time"] -= 2
    return top.Look(now, before)


def test_the_screen_of_top_is_filled_exactly() -> None:
    """Whatever its size is."""
    for width, height in ((80, 24), (40, 10), (20, 5), (200, 60)):
        lines = top.screen(look(), "", width, height).plain.split("\n")
        assert len(lines) == height
        assert all(cell_len(line) <= width for line in lines)
        assert lines[-1] == "q leaves"


def test_top_shows_what_happens_each_second() -> None:
    """The difference between two looks, by the time between them."""
    more = {"admitted": 60, "refused": {"rate": 8}, "bytes_in": 12_600 + 4096, "datagrams_in": 10}
    lines = top.screen(look(**more), "", 120, 24).plain.split("\n")
    assert lines[0].startswith("netd 0.1.0 serving, up 2h 5min, pid 4711, ")
    assert lines[3].split()[:7] == [
        "SERVICE", "STATE", "OPEN", "NEW/S", "REFUSED/S", "IN/S", "OUT/S",
    ]  # fmt: skip
    assert lines[4].split()[:8] == ["upper", "serving", "2", "10", "0.5", "2.0K", "0", "0.5"]
    assert "Last events" in lines


def test_counters_that_began_anew_are_no_negative_rate() -> None:
    """After a restart of netd, with a service that was not there before."""
    lines = top.screen(look(admitted=1, bytes_in=0), "", 120, 24).plain.split("\n")
    assert lines[4].split()[3:6] == ["0", "0", "0"]
    new = top.Look(status(other=service()), status())
    lines = top.screen(new, "", 120, 24).plain.split("\n")
    assert lines[4].split()[:4] == ["other", "serving", "2", "0"]


def test_a_fault_takes_the_last_line() -> None:
    """What is shown above it is old."""
    assert top.screen(look(), "netd does not answer", 80, 24).plain.endswith("netd does not answer")


def test_busy_services_come_first_and_those_that_do_not_run_last() -> None:
    """When there are more than lines."""
    services = {"off": {"state": "disabled"}, "idle": service(open=0), "busy": service(open=9)}
    data = status(**services)
    shown = top.screen(top.Look(data, data), "", 80, 24).plain
    assert shown.index("busy") < shown.index("idle") < shown.index("off")
