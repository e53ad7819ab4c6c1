"""What the daemon can be made to do with its services, as the control socket asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Operations(Protocol):
    """For any thread; one of these at a time. Each raises ConfigError for a
    configuration that cannot be used, and another NetdError for what cannot be done."""

    def reload(self, dry_run: bool) -> dict[str, Any]:
        """Reads the configuration anew and changes what it changes, or only tells what would."""

    def check(self, file: str | None) -> dict[str, Any]:
        """Reads a configuration, by default its own, and changes nothing."""

    def start_services(self, names: Sequence[str]) -> dict[str, str]:
        """Starts services that were stopped or drained; the state of each."""

    def stop_services(self, names: Sequence[str]) -> dict[str, str]:
        """Closes listeners and ends sessions; the state of each."""

    def drain_services(self, names: Sequence[str]) -> dict[str, str]:
        """Closes listeners; the state of each."""

    def enable_services(self, names: Sequence[str]) -> dict[str, str]:
        """Starts services that were disabled; the state of each."""

    def disable_services(self, names: Sequence[str]) -> dict[str, str]:
        """Drains services and keeps them from starting; the state of each."""
