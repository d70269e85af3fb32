"""``trio-sched run``: a command that runs only while this host is scheduled."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from functools import partial
from typing import Any

import click
import trio

from trio_sched.cli.common import complete_strategy, path_argument
from trio_sched.cli.connect import Connection, Seconds, connection_options, usage_errors
from trio_sched.cli.exits import CannotRun, Exit, explain
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.run.child import check_command
from trio_sched.cli.run.config import ENVIRONMENT, check_run, config_option
from trio_sched.cli.run.host_options import host_options
from trio_sched.cli.run.life import RunSettings, run_command
from trio_sched.cli.run.seen import seen_options
from trio_sched.cli.run.signals import parse_on_lost
from trio_sched.cli.run.ticks import tick_options
from trio_sched.etcd_shim.lease import check_ttl
from trio_sched.exceptions import TrioSchedError
from trio_sched.model.keys import check_hostname
from trio_sched.model.records import MAX_COUNT
from trio_sched.scheduler import MAX_SESSION_TTL, MAX_TAKEOVER_PAUSE
from trio_sched.serving.address import CannotListen
from trio_sched.strategies import get_strategy, known_strategies

__all__ = ["run"]

_GRACE = 0.3  # of the TTL


class _StrategyOption(click.Option):
    """Searches all that is installed only when its help is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        known = ", ".join(known_strategies())
        self.help = f"How they are chosen: {known}, or one that is installed."
        return super().get_help_record(ctx)


_EXAMPLES = """\b
Examples:
  # a job that runs on one host of all that are started in this way
  trio-sched run /jobs/mailer -- mailer --foreground
  # on two of them, and again whenever it ends
  trio-sched run /jobs/worker -n 2 --restart -- worker
  # one host at a time; a host that comes after it has ended runs it again
  trio-sched run /jobs/backup --no-wait --once -- backup.sh
  # once an hour, on one of all hosts; with --once, from cron on each of them
  trio-sched run /jobs/report --once-per 1h -- report.sh
"""

_CODES = """\b
Exit codes:
  the command's own, 128+N if signal N ended it or us
  75  not scheduled in time, or the host name is in use
  76  the right to run was lost (with --once)
  69  etcd is unavailable
  70  a bug of trio-sched
  77  etcd does not permit it
  2   wrong usage, or an address that cannot be listened at
  126, 127  the command cannot be run, or was not found
"""


@click.command(
    context_settings=ENVIRONMENT,
    epilog=f"{_EXAMPLES}\n{_CODES}",
    options_metavar="[OPTIONS]",
    short_help="Run a command while this host is one of those chosen.",
)
@path_argument
@click.argument(
    "command",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
    metavar="-- COMMAND [ARGUMENTS]...",
)
@connection_options
@click.option(
    "--hostname",
    default=socket.gethostname,
    callback=usage_errors(check_hostname),
    show_default="this machine's",
    help="The name of this host; one for each that shares PATH.",
)
@click.option(
    "-n",
    "--max-count",
    type=click.IntRange(1, MAX_COUNT),
    default=1,
    show_default=True,
    help="How many hosts run it at a time, at most.",
)
@click.option(
    "--strategy",
    cls=_StrategyOption,
    default="rr",
    callback=usage_errors(get_strategy),
    show_default=True,
    shell_complete=complete_strategy,
)
@click.option(
    "--ttl",
    type=int,
    default=10,
    callback=usage_errors(partial(check_ttl, most=MAX_SESSION_TTL)),
    show_default=True,
    help="Seconds after which the others take over from a host that is cut off.",
)
@click.option(
    "--grace",
    type=Seconds(min=0),
    metavar="SECONDS",
    show_default="0.3 of the TTL",
    help="Time for the command to end, before it is killed. At most half the TTL.",
)
@click.option(
    "--takeover-pause",
    type=Seconds(min=0, max=MAX_TAKEOVER_PAUSE),
    metavar="SECONDS",
    default=0.5,
    show_default=True,
    help="Time to wait before a slot is taken that its holder did not release.",
)
@click.option(
    "--wait",
    type=Seconds(min=0),
    metavar="SECONDS",
    show_default="for ever",
    help="Give up unless the command starts within this time.",
)
@click.option("--no-wait", is_flag=True, help="Give up unless it starts at once.")
@click.option("--once", is_flag=True, help="End with the command, even if it was a loss.")
@click.option(
    "--restart", is_flag=True, help="Start the command again, even if it ended by itself."
)
@click.option(
    "--on-lost",
    default="term",
    metavar="term|signal:NAME",
    callback=lambda _context, _parameter, value: _on_lost(value),
    show_default=True,
    help="What asks the command to end when the right to run is lost.",
)
@click.option(
    "--reaper/--no-reaper",
    default=True,
    show_default=True,
    help="Should we be killed, let the next host start at once, and not after a TTL.",
)
@host_options
@tick_options
@seen_options
@config_option
@click.option("--check", is_flag=True, help="Run nothing: show what holds, and whether it works.")
def run(
    path: str,
    command: tuple[str, ...],
    connection: Connection,
    grace: float | None,
    ttl: int,
    *,
    check: bool,
    reporter: Reporter,
    **rest: Any,
) -> None:
    """Run COMMAND only while this host is one of those chosen for PATH.

    All hosts that run this for the same PATH and etcd find each other; at most
    MAX_COUNT of them run COMMAND. It is ended, with all that it has started, before
    another host may take its place. Signals are passed on to it.

    If it ends by itself, so do we, with its exit code. If the right to run is lost,
    it is ended, and started again when it is this host's turn again.
    """
    grace = ttl * _GRACE if grace is None else grace
    if grace > ttl / 2:
        raise click.UsageError(f"--grace must be at most half the TTL, {ttl / 2:g}; got {grace:g}")
    if rest["once"] and rest["restart"]:
        raise click.UsageError("give --once or --restart, not both")
    settings = RunSettings(path, command, connection, ttl=ttl, grace=grace, **rest)
    if check:
        sys.exit(check_run(path, command, connection, as_json=reporter.as_json))
    sys.exit(_run(settings, reporter))


def _run(settings: RunSettings, reporter: Reporter) -> int:
    """Do it; return the exit code."""
    logger = logging.getLogger("trio_sched")
    logger.addHandler(reporter)
    try:
        check_command(settings.command[0])
        return trio.run(run_command, settings, reporter)
    except (TrioSchedError, CannotRun) as error:
        code, words = explain(error, settings.connection)
        reporter.error(words, code)
        return code
    except CannotListen as error:
        reporter.error(str(error), Exit.USAGE)
        return Exit.USAGE
    except KeyboardInterrupt:  # before or after there was someone to listen for it
        return 128 + signal.SIGINT
    finally:
        logger.removeHandler(reporter)


def _on_lost(text: str) -> signal.Signals:
    try:
        return parse_on_lost(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc
