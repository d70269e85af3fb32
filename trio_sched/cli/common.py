"""What the commands for operators share: arguments, and reading a path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import click
import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.connect import Connection, Seconds, connection_options, usage_errors
from trio_sched.etcd_shim import Client, Get, GetResult, KeyValue
from trio_sched.etcd_shim.errors import LeaseNotFound, PermissionDenied
from trio_sched.host.reads import read_path as read_keys
from trio_sched.model.keys import KeyRange, PathKeys, check_hostname, check_path
from trio_sched.model.path_state import PathState
from trio_sched.model.records import MAX_COUNT
from trio_sched.strategies import known_strategies

__all__ = [
    "CODES",
    "complete_place",
    "complete_strategy",
    "host_argument",
    "max_count_option",
    "output_option",
    "path_argument",
    "read_at",
    "read_path",
    "read_ttls",
    "read_with_ttls",
    "reading_options",
    "timeout_option",
]

F = TypeVar("F", bound=Callable[..., Any])

CODES: Final = """\b
Exit codes:
  69  etcd is unavailable
  77  etcd does not permit it
  2   wrong usage
"""

_AT_ONCE = 32  # questions to etcd about leases
_PAGE: Final = 1000  # keys


def path_argument(command: F) -> F:
    """Give a command PATH."""
    check = usage_errors(check_path)
    return click.argument("path", callback=check, shell_complete=complete_place("path"))(command)


def host_argument(command: F) -> F:
    """Give a command HOST."""
    check = usage_errors(check_hostname)
    return click.argument("host", callback=check, shell_complete=complete_place("host"))(command)


def complete_place(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return what completes a path, or a host, out of etcd."""

    def complete(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
        from trio_sched.cli import paths  # noqa: PLC0415 # it needs this module

        found = paths.complete_path if kind == "path" else paths.complete_host
        return found(context, parameter, text)

    return complete


def output_option(command: F) -> F:
    """Give a command ``--output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or for programs.",
    )(command)


def timeout_option(command: F) -> F:
    """Give a command ``--timeout``."""
    return click.option(
        "--timeout",
        type=Seconds(min=0, min_open=True),
        default=10,
        show_default=True,
        metavar="SECONDS",
        help="Give up if etcd does not answer.",
    )(command)


def max_count_option(default: str, text: str) -> Callable[[F], F]:
    """Return the option ``--max-count``, described by `text`; None stands for `default`."""
    return click.option(
        "-n", "--max-count", type=click.IntRange(1, MAX_COUNT), show_default=default, help=text
    )


def reading_options(command: F) -> F:
    """Give a command PATH and the options of those that read it."""
    for option in (timeout_option, output_option, connection_options, path_argument):
        command = option(command)
    return command


def complete_strategy(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the names of strategies that begin so, for the shell."""
    return [name for name in known_strategies() if name.startswith(incomplete)]


async def read_path(client: Client, path: str) -> PathState:
    """Read all that lies below a path, at one revision."""
    keys = PathKeys(path)
    found = await read_keys(client, keys, keys.everything)
    return PathState.decode(keys, found, found.revision)


async def read_at(client: Client, keys: PathKeys, covered: KeyRange, revision: int) -> GetResult:
    """Read what of a range was this path's at a revision.

    Raises:
        RevisionCompacted: that is not kept any more.
        FutureRevision: it was not yet.
    """
    kvs: list[KeyValue] = []
    for part in keys.parts(covered):
        first, more = part.first, True
        while more:
            page = await client.read(Get(first, part.end, limit=_PAGE, revision=revision))
            kvs += page.kvs
            more = page.more
            first = page.kvs[-1].key + b"\0" if page.kvs else first
    return GetResult(tuple(kvs), revision, len(kvs), more=False)


async def read_ttls(client: Client, leases: Iterable[int]) -> Mapping[int, int | None]:
    """Return in how many seconds leases lapse; None for one that is gone.

    Leases that this user may not read are left out.
    """
    ttls: dict[int, int | None] = {}
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def ask(lease: int) -> None:
        async with limit:
            try:
                ttls[lease] = (await client.lease_time_to_live(lease)).ttl
            except LeaseNotFound:
                ttls[lease] = None
            except PermissionDenied:
                return

    async with open_plain_nursery() as nursery:
        for lease in {*leases} - {0}:
            nursery.start_soon(ask, lease)
    return ttls


async def read_with_ttls(
    connection: Connection, path: str
) -> tuple[PathState, Mapping[int, int | None]]:
    """Read a path, and for how long its hosts' leases last."""
    async with connection.open() as client:
        state = await read_path(client, path)
        return state, await read_ttls(client, (host.lease for host in state.pool.values()))
