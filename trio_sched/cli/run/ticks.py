"""``trio-sched run --once-per``: when the command is due, and what is done about it."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import time
from typing import Any, Final, TypeVar

import click

from trio_sched.cli.connect import usage_errors
from trio_sched.host.once import TickOutcome
from trio_sched.host.result import Result
from trio_sched.host.slot import Slot
from trio_sched.host.ticks import OnCrash
from trio_sched.model.ticks import MAX_ATTEMPTS, TickSchedule, zone_named

__all__ = ["TickSettings", "period_of", "run_at_ticks", "tick_options"]

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST: Final = 36525 * 86400  # seconds
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class TickSettings:
    """The options of ``--once-per``, checked.

    Attributes:
        schedule: when the command is due.
        on_crash: what becomes of a tick whose host was lost.
        attempts: how often one is begun at most.
    """

    schedule: TickSchedule
    on_crash: OnCrash
    attempts: int


def period_of(text: str) -> int:
    """Return the seconds that ``90s``, ``15m``, ``1h``, ``1d``, ``1w`` or a sum of such stands for.

    Raises:
        ValueError: it stands for none.
    """
    if not re.fullmatch(r"(\d{1,9}[smhdw])+", text, re.ASCII):
        raise ValueError(f"{text!r} is no period, as in '90s', '15m', '1h', '1h30m', '1d' or '1w'")
    seconds = sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)([smhdw])", text))
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is longer than a century")
    return seconds


def _time_of(text: str) -> time:
    if not re.fullmatch(r"\d\d:\d\d(:\d\d)?", text, re.ASCII):
        raise ValueError(f"{text!r} is no time of the day, as in '03:00'")
    return time.fromisoformat(text)


_OPTIONS: Final = (
    click.option(
        "--once-per",
        metavar="PERIOD",
        callback=usage_errors(period_of),
        help="Do it once in each 1h, 15m, 1d …, on one of all hosts, and stay; with --once, do "
        "what is due, and end.",
    ),
    click.option(
        "--at",
        metavar="HH:MM",
        callback=usage_errors(_time_of),
        help="When in the period it is due. For days, at this time of the day.",
    ),
    click.option(
        "--tz",
        metavar="ZONE",
        callback=usage_errors(zone_named),
        show_default="UTC",
        help="The time zone of --at, as in Europe/Berlin.",
    ),
    click.option(
        "--on-crash",
        type=click.Choice(["again", "skip"]),
        show_default="again",
        help="What to do when the host that did it was lost.",
    ),
    click.option(
        "--attempts",
        type=click.IntRange(1, MAX_ATTEMPTS),
        show_default="5",
        help="How often it is begun at most, with --on-crash again.",
    ),
)
_NAMES: Final = ("once_per", "at", "tz", "on_crash", "attempts")


def tick_options(command: F) -> F:
    """Give a command the options, and pass it `TickSettings` or None as ``ticks``."""

    @functools.wraps(command)
    def wrapper(**options: Any) -> Any:
        found = {name: options.pop(name) for name in _NAMES}
        return command(ticks=_settings(options, **found), **options)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper  # type: ignore[return-value] # with these options, it is one


def _settings(
    others: dict[str, Any],
    once_per: str | None,
    at: str | None,
    tz: str | None,
    on_crash: OnCrash | None,
    attempts: int | None,
) -> TickSettings | None:
    given = {"--at": at, "--tz": tz, "--on-crash": on_crash, "--attempts": attempts}
    if once_per is None:
        if needs := [name for name, value in given.items() if value is not None]:
            raise click.UsageError(f"{needs[0]} goes with --once-per")
        return None
    if others["max_count"] != 1 or others["restart"]:
        refused = "--restart" if others["restart"] else "--max-count"
        raise click.UsageError(f"give --once-per or {refused}, not both: one host does it, once")
    zone = {} if tz is None else {"zone": zone_named(tz)}
    try:
        schedule = TickSchedule(period_of(once_per), _time_of(at or "00:00"), **zone)
    except ValueError as exc:
        raise click.UsageError(f"--once-per: {exc}") from exc
    return TickSettings(schedule, on_crash or "again", attempts or 5)


async def run_at_ticks(
    result: Result,
    settings: TickSettings,
    grace: float,
    work: Callable[[Slot, str], Awaitable[int | None]],
    each: Callable[[TickOutcome[int | None]], object],
) -> None:
    """Run the command at each tick. Never returns.

    Args:
        result: of this host.
        settings: when, and how.
        grace: seconds for the command to end.
        work: runs the command; returns its exit code, or None if it is not done.
        each: called with what came of each tick.
    """
    await result.run_ticks(
        settings.schedule,
        work,
        on_crash=settings.on_crash,
        attempts=settings.attempts,
        grace=grace,
        each=each,
        code_of=lambda code: code,
    )
