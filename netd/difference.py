"""What a reload would change: two configurations, key by key."""

from __future__ import annotations

from typing import Any, NamedTuple

from netd.config import Config
from netd.stanza import Stanza

# What is decided before privileges are dropped, or what others know this process by.
FIXED = ("control", "status", "user", "group")


class KeyChange(NamedTuple):
    """A key whose value is another, with both values as they stand in YAML."""

    key: str
    old: Any
    new: Any


class Difference(NamedTuple):
    """What another configuration would change."""

    added: list[str]
    """Services that come."""
    removed: list[str]
    """Services that go."""
    changed: dict[str, list[KeyChange]]
    """Services of which some keys are others."""
    unchanged: int
    """How many services stay as they are."""
    daemon: list[KeyChange]
    """Keys outside the services."""

    @property
    def restart_needed(self) -> list[str]:
        """Keys among those outside the services that a reload does not change."""
        return [change.key for change in self.daemon if change.key.split(".")[0] in FIXED]

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "added": self.added,
            "removed": self.removed,
            "changed": {name: _data(changes) for name, changes in self.changed.items()},
            "unchanged": self.unchanged,
            "daemon": _data(self.daemon),
            "restart_needed": self.restart_needed,
        }

    def __str__(self) -> str:
        counts = [
            (len(self.added), "added"),
            (len(self.changed), "changed"),
            (len(self.removed), "removed"),
            (self.unchanged, "unchanged"),
        ]
        told = [f"{number} {what}" for number, what in counts if number]
        return "services: " + (", ".join(told) or "none")


def compare(old: Config, new: Config) -> Difference:
    """What is another in `new`."""
    both = [name for name in new.services if name in old.services]
    changed = {
        name: _changes(old.services[name], new.services[name])
        for name in both
        if old.services[name] != new.services[name]
    }
    return Difference(
        added=[name for name in new.services if name not in old.services],
        removed=[name for name in old.services if name not in new.services],
        changed=changed,
        unchanged=len(both) - len(changed),
        daemon=_changes(old, new, {"services", "include", "defaults"}),
    )


def in_force(old: Config, new: Config) -> Config:
    """What holds after a reload: `new`, but for the keys that take a restart."""
    return new.model_copy(update={key: getattr(old, key) for key in FIXED})


def _changes(old: Stanza, new: Stanza, leave_out: set[str] | None = None) -> list[KeyChange]:
    before = _flat(old.model_dump(mode="json", exclude=leave_out))
    after = _flat(new.model_dump(mode="json", exclude=leave_out))
    return [
        KeyChange(key, before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of a mapping, by their paths with dots."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{above}{key}.")
        else:
            found[above + key] = value
    return found


def _data(changes: list[KeyChange]) -> list[dict[str, Any]]:
    return [change._asdict() for change in changes]
