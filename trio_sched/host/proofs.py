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
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from trio_sched._support.suspension import lease_time
from trio_sched.etcd_shim import Client, Compare, EtcdError, Get, KeyValue
from trio_sched.etcd_shim.errors import InvalidArgument
from trio_sched.host.per_client import PerClient

__all__ = ["Leftovers", "Proofs", "Provable", "proof_interval", "proofs_of"]

_MOST: Final = 128  # conditions in a transaction: etcd's --max-txn-ops, if it is not set


def proof_interval(ttl: float) -> float:
    """Return seconds from one proof to the next: as rare as leaves time for a second attempt.

    A little more than half a TTL: a leader reads all of its path once in a TTL, which is a proof,
    too.
    """
    return max(ttl / 3, min(0.52 * ttl, ttl - 2))


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected of a key: that it is as it was, or does not hang on a lease.

    Attributes:
        mod_revision: what it has; 0 if it is not there.
        not_on: id of the lease that it must not hang on; if given, all else may be as it is.
    """

    mod_revision: int = 0
    not_on: int = 0

    def compare(self, key: bytes) -> Compare:
        """Return the condition for it."""
        if self.not_on:
            return Compare.lease(key, "!=", self.not_on)
        return Compare.mod_revision(key, "==", self.mod_revision)

    def is_met(self, kv: KeyValue | None) -> bool:
        """Return whether a key, None if it is not there, is as expected."""
        if self.not_on:
            return kv is None or kv.lease != self.not_on
        return self.mod_revision == (0 if kv is None else kv.mod_revision)


class Leftovers(Protocol):
    """Keys of ours that we have deleted, and that a store that was restored may hold again."""

    def keys(self) -> Mapping[bytes, int]:
        """Return the keys, each with the lease that it hung on."""

    def note_found(self, kv: KeyValue) -> None:
        """Note that one of them is there, on that lease."""


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

    def begin_proof(self, asked_at: float) -> None:
        """Note that a proof is asked for."""

    def note_proven(self, asked_at: float, revision: int, cluster: int) -> None:
        """Note that all is as expected; or be proven alone if the answer is another store's."""

    def prove_alone(self) -> None:
        """Be due at once, by itself."""

    def bears(self, error: EtcdError) -> bool:
        """Return whether an error is waited out."""


_Batch: TypeAlias = "list[tuple[Provable, Mapping[bytes, Expectation]]]"


class Proofs:
    """The followers of one client that keep themselves proven."""

    def __init__(self) -> None:
        self._followers: dict[Provable, None] = {}

    @contextmanager
    def sharing(self, follower: Provable) -> Iterator[None]:
        """Let others take a follower with them, for a block."""
        self._followers[follower] = None
        try:
            yield
        finally:
            del self._followers[follower]

    async def prove(self, client: Client, follower: Provable) -> bool:
        """Prove a follower that is due, with others; return whether that was done.

        If not, nothing is known of it, and it is to be proven by itself.

        Raises:
            EtcdError: what this follower does not wait out.
        """
        batch = self._batch(follower)
        if len(batch) == 1:
            return False
        asked_at = lease_time()
        for each, _ in batch:
            each.begin_proof(asked_at)
        open_ones = dict(batch)
        try:
            for each, proven, revision, cluster in await _ask(client, batch):
                if proven:
                    del open_ones[each]
                    each.note_proven(asked_at, revision, cluster)
        except EtcdError as exc:
            if not follower.bears(exc) and not isinstance(exc, InvalidArgument):
                raise
            return False  # each asks by itself, as it may be about one, or about their number
        finally:
            for each in open_ones:
                if each is not follower:
                    each.prove_alone()
        return follower not in open_ones

    def _batch(self, follower: Provable) -> _Batch:
        """Return who is proven together with a follower, it first, each with what to expect."""
        expected = follower.expected()
        batch: _Batch = [(follower, expected)]
        room = _MOST - len(expected)
        now = lease_time()
        for each in sorted(self._followers, key=lambda each: each.due_at):
            if each.due_at - each.interval / 2 > now:
                break
            if each is follower or each.alone:
                continue
            expected = each.expected()
            room -= len(expected)
            if room < 0:
                break
            batch.append((each, expected))
        return batch


async def _ask(client: Client, batch: _Batch) -> list[tuple[Provable, bool, int, int]]:
    """Return of each whether all is as expected, at which revision, and of which cluster."""
    expected = [item for _, keys in batch for item in keys.items()]
    answer = await client.txn(
        [expectation.compare(key) for key, expectation in expected],
        [],
        [Get(key, keys_only=True) for key, _ in expected],
    )
    found = (answer.revision, answer.header.cluster_id)
    if answer.succeeded:
        return [(each, True, *found) for each, _ in batch]
    kvs = (answer.get(index).kv for index in range(len(expected)))
    asked = [(each, [(one, next(kvs)) for one in keys.values()]) for each, keys in batch]
    return [(each, all(one.is_met(kv) for one, kv in its), *found) for each, its in asked]


_proofs: Final = PerClient(Proofs)


def proofs_of(client: Client) -> Proofs:
    """Return the proofs of a client's followers."""
    return _proofs.of(client)
