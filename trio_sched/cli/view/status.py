"""``trio-sched status``: all that there is to know about a path."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import trio
from grpclib.const import Status

from trio_sched._support.arguments import MAX_INT64
from trio_sched.cli.common import CODES, read_at, read_path, read_ttls, reading_options
from trio_sched.cli.connect import Connection, Seconds
from trio_sched.cli.exits import NO_PATH
from trio_sched.cli.output import result_of, run_until_signal, show, show_json, within
from trio_sched.cli.paths import is_there
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.view.pager import show_pages
from trio_sched.cli.view.selection import MATTERS, SORTS, STATES, Selection
from trio_sched.cli.view.silence import wait_for_etcd
from trio_sched.cli.view.trouble import EtcdReport, report_of
from trio_sched.etcd_shim.errors import DeadlineExceeded, FutureRevision, RevisionCompacted
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_state import PathState
from trio_sched.serving.document import document_of

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["status"]

_BY_DEFAULT = Selection()

_EXAMPLES = """\b
Examples:
  trio-sched status /jobs/backup
  # the names of the hosts that are scheduled
  trio-sched status /jobs/backup -o json | jq -r '.decision.hosts[]'
  # fail if anything is not as it should be
  trio-sched status /jobs/backup -o json |
    jq -e '[.warnings[] | select(.level == "warning")] == []'
"""


@click.command(short_help="Show all there is to know about a path.", epilog=f"{_EXAMPLES}\n{CODES}")
@click.option(
    "--wait",
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    show_default="give up at once",
    help="Wait so long if etcd cannot be reached.",
)
@click.option(
    "--at",
    type=click.IntRange(1, MAX_INT64),
    metavar="REVISION",
    show_default="now",
    help="Show what was there then, if etcd still keeps it; see `trio-sched history`.",
)
@click.option("--all", "everything", is_flag=True, help="Show all hosts, however many there are.")
@click.option(
    "--state", "states", type=click.Choice(STATES), multiple=True, help="Show such hosts only."
)
@click.option(
    "--filter",
    "pattern",
    metavar="PATTERN",
    help="Show hosts whose name or zone fits, as in 'web-*'.",
)
@click.option(
    "--sort",
    type=click.Choice([*SORTS, MATTERS]),
    show_default="name",
    help="How hosts are sorted.",
)
@click.option(
    "--wide", is_flag=True, help="Show all columns and whole texts, on more lines where it has to."
)
@click.option("--no-pager", is_flag=True, help="Never show it in a pager.")
@reading_options
def status(
    path: str,
    connection: Connection,
    output: str,
    timeout: float,
    wait: float | None,
    at: int | None,
    states: tuple[str, ...],
    pattern: str | None,
    sort: str | None,
    *,
    everything: bool,
    wide: bool,
    no_pager: bool,
) -> None:
    """Show the hosts of PATH, the leader, the decision and why, slots, and what is odd.

    What is wrong with etcd itself is shown too: alarms, and members that do not answer or
    have no leader.

    Of more than 40 hosts those that matter are shown: the leader, those that are scheduled,
    in trouble, unavailable or drained; see --all. A host has one line: columns for which a
    terminal has no room are left out, and what is cut ends in an ellipsis; see --wide.

    What is longer than the terminal is shown in $PAGER, or `less`.

    All of it is as of one revision of etcd's store. Ages are by the clocks of those who
    published the times, and for people only; the order is that of revisions. Exits with
    66 if there is nothing at PATH.
    """
    selection = Selection(frozenset(states), pattern, sort, everything)
    if output == "json" and (wide or selection != Selection()):
        words = "--all, --state, --filter, --sort and --wide are for tables; JSON has all"
        raise click.UsageError(words)
    pages: list[RenderableType] = []  # a pager is no part of what waits for etcd
    work = partial(
        _status, path, connection, output, timeout, wait, at, selection, pages.append, wide=wide
    )
    code, done = result_of(connection, partial(run_until_signal, work))
    code = code if done is None else done
    for page in pages:
        code = show_pages(page, no_pager=no_pager) or code
    sys.exit(code)


@dataclass(frozen=True)
class _Found:
    """What was found, and when it was asked for by trio's clock."""

    state: PathState
    ttls: Mapping[int, int | None]
    etcd: EtcdReport
    asked_at: float


async def _status(
    path: str,
    connection: Connection,
    output: str,
    timeout: float,
    wait: float | None,
    at: int | None = None,
    selection: Selection = _BY_DEFAULT,
    show_view: Callable[[RenderableType], None] = show,
    *,
    wide: bool = False,
) -> int:
    read = partial(_read, connection, path)
    if at is not None:
        read = partial(_read_at, connection, path, at)
    if at is not None:
        try:
            found = await within(timeout, read)
        except (RevisionCompacted, FutureRevision) as exc:
            Reporter(as_json=False).error(f"revision {at} cannot be read: {exc}", NO_PATH)
            return NO_PATH
    elif wait is None:
        found = await within(timeout, read)
    else:
        found = await within(wait, partial(wait_for_etcd, partial(_read_in, timeout, read)))
    age = trio.current_time() - found.asked_at
    if output == "json":
        show_json(_document(found, age))
    elif is_there(found.state) or found.etcd.trouble:
        from trio_sched.cli.view.tables import status_view  # noqa: PLC0415 # brings rich

        ttls, now = found.ttls or None, datetime.now(UTC)
        show_view(status_view(found.state, ttls, now, age, found.etcd, selection, wide=wide))
    if is_there(found.state):
        return 0
    words = f"no host has joined {path!r}, and nothing is wanted of it; see `trio-sched ls`"
    Reporter(as_json=False).error(words, NO_PATH)
    return NO_PATH


def _document(found: _Found, age: float) -> dict[str, Any]:
    etcd = found.etcd
    return document_of(
        found.state, found.ttls, age=age, trouble=etcd.trouble, versions=etcd.versions
    )


async def _read(connection: Connection, path: str) -> _Found:
    async with connection.open() as client:
        asked_at = trio.current_time()
        state = await read_path(client, path)
        ttls = await read_ttls(client, (host.lease for host in state.pool.values()))
        return _Found(state, ttls, await report_of(connection, client), asked_at)


async def _read_at(connection: Connection, path: str, revision: int) -> _Found:
    keys = PathKeys(path)
    async with connection.open() as client:
        asked_at = trio.current_time()
        found = await read_at(client, keys, keys.everything, revision)
        state = PathState.decode(keys, found, revision)
        return _Found(state, {}, EtcdReport((), ()), asked_at)


async def _read_in(timeout: float, read: Callable[[], Awaitable[_Found]]) -> _Found:
    """Read; if that takes too long, it has failed on the way."""
    with trio.move_on_after(timeout):
        return await read()
    raise DeadlineExceeded(Status.DEADLINE_EXCEEDED, f"no answer within {timeout:g} s")
