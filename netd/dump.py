"""The configuration in force, as a file that reads back to the same."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from netd.config import Config, ServiceStanza

# Text that our reader, which goes by YAML 1.2, takes for a number, and the library, which goes by
# YAML 1.1, does not, so that it would write it without quotes.
_NUMBER: Final = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?|0o[0-7]+")
_FAST: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_DUMPER: Final[Any] = type("_Dumper", (_FAST,), {"ignore_aliases": lambda *_: True})


def _text(dumper: Any, text: str) -> Any:
    style = "'" if _NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_DUMPER.add_representer(str, _text)


def to_yaml(config: Config) -> str:
    """YAML with every key of a loaded configuration, each value in its own unit."""
    # The defaults and the included files have become part of the services.
    tree = config.model_dump(mode="json", by_alias=True, exclude={"include", "defaults"})
    for name, service in tree["services"].items():
        # What it is comes before what it inherits from Admission and the others.
        own = {key: service[key] for key in ServiceStanza.__annotations__}
        tree["services"][name] = own | service
    text: str = yaml.dump(tree, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    return text
