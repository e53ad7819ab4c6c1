"""What is to be served: the configuration, and what was said since."""

from __future__ import annotations

import pytest

from netd.config import Config
from netd.intent import Intent, UnknownServiceError


def config(**enabled: bool) -> Config:
    """Services that are enabled, or not."""
    stanza = {"protocol": "echo", "listen": ["tcp://127.0.0.1:0"]}
    services = {name: stanza | {"enabled": yes} for name, yes in enabled.items()}
    return Config.model_validate({"services": services})


BOTH = Intent(config(on=True, off=False))


def test_the_configuration_says_what_runs() -> None:
    """As long as nobody says otherwise."""
    assert [*BOTH.wanted] == ["on"]


def test_a_service_is_started_and_stopped() -> None:
    """Whether the configuration has it enabled or not; and the last word counts."""
    assert [*BOTH.start(["off"], True).wanted] == ["on", "off"]
    assert [*BOTH.start(["on", "off"], False).wanted] == []
    assert [*BOTH.start(["on"], False).start(["on"], True).wanted] == ["on"]
    assert [*BOTH.wanted] == ["on"]


def test_a_disabled_service_is_stopped_for_good() -> None:
    """It can be started, and is disabled all the same; enabled, it runs."""
    disabled = BOTH.enable(["on"], False)
    assert (disabled.enabled, [*disabled.wanted]) == ({"on": False}, [])
    started = disabled.start(["on"], True)
    assert (started.is_enabled("on"), [*started.wanted]) == (False, ["on"])
    assert started.enable(["on"], False).wanted == {}
    assert [*disabled.enable(["on"], True).wanted] == ["on"]


def test_what_the_configuration_says_too_is_not_kept() -> None:
    """So that the file is the master again."""
    assert BOTH.enable(["off"], True).enabled == {"off": True}
    assert BOTH.enable(["off"], True).enable(["off"], False).enabled == {}
    assert BOTH.enable(["on"], True).enabled == {}


def test_another_configuration_keeps_what_was_said_of_its_services() -> None:
    """Others that are disabled still are when they come back; nobody has started them."""
    said = BOTH.start(["on"], False).enable(["off"], True)
    renewed = said.under(config(on=True, new=True))
    assert [*renewed.wanted] == ["new"]
    assert [*renewed.under(config(off=False, on=True)).wanted] == ["off"]
    off = BOTH.enable(["on"], False).start(["off"], True).under(config(new=True))
    assert [*off.under(config(on=True, off=False)).wanted] == []


@pytest.mark.parametrize(
    ("name", "hint"), [("onn", "did you mean on?"), ("x", "there are: off, on")]
)
def test_an_unknown_service_is_named(name: str, hint: str) -> None:
    """With the one that was meant, and nothing is changed for the others."""
    with pytest.raises(UnknownServiceError) as caught:
        BOTH.start(["on", name], False)
    assert str(caught.value) == f"there is no service {name!r} ({hint})"
