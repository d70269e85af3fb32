"""What operators do: drain, undrain, pause, resume, set-count, evict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from trio_sched.cli.common import host_argument
from trio_sched.cli.everywhere import Places, place_arguments, steer_places
from trio_sched.cli.steering import (
    STEERING_CODES,
    Change,
    absent_option,
    steer,
    steering_options,
    steering_options_without_path,
)
from trio_sched.model.records import MAX_COUNT

__all__ = ["drain", "evict", "pause", "resume", "set_count", "undrain"]

F = TypeVar("F", bound=Callable[..., Any])

_MAX_DIGITS: Final = 4000  # Python refuses to read more


def why_option(command: F) -> F:
    """Give a command ``--why``."""
    return click.option("--why", default="", metavar="TEXT", help="Why, in a few words.")(command)


def _epilog(*lines: str) -> str:
    examples = "".join(f"  {line}\n" for line in lines)
    return f"\b\nExamples:\n{examples}\n{STEERING_CODES}"


@click.command(
    short_help="Let a host not be chosen any more.",
    epilog=_epilog(
        "trio-sched drain /jobs/backup host-a --why 'new disk'",
        "# be sure that nothing runs there, before it is switched off",
        "trio-sched drain /jobs/backup host-a --wait 60 && ssh host-a poweroff",
        "# the same on all paths that it is on; first, what moves",
        "trio-sched drain --everywhere host-a --dry-run",
        "trio-sched drain --everywhere host-a --wait 60 && ssh host-a poweroff",
    ),
)
@steering_options_without_path
@absent_option
@place_arguments
@why_option
def drain(places: Places, why: str, **options: Any) -> None:
    """Let HOST not be chosen any more for PATH, until it is undrained.

    With --everywhere, on all paths that it is on. It stays known, also if it restarts. Waits
    until it is not scheduled, and holds no slot; while decisions are paused, a host that is
    scheduled stays so. A host that is not there is refused, as its name may be mistyped, unless
    with --absent-ok.
    """

    def change(host: str) -> Change:
        return Change(lambda control: control.drain(host, why), host, leaves=True)

    steer_places(places, change, "drain", **options)


@click.command(
    short_help="Let a host be chosen again.",
    epilog=_epilog(
        "trio-sched undrain /jobs/backup host-a", "trio-sched undrain --everywhere host-a"
    ),
)
@steering_options_without_path
@absent_option
@place_arguments
def undrain(places: Places, **options: Any) -> None:
    """Let HOST be chosen again for PATH: the end of `drain`.

    With --everywhere, on all paths on which it is drained.
    """

    def change(host: str) -> Change:
        return Change(lambda control: control.undrain(host), host, takes_back=True)

    steer_places(places, change, "undrain", **options)


@click.command(
    short_help="Freeze decisions.",
    epilog=_epilog("trio-sched pause /jobs/backup --why 'network works, until 14:00'"),
)
@steering_options
@absent_option
@why_option
def pause(why: str, **options: Any) -> None:
    """Freeze the decisions of PATH.

    Scheduled hosts stay so. A host that dies loses its place, and no host takes it.
    """
    steer(Change(lambda control: control.pause(why)), **options)


@click.command(
    short_help="Let the leader decide again.", epilog=_epilog("trio-sched resume /jobs/backup")
)
@steering_options
@absent_option
def resume(**options: Any) -> None:
    """Let the leader of PATH decide again: the end of `pause`."""
    steer(Change(lambda control: control.resume()), **options)


def _count(_context: click.Context, _parameter: click.Parameter, value: str) -> int | None:
    if value == "none":
        return None
    if not value.isascii() or not value.isdigit() or not value.strip("0"):
        raise click.BadParameter(f"{value!r} is no whole number of 1 or more, and not 'none'")
    if len(value) > _MAX_DIGITS or int(value) > MAX_COUNT:
        raise click.BadParameter(f"at most {MAX_COUNT} hosts may be chosen")
    return int(value)


@click.command(
    "set-count",
    short_help="Say how many may be chosen.",
    epilog=_epilog("trio-sched set-count /jobs/worker 5", "trio-sched set-count /jobs/worker none"),
)
@steering_options
@absent_option
@click.argument("count", callback=_count, metavar="N|none")
@why_option
def set_count(count: int | None, why: str, **options: Any) -> None:
    """Say how many hosts of PATH may be chosen; ``none`` leaves it to the leader's option."""
    steer(Change(lambda control: control.set_count(count, why)), **options)


@click.command(
    short_help="Move a host's place elsewhere, once.",
    epilog=_epilog("trio-sched evict /jobs/backup host-a --why 'its disk is slow today'"),
)
@steering_options
@host_argument
@why_option
def evict(host: str, why: str, **options: Any) -> None:
    """Move HOST's place on PATH elsewhere, once, if there is a host to take it.

    It may be chosen again later; to keep it away, drain it. Exits with 68 if no such
    host has joined.
    """
    steer(
        Change(lambda control: control.evict(host, why), host, leaves=True, evicts=True), **options
    )
