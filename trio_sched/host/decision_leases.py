"""The lease that a leader's decisions hang on, by which they outlive it for a while.

Theory of operation
-------------------
It is three session TTLs long, and its leader renews it. When a leader has gone, the next one goes
on with its lease, if it has the TTL of its own; else it puts the decision, and the marks of slots,
under one of its own. So no host sees a gap, and nothing outlives the hosts by more than three TTLs.

A host that has one session for all of its paths has one such lease for all that it leads
(``shared_decisions.py``). No other host may go on with it, as then it would keep alive what others
have left there, nor revoke it. So its id says what it is: bit 62 is set in it, and in no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from trio_sched._support.tasks import run_shielded
from trio_sched.etcd_shim import Client, Compare, KeyValue, Put
from trio_sched.etcd_shim._keep import on_beat
from trio_sched.etcd_shim.errors import InvalidArgument, LeaseExists, LeaseNotFound
from trio_sched.etcd_shim.lease import new_lease_id
from trio_sched.host.patience import Patience
from trio_sched.model.keys import PathKeys

__all__ = [
    "DECISION_TTLS",
    "DecisionLease",
    "OwnDecisionLease",
    "carry_marks",
    "grant_decision_lease",
    "is_shared",
    "shared_lease_id",
]

DECISION_TTLS = 3
"""How many session TTLs a decision outlives the hosts who could renew it."""

_SHARED: Final = 1 << 62  # in an id; see `new_lease_id`
_MARKS_AT_ONCE: Final = 40


def is_shared(lease: int) -> bool:
    """Return whether a decision's lease is for all paths that its host leads."""
    return bool(lease & _SHARED)


def shared_lease_id() -> int:
    """Return an id for such a lease."""
    return new_lease_id() | _SHARED


class DecisionLease(Protocol):
    """The lease of one term of leadership."""

    @property
    def id(self) -> int:
        """The lease's; 0 while there is none."""

    @property
    def to_revoke(self) -> frozenset[int]:
        """The leases that are of no use when this host leaves, unless others use them."""

    async def ensure(self, inherited: int) -> int:
        """Return its id when there is one.

        Args:
            inherited: the lease that the decision hangs on, of the leader before us; 0 for none.
        """

    def note_gone(self, lease: int) -> None:
        """Note that a lease turned out to be gone."""

    def begin(self, nursery: trio.Nursery, on_gone: Callable[[], None]) -> None:
        """Keep it alive from now on; call `on_gone` when it is gone."""

    def end(self) -> None:
        """Note that this host does not lead any more, or that the nursery has ended."""


class OwnDecisionLease:
    """A lease for the decisions of one path.

    Args:
        client: to ask with.
        ttl: of a session, in seconds.
        grace: seconds for which the answer to its grant is awaited when the host leaves.
        patience: what is waited out.
    """

    def __init__(self, client: Client, ttl: int, grace: float, patience: Patience) -> None:
        self._client = client
        self._ttl = ttl
        self._grace = grace
        self._patience = patience
        self._id = 0

    @property
    def id(self) -> int:
        """The lease's; 0 while there is none."""
        return self._id

    @property
    def to_revoke(self) -> frozenset[int]:
        """Ours.

        That of the leader before us, if ours has another TTL, is left to lapse: marks of slots
        may hang on it.
        """
        return frozenset({self._id} - {0})

    async def ensure(self, inherited: int) -> int:
        """Return its id; that of the leader before us, if it lives and is as long as ours."""
        if self._id:
            return self._id
        ttl = self._ttl * DECISION_TTLS
        if inherited and not is_shared(inherited):
            renewed = await self._patience.insist(_renew, self._client, inherited)
            if renewed == ttl:
                self._id = inherited
                return inherited
        # Noted before it is asked for, so that leaving revokes it whatever happens.
        self._id = lease = new_lease_id()
        await self._patience.insist(grant_decision_lease, self._client, ttl, lease, self._grace)
        self._id = lease  # it may have been due before it was granted
        return lease

    def note_gone(self, lease: int) -> None:
        """Note that a lease turned out to be gone."""
        if self._id == lease:
            self._id = 0

    def begin(self, nursery: trio.Nursery, on_gone: Callable[[], None]) -> None:
        """Renew it by a task."""
        nursery.start_soon(self._keep, on_gone)

    def end(self) -> None:
        """Do nothing: its task has ended with its nursery."""

    async def _keep(self, on_gone: Callable[[], None]) -> None:
        """Renew it at a third of its TTL, that is, once in a session TTL."""
        while True:
            await trio.sleep_until(on_beat(trio.current_time() + self._ttl, self._ttl))
            lease = self._id
            if lease and not await self._patience.insist(_renew, self._client, lease):
                self.note_gone(lease)
                on_gone()


async def _renew(client: Client, lease: int) -> int:
    """Renew a lease; return its TTL, or 0 if it is gone."""
    try:
        return await client.lease_renew(lease)
    except LeaseNotFound:
        return 0


async def grant_decision_lease(client: Client, ttl: int, lease: int, grace: float) -> None:
    """Grant a lease under an id that is ours alone; that may have been done already.

    Cancelled while the answer is awaited, it waits up to `grace` seconds more for it.
    """

    async def grant() -> None:
        with contextlib.suppress(LeaseExists):  # an answer was lost
            await client.lease_grant(ttl, lease)

    await run_shielded(grace, grant)


async def carry_marks(client: Client, keys: PathKeys, lease: int) -> None:
    """Put all marks of slots under the lease that the decision hangs on now.

    Holders do so with their own when they see the new decision; but a mark whose holder is gone
    has to last as long as `takeover_pause`, too, though the leader before us may be gone with it.

    Raises:
        EtcdError: etcd did not answer, or refused.
        LeaseNotFound: the lease is gone; there will be another decision.
    """
    found = await client.get_prefix(keys.marks)
    marks = [kv for kv in found if kv.lease != lease]
    for first in range(0, len(marks), _MARKS_AT_ONCE):
        some = marks[first : first + _MARKS_AT_ONCE]
        if not await _carry(client, some, lease):
            for mark in some:
                await _carry(client, [mark], lease)


async def _carry(client: Client, marks: Sequence[KeyValue], lease: int) -> bool:
    """Put some marks under a lease, if they are as they were."""
    try:
        answer = await client.txn(
            [Compare.value(mark.key, "==", mark.value) for mark in marks],
            [Put(mark.key, mark.value, lease) for mark in marks],
        )
    except InvalidArgument:  # there are too many for this etcd
        if len(marks) == 1:
            raise
        return False
    return answer.succeeded
