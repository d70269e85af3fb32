"""The options of ``trio-sched run`` by which others see what it does."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from trio_sched.cli.reporter import Reporter
from trio_sched.cli.run.lines import line_of
from trio_sched.cli.run.notify import Notifier
from trio_sched.serving.address import Address

__all__ = ["address_option", "seen_options"]

F = TypeVar("F", bound=Callable[..., Any])

_RANKS = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)


def _address(_context: click.Context, _parameter: click.Parameter, text: Any) -> Address | None:
    if text is None:
        return None
    try:
        return Address.parse(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def address_option(name: str, help: str, default: str | None = None) -> Callable[[F], F]:  # noqa: A002 # click's
    """Return an option whose value is an `Address`, or None."""
    return click.option(
        name,
        metavar="ADDRESS",
        callback=_address,
        default=default,
        show_default=default is not None,
        help=help,
    )


_OPTIONS = (
    click.option("--json", is_flag=True, help="Say everything as JSON lines."),
    address_option(
        "--http", help="Serve /healthz, /readyz, /scheduled, /status and /metrics at [HOST:]PORT."
    ),
    address_option(
        "--metrics",
        help="Serve /metrics alone at [HOST:]PORT; on loopback without HOST, as --http.",
    ),
    click.option(
        "--notify-child",
        is_flag=True,
        help="Leave NOTIFY_SOCKET and WATCHDOG_USEC of systemd to the command, too.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say errors and warnings only."),
    click.option("-v", "--verbose", is_flag=True, help="Say everything, on stderr."),
    click.option(
        "--log",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="How to say it; --json is --log json.",
    ),
)


def _verbosity(*, quiet: bool, verbose: bool) -> int:
    """Return how much is said; if both hold, what stands where it wins over the other."""
    if quiet and verbose:
        context = click.get_current_context()
        places = [_RANKS.index(context.get_parameter_source(n)) for n in ("quiet", "verbose")]
        if places[0] == places[1]:
            raise click.UsageError("give --quiet or --verbose, not both")
        quiet, verbose = places[0] < places[1], places[1] < places[0]
    return verbose - quiet


def seen_options(command: F) -> F:
    """Give a command the options, and pass it a `Reporter` as ``reporter``."""

    @functools.wraps(command)
    def wrapper(**options: Any) -> Any:
        names = ("json", "log", "quiet", "verbose", "notify_child")
        as_json, log, quiet, verbose, keep = (options.pop(name) for name in names)
        verbosity = _verbosity(quiet=quiet, verbose=verbose)
        reporter = Reporter(
            as_json=as_json or log == "json",
            line_of=lambda event, fields: line_of(event, fields, verbosity),
            notifier=Notifier.take(os.environ, keep=keep),
            quiet=verbosity < 0,
        )
        return command(reporter=reporter, **options)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper  # type: ignore[return-value] # with these options, it is one
