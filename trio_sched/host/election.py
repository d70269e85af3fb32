"""Election, by etcd's own recipe: the oldest candidate leads.

Candidates are the keys below ``PATH/election/``. The one with the lowest
create_revision is the leader; that revision is its fence. Each candidate watches
only the one directly before it, so a departure wakes one host and not all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import trio

from trio_sched.etcd_shim import Client, Get, GetResult, KeyValue
from trio_sched.etcd_shim._backoff import persist
from trio_sched.etcd_shim.errors import Compacted
from trio_sched.etcd_shim.kv import prefix_range
from trio_sched.host.snapshot import PathSnapshot
from trio_sched.host.waiting import wait_deleted
from trio_sched.model.keys import PathKeys

__all__ = ["predecessor_before", "read_snapshot", "wait_elected"]


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
    client: Client,
    keys: PathKeys,
    fence: int,
    predecessor: KeyValue | None,
    revision: int,
    leads: Callable[[KeyValue], bool],
) -> PathSnapshot | None:
    """Campaign: wait until no candidate is left before ours.

    Args:
        client: the client to ask and to watch with.
        keys: of the path.
        fence: create_revision of our candidate key.
        predecessor: the candidate before ours, if there was one at `revision`.
        revision: the store's revision at which that was read.
        leads: tells whether a candidate is known to lead. If so the look after
            it has gone takes in all that we need when we lead.

    Returns:
        What that look told, if it was made.
    """
    snapshot = None
    while predecessor is not None:
        with contextlib.suppress(Compacted):  # the look below tells whether it is still there
            await wait_deleted(client, predecessor.key, revision)
        if leads(predecessor):
            snapshot = await persist(read_snapshot, client, keys)
            predecessor, revision = snapshot.predecessor_of(fence), snapshot.revision
        else:
            found: GetResult = await persist(client.read, predecessor_before(keys, fence))
            predecessor, revision, snapshot = found.kv, found.revision, None
    return snapshot


async def read_snapshot(client: Client, keys: PathKeys) -> PathSnapshot:
    """Read all that a leader needs, once."""
    asked_at = trio.current_time()
    return PathSnapshot.decode(keys, await client.read(PathSnapshot.request(keys)), asked_at)
