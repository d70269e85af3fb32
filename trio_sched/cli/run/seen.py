"""The options of ``trio-sched run`` by which it is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from trio_sched.serving.address import Address

__all__ = ["seen_options"]

F = TypeVar("F", bound=Callable[..., Any])


def _address(_context: click.Context, _parameter: click.Parameter, text: Any) -> Address | None:
    if text is None:
        return None
    try:
        return Address.parse(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


_OPTIONS = (
    click.option(
        "--http",
        metavar="ADDRESS",
        callback=_address,
        help="Serve /healthz, /readyz, /scheduled, /status and /metrics at [HOST:]PORT.",
    ),
    click.option(
        "--metrics",
        metavar="ADDRESS",
        callback=_address,
        help="Serve /metrics alone at [HOST:]PORT; on loopback without HOST, as --http.",
    ),
)


def seen_options(command: F) -> F:
    """Give a command the options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
