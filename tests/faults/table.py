"""The table: every fault that netd survives."""

from __future__ import annotations

from faults import (
    answers,
    clocks,
    control,
    datagrams,
    documents,
    excess,
    handshakes,
    lifecycle,
    links,
    masses,
    output,
    reloads,
    shortages,
    streams,
)
from faults.fault import Fault

FAULTS: list[Fault] = [
    *streams.FAULTS,
    *excess.FAULTS,
    *datagrams.FAULTS,
    *links.FAULTS,
    *shortages.FAULTS,
    *documents.FAULTS,
    *lifecycle.FAULTS,
    *reloads.FAULTS,
    *output.FAULTS,
    *clocks.FAULTS,
    *control.FAULTS,
    *answers.FAULTS,
    *handshakes.FAULTS,
]

SOAKS: list[Fault] = [
    *masses.SOAKS,
    *streams.SOAKS,
    *links.SOAKS,
    *answers.SOAKS,
    *handshakes.SOAKS,
]
"""Those that take minutes, or all of a machine."""
