"""The metrics, in the formats of Prometheus.

Names follow https://prometheus.io/docs/practices/naming/. A total never falls, though the figure
behind it may for a moment, such as when an admission is revoked for want of a thread: Prometheus
would take that for a restart, and count all of it again.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from threading import Lock
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from netd.metrics import DURATIONS
from netd.report import Report

# (name, what it is, key of the report); by daemon, then by service.
_GAUGES = [
    ("netd_start_time_seconds", "When netd started, in seconds since 1970.", "started"),
    ("netd_all_sessions_open", "Sessions open, of all services.", "open"),
    ("netd_all_sessions_limit", "Sessions that may be open, of all services.", "max_connections"),
    ("netd_pool_threads", "Threads of the pool for conversations.", "threads"),
    ("netd_pool_threads_limit", "Threads that the pool may have.", "max_threads"),
    ("netd_open_descriptors", "File descriptors that are open.", "descriptors"),
    ("netd_descriptors_limit", "File descriptors that may be open.", "max_descriptors"),
    ("netd_resident_memory_bytes", "Memory in use.", "memory"),
    ("netd_log_lines_waiting", "Log lines that wait to be written.", "log_lines_waiting"),
    (
        "netd_configuration_time_seconds",
        "When the configuration in force was read, in seconds since 1970.",
        "loaded",
    ),
]
_COUNTERS = [
    ("netd_cpu_seconds", "CPU time used.", "cpu_seconds"),
    ("netd_log_lines_dropped", "Log lines that could not be written.", "log_lines_dropped"),
    ("netd_reloads", "Reloads that were carried out.", "reloads"),
    ("netd_reloads_failed", "Reloads that failed; all went on as before.", "failed_reloads"),
]
_SERVICE_GAUGES = [
    ("netd_sessions_open", "Sessions open.", "open"),
    ("netd_sessions_limit", "Sessions that may be open.", "max_connections"),
    (
        "netd_loop_silence_seconds",
        "For how long the serving loop has not answered; it is asked at each scrape.",
        "silence",
    ),
]
_SERVICE_COUNTERS = [
    ("netd_sessions_accepted", "Sessions let in.", "admitted"),
    ("netd_received_bytes", "Bytes received, over streams and in datagrams.", "bytes_in"),
    ("netd_sent_bytes", "Bytes sent, over streams and in datagrams.", "bytes_out"),
    ("netd_datagrams_received", "Datagrams received.", "datagrams_in"),
    ("netd_datagrams_sent", "Datagrams sent.", "datagrams_out"),
    ("netd_errors", "Faults of netd or a handler, each with a traceback in the log.", "errors"),
]
_BY_REASON = [
    ("netd_refused", "Clients and datagrams turned away.", "refused"),
    ("netd_sessions_ended", "Sessions that have ended.", "ended"),
    ("netd_datagrams_dropped", "Datagrams not read whole or not answered.", "datagrams_dropped"),
]
_Services = Mapping[str, Mapping[str, Any]]


class Exposition(Collector):
    """All metrics of a report, as text."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = Lock()
        self._highest: dict[tuple[str, ...], float] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def encode(self, accept: str) -> tuple[bytes, str]:
        """(the text, its content type) in the format that an Accept header asks for."""
        encoder: Callable[[CollectorRegistry], bytes]
        encoder, kind = choose_encoder(accept)
        return encoder(self._registry), kind

    def describe(self) -> list[Metric]:
        """Nothing, so that registering costs no collection."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics at one instant."""
        with self._lock:
            daemon, services = self._report.daemon(), self._report.services()
            daemon |= daemon["configuration"]
            running = {name: state for name, state in services.items() if "open" in state}
            self._forget_all_but(running)
            yield from self._of_daemon(daemon)
            yield from self._of_services(running)
            yield _durations(running)

    def _of_daemon(self, daemon: Mapping[str, Any]) -> Iterator[Metric]:
        build = {"version": daemon["version"], "python": platform.python_version()}
        yield InfoMetricFamily("netd_build", "The version of netd.", build)
        for name, text, key in _GAUGES:
            if daemon[key] is not None:
                yield GaugeMetricFamily(name, text, daemon[key])
        for name, text, key in _COUNTERS:
            yield CounterMetricFamily(name, text, self._risen(daemon[key], name))

    def _of_services(self, services: _Services) -> Iterator[Metric]:
        listeners = GaugeMetricFamily("netd_listeners", "Listeners.", labels=["service"])
        for service, state in services.items():
            listeners.add_metric([service], len(state["listen"]))
        yield listeners
        for name, text, key in _SERVICE_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["service"])
            for service, state in services.items():
                if state[key] is not None:
                    gauge.add_metric([service], state[key])
            yield gauge
        for name, text, key in _SERVICE_COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["service"])
            for service, state in services.items():
                since = str(state["counted_since"])
                counter.add_metric([service], self._risen(state[key], name, service, since))
            yield counter
        for name, text, key in _BY_REASON:
            counter = CounterMetricFamily(name, text, labels=["service", "reason"])
            for service, state in services.items():
                for reason, number in sorted(state[key].items()):
                    counter.add_metric([service, reason], number)
            yield counter

    def _forget_all_but(self, services: _Services) -> None:
        """A service that has gone and comes again counts anew, which Prometheus understands."""
        current = {(name, str(state["counted_since"])) for name, state in services.items()}
        self._highest = {
            series: value
            for series, value in self._highest.items()
            if len(series) == 1 or series[1:] in current
        }

    def _risen(self, value: float, *series: str) -> float:
        """A value that is not lower than the last one of its series; to be called in order."""
        self._highest[series] = max(value, self._highest.get(series, 0))
        return self._highest[series]


def _durations(services: _Services) -> Metric:
    histogram = HistogramMetricFamily(
        "netd_session_duration_seconds",
        "How long sessions took that have ended.",
        labels=["service"],
    )
    bounds = [*map(floatToGoString, DURATIONS), "+Inf"]
    for service, state in services.items():
        buckets = list(zip(bounds, accumulate(state["durations"]), strict=True))
        histogram.add_metric([service], buckets, state["duration_sum"])
    return histogram
