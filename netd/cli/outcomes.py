"""What the verbs say that change something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.text import Text

from netd.cli import paint
from netd.cli.figures import span
from netd.cli.layout import lines
from netd.cli.listings import ends
from netd.text import counted


def states(data: Any, _: int | None) -> list[Text]:
    """The state that each service is in now."""
    return [Text(f"{name}: ") + paint.state(word) for name, word in data["services"].items()]


def killed(data: Any, _: int | None) -> list[Text]:
    """How many sessions were ended."""
    return lines(f"ended {counted(len(data['killed']), 'session')}")


def banned(data: Any, _: int | None) -> list[Text]:
    """The ban that was made."""
    why = f" ({data['why']})" if data["why"] else ""
    return lines(f"banned {data['network']} until {ends(data['until'])}{why}")


def unbanned(data: Any, _: int | None) -> list[Text]:
    """The bans that were lifted."""
    return lines(*(f"unbanned {network}" for network in data["unbanned"]))


def checked(data: Any, _: int | None) -> list[Text]:
    """That a configuration is good."""
    return lines(f"{data['file']}: configuration OK, {counted(data['services'], 'service')}")


def log_level(data: Any, _: int | None) -> list[Text]:
    """How much is logged."""
    level, was = data["level"], data["was"]
    return lines(level if was in (None, level) else f"{level} (was {was})")


def shut_down(data: Any, _: int | None) -> list[Text]:
    """How netd ends."""
    if data["shutdown"] == "now":
        return lines("netd ends now")
    return lines("netd drains: it takes nobody in any more, and ends when its sessions have ended")


def reloaded(data: Any, _: int | None) -> list[Text]:
    """The difference between two configurations, like that of two files."""
    found = [paint.added(f"+ {name}") for name in data["added"]]
    found += [paint.removed(f"- {name}") for name in data["removed"]]
    daemon = {"(netd as a whole)": data["daemon"]} if data["daemon"] else {}
    for name, changes in {**data["changed"], **daemon}.items():
        found.append(paint.changed(f"~ {name}"))
        for change in changes:
            found += _change(change)
    found += lines(_summary(data))
    if keys := data["restart_needed"]:
        found.append(paint.changed(f"only a restart changes: {', '.join(keys)}"))
    if data["dry_run"]:
        found += lines("dry run: nothing was changed")
    return found


def _change(change: dict[str, Any]) -> Iterator[Text]:
    if change["old"] is not None:
        yield paint.removed(f"    - {change['key']}: {_written(change['old'])}")
    if change["new"] is not None:
        yield paint.added(f"    + {change['key']}: {_written(change['new'])}")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _summary(data: Any) -> str:
    numbers = (
        (len(data["added"]), "added"), (len(data["removed"]), "removed"),
        (len(data["changed"]), "changed"), (data["unchanged"], "unchanged"),
    )  # fmt: skip
    told = ", ".join(f"{number} {word}" for number, word in numbers if number)
    return f"services: {told or 'none'}; in {span(data['took'])}"
