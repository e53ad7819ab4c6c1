"""The command `netd`: the daemon."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress

import click

from netd import __version__, config, detach, dump, schema
from netd.config import Config, Source
from netd.errors import ConfigError, StartError
from netd.startup import CONFIGURATION, Startup
from netd.text import counted

USAGE = 64


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Signals: TERM and INT drain, then end (a second one at once); HUP reads the"
    " configuration again; USR1 writes the state to the log; USR2 reopens the log file."
    " Exit status: 0 done, 64 usage, 71 cannot bind, 75 already running, 77 permission,"
    " 78 configuration.",
)
@click.option("-c", "--config", "file", metavar="FILE",
              help="Configuration (/etc/netd/netd.yaml if there, else built in).")  # fmt: skip
@click.option("-t", "--check", is_flag=True, help="Check the configuration and exit.")
@click.option("-T", "--dump-config", is_flag=True, help="Print the effective configuration.")
@click.option("--schema", "print_schema", is_flag=True, help="Print the JSON Schema of it.")
@click.option("-D", "--daemon", "detached", is_flag=True, help="Run in the background.")
@click.option("--pid-file", metavar="FILE", help="Write the process id there, and lock it.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]),
              help="In place of the configuration's.")  # fmt: skip
@click.version_option(__version__, prog_name="netd")
def command(
    file: str | None,
    check: bool,
    dump_config: bool,
    print_schema: bool,
    detached: bool,
    pid_file: str | None,
    log_level: str | None,
) -> None:
    """Runs many small network services in one daemon, in the foreground."""
    if print_schema:
        click.echo(json.dumps(schema.json_schema(), indent=2))
        return
    source = Source(config.choose_file(file), log_level)
    loaded = source.load(may_be_empty=True)
    if dump_config:
        click.echo(dump.to_yaml(loaded), nl=False)
    elif check:
        click.echo(f"{source.file}: configuration OK, {counted(len(loaded.services), 'service')}")
    else:
        # In the background the working directory is another one.
        run(loaded, source.absolute(), detached, pid_file)


def run(loaded: Config, source: Source, detached: bool, pid_file: str | None) -> None:
    """Starts, here or in the background, and serves until the end. Raises StartError."""
    with Startup(loaded, source, pid_file) as startup:
        if detached:
            if loaded.log.file is None:
                tell("netd: in the background nothing is logged without the key log.file")
            startup.start_detached()
        else:
            startup.start()
        startup.serve()


def tell(text: str) -> None:
    """Writes to standard error what is wrong; where that goes to the journal, as an error.

    Nobody may be there to read it: the exit status tells it too."""
    status = os.fstat(2)
    journal = os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    with suppress(OSError):
        for line in text.splitlines():
            click.echo(f"<3>{line}" if journal else line, err=True)


def main() -> None:
    """The entry point: every error becomes a line on standard error and an exit status."""
    detach.fill_standard_streams()
    # Until the daemon has its own way with it, the interrupt key ends netd without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        command(standalone_mode=False)
    except click.UsageError as error:
        tell(f"netd: {error.format_message()} (see `netd --help`)")
        sys.exit(USAGE)
    except ConfigError as error:
        tell(str(error))
        sys.exit(CONFIGURATION)
    except StartError as error:
        tell("\n".join(f"netd: {line}" for line in str(error).splitlines()))
        sys.exit(error.status)
