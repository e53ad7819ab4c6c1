"""What a reload would change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.config import Config
from netd.difference import FIXED, compare


def service(**keys: Any) -> dict[str, Any]:
    """A service."""
    return {"protocol": "echo", "listen": ["tcp://127.0.0.1:9007"], **keys}


def config(services: dict[str, Any] | None = None, **keys: Any) -> Config:
    """A configuration."""
    return Config.model_validate({"services": services or {}, **keys})


def test_services_are_compared_key_by_key() -> None:
    """With values as they stand in YAML."""
    old = config({"same": service(), "gone": service(), "it": service(idle_timeout="5m")})
    changed = service(
        idle_timeout="30s", source_prefix={"ipv4": 24}, listen=["udp://127.0.0.1:9007"]
    )
    found = compare(old, config({"it": changed, "same": service(), "new": service()})).data()
    assert found == {
        "added": ["new"],
        "removed": ["gone"],
        "changed": {
            "it": [
                {"key": "idle_timeout", "old": "5m", "new": "30s"},
                {"key": "source_prefix.ipv4", "old": 32, "new": 24},
                {
                    "key": "listen",
                    "old": ["tcp://127.0.0.1:9007"],
                    "new": ["udp://127.0.0.1:9007"],
                },
            ]
        },
        "unchanged": 1,
        "daemon": [],
        "restart_needed": [],
    }


@pytest.mark.parametrize(
    ("keys", "needed"),
    [
        ({"log": {"level": "error"}}, []),
        ({"user": "nobody"}, ["user"]),
        ({"control": {"path": "/run/x.sock"}}, ["control.path"]),
        ({"status": {"listen": "127.0.0.1:9464"}}, ["status.listen"]),
    ],
)
def test_keys_that_a_reload_cannot_change_are_told_apart(
    keys: dict[str, Any], needed: list[str]
) -> None:
    """They are what was decided before privileges were dropped."""
    found = compare(config(), config(**keys))
    assert len(found.daemon) == 1
    assert found.restart_needed == needed


@pytest.mark.parametrize("key", FIXED)
def test_those_keys_exist(key: str) -> None:
    """A key that is renamed is renamed there too."""
    assert key in Config.model_fields


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)),
       st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)))  # fmt: skip
def test_each_service_is_counted_once(before: dict[str, int], after: dict[str, int]) -> None:
    """It is added, removed, changed, or the same."""

    def configured(limits: dict[str, int]) -> Config:
        return config({name: service(max_connections=n) for name, n in limits.items()})

    found = compare(configured(before), configured(after))
    assert {*found.added} == after.keys() - before.keys()
    assert {*found.removed} == before.keys() - after.keys()
    both = before.keys() & after.keys()
    assert found.changed.keys() == {name for name in both if before[name] != after[name]}
    assert found.unchanged == len(both) - len(found.changed)
    parts = [
        f"{n} {what}"
        for n, what in (
            (len(found.added), "added"),
            (len(found.changed), "changed"),
            (len(found.removed), "removed"),
            (found.unchanged, "unchanged"),
        )
        if n
    ]
    assert str(found) == "services: " + (", ".join(parts) or "none")
