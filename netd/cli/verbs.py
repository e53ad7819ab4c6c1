"""The verbs of netctl as click knows them, made of the table of commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from netd import __version__
from netd.cli.completion import completer
from netd.client.control import TIMEOUT
from netd.control.table import COMMANDS, Command, Level, Parameter

Run = Callable[[Command, dict[str, Any], dict[str, Any]], None]
"""Does a command with arguments, under the options of netctl itself."""

LEVELS = {
    Level.USER: "For everybody who may use the control socket",
    Level.OPERATOR: "For operators, such as the members of control.group",
    Level.ADMIN: "For administrators: root, and the user of netd",
}
USERS = "users"
"""The verb that does not ask netd, but works on a file."""
_HELP = {"help_option_names": ["-h", "--help"]}
_AS_JSON = "Print the data as one JSON document."
_EPILOG = (
    "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 netd is not running, 4 no"
    " permission."
)


class Verb(click.Command):
    """A verb, whose help tells of its arguments too."""

    def __init__(self, entry: Command, run: Run) -> None:
        as_json = click.Option(["--json", "as_json"], is_flag=True, help=_AS_JSON)
        super().__init__(
            entry.name,
            context_settings=_HELP,
            params=[*(_parameter(entry, each) for each in entry.parameters), as_json],
            callback=click.pass_context(lambda context, **given: _run(context, entry, run, given)),
            help=f"{entry.summary}\n\n{entry.details}".strip(),
            short_help=entry.summary,
            epilog=f"{LEVELS[entry.level]}.",
        )
        self._entry = entry

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The arguments, then the options."""
        rows = [
            (metavar(each), _described(each))
            for each in self._entry.parameters
            if not each.is_option
        ]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)


class Verbs(click.Group):
    """netctl itself: its verbs in the order of the table, sorted by who may use them."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            "netctl",
            commands={name: Verb(entry, run) for name, entry in COMMANDS.items()},
            context_settings=_HELP,
            params=[
                click.Option(["--socket"], metavar="PATH",
                             type=click.Path(),
                             help="The control socket; else that of NETD_CONTROL, of this user's"
                             " netd, or of the system's."),
                click.Option(["--timeout"], metavar="SECONDS", default=TIMEOUT, show_default=True,
                             type=click.FloatRange(0.1, 3600),
                             help="How long an answer may take."),
                click.Option(["--json", "as_json"], is_flag=True, help=_AS_JSON),
            ],
            help="Asks a netd that runs, and tells it what to do.",
            epilog=_EPILOG,
            no_args_is_help=False,
        )  # fmt: skip
        click.version_option(__version__, prog_name="netctl")(self)

    def list_commands(self, _: click.Context) -> list[str]:
        """The verbs, in the order of the table; and those that work on the file of users."""
        return [*self.commands, USERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A verb by its name."""
        if cmd_name != USERS:
            return super().get_command(ctx, cmd_name)
        from netd.cli.users import users  # it loads much that no other verb needs

        return users

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """A section for each level."""
        for level, title in LEVELS.items():
            entries = [entry for entry in COMMANDS.values() if entry.level == level]
            with formatter.section(title):
                formatter.write_dl([(entry.name, entry.summary) for entry in entries])
        with formatter.section("For whoever may write the file of users"):
            formatter.write_dl([(USERS, "Users of services with `auth`, and their keys.")])


def _run(context: click.Context, entry: Command, run: Run, given: dict[str, Any]) -> None:
    settings = dict(context.find_root().params)
    settings["as_json"] |= given.pop("as_json")
    arguments = {
        name: [*value] if isinstance(value, tuple) else value
        for name, value in given.items()
        if value not in (None, False, ())
    }
    run(entry, settings, arguments)


def _parameter(entry: Command, each: Parameter) -> click.Parameter:
    kind: click.Choice[str] | click.Path | None = None
    if each.choices:
        kind = click.Choice(each.choices)
    elif each.kind == "path":
        kind = click.Path()
    completes = completer(each.kind, entry.name)
    if each.is_option:
        is_flag = each.kind == "flag"
        return click.Option(
            [f"--{each.name.replace('_', '-')}", each.name], is_flag=is_flag, type=kind,
            required=each.required, multiple=each.many, help=_described(each),
            metavar=None if is_flag else each.kind.upper(), shell_complete=completes,
        )  # fmt: skip
    name = metavar(each)
    return click.Argument(
        [each.name], required=each.required, nargs=-1 if each.many else 1, type=kind,
        metavar=name if each.required else f"[{name}]", shell_complete=completes,
    )  # fmt: skip


def _described(each: Parameter) -> str:
    if each.kind == "flag":
        return each.summary
    return f"{each.summary} ({each.form[:1].upper()}{each.form[1:]}.)"


def metavar(each: Parameter) -> str:
    """What stands for the value of an argument in a usage line."""
    name = each.name.upper()
    return f"{name.removesuffix('S')}..." if each.many else name
