"""The JSON Schema of the configuration, from the models that obey it.

Editors complete and check keys by it (`# yaml-language-server: $schema=netd.schema.json`). What a
protocol's `options` may hold depends on the protocol: `if protocol is X, then options are …`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from netd import catalog
from netd.config import Config, ServiceStanza
from netd.findings import models_in
from netd.stanza import Stanza, descriptions

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFS = "#/$defs/"


def json_schema() -> dict[str, Any]:
    """The schema of a file: of the one that is named, and of those that it includes."""
    protocols = {name: catalog.find(name).Options for name in catalog.own_names()}
    names, definitions = _definitions([Config, ServiceStanza, Stanza, *protocols.values()])
    definitions[names[Stanza]]["description"] = "There are no options."
    service = definitions[names[ServiceStanza]]
    _narrow_options(service, {name: names[model] for name, model in protocols.items()})
    config = definitions.pop(names[Config])
    properties = config["properties"]
    properties["services"] |= {"type": ["object", "null"], "additionalProperties": False}
    properties["defaults"] = {
        "description": properties["defaults"]["description"],
        "type": "object",
        "properties": {
            key: {"$ref": f"{_DEFS}{names[ServiceStanza]}/properties/{key}"}
            for key in service["properties"]
        },
        "additionalProperties": False,
    }
    return {"$schema": DIALECT, "title": "netd configuration", **config, "$defs": definitions}


def defaults_of(model: type[BaseModel]) -> dict[str, Any]:
    """The default of each key that has one, as it is written in a file."""
    optional = {key for key, field in model.model_fields.items() if not field.is_required()}
    return model.model_construct().model_dump(mode="json", include=optional)


def _definitions(
    models: list[type[BaseModel]],
) -> tuple[dict[type[BaseModel], str], dict[str, Any]]:
    """The name of each model's definition, and the definitions by name."""
    references, whole = models_json_schema([(model, "validation") for model in _with_inner(models)])
    names: dict[Any, str] = {
        model: ref["$ref"].removeprefix(_DEFS) for (model, _), ref in references.items()
    }
    definitions = {name: _tidied(schema) for name, schema in whole["$defs"].items()}
    for model, name in names.items():
        properties = definitions[name].get("properties", {})
        for key, text in descriptions(model).items():
            written = model.model_fields[key].alias or key
            properties[written] = {"description": text} | properties[written]
        for key, default in defaults_of(model).items():
            properties[key]["default"] = default  # pydantic shows those of durations as numbers
    return names, definitions


def _with_inner(models: list[type[BaseModel]]) -> list[type[BaseModel]]:
    """The models, and those that are values of their keys, each once."""
    found = dict.fromkeys(models)
    for model in models:
        for field in model.model_fields.values():
            found |= dict.fromkeys(_with_inner(models_in(field.annotation)))
    return [*found]


def _tidied(schema: Any) -> Any:
    """A schema without the titles that repeat the keys, and with each description in one line."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _tidied(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }
    if isinstance(text := kept.get("description"), str):
        kept["description"] = " ".join(text.split())
    return kept


def _narrow_options(service: dict[str, Any], definitions: dict[str, str]) -> None:
    """Ties the options to the protocol, by the names of their definitions."""
    service["allOf"] = [
        {
            "if": {"properties": {"protocol": {"const": name}}, "required": ["protocol"]},
            "then": {
                "properties": {
                    "options": {"anyOf": [{"$ref": f"{_DEFS}{definition}"}, {"type": "null"}]}
                }
            },
        }
        for name, definition in definitions.items()
    ]
    service["not"] = {"required": ["protocol", "handler"]}
    # Each may have its value in `defaults`, which may be in another file.
    service.pop("required", None)
    service["properties"]["protocol"]["examples"] = [*definitions]
