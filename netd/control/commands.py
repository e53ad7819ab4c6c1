"""What each command does, and the data that it returns: DESIGN names them, and
`netd.control.table` describes them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netd import log
from netd.bans import Ban, Bans
from netd.control import sessions
from netd.control.operations import Operations
from netd.control.request import CommandError, Request
from netd.errors import ConfigError, NetdError
from netd.explanation import Step
from netd.findings import nearest
from netd.networks import Network
from netd.report import Report
from netd.unit import Unit

Do = Callable[[Mapping[str, Any]], Any]
"""Does a command, with its arguments, and returns its data. Raises CommandError."""

# What is no counter, in what a service tells of itself.
_NO_COUNTERS = ("state", "since", "counted_since", "protocol", "listen", "silence")


class Commands:
    """All commands of the table. Those that alter services, `Commands.changing`, are to be done
    one at a time; the others at any time, on any thread."""

    changing = frozenset(
        {"start", "stop", "drain", "enable", "disable", "reload", "check"},
    )

    def __init__(
        self,
        report: Report,
        bans: Bans,
        operations: Operations,
        shutdown: Callable[[bool], None],
        keep: Callable[[], None],
    ) -> None:
        """`operations` does what the daemon alone can do: `netd.control.operations`; `shutdown`
        ends it, at once if it is True, and returns before that; `keep` is called when there are
        other bans."""
        self._report, self._bans = report, bans
        self._operations = operations
        self._end, self._keep = shutdown, keep
        self._known: dict[str, Do] = {
            "status": self._status, "list": self._list, "stats": self._stats,
            "sessions": self._sessions, "kill": self._kill, "explain": self._explain,
            "ban": self._ban, "unban": self._unban, "bans": self._list_bans,
            "reload": self._reload, "check": self._check, "log-level": self._log_level,
            "shutdown": self._shutdown,
            "start": self._changes(operations.start_services),
            "stop": self._changes(operations.stop_services),
            "drain": self._changes(operations.drain_services),
            "enable": self._changes(operations.enable_services),
            "disable": self._changes(operations.disable_services),
        }  # fmt: skip

    def do(self, request: Request) -> Any:
        """Does a command, and returns its data. Raises CommandError."""
        try:
            return self._known[request.command.name](request.arguments)
        except ConfigError as error:
            many = len(error.problems)
            what = f"the configuration cannot be used: {many} fault{'s' * (many != 1)}"
            raise CommandError("configuration", what, error.problems) from None
        except CommandError:
            raise
        except NetdError as error:
            raise CommandError("refused", str(error)) from None

    # -- looking

    def _status(self, given: Mapping[str, Any]) -> Any:
        return self._report.status(self._one(given["service"]))

    def _list(self, _given: Mapping[str, Any]) -> Any:
        return [
            {
                "name": name,
                "protocol": state["protocol"],
                "state": state["state"],
                "listen": state.get("listen", []),
                "open": state.get("open", 0),
            }
            for name, state in self._report.services().items()
        ]

    def _stats(self, given: Mapping[str, Any]) -> Any:
        status = self._report.status(self._one(given["service"]))
        services = {
            name: {key: value for key, value in state.items() if key not in _NO_COUNTERS}
            for name, state in status["services"].items()
        }
        return {"daemon": status["daemon"], "services": services}

    def _sessions(self, given: Mapping[str, Any]) -> Any:
        name = self._one(given["service"])
        units = [u for u in self._report.units if name is None or u.service.name == name]
        return sessions.listed(units)

    def _explain(self, given: Mapping[str, Any]) -> Any:
        unit = self._running(given["service"])
        at = time.time() if given["at"] is None else given["at"]
        steps = unit.service.gate.explain(given["peer"], at, given["datagram"])
        decisive = decisive_step(steps)
        return {
            "service": unit.service.name,
            "peer": given["peer"],
            "at": round(at, 3),
            "decision": "admit" if decisive is None else decisive["verdict"],
            "reason": None if decisive is None else decisive["reason"],
            "steps": steps,
        }

    # -- clients

    def _kill(self, given: Mapping[str, Any]) -> Any:
        ids = given["ids"]
        killed = sessions.kill(self._report.units, ids)
        if not killed:
            raise CommandError(
                "refused",
                f"there is no session {', '.join(ids[:5])}{', …' * (len(ids) > 5)} that could be"
                " ended (`netctl sessions` shows those that are open)",
            )
        return {
            "killed": [id for id in ids if id in killed],
            "unknown": [id for id in ids if id not in killed],
        }

    def _ban(self, given: Mapping[str, Any]) -> Any:
        until = None if given["for"] is None else time.time() + given["for"]
        ban = self._bans.ban(given["source"], until, given["why"] or "", given["force"])
        self._keep()
        return _shown(ban)

    def _unban(self, given: Mapping[str, Any]) -> Any:
        networks: list[Network] = given["sources"]
        unbanned = [str(network) for network in networks if self._bans.unban(network)]
        if not unbanned:
            raise CommandError("refused", "; ".join(map(self._not_banned, networks[:5])))
        self._keep()
        return {"unbanned": unbanned}

    def _not_banned(self, network: Network) -> str:
        holding = self._bans.find(str(network.network_address))
        if holding is None or holding.network.prefixlen > network.prefixlen:
            return f"{network} is not banned (`netctl bans` lists those that are)"
        return (
            f"{network} is banned as a part of {holding.network}"
            f" (`netctl unban {holding.network}` lets all of that in)"
        )

    def _list_bans(self, _given: Mapping[str, Any]) -> Any:
        return [_shown(ban) for ban in self._bans.listed()]

    # -- services

    def _changes(self, operation: Callable[[Sequence[str]], dict[str, str]]) -> Do:
        def change(given: Mapping[str, Any]) -> Any:
            names = [self._checked(name) for name in given["services"]]
            return {"services": operation(names)}

        return change

    def _reload(self, given: Mapping[str, Any]) -> Any:
        return self._operations.reload(given["dry_run"])

    def _check(self, given: Mapping[str, Any]) -> Any:
        return self._operations.check(given["file"])

    def _one(self, name: str | None) -> str | None:
        return None if name is None else self._checked(name)

    def _checked(self, name: str) -> str:
        """The name of a service that is configured. Raises CommandError."""
        known = self._report.names
        if name in known:
            return name
        hint = nearest(name, known) if known else "there are none"
        raise CommandError("refused", f"there is no service {name!a} ({hint})")

    def _running(self, name: str) -> Unit:
        self._checked(name)
        if (unit := self._report.find(name)) is not None and unit.is_listening:
            return unit
        what = "does not run" if unit is None else "takes nobody in"
        raise CommandError("refused", f"{name} {what} (`netctl start {name}` starts it)")

    # -- the daemon

    def _log_level(self, given: Mapping[str, Any]) -> Any:
        was = logging.getLevelName(logging.getLogger().level).lower()
        if (level := given["level"]) is not None:
            log.output().set_level(level)
        return {"level": level or was, "was": was}

    def _shutdown(self, given: Mapping[str, Any]) -> Any:
        self._end(given["now"])
        return {"shutdown": "now" if given["now"] else "drain"}


def decisive_step(steps: list[Step]) -> Step | None:
    """The rule that turns a client away, or else the one that has it wait; None if it comes in."""
    for verdict in ("refuse", "delay"):
        for step in steps:
            if step["verdict"] == verdict:
                return step
    return None


def _shown(ban: Ban) -> dict[str, Any]:
    until = None if ban.until is None else round(ban.until, 3)
    return {"network": str(ban.network), "until": until, "why": ban.why}
