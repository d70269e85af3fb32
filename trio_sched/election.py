"""Election, by etcd's own recipe: the oldest candidate leads.

Candidates are the keys below ``PATH/election/``. The one with the lowest
create_revision is the leader; that revision is its fence. Each candidate watches
only the one directly before it, so a departure wakes one host and not all.
"""

from __future__ import annotations

import contextlib

from trio_sched.etcd_shim import Client, EventType, Get, GetResult, KeyValue
from trio_sched.etcd_shim._backoff import persist
from trio_sched.etcd_shim.errors import Compacted
from trio_sched.etcd_shim.kv import prefix_range
from trio_sched.keys import PathKeys

__all__ = ["predecessor_before", "wait_elected"]


def predecessor_before(keys: PathKeys, fence: int) -> Get:
    """Return the read that finds the candidate directly before ours."""
    first, end = prefix_range(keys.election)
    return Get(
        first,
        end,
        limit=1,
        sort_order="descending",
        sort_target="create_revision",
        max_create_revision=fence - 1,
    )


async def wait_elected(
    client: Client, keys: PathKeys, fence: int, predecessor: KeyValue | None, revision: int
) -> None:
    """Campaign: wait until no candidate is left before ours.

    Args:
        client: the client to ask and to watch with.
        keys: of the path.
        fence: create_revision of our candidate key.
        predecessor: the candidate before ours, if there was one at `revision`.
        revision: the store's revision at which that was read.
    """
    while predecessor is not None:
        with contextlib.suppress(Compacted):  # the read below tells whether it is still there
            await _wait_deleted(client, predecessor.key, revision)
        found: GetResult = await persist(client.read, predecessor_before(keys, fence))
        predecessor, revision = found.kv, found.revision


async def _wait_deleted(client: Client, key: bytes, revision: int) -> None:
    async with client.watch(key, start_revision=revision + 1) as events:
        async for event in events:
            if event.type is EventType.DELETE:
                return
