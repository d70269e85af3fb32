"""What ``trio-sched run`` says of its host, and which hosts it would choose while it leads."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import click
import trio

from trio_sched.cli.connect import Seconds
from trio_sched.cli.reporter import Reporter
from trio_sched.model.keys import check_hostname
from trio_sched.model.records import HostData

__all__ = ["HostSettings", "health_check_of", "host_options"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class HostSettings:
    """The options, checked.

    Attributes:
        options: arguments of `schedule`.
        health: a command for a shell; None if there is none.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    health: str | None = None


_OPTIONS: Final = (
    click.option("--zone", metavar="TEXT", help="Where this host is, for strategies."),
    click.option(
        "--weight",
        type=float,
        default=1,
        show_default=True,
        help="How much this host can take, next to others.",
    ),
    click.option(
        "--priority",
        type=int,
        default=0,
        show_default=True,
        help="The higher, the more wanted, for strategies that heed it.",
    ),
    click.option("--data", metavar="JSON", help="Whatever else it says of itself: an object."),
    click.option(
        "--health",
        metavar="COMMAND",
        help="Run this in a shell now and then; this host may be chosen while it ends with 0.",
    ),
    click.option(
        "--health-interval",
        type=Seconds(min=0, min_open=True),
        default=10,
        metavar="SECONDS",
        show_default=True,
        help="From one --health to the next, and the longest that one may take.",
    ),
    click.option(
        "--hosts-filter",
        metavar="HOSTS",
        show_default="all",
        help="Only these may be chosen while this host leads, joined with commas.",
    ),
)
_NAMES: Final = (
    *("zone", "weight", "priority", "data", "health", "health_interval", "hosts_filter"),
)


def host_options(command: F) -> F:
    """Give a command the options, and pass it `HostSettings` as ``host``."""

    @functools.wraps(command)
    def wrapper(**options: Any) -> Any:
        found = {name: options.pop(name) for name in _NAMES}
        return command(host=_settings(**found), **options)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper  # type: ignore[return-value] # with these options, it is one


def _settings(
    zone: str | None,
    weight: float,
    priority: int,
    data: str | None,
    health: str | None,
    health_interval: float,
    hosts_filter: str | None,
) -> HostSettings:
    try:
        said = {} if data is None else json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise click.UsageError(f"--data: that is no JSON: {exc}") from exc
    if not isinstance(said, dict):
        raise click.UsageError('--data must be an object, as in \'{"disk": "fast"}\'')
    options: dict[str, Any] = {"zone": zone, "weight": weight, "priority": priority, "data": said}
    try:
        HostData(**options)
        if hosts_filter is not None:
            names = [name.strip() for name in hosts_filter.split(",")]
            options["hosts_filter"] = [check_hostname(name) for name in names]
    except (ValueError, TypeError) as exc:
        raise click.UsageError(str(exc)) from exc
    return HostSettings({**options, "health_interval": health_interval}, health)


def health_check_of(
    command: str | None, env: Mapping[str, str], reporter: Reporter
) -> Callable[[], Awaitable[bool]] | None:
    """Return a health check that runs a command in a shell; None for none.

    What it writes is dropped. When it takes too long all of its process group is killed. That it
    begins or ceases to fail is an event.
    """
    if command is None:
        return None
    last: list[int | None] = [None]

    async def check() -> bool:
        done = await trio.run_process(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            env=os.environ | dict(env),
            process_group=0,
            deliver_cancel=_kill_group,
        )
        if done.returncode != last[0]:
            last[0] = done.returncode
            reporter.event("health", code=done.returncode, healthy=done.returncode == 0)
        return done.returncode == 0

    return check


async def _kill_group(process: trio.Process) -> None:
    await trio.lowlevel.checkpoint()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
