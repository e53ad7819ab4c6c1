"""What netd answers on its control socket, as docs/netctl.md describes it: examples to show.

Whether a daemon answers so is tested with a daemon, in test_netctl.py."""

from __future__ import annotations

from typing import Any

NOW = 1_795_514_400.0
"""Seconds since 1970: 2026-11-24 in UTC."""

EVIL = "a\x1b[31mb\x07\u202e\r\n"
"""Text of a client who wants to paint on our terminal."""


def service(**more: Any) -> dict[str, Any]:
    """The status of a service that has had some clients."""
    return {
        "state": "serving", "since": NOW - 7500, "counted_since": NOW - 7500, "silence": 0.0,
        "protocol": "upper", "listen": ["tcp://127.0.0.1:9000", "udp://127.0.0.1:9000"],
        "open": 2, "max_connections": 200, "admitted": 40, "refused": {"rate": 5, "address": 2},
        "bytes_in": 12_600, "bytes_out": 4_718_592, "datagrams_in": 9, "datagrams_out": 7,
        "datagrams_dropped": {"reply_rate": 2}, "ended": {"eof": 38}, "durations": [30, 8],
        "duration_sum": 12.5, "errors": 0,
    } | more  # fmt: skip


def event(**more: Any) -> dict[str, Any]:
    """Something that went wrong."""
    return {
        "kind": "refused", "service": "upper", "text": "rate", "peer": "192.0.2.7:5000",
        "time": NOW - 60, "times": 5,
    } | more  # fmt: skip


def status(**services: Any) -> dict[str, Any]:
    """What `status` answers."""
    return {
        "time": NOW,
        "daemon": {
            "version": "0.1.0", "pid": 4711, "started": NOW - 7500, "uptime": 7500.0, "open": 2,
            "max_connections": 16_384, "threads": 1, "max_threads": 256, "bans": 3,
            "cpu_seconds": 63.2, "memory": 47_395_635, "descriptors": 40, "max_descriptors": 1024,
            "log_lines_waiting": 0, "log_lines_dropped": 0, "state": "serving",
            "configuration": {
                "file": "/etc/netd/netd.yaml", "loaded": NOW - 600, "reloads": 2,
                "failed_reloads": 1, "error": "/etc/netd/netd.yaml:4:3: no such key",
            },
        },
        "services": services or {"upper": service()},
        "events": [event(), event(kind="error", text="ValueError: x", service="echo", times=1)],
    }  # fmt: skip


_NO_COUNTERS = ("state", "since", "counted_since", "silence", "protocol", "listen")

SESSION = {
    "id": "7", "service": "upper", "peer": "[2001:db8::1]:5000", "user": None, "age": 7500.0,
    "idle": 3.2, "bytes_in": 5, "bytes_out": 2048, "state": "open", "tls": None,
}  # fmt: skip

RELOAD = {
    "dry_run": True, "added": ["new"], "removed": ["old"],
    "changed": {
        "echo": [
            {"key": "max_connections", "old": 100, "new": 200},
            {"key": "banner", "old": None, "new": "welcome"},
            {"key": "only_from", "old": ["192.0.2.0/24"], "new": None},
        ]
    },
    "unchanged": 3, "daemon": [{"key": "user", "old": "netd", "new": "nobody"}],
    "restart_needed": ["user"], "took": 0.012,
}  # fmt: skip

EXPLANATION = {
    "service": "upper", "peer": "192.0.2.7:5000", "at": None, "decision": "refuse",
    "reason": "rate",
    "steps": [
        {"rule": "only_from, no_access", "verdict": "pass", "reason": None,
         "detail": {"only_from": "192.0.2.0/24", "no_access": None}},
        {"rule": "bans", "verdict": "pass", "reason": None, "detail": {"network": None}},
        {"rule": "penalties", "verdict": "off", "reason": None, "detail": {}},
        {"rule": "rate_per_source", "verdict": "refuse", "reason": "rate",
         "detail": {"tokens": 0.25, "burst": 20.0, "rate": "10/s", "wait": 0.075}},
        {"rule": "rate", "verdict": "refuse", "reason": "rate",
         "detail": {"tokens": 0.0, "burst": 400.0, "rate": "200/s", "wait": 0.005}},
    ],
}  # fmt: skip

BANS = [
    {"network": "192.0.2.0/24", "until": NOW, "why": "noise"},
    {"network": "2001:db8::/32", "until": None, "why": ""},
]

STATES = {"services": {"upper": "serving", "echo": "stopped", "a-longer-name": "paused"}}

REPLIES: dict[str, Any] = {
    "status": status(),
    "list": [
        {"name": "upper", "protocol": "upper", "state": "serving", "open": 2,
         "listen": ["tcp://127.0.0.1:9000", "unix:/run/netd/upper.sock"]},
        {"name": "echo", "protocol": None, "state": "disabled", "open": 0, "listen": []},
    ],
    "sessions": [SESSION, SESSION | {"id": "12", "user": "alice", "tls": "TLSv1.3"}],
    "stats": {"daemon": status()["daemon"], "services": {
        "upper": {k: v for k, v in service().items() if k not in _NO_COUNTERS}
    }},
    "explain": EXPLANATION,
    "bans": BANS,
    "start": STATES, "stop": STATES, "drain": STATES, "enable": STATES, "disable": STATES,
    "kill": {"killed": ["7"], "unknown": ["8"]},
    "ban": BANS[0],
    "unban": {"unbanned": ["192.0.2.0/24"]},
    "check": {"file": "/etc/netd/netd.yaml", "services": 8},
    "reload": RELOAD,
    "log-level": {"level": "debug", "was": "info"},
    "shutdown": {"shutdown": "drain"},
}  # fmt: skip
"""By command."""
