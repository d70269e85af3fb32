"""Which paths there are below a prefix, for `ls`, ``drain --everywhere`` and completion.

Only names of keys are read to find them, so what others keep in the same etcd costs a few bytes a
key.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import click
import trio

from trio_sched._support.arguments import check_text
from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.common import read_path
from trio_sched.cli.connect import Connection
from trio_sched.etcd_shim import Client, Get
from trio_sched.etcd_shim.kv import prefix_range
from trio_sched.exceptions import TrioSchedError
from trio_sched.model.keys import check_path
from trio_sched.model.path_state import PathState

__all__ = [
    "check_prefix",
    "complete_host",
    "complete_path",
    "find_paths",
    "is_there",
    "read_paths",
]

# What makes a path one. Keys of hosts alone do not: any service may have "exchanges" in etcd.
_KEY: Final = re.compile(
    r"(/.*[^/])/(?:election/[0-9a-f]{1,16}|scheduled(?:\.record)?|control|slots/\d{1,18})",
    re.DOTALL,
)
_PAGE: Final = 1000  # keys
_AT_ONCE: Final = 32  # paths
_PATIENCE: Final = 1.5  # seconds that a shell may wait for a completion


def check_prefix(prefix: str) -> str:
    """Return a prefix of paths without the slash at its end; it is ``/``, or as a path is.

    Raises:
        TypeError: it is not a string.
        ValueError: it is no path.
    """
    check_text("prefix", prefix, least=1)
    found = prefix.rstrip("/")
    return check_path(found) if found else ""


async def find_paths(client: Client, prefix: str) -> list[str]:
    """Return the paths at or below a prefix that `check_prefix` has returned, sorted."""
    first, end = prefix_range(f"{prefix}/")
    paths: set[str] = set()
    revision = 0
    while True:
        request = Get(first, end, limit=_PAGE, keys_only=True, revision=revision)
        page = await client.read(request)
        paths.update(_paths_of(kv.key for kv in page.kvs))
        if not page.more:
            return sorted(paths)
        first, revision = page.kvs[-1].key + b"\0", page.revision


def _paths_of(keys: Iterable[bytes]) -> Iterable[str]:
    for key in keys:
        match = _KEY.fullmatch(key.decode(errors="replace"))
        if match is not None and "\ufffd" not in match[1]:
            yield match[1]


async def read_paths(client: Client, prefix: str) -> list[PathState]:
    """Return the state of each path at or below a prefix, sorted by path."""
    found: dict[str, PathState] = {}
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def read(path: str) -> None:
        async with limit:
            found[path] = await read_path(client, path)

    async with open_plain_nursery() as nursery:
        for path in await find_paths(client, prefix):
            nursery.start_soon(read, path)
    return [found[path] for path in sorted(found) if is_there(found[path])]


def is_there(state: PathState) -> bool:
    """Return whether anything of ours is at a path."""
    control = state.control
    wanted = control.paused or control.drained or control.max_count is not None
    return bool(state.pool or state.candidates or state.slots or state.hosts or wanted)


# ---- completion --------------------------------------------------------------------


def complete_path(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the paths that begin so, for the shell."""

    async def find(client: Client) -> Sequence[str]:
        folder = incomplete.rpartition("/")[0]
        return await find_paths(client, folder)

    return [path for path in _ask(context.params, find) if path.startswith(incomplete)]


def complete_host(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the hosts of the path that is given, or of all paths, for the shell."""
    path = context.params.get("path")
    under = context.params.get("under") or ""

    async def find(client: Client) -> Sequence[str]:
        if context.params.get("everywhere"):
            return sorted(
                {name for state in await read_paths(client, under) for name in state.pool}
            )
        return [*(await read_path(client, path)).pool] if path else []

    return [name for name in _ask(context.params, find) if name.startswith(incomplete)]


def _ask(
    params: Mapping[str, Any], find: Callable[[Client], Awaitable[Sequence[str]]]
) -> Sequence[str]:
    """Return what is found, or nothing: a shell that completes has no use for an error."""
    names = ("endpoints", "user", "password", "cacert", "cert", "key")
    options: dict[str, Any] = {name: params.get(name) for name in names}
    if options["user"] and not options["password"] and ":" not in options["user"]:
        return []  # there is no asking for it here

    async def ask() -> Sequence[str]:
        with trio.move_on_after(_PATIENCE):
            async with Connection.of(**options).open() as client:
                return await find(client)
        return []

    try:
        return trio.run(ask)
    except (TrioSchedError, click.UsageError):
        return []
