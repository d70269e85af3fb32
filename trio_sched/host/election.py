"""Election, by etcd's own recipe: the oldest candidate leads.

Candidates are the keys below ``PATH/election/``. The one with the lowest
create_revision is the leader; that revision is its fence. Each candidate follows
only the one directly before it, so a departure wakes one host and not all. That key
is proven like all that is followed: a lost event of its deletion leaves no path
without a leader (etcd issue 18089).
"""

from __future__ import annotations

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.etcd_shim import Client, Get, GetResult, KeyValue
from trio_sched.etcd_shim.kv import prefix_range
from trio_sched.host.following import PathFollower
from trio_sched.host.foreign_leader import follow_control, keep_decision
from trio_sched.model.keys import PathKeys
from trio_sched.model.path_view import PathView

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
    client: Client,
    follower: PathFollower,
    own: KeyValue,
    predecessor: KeyValue | None,
    revision: int,
) -> GetResult:
    """Campaign: wait until no candidate is left before ours.

    Args:
        client: the client to ask with.
        follower: of the path.
        own: our candidate key.
        predecessor: the candidate before ours, if there was one at `revision`.
        revision: the store's revision at which that was read.

    Returns:
        All that a leader has to know, read when there was no candidate before ours.

    Raises:
        RevisionWentBack: the store is another one.
        EtcdError: etcd refused.
    """
    keys, fence = follower.view.keys, own.create_revision
    while predecessor is not None:
        await _wait_gone(client, follower, own, predecessor, revision)
        if _led(follower.view, predecessor):
            break  # we lead now, most likely
        found = await follower.patience.insist(client.read, predecessor_before(keys, fence))
        predecessor, revision = found.kv, found.revision
    while True:
        everything = await follower.read(keys.leading)
        before = [
            kv
            for kv in everything
            if kv.key.startswith(keys.election) and kv.create_revision < fence
        ]
        if not before:
            return everything
        predecessor = max(before, key=lambda kv: kv.create_revision)
        await _wait_gone(client, follower, own, predecessor, everything.revision)


async def _wait_gone(
    client: Client, follower: PathFollower, own: KeyValue, predecessor: KeyValue, revision: int
) -> None:
    """Wait until the candidate before ours is gone; it, or who leads, may be of another kind."""
    async with open_plain_nursery() as nursery:
        nursery.start_soon(keep_decision, client, follower, predecessor)
        nursery.start_soon(follow_control, follower, own.value.decode())
        await follower.wait_changed_key(predecessor, revision)
        nursery.cancel_scope.cancel()


def _led(view: PathView, candidate: KeyValue) -> bool:
    """Return whether a candidate is known to have led."""
    record = view.decision.record
    return record is not None and record.fence == candidate.create_revision
