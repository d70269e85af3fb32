"""What hosts of ours do while a leader of another kind leads, such as one of the Go package.

Such a leader knows neither leases of decisions nor operators. It may write nothing at all, if
what is stored is what it would choose: then the decision hangs on the lease of a leader of ours
that is gone. So the hosts of ours that stand directly behind a foreign candidate keep that
lease alive. There are few of them, and always one: of the hosts of ours in line, the first
either leads, or has a foreign candidate before it. They also take away the record of a leader
that is gone, so that all of ours see that another kind leads: then each looks by itself
whether it is drained, and is not scheduled while it is.
"""

from __future__ import annotations

from typing import Final

import trio

from trio_sched._support.chance import chance
from trio_sched._support.tasks import open_plain_nursery
from trio_sched.etcd_shim import Client, Compare, Delete, Get, KeyValue
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.etcd_shim.kv import prefix_range
from trio_sched.host.following import PathFollower
from trio_sched.host.session import may_be_falling
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.path_state import host_of
from trio_sched.model.path_view import PathView
from trio_sched.model.records import Host

__all__ = ["follow_control", "keep_decision"]

_ASK_AFTER: Final = 1.0  # seconds; a decision of ours has longer to live when its leader is gone
_RENEWALS: Final = 3  # in the TTL of the decision's lease


async def keep_decision(client: Client, follower: PathFollower, predecessor: KeyValue) -> None:
    """Keep the decision alive while the candidate before ours is of another kind.

    Runs until it is cancelled, or that candidate has turned out to be one of ours.

    Args:
        client: the client to ask with.
        follower: of the path.
        predecessor: the candidate before ours.
    """
    insist = follower.patience.insist
    await trio.sleep(_ask_after(follower, predecessor))
    record = follower.view.decision.record
    if record is not None and record.fence == predecessor.create_revision:
        return  # it leads, and is one of ours
    before = await insist(_host, client, follower.view.keys, predecessor)
    if before is not None and before.options:
        return
    while True:
        lease = follower.view.decision.lease
        pause = await insist(_renew, client, lease) / _RENEWALS if lease else _ASK_AFTER
        await insist(_disown, client, follower.view)
        with trio.move_on_after(max(pause, _ASK_AFTER)):
            while follower.view.decision.lease == lease:
                await follower.changed.park()


def _ask_after(follower: PathFollower, candidate: KeyValue) -> float:
    """Return seconds until it is asked what a candidate is.

    Hardly one whose lease has an id such as ours have is of another kind: that can wait, so that
    many hosts that join are not many who ask.
    """
    if not may_be_falling(candidate.lease):
        return _ASK_AFTER
    return max(_ASK_AFTER, follower.interval * chance().uniform(1.0, 2.0))


async def _host(client: Client, keys: PathKeys, candidate: KeyValue) -> Host | None:
    """Return the host that a candidate is; None if it has no key. Ours publish their options."""
    kv = (await client.get(keys.exchange + candidate.value)).kv
    return host_of(keys, kv) if kv is not None and kv.lease == candidate.lease else None


async def _renew(client: Client, lease: int) -> int:
    """Renew the decision's lease; return its TTL, or 0 if it is gone."""
    try:
        return await client.lease_renew(lease)
    except LeaseNotFound:
        return 0  # and so are its keys, as the watch will show


async def _disown(client: Client, view: PathView) -> None:
    """Take away the record of the stored decision, if the leader is of another kind.

    What the hosts run by is not changed: `scheduled` stays as it is.
    """
    keys, scheduled = view.keys, view.get(view.keys.scheduled)
    record = view.get(keys.record)
    if scheduled is None or record is None or view.decision.record is None:
        return
    first, end = prefix_range(keys.election)
    by_age = Get(first, end, limit=1, sort_order="ascending", sort_target="create_revision")
    candidate = (await client.read(by_age)).kv
    leader = None if candidate is None else await _host(client, keys, candidate)
    if candidate is None or leader is None or leader.options:
        return
    await client.txn(
        [
            Compare.mod_revision(keys.scheduled, "==", scheduled.mod_revision),
            Compare.mod_revision(keys.record, "==", record.mod_revision),
            Compare.create_revision(candidate.key, "==", candidate.create_revision),
        ],
        [Delete(keys.record)],
    )


async def follow_control(follower: PathFollower, hostname: str) -> None:
    """Know what operators want, while a leader who does not has chosen this host.

    Raises:
        RevisionWentBack: the store is another one.
        EtcdError: the watch cannot go on.
    """
    keys = follower.view.keys
    control = KeyRange.of(keys.control)

    def is_chosen(view: PathView) -> bool:
        return view.decision.is_foreign and hostname in view.decision.hosts

    def is_over(view: PathView) -> bool:
        return not is_chosen(view) or keys.leading in view.covered

    while True:
        await follower.wait(lambda view: not is_over(view))
        async with open_plain_nursery() as nursery:
            nursery.start_soon(follower.follow, control)
            await follower.wait(is_over)
            nursery.cancel_scope.cancel()
