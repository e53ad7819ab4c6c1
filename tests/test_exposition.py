"""The metrics: valid, true, never falling; and the alerts and the dashboard made of them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from controls import control
from harness import CHECKOUT, Netd, ask, read_all, run_netd, wait_until, write_config
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format
from roll import Listed
from test_status import get

from netd.events import Events
from netd.report import Report
from netd.service import Service
from netd.status.exposition import Exposition
from netd.unit import Unit

RULES = CHECKOUT / "etc" / "prometheus-rules.yaml"
DASHBOARD = CHECKOUT / "etc" / "grafana-dashboard.json"
PAGE = CHECKOUT / "docs" / "monitoring.md"
CONFIG: dict[str, Any] = {
    "status": {"listen": "127.0.0.1:0"},
    "services": {
        "loud": {"protocol": "upper", "listen": ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"]},
        "closed": {
            "protocol": "echo", "listen": ["tcp://127.0.0.1:0"], "only_from": ["192.0.2.0/24"],
        },
    },
}  # fmt: skip
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
STATE = {
    "version": "0", "uptime": 1.0, "open": 0, "max_connections": None, "threads": 0,
    "max_threads": 1, "log_lines_waiting": 0, "log_lines_dropped": 0,
    "configuration": {"loaded": 1.0, "reloads": 0, "failed_reloads": 0, "error": ""},
}  # fmt: skip
# What Prometheus adds to every job.
FOREIGN = {"up"}

Samples = dict[tuple[str, ...], float]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def samples(parse: Callable[[str], Any], text: str) -> Samples:
    """The values, by name and labels in the order of their names."""
    families: list[Metric] = list(parse(text))
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels, reverse=True))):
            sample.value
        for family in families
        for sample in family.samples
    }  # fmt: skip


def scraped(netd: Netd) -> str:
    """What a daemon exposes."""
    response, body = get(netd, "/metrics")
    assert response.status == 200
    assert (response.getheader("Content-Type") or "").startswith("text/plain; version=")
    return body.decode()


def make_traffic(netd: Netd) -> None:
    """Four sessions of six bytes, two refusals, three datagrams of two bytes."""
    for _ in range(4):
        assert ask(netd.connect("loud"), b"hello\n") == b"HELLO\n"
    for _ in range(2):
        read_all(netd.connect("closed"))
    with netd.connect("loud", "udp") as client:
        for _ in range(3):
            client.send(b"ab")
            assert client.recv(100) == b"AB"
    wait_until(lambda: _is_over(netd.state()["loud"]))


def _is_over(loud: dict[str, Any]) -> bool:
    """Whether all sessions that were let in have ended."""
    return bool(sum(loud["ended"].values()) == loud["admitted"])


@needs_promtool
def test_promtool_finds_no_fault() -> None:
    """Neither in the format nor in the names, before there is traffic and after."""
    with run_netd(CONFIG) as netd:
        for _ in range(2):
            done = subprocess.run(
                ["promtool", "check", "metrics"],
                input=scraped(netd), capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            make_traffic(netd)


def test_a_service_that_comes_again_counts_anew() -> None:
    """As after a restart; a total that stayed what it was would look like silence."""
    with run_netd(CONFIG) as netd:
        make_traffic(netd)
        key = "netd_sessions_accepted_total", "loud"
        assert samples(text_format, scraped(netd))[key] == 4
        for services in ({}, CONFIG["services"]):
            write_config(netd.folder, CONFIG | {"services": services})
            with control(netd) as client:
                client.data("reload")
        assert samples(text_format, scraped(netd))[key] == 0


def test_the_metrics_are_the_state_of_the_services() -> None:
    """After exact traffic, to the byte; and in OpenMetrics the same."""
    with run_netd(CONFIG) as netd:
        make_traffic(netd)
        found = samples(text_format, scraped(netd))
        state = netd.state()
        loud, closed = state["loud"], state["closed"]
        assert loud["bytes_in"] == loud["bytes_out"] == 4 * 6 + 3 * 2
        for name, key in {
            "netd_sessions_open": "open", "netd_sessions_limit": "max_connections",
            "netd_sessions_accepted_total": "admitted", "netd_received_bytes_total": "bytes_in",
            "netd_sent_bytes_total": "bytes_out", "netd_errors_total": "errors",
            "netd_datagrams_received_total": "datagrams_in",
            "netd_datagrams_sent_total": "datagrams_out",
        }.items():  # fmt: skip
            assert found[name, "loud"] == loud[key], name
            assert found[name, "closed"] == closed[key], name
        assert found["netd_sessions_accepted_total", "loud"] == 4
        assert found["netd_datagrams_received_total", "loud"] == 3
        assert found["netd_refused_total", "closed", "address"] == 2
        assert found["netd_sessions_ended_total", "loud", "eof"] == 4
        assert found["netd_listeners", "loud"] == 2
        assert found["netd_session_duration_seconds_count", "loud"] == 4
        assert found["netd_session_duration_seconds_bucket", "loud", "+Inf"] == 4
        seconds = found["netd_session_duration_seconds_sum", "loud"]
        assert seconds == pytest.approx(loud["duration_sum"])
        assert found["netd_all_sessions_limit",] == state["netd"]["max_connections"]
        assert found["netd_build_info", state["netd"]["version"], _python(found)] == 1
        assert found["netd_resident_memory_bytes",] < 60 * 2**20
        response, body = get(netd, "/metrics", Accept=OPEN_METRICS)
        assert (response.getheader("Content-Type") or "").startswith("application/openmetrics-text")
        again = samples(open_metrics, body.decode())
        by_service = {key: value for key, value in found.items() if len(key) > 1}
        assert {key: again[key] for key in by_service} == by_service


def _python(found: Samples) -> str:
    """The version of Python that is told."""
    return next(key[2] for key in found if key[0] == "netd_build_info")


def test_what_passes_in_an_open_session_is_told_at_once() -> None:
    """So that a long download is no spike at its end."""
    with run_netd(CONFIG) as netd, netd.connect("loud") as client:
        client.sendall(b"hello")
        assert client.recv(5, socket.MSG_WAITALL) == b"HELLO"

        def told() -> Samples | None:
            # The bytes are counted once they are sent, which may be after they were read here.
            found = samples(text_format, scraped(netd))
            return found if found["netd_sent_bytes_total", "loud"] else None

        found = wait_until(told)
        assert found["netd_sent_bytes_total", "loud"] == 5
        assert found["netd_sessions_open", "loud"] == 1
        assert found["netd_all_sessions_open",] == 1


def test_a_total_never_falls() -> None:
    """An admission that is revoked makes it wait: Prometheus would take a fall for a restart."""
    service = Service("it")
    exposition = Exposition(
        Report(Listed({"it": Unit(service, [])}), lambda: dict(STATE), Events())
    )

    def accepted() -> float:
        text, _ = exposition.encode("")
        return samples(text_format, text.decode())["netd_sessions_accepted_total", "it"]

    service.gate.admit("192.0.2.1")
    service.gate.admit("192.0.2.1")
    assert accepted() == 2
    service.gate.revoke("192.0.2.1", "threads")
    assert accepted() == 2
    service.gate.admit("192.0.2.1")
    assert accepted() == 2
    service.gate.admit("192.0.2.1")
    assert accepted() == 3


def exposed() -> set[str]:
    """The names of all metrics."""
    service = Service("it")
    units, state = {"it": Unit(service, [])}, STATE | {"max_connections": 1}
    exposition = Exposition(Report(Listed(units), lambda: dict(state), Events()))
    text = exposition.encode("")[0].decode()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    return {name for name in families if not name.endswith("_created")}


def used(expression: str) -> set[str]:
    """The names of the metrics in an expression."""
    names = re.findall(r"\b(netd_\w+|up)\b(?=[{\[ )]|$)", expression)
    return {re.sub(r"_seconds_(bucket|sum|count)$", "_seconds", name) for name in names} - FOREIGN


def test_the_documentation_lists_all_of_them() -> None:
    """Each with its type and its labels' names, and none that there is not."""
    rows = dict(re.findall(r"^\| `(netd_\w+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))
    assert rows.keys() == exposed()
    for name, kind in rows.items():
        assert (kind == "counter") == name.endswith("_total"), name


def test_the_alerts_are_about_metrics_that_there_are() -> None:
    """Each has a severity and says what to do."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert group["rules"]
    for rule in group["rules"]:
        assert used(rule["expr"]) <= exposed(), rule["alert"]
        assert used(rule["expr"]) or "up" in rule["expr"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_dashboard_is_about_metrics_that_there_are() -> None:
    """Each panel shows some, and no two panels have one place."""
    dashboard = json.loads(DASHBOARD.read_text())
    places = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert used(target["expr"]), panel["title"]
            assert used(target["expr"]) <= exposed(), panel["title"]
        places.add((panel["gridPos"]["x"], panel["gridPos"]["y"]))
    assert len(places) == len(dashboard["panels"]) > 8


@needs_promtool
def test_promtool_finds_the_rules_valid() -> None:
    """As Prometheus would when it starts."""
    done = subprocess.run(
        ["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_promtool
def test_the_alerts_come_when_they_should(tmp_path: Path) -> None:
    """A loop that stands still, a service that is nearly full, a fault; and none before."""
    labels = '{instance="a",service="echo"}'

    def firing(alert: str, severity: str, *, at: str, yes: bool) -> dict[str, Any]:
        what = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
        whole = f'{what[:-1]},instance="a",service="echo",severity="{severity}"}}'
        return {
            "expr": what, "eval_time": at,
            "exp_samples": [{"labels": whole, "value": 1}] if yes else [],
        }  # fmt: skip

    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": f"netd_loop_silence_seconds{labels}",
                     "values": "0x8 15 30 45 60 75 90"},
                    {"series": f"netd_sessions_open{labels}", "values": "90x60"},
                    {"series": f"netd_sessions_limit{labels}", "values": "100x60"},
                    {"series": f"netd_errors_total{labels}", "values": "0x12 1x40"},
                ],
                "promql_expr_test": [
                    firing("NetdLoopStuck", "critical", at="2m", yes=False),
                    firing("NetdLoopStuck", "critical", at="3m", yes=True),
                    firing("NetdErrors", "warning", at="3m", yes=False),
                    firing("NetdErrors", "warning", at="4m", yes=True),
                    firing("NetdServiceNearlyFull", "warning", at="4m", yes=False),
                    firing("NetdServiceNearlyFull", "warning", at="6m", yes=True),
                ],
            }
        ],
    }  # fmt: skip
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
