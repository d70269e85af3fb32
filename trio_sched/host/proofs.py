"""Proofs of many followers in one request.

Theory of operation
-------------------
Each follower is due for a proof now and then, see ``following.py``. Whichever of a client is due
first takes others with it, those that would be due next, as many as a transaction takes: etcd's
limit is 128 conditions. So a thousand paths cost a few requests where each would cost one, and
one path alone costs what it did.

The transaction is flat and its else has plain reads, without the values: so it stays out of raft,
and is linearizable. What is not as expected, or could not be asked together with the others, is
proven by itself at once. Nothing is proven late because of others: a follower whose proof is under
way elsewhere counts from when that was sent, and becomes due at once if it is given up.

An etcd of version 3.5.1 whose space is used up refuses transactions that only read (etcd issue
13429). Then each follower reads what it has to prove, without asking first whether it is so, and
whether transactions are taken again is tried now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from trio_sched._support.suspension import lease_time
from trio_sched.etcd_shim import Client, EtcdError, Get, KeyValue
from trio_sched.etcd_shim._pages import read_ranges
from trio_sched.etcd_shim.errors import InvalidArgument, NoSpace
from trio_sched.host.expectations import Expectation
from trio_sched.host.per_client import PerClient

__all__ = ["Proofs", "Provable", "find_differences", "proof_interval", "proofs_of"]

_MOST: Final = 128  # conditions in a transaction: etcd's --max-txn-ops, if it is not set
_FULL: Final = 5.0  # seconds for which an etcd is taken to be full, once it has said so


def proof_interval(ttl: float) -> float:
    """Return seconds from one proof to the next: as rare as leaves time for a second attempt.

    A little more than half a TTL: a leader reads all of its path once in a TTL, which is a proof,
    too.
    """
    return max(ttl / 3, min(0.52 * ttl, ttl - 2))


class Provable(Protocol):
    """What a follower has for it.

    Attributes:
        interval: seconds from one proof to the next.
    """

    interval: float

    @property
    def due_at(self) -> float:
        """By `lease_time`, when it has to be proven again."""

    @property
    def alone(self) -> bool:
        """Whether it has to be proven by itself."""

    def expected(self) -> Mapping[bytes, Expectation]:
        """Return the keys to be proven, each with what is expected of it."""

    def expected_to_lead(self) -> Mapping[bytes, Expectation]:
        """Return what there is besides that shows that all that a leader knows is the newest.

        Empty if it does not lead, or if that would be too much.
        """

    def begin_proof(self, asked_at: float) -> None:
        """Note that a proof is asked for."""

    def note_proven(self, asked_at: float, revision: int, cluster: int) -> None:
        """Note that all is as expected; or be proven alone if the answer is another store's."""

    def note_all_proven(self, asked_at: float) -> None:
        """Note that what shows that is as expected, too."""

    def prove_alone(self) -> None:
        """Be due at once, by itself."""

    def bears(self, error: EtcdError) -> bool:
        """Return whether an error is waited out."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One of a batch: what is expected, and what is besides of one that leads."""

    follower: Provable
    expected: Mapping[bytes, Expectation]
    to_lead: Mapping[bytes, Expectation]

    @classmethod
    def of(cls, follower: Provable) -> _Asked:
        return cls(follower, follower.expected(), follower.expected_to_lead())

    @property
    def conditions(self) -> list[tuple[bytes, Expectation]]:
        return [*self.expected.items(), *self.to_lead.items()]

    def note_proven(self, asked_at: float, revision: int, cluster: int, *, to_lead: bool) -> None:
        """Note that all is as expected, and whether that is so of what one that leads needs."""
        self.follower.note_proven(asked_at, revision, cluster)
        if self.to_lead and to_lead:
            self.follower.note_all_proven(asked_at)


class Proofs:
    """The followers of one client that keep themselves proven."""

    def __init__(self) -> None:
        # By interval, in the order in which they were asked for last: they are due in that order.
        self._queues: dict[float, dict[Provable, None]] = {}
        self._full_until = -inf  # by `lease_time`

    @property
    def refused(self) -> bool:
        """Whether etcd is taken to refuse transactions that only read, as it did just now."""
        return lease_time() < self._full_until

    def note_refused(self) -> None:
        """Note that it refuses them, as its space is used up."""
        self._full_until = lease_time() + _FULL

    @contextmanager
    def sharing(self, follower: Provable) -> Iterator[None]:
        """Let others take a follower with them, for a block."""
        queue = self._queues.setdefault(follower.interval, {})
        queue[follower] = None
        try:
            yield
        finally:
            del queue[follower]

    def note_asked(self, follower: Provable) -> None:
        """Note that a follower was asked for just now, or read: it is due later than all others."""
        queue = self._queues.get(follower.interval, {})
        if follower in queue:
            del queue[follower]
            queue[follower] = None

    async def prove(self, client: Client, follower: Provable) -> bool:
        """Prove a follower that is due, with others; return whether that was done.

        If not, nothing is known of it, and it is to be proven by itself.

        Raises:
            EtcdError: what this follower does not wait out.
        """
        if self.refused:
            return False
        batch = self._batch(follower)
        if len(batch) == 1 and not batch[0].to_lead:
            return False
        asked_at = lease_time()
        for each in batch:
            each.follower.begin_proof(asked_at)
            self.note_asked(each.follower)
        open_ones = {each.follower for each in batch}
        try:
            for each, shown, revision, cluster in await _ask(client, batch):
                if all(shown[: len(each.expected)]):
                    open_ones.discard(each.follower)
                    each.note_proven(asked_at, revision, cluster, to_lead=all(shown))
        except EtcdError as exc:
            if not self._bears(follower, exc):
                raise
            return False  # each asks by itself, as it may be about one, or about their number
        finally:
            for other in batch[1:]:
                if other.follower in open_ones:
                    other.follower.prove_alone()
        return follower not in open_ones

    def _bears(self, follower: Provable, error: EtcdError) -> bool:
        if isinstance(error, NoSpace):
            self.note_refused()
        return follower.bears(error) or isinstance(error, InvalidArgument)

    def _batch(self, follower: Provable) -> list[_Asked]:
        """Return who is proven together with a follower, it first, each with what to expect."""
        batch = [_Asked.of(follower)]
        room = _MOST - len(batch[0].conditions)
        for each in self._due_next(follower):
            asked = _Asked.of(each)
            room -= len(asked.conditions)
            if room < 0:
                break
            batch.append(asked)
        return batch

    def _due_next(self, follower: Provable) -> Iterator[Provable]:
        """Yield others that are half-way to being due, or beyond."""
        now = lease_time()
        for queue in self._queues.values():
            for each in queue:
                if each.due_at - each.interval / 2 > now:
                    break
                if each is not follower and not each.alone:
                    yield each


async def _ask(
    client: Client, batch: Sequence[_Asked]
) -> list[tuple[_Asked, Sequence[bool], int, int]]:
    """Return of each which expectations are met, at which revision, and of which cluster."""
    conditions = [condition for each in batch for condition in each.conditions]
    answer = await client.txn(
        [expectation.compare(key) for key, expectation in conditions],
        [],
        [expectation.look(key) for key, expectation in conditions],
    )
    found = (answer.revision, answer.header.cluster_id)
    if answer.succeeded:
        return [(each, [True] * len(each.conditions), *found) for each in batch]
    reads = (answer.get(index) for index in range(len(conditions)))
    return [
        (each, [expectation.is_shown(next(reads)) for _, expectation in each.conditions], *found)
        for each in batch
    ]


async def find_differences(
    client: Client, proofs: Proofs, wanted: Mapping[bytes, Expectation]
) -> tuple[Mapping[bytes, KeyValue | None], int, int]:
    """Return the keys, none if all are as expected, at which revision, and of which cluster.

    The cluster is 0 if it is not known.

    Raises:
        EtcdError: etcd refused.
    """
    if not proofs.refused:
        try:
            answer = await client.txn(
                [expectation.compare(key) for key, expectation in wanted.items()],
                [],
                [Get(key) for key in wanted],
            )
        except NoSpace:
            proofs.note_refused()
        else:
            reads = enumerate(wanted) if not answer.succeeded else ()
            found = {key: answer.get(index).kv for index, key in reads}
            return found, answer.revision, answer.header.cluster_id
    read = await read_ranges(client, _ranges(wanted), together=False)
    stored = {kv.key: kv for kv in read}
    same = all(one.is_met(stored.get(key)) for key, one in wanted.items())
    return {} if same else {key: stored.get(key) for key in wanted}, read.revision, 0


def _ranges(keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Return ranges that hold these keys: one for a key and another that begins with it."""
    ranges: list[tuple[bytes, bytes]] = []
    for key in sorted(keys):
        first = ranges[-1][0] if ranges else b""
        if first and key.startswith(first + b"."):
            ranges[-1] = (first, key + b"\0")
        else:
            ranges.append((key, key + b"\0"))
    return ranges


_proofs: Final = PerClient(Proofs)


def proofs_of(client: Client) -> Proofs:
    """Return the proofs of a client's followers."""
    return _proofs.of(client)
