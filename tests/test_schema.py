"""The JSON Schema: what it takes and refuses, and that the file beside netd.yaml is it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import CHECKOUT, COMMAND, PATIENCE, environment
from jsonschema import Draft202012Validator
from written import faults, loaded

from netd import catalog, config, document, schema
from netd.config import Config, ServiceStanza

SHIPPED = CHECKOUT / "etc" / "netd.schema.json"
REGENERATE = "run: netd --schema > etc/netd.schema.json"
WHOLE = schema.json_schema()
VALIDATOR = Draft202012Validator(WHOLE)


def complaints(text: str) -> list[str]:
    """What an editor would complain of."""
    found = document.parse(text.encode(), "f")
    assert not found.problems
    return [error.message for error in VALIDATOR.iter_errors(found.value)]


def definition(name: str) -> Any:
    """The definition of a stanza."""
    return WHOLE["$defs"][name]


def nodes(tree: Any) -> list[dict[str, Any]]:
    """All mappings in a schema."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    own = [tree] if isinstance(tree, dict) else []
    return own + [node for value in inner for node in nodes(value)]


def test_it_is_a_schema() -> None:
    """Of the dialect that it names."""
    Draft202012Validator.check_schema(WHOLE)
    assert WHOLE["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    VALIDATOR.validate({})


def test_the_shipped_file_is_what_the_command_prints(tmp_path: Path) -> None:
    """A key that was added is known to editors too."""
    done = subprocess.run(
        [*COMMAND, "--schema"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == WHOLE
    assert SHIPPED.read_text() == done.stdout, REGENERATE


@pytest.mark.parametrize(
    "file", [config.BUILT_IN_FILE, CHECKOUT / "etc" / "netd.yaml"], ids=lambda file: file.name
)
def test_the_files_of_netd_satisfy_it(file: Path) -> None:
    """And they can be loaded, so that neither is stricter than the other."""
    assert not complaints(file.read_text())
    assert config.load(file).services


def test_the_file_for_production_names_the_schema_in_its_first_line() -> None:
    """By which editors find it, in the same folder."""
    first = (CHECKOUT / "etc" / "netd.yaml").read_text().partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={SHIPPED.name}"


RIGHT = [
    "{}",
    "services:",
    "services: {}",
    "services: {s: {protocol: upper, listen: ['tcp://[::1]:9', 'unix:a', 'fd:x']}}",
    "services: {s: {protocol: upper, listen: [fd:a], options: }}",
    "services: {s: {protocol: daytime, listen: [fd:a], options: {utc: true}}}",
    "services: {s: {protocol: qotd, listen: [fd:a], options: {quotes: [a], pick: daily}}}",
    "services: {s: {handler: 'netd.protocols.echo:EchoHandler', listen: [fd:a]}}",
    "services: {s: {protocol: upper, listen: [fd:a], idle_timeout: 1h30m, reply_rate: none}}",
    "services: {s: {protocol: upper, listen: [fd:a], receive_buffer: 65536, send_buffer: 1MiB}}",
    "services: {s: {protocol: upper, listen: [fd:a], max_connections: null}}",
    "services: {s: {protocol: upper, listen: [fd:a], socket_mode: 0660}}",
    "defaults: {protocol: echo, idle_timeout: 5m}\nservices: {s: {listen: [fd:a]}}",
    "control: {path: /run/x/control.sock}\nlog: {level: debug}\ndrain_timeout: none",
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_passes(tmp_path: Path, text: str) -> None:
    """In the editor as in netd."""
    assert not complaints(text)
    assert loaded(tmp_path, text)


WRONG = [
    "5",
    "service: {}",
    "services: [a]",
    "services: {'a b': {protocol: upper, listen: [fd:a]}}",
    "services: {s: }",
    "services: {s: {protocol: upper, listen: fd:a}}",
    "services: {s: {protocol: upper, listen: []}}",
    "services: {s: {protocol: upper, listen: [localhost]}}",
    "services: {s: {protocol: upper, listen: ['tcp://h']}}",
    "services: {s: {protocol: upper, handler: 'a:b', listen: [fd:a]}}",
    "services: {s: {protocol: upper, listen: [fd:a], idle_timout: 5m}}",
    "services: {s: {protocol: upper, listen: [fd:a], idle_timeout: 5}}",
    "services: {s: {protocol: upper, listen: [fd:a], idle_timeout: 5 minutes}}",
    "services: {s: {protocol: upper, listen: [fd:a], receive_buffer: 64kb}}",
    "services: {s: {protocol: upper, listen: [fd:a], reply_rate: 5}}",
    "services: {s: {protocol: upper, listen: [fd:a], socket_mode: 660}}",
    "services: {s: {protocol: upper, listen: [fd:a], enabled: no}}",
    "services: {s: {protocol: upper, listen: [fd:a], backlog: '9'}}",
    "services: {s: {protocol: upper, listen: [fd:a], backlog: 0}}",
    "services: {s: {protocol: upper, listen: [fd:a], source_prefix: {ipv4: 33}}}",
    "services: {s: {protocol: upper, listen: [fd:a], only_from: 10.0.0.0/8}}",
    "services: {s: {protocol: upper, listen: [fd:a], options: {loud: true}}}",
    "services: {s: {protocol: daytime, listen: [fd:a], options: {utc: 1}}}",
    "services: {s: {protocol: qotd, listen: [fd:a], options: {pick: never}}}",
    "services: {s: {protocol: upper, listen: [fd:a], options: 5}}",
    "defaults: {idle_timeout: 5}",
    "defaults: {idle_timout: 5m}",
    "defaults:",
    "log: {level: warn}",
    "log:",
    "control: {path: control.sock}",
    "include: conf.d/*.yaml",
    "max_threads: 0",
    "drain_timeout: 10",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_complained_of(tmp_path: Path, text: str) -> None:
    """In the editor as by netd."""
    assert complaints(text)
    assert faults(tmp_path, text)


@pytest.mark.parametrize("name", ["Config", "ServiceStanza", "LogOptions", "SourcePrefix"])
def test_every_key_is_described_in_one_line(name: str) -> None:
    """By the docstring of its declaration."""
    found = WHOLE if name == "Config" else definition(name)
    for key, value in found["properties"].items():
        if "$ref" in value:
            value = definition(value["$ref"].rpartition("/")[2])
        assert value.get("description"), key
    for node in nodes(WHOLE):
        if isinstance(text := node.get("description"), str):
            assert text == " ".join(text.split())


def test_what_has_no_options_says_so() -> None:
    """An editor shows it on the key."""
    assert definition("Stanza") == {
        "additionalProperties": False,
        "description": "There are no options.",
        "properties": {},
        "type": "object",
    }


def test_defaults_are_shown_as_they_are_written() -> None:
    """In their units, since a number alone would be refused."""
    properties = definition("ServiceStanza")["properties"]
    written = {key: properties[key]["default"] for key in properties if key != "listen"}
    assert written["idle_timeout"] == "5m"
    assert written["socket_mode"] == "0660"
    assert written["reply_rate"] == "1000/s"
    assert WHOLE["properties"]["drain_timeout"]["default"] == "10s"
    assert "default" not in properties["listen"]
    service = {"protocol": "upper", "listen": ["fd:a"]}
    for key in {*written} - {"protocol", "handler"}:
        VALIDATOR.validate({"services": {"s": service | {key: written[key]}}})


def test_defaults_of_a_model_are_those_of_its_keys() -> None:
    """What has none is required."""
    defaults = schema.defaults_of(ServiceStanza)
    assert set(ServiceStanza.model_fields) - set(defaults) == {"listen"}
    assert defaults["session_timeout"] == "none"
    assert schema.defaults_of(Config)["log"]["level"] == "info"


def test_every_protocol_is_offered_with_its_options() -> None:
    """An editor completes both."""
    service = definition("ServiceStanza")
    assert service["properties"]["protocol"]["examples"] == catalog.own_names()
    tied = {choice["if"]["properties"]["protocol"]["const"]: choice for choice in service["allOf"]}
    assert [*tied] == catalog.own_names()
    for name, choice in tied.items():
        reference = choice["then"]["properties"]["options"]["anyOf"][0]["$ref"]
        options = definition(reference.rpartition("/")[2])
        assert set(options["properties"]) == set(catalog.find(name).Options.model_fields)
        assert options["additionalProperties"] is False


def test_every_reference_leads_somewhere() -> None:
    """To a definition, or to a key of one."""
    for node in nodes(WHOLE):
        if isinstance(reference := node.get("$ref"), str):
            found = WHOLE
            for part in reference.removeprefix("#/").split("/"):
                found = found[part]
            assert found
