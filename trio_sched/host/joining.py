"""How a host gets its keys into etcd, and out again: the transactions.

One transaction registers the host and its candidacy, and reads the decision and some candidates,
so a join costs etcd the same whatever the size of the pool: nothing in it is about a whole range.
The candidates are those whose keys come right behind ours; as the ids of leases fall with time,
the first of them is most likely the one that came before us. Any one that is older will do: as
long as it is there we do not lead, and when it goes all is looked at. If none of them is older,
as Go's ids are random and clocks may be wrong, the one before ours is searched for.

Leaving revokes the lease, which deletes both keys in one revision; a host that finds the pool
empty afterwards was the last, and takes the decision away too. That read comes *after* the
revoke, so of several hosts that leave at once exactly the last one sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Final

import trio

from trio_sched._support.suspension import lease_time
from trio_sched._support.tasks import open_plain_nursery, run_shielded
from trio_sched.etcd_shim import (
    Client,
    Compare,
    Delete,
    Get,
    GetResult,
    KeyValue,
    Put,
    Txn,
    TxnResult,
)
from trio_sched.etcd_shim._following import Read
from trio_sched.etcd_shim.errors import EtcdError, LeaseNotFound, MessageTooLarge
from trio_sched.etcd_shim.kv import prefix_range
from trio_sched.exceptions import HostnameInUse
from trio_sched.host.decision_leases import is_shared
from trio_sched.host.election import predecessor_before
from trio_sched.host.following import PathFollower
from trio_sched.host.reads import found_keys
from trio_sched.host.session import Session, revoke_quietly, revoke_surely
from trio_sched.model.keys import KeyRange, PathKeys

__all__ = ["Joined", "JoiningReads", "clear_if_last", "join", "resume", "withdraw"]

_NEARBY: Final = 3  # candidates that are read; those of one moment are in no order
_FEW: Final = 100  # keys of each range that are read where nothing was decided yet
_RENEWALS: Final = 2  # of a lease, that are seen, and tell that a process lives
_DELETION_TIME = 0.2  # seconds between a lease's end and the last word about its keys, at most


@dataclass(frozen=True, slots=True)
class Joined:
    """What the store was like when this host had joined.

    Attributes:
        fence: create_revision of its candidate key.
        own: its two keys: the host's and the candidate's.
        predecessor: a candidate before it; None if there was none.
        decision: the two keys of the decision.
        revision: the store's revision at which all of this was read.
        asked_at: by `lease_time`, when that read was sent.
        everything: all that a leader has to know, if it leads from the first, and that was read.
        cluster: id of the cluster that answered.
    """

    fence: int
    own: tuple[KeyValue, KeyValue]
    predecessor: KeyValue | None
    decision: GetResult
    revision: int
    asked_at: float
    everything: GetResult | None = None
    cluster: int = 0


async def join(
    client: Client,
    keys: PathKeys,
    hostname: str,
    value: bytes,
    session: Session,
    ours: Container[int] = (),
    note_wait: Callable[[], None] = lambda: None,
    *,
    grace: float | None = None,
) -> Joined:
    """Register a host and its candidacy under its session.

    A key of the same name from a life before is waited for until it lapses, after `note_wait`; if
    it hangs on one of `ours`, the leases of sessions that this host has lost, that is revoked.
    The answer is awaited for `grace` seconds more when this is cancelled, if that is given.

    Raises:
        HostnameInUse: its lease is being renewed by another process.
        SessionLost: our own lease was lost meanwhile.
    """
    key, candidate = keys.host(hostname), keys.candidate(session.lease)
    too_large = False

    async def ask() -> TxnResult:
        session.unanswered += 1
        answer = await client.txn(
            [Compare.create_revision(key, "==", 0)],
            [
                Put(key, value, session.lease),
                Put(candidate, hostname, session.lease),
                _read_around(keys, candidate),
            ],
            [Get(key)],
        )
        session.unanswered -= 1
        return answer

    while True:
        asked_at = lease_time()
        try:
            answer = await (ask() if grace is None else run_shielded(grace, ask))
        except LeaseNotFound as exc:
            raise session.mark_lost("the lease was revoked or has lapsed") from exc
        except MessageTooLarge:
            if too_large:
                raise
            too_large = True  # we have joined, most likely; if we lead, all is read in pages
            continue
        if answer.succeeded:
            return await _note_joined(client, keys, hostname, value, session, answer, asked_at)
        kv = answer.get(0).kv
        if kv is not None and kv.lease == session.lease:
            return await resume(client, keys, hostname, session)
        if kv is not None and kv.lease in ours:
            await revoke_surely(client, kv.lease)
        elif kv is not None:
            note_wait()
            await _wait_for_name(client, keys, hostname, kv, answer.revision)


async def _note_joined(
    client: Client,
    keys: PathKeys,
    hostname: str,
    value: bytes,
    session: Session,
    answer: TxnResult,
    asked_at: float,
) -> Joined:
    """Return what the joining transaction read; who came before us may have to be searched for."""
    revision = answer.revision  # both keys were created by this transaction
    candidate = keys.candidate(session.lease)
    own = (
        KeyValue(keys.host(hostname), value, revision, revision, 1, session.lease),
        KeyValue(candidate, hostname.encode(), revision, revision, 1, session.lease),
    )
    around = answer.responses[2]
    assert isinstance(around, TxnResult)
    everything = _everything(around, keys, revision)
    before = None
    if everything is None:
        before = await _predecessor(client, keys, revision, around)
    decision = found_keys(revision) if around.succeeded else _decision(around)
    cluster = answer.header.cluster_id
    return Joined(revision, own, before, decision, revision, asked_at, everything, cluster)


def _read_around(keys: PathKeys, candidate: bytes) -> Txn:
    """Return the reads of a host that joins: of the decision, and of candidates near ours.

    Where nothing was decided yet there is hardly any host either, and most likely we lead: then
    it is some of all that a leader has to know. So etcd is never asked for more than eight
    operations, for which it may be configured (``--max-txn-ops``).
    """
    first, end = prefix_range(keys.election)
    return Txn(
        [Compare.create_revision(key, "==", 0) for key in (keys.scheduled, keys.record)],
        [Get(each.first, each.end, limit=_FEW) for each in keys.parts(keys.leading)],
        [
            *_read_decision(keys),
            Get(candidate + b"\0", end, limit=_NEARBY),
            Get(first, candidate, limit=1),
        ],
    )


def _everything(around: TxnResult, keys: PathKeys, fence: int) -> GetResult | None:
    """Return all that a leader has to know, if that was read, and we lead."""
    if not around.succeeded:
        return None
    parts = [around.get(number) for number in range(len(around.responses))]
    kvs = tuple(kv for part in parts for kv in part)
    if any(part.more for part in parts) or _older(keys, fence, kvs) is not None:
        return None
    return GetResult(kvs, fence, len(kvs), more=False)


def _older(keys: PathKeys, fence: int, kvs: Iterable[KeyValue]) -> KeyValue | None:
    """Return a candidate among these keys that is older than ours."""
    return next(
        (kv for kv in kvs if kv.key.startswith(keys.election) and kv.create_revision < fence), None
    )


def _read_decision(keys: PathKeys) -> list[Get]:
    """Return the reads of the decision; key by key, as others' keys may lie in between."""
    return [Get(keys.scheduled), Get(keys.record)]


def _decision(answer: TxnResult) -> GetResult:
    """Return what those reads found, if they came first."""
    return found_keys(answer.revision, answer.get(0).kv, answer.get(1).kv)


async def _predecessor(
    client: Client, keys: PathKeys, fence: int, around: TxnResult
) -> KeyValue | None:
    """Return a candidate that is older than ours; None if there was none when we joined.

    It is searched for if what was read around us, in part or near our key, has none.
    """
    reads = [around.get(number) for number in range(len(around.responses))]
    older = _older(keys, fence, (kv for read in reads for kv in read))
    if older is None and not around.succeeded:
        behind, before = reads[2:]
        if not (behind.more or before.kvs):
            return None  # we were alone
    return older or (await client.read(predecessor_before(keys, fence))).kv


async def resume(client: Client, keys: PathKeys, hostname: str, session: Session) -> Joined:
    """Go on with keys that hang on this session's lease already; nothing is written.

    Raises:
        SessionLost: one of them is gone, or hangs on another lease.
    """
    key, candidate = keys.host(hostname), keys.candidate(session.lease)
    asked_at = lease_time()
    answer = await client.txn(
        [Compare.lease(key, "==", session.lease), Compare.lease(candidate, "==", session.lease)],
        [
            *_read_decision(keys),
            Get(key),
            Get(candidate),
        ],
    )
    if not answer.succeeded:
        raise session.give_up("its keys are gone")
    own = (answer.get(2).kvs[0], answer.get(3).kvs[0])
    fence = own[1].create_revision
    before = await client.read(predecessor_before(keys, fence))
    cluster = answer.header.cluster_id
    return Joined(
        fence, own, before.kv, _decision(answer), answer.revision, asked_at, None, cluster
    )


async def _wait_for_name(
    client: Client, keys: PathKeys, hostname: str, kv: KeyValue, revision: int
) -> None:
    """Wait until a key of our name has lapsed, unless another process keeps it alive.

    It is watched, and its lease is asked for: a watch may miss the deletion (etcd issue 18089).
    """
    in_use = HostnameInUse(keys.path, hostname, kv.lease)
    if not kv.lease:
        raise in_use
    async with open_plain_nursery() as nursery:

        async def wait_gone() -> None:
            await _wait_lease_gone(client, kv.lease, in_use)
            await trio.sleep(_DELETION_TIME)  # by now the watch has brought it, if it ever will
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_gone)
        await PathFollower(client, keys, inf).wait_changed_key(kv, revision)
        nursery.cancel_scope.cancel()


async def _wait_lease_gone(client: Client, lease: int, in_use: HostnameInUse) -> None:
    """Wait until a lease is gone; raise `in_use` once it has been renewed twice.

    It then has longer to live than it had by itself, and not because of another raft leader, or
    a store that was restored: they let all leases begin their TTL anew. Once is not enough: what
    a process sent before it was killed may have waited at a member that stood still.
    """
    asked_at = trio.current_time()
    lapses_at, term, revision, renewals = 0.0, -1, 0, 0
    with suppress(LeaseNotFound):
        while True:
            info = await client.lease_time_to_live(lease)
            is_anew = info.raft_term != term or info.revision < revision
            is_longer = info.ttl > 0 and asked_at + info.ttl > lapses_at  # not just late to lapse
            renewals += is_longer and not is_anew
            if renewals == _RENEWALS:
                raise in_use
            if is_anew or is_longer:
                # etcd gives whole seconds, rounded down.
                lapses_at, term = trio.current_time() + info.ttl + 1, info.raft_term
            revision = info.revision
            asked_at += 1
            await trio.sleep_until(asked_at)


async def withdraw(
    client: Client, keys: PathKeys, hostname: str, lease: int, known: tuple[int, int] = (0, 0)
) -> None:
    """Delete a host's own keys of a path, as their lease lives on for others.

    Each goes by its create_revision: a request that etcd carries out late, when the host is on the
    path again under the same lease, does nothing.

    Args:
        client: to ask with.
        keys: of the path.
        hostname: of the host.
        lease: that its keys hang on; what hangs on another one is not touched.
        known: create_revisions of the host's key and of the candidate's; 0 if there is none, or it
            is not known.

    Raises:
        EtcdError: etcd did not answer, or refused.
    """
    own = (keys.host(hostname), keys.candidate(lease))
    revisions = dict(zip(own, known, strict=True))
    ours = [key for key, revision in revisions.items() if revision]
    while True:
        answer = await client.txn(
            [Compare.create_revision(key, "==", revision) for key, revision in revisions.items()],
            [Delete(key) for key in ours],
            [Get(key) for key in own],
        )
        if answer.succeeded:
            return
        found = {key: answer.get(index).kv for index, key in enumerate(own)}
        revisions = {key: 0 if kv is None else kv.create_revision for key, kv in found.items()}
        ours = [key for key, kv in found.items() if kv is not None and kv.lease == lease]
        if not ours:
            return


async def clear_if_last(client: Client, keys: PathKeys, decision_leases: AbstractSet[int]) -> bool:
    """Take the decision away if no host is left; True if it was so.

    Nor any mark of a slot that was not released: its holder may be at work still, and the mark
    hangs on the decision's lease. Then that lapses by itself.

    Args:
        client: the client to ask with.
        keys: of the path.
        decision_leases: leases that this host has to see to, as the leader: its
            own decision lease, and the one before that it took over from.

    Raises:
        EtcdError: etcd did not answer.
    """
    # A condition over all hosts is etcd's work for each that leaves; a look at one is not.
    hosts = await client.get_prefix(keys.exchange, limit=1, keys_only=True)
    if hosts.kvs and not decision_leases:
        return False
    answer = await client.txn(
        [
            Compare.create_revision(prefix, "==", 0).over_prefix()
            for prefix in (keys.exchange, keys.marks)
        ],
        [
            *_read_decision(keys),
            Delete(keys.scheduled),
            Delete(keys.record),
        ],
        [Get(keys.record, keys_only=True), Get(*prefix_range(keys.marks), keys_only=True)],
    )
    if answer.succeeded:
        found = {kv.lease for kv in _decision(answer)}
        useless = (decision_leases | found) - {0}
    else:
        # Others stay. The decision lapses unless the next leader takes it over; a
        # lease that neither it nor a mark hangs on is of no use to any host.
        useless = decision_leases - {kv.lease for index in (0, 1) for kv in answer.get(index)}
    for lease in useless:
        if not is_shared(lease):  # else its host sees to that
            await revoke_quietly(client, lease)
    return answer.succeeded


class JoiningReads:
    """What the joining transaction is about to read, for those who watch already."""

    def __init__(self) -> None:
        self._watched = trio.Event()
        self._watching = 0
        self._ended = trio.Event()
        self._joined: Joined | None = None

    def end(self, joined: Joined) -> None:
        """Let go on what waits for the transaction: this is what it read."""
        self._joined = joined
        self._ended.set()

    async def follow(self, follower: PathFollower, covered: KeyRange, read: Read) -> None:
        """Follow a range. If that fails before the host has joined, so may the join: its error
        says more.
        """
        try:
            return await follower.follow(covered, read)
        except EtcdError as exc:
            failure = exc
        self._watched.set()
        await self._ended.wait()
        raise failure

    async def wait_watched(self) -> None:
        """Wait until both watches are there: what reads comes after them."""
        await self._watched.wait()

    async def read_decision(self) -> GetResult:
        """Return what it read of the decision, once it has."""
        return (await self._wait()).decision

    async def read_own(self) -> GetResult:
        """Return what it read of our own host's key, once it has."""
        joined = await self._wait()
        return found_keys(joined.revision, joined.own[0])

    async def _wait(self) -> Joined:
        self._watching += 1
        if self._watching == 2:
            self._watched.set()
        await self._ended.wait()
        assert self._joined is not None
        return self._joined
