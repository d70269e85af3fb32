"""Software transactional memory, as clientv3's ``concurrency.NewSTM`` has it.

Theory of operation
-------------------
A function reads and writes keys by an `STM`, which remembers what was read, with its
mod_revision, and keeps what is written to itself. When the function has returned, one transaction
of etcd writes all of it, if what was read has not changed meanwhile. If it has, the same
transaction has read it anew, and the function is called again. So what it does besides reading and
writing by its STM must bear being done several times.

Isolations
----------
They are clientv3's, by its names. `SERIALIZABLE_SNAPSHOT` is the one that needs no thought, and so
the one that is used if none is asked for. The others ask etcd for less:

======================  ==============================  =========================================
isolation               all reads are of one revision   commits if these have not changed since
======================  ==============================  =========================================
SERIALIZABLE_SNAPSHOT   yes                             what was read, and what is written
SERIALIZABLE            yes                             what was read
REPEATABLE_READS        no                              what was read
READ_COMMITTED          no                              nothing, so it is called once
======================  ==============================  =========================================

In each, a key that is read twice gives the same, and one that was written gives what was written.

A commit whose answer is lost
-----------------------------
It may have been carried out. The same transaction is sent again if that cannot write twice: all
that is written is compared, and one of the keys that are written was read and was there, or no key
is put. If it fails and a key that we read and write is as it was, the first has failed as well.
Otherwise the keys were changed by the first, or by another client; which of them is not known, and
the error is raised.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from trio_sched._support.arguments import check_async, check_instance
from trio_sched.etcd_shim._about import TRANSIENT
from trio_sched.etcd_shim._backoff import Backoff, retry_transient
from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.etcd_shim.errors import RevisionCompacted
from trio_sched.etcd_shim.kv import (
    Compare,
    Delete,
    Get,
    Key,
    KeyValue,
    Operation,
    Put,
    TxnResult,
    to_bytes,
)

__all__ = ["STM", "Isolation", "STMResult", "stm"]

_AT_ONCE: Final = 3  # attempts, before one waits for others to be done

T = TypeVar("T")


class Isolation(enum.Enum):
    """What a transaction is kept from seeing. The names are those of Go's clientv3.

    A conflict, by which the function is called again, is a change of one of the keys named:

    - `SERIALIZABLE_SNAPSHOT`: all reads are of one revision, that of the first; commits if neither
      what was read nor what is to be written has changed since.
    - `SERIALIZABLE`: all reads are of one revision; commits if what was read has not changed.
    - `REPEATABLE_READS`: each key is read when it is asked for, so the function may see values that
      never were there together; then it does not commit, as what was read must not have changed.
    - `READ_COMMITTED`: as before, and it commits in any case.
    """

    SERIALIZABLE_SNAPSHOT = "serializable_snapshot"
    SERIALIZABLE = "serializable"
    REPEATABLE_READS = "repeatable_reads"
    READ_COMMITTED = "read_committed"


_OF_ONE_REVISION: Final = (Isolation.SERIALIZABLE_SNAPSHOT, Isolation.SERIALIZABLE)


def _absent(key: bytes) -> KeyValue:
    return KeyValue(key, b"", 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class STMResult(Generic[T]):
    """What a transaction did.

    Attributes:
        returned: what the function returned in the attempt that was committed.
        revision: the store's revision that it made; if it wrote nothing, that of what it read; 0
            if it read nothing either.
        attempts: how often the function was called.
    """

    returned: T
    revision: int
    attempts: int


class STM:
    """One attempt of a transaction. Given to the function that `stm` calls, for that call."""

    def __init__(
        self, client: Client, isolation: Isolation, known: Sequence[KeyValue], revision: int
    ) -> None:
        self._client = client
        self._isolation = isolation
        # What is known of keys; of one that is not there, mod_revision is 0.
        self._known = {kv.key: kv for kv in known}
        self._read: dict[bytes, KeyValue] = {}
        self._written: dict[bytes, Put | Delete] = {}
        self._revision = revision  # at which all is read; 0 as long as nothing was
        self._first_read = trio.Lock()
        self._doomed = False  # whether history that it needs is compacted, so it cannot commit

    async def get(self, key: Key) -> bytes | None:
        """Return the value of a key; None if it is not there.

        Raises:
            EtcdError: etcd cannot be reached, or refuses.
        """
        name = to_bytes(key)
        written = self._written.get(name)
        if written is not None:
            await trio.lowlevel.checkpoint()
            return to_bytes(written.value) if isinstance(written, Put) else None
        kv = await self._fetch(name)
        return kv.value if kv.mod_revision else None

    async def rev(self, key: Key) -> int:
        """Return the mod_revision of a key in etcd, whatever was written here; 0 if not there."""
        return (await self._fetch(to_bytes(key))).mod_revision

    def put(self, key: Key, value: Key, *, lease: int = 0) -> None:
        """Write a key when the transaction commits.

        Args:
            key: the key.
            value: its new value.
            lease: id of the lease to hang it on; 0 for none.
        """
        put = Put(to_bytes(key), value, lease)
        put.encode()  # it checks the arguments
        self._written[to_bytes(key)] = put

    def delete(self, key: Key) -> None:
        """Delete a key, if it is there, when the transaction commits."""
        delete = Delete(to_bytes(key))
        delete.encode()  # it checks the argument
        self._written[to_bytes(key)] = delete

    async def _fetch(self, key: bytes) -> KeyValue:
        """Return a key as it was read first."""
        kv = self._read.get(key) or self._known.get(key)
        if kv is not None:
            await trio.lowlevel.checkpoint()
        elif self._revision or self._isolation not in _OF_ONE_REVISION:
            kv = await self._ask(key)
        else:
            async with self._first_read:  # several tasks may read
                kv = await self._ask(key)
        return self._read.setdefault(key, kv)

    async def _ask(self, key: bytes) -> KeyValue:
        at = self._revision if self._isolation in _OF_ONE_REVISION else 0
        try:
            found = await self._client.get(key, revision=at)
        except RevisionCompacted:
            self._doomed = True
            raise
        self._revision = self._revision or found.revision
        return found.kv or _absent(key)

    # ---- committing ----------------------------------------------------------------

    async def _commit(self) -> tuple[bool, int, Sequence[KeyValue]]:
        """Return whether it has committed, at which revision, and else what was read anew."""
        reads_suffice = len(self._read) < 2 or self._isolation is not Isolation.REPEATABLE_READS
        if not self._written and reads_suffice:
            await trio.lowlevel.checkpoint()
            return True, self._revision, ()
        done = await self._send()
        if done.succeeded:
            return True, done.revision, ()
        return False, done.revision, self._read_anew(done)

    def _conditions(self) -> list[Compare]:
        if self._isolation is Isolation.READ_COMMITTED:
            return []
        conditions = [
            Compare.mod_revision(key, "==", kv.mod_revision) for key, kv in self._read.items()
        ]
        if self._isolation is Isolation.SERIALIZABLE_SNAPSHOT and self._revision:
            conditions += [
                Compare.mod_revision(key, "<", self._revision + 1)
                for key in self._written
                if key not in self._read
            ]
        return conditions

    async def _send(self) -> TxnResult:
        """Send the transaction; again, if its answer is lost and that shows what became of it."""
        conditions = self._conditions()
        write: list[Operation] = [*self._written.values()]
        if not write:
            write += [Get(key) for key in self._read]
        read = [Get(key) for key in self._read]
        try:
            return await self._client.txn(conditions, write, read)
        except TRANSIENT as exc:
            if not self._succeeds_once(conditions):
                raise
            lost = exc
        done = await retry_transient(self._client.txn, conditions, write, read)
        if done.succeeded or self._is_untouched(done):
            return done
        raise lost

    def _succeeds_once(self, conditions: Sequence[Compare]) -> bool:
        """Return whether the transaction writes nothing more when it is sent again.

        What was there is at a revision that does not come again once it was written. What was not
        there may have been created by us, and taken away by another client since.
        """
        if not self._written.keys() <= {condition.key for condition in conditions}:
            return False
        if not any(isinstance(write, Put) for write in self._written.values()):
            return True
        return any(key in self._written and kv.mod_revision for key, kv in self._read.items())

    def _is_untouched(self, done: TxnResult) -> bool:
        """Return whether a transaction that failed shows that none before it has succeeded."""
        for kv in self._read_anew(done):
            before = self._read[kv.key].mod_revision
            if kv.key in self._written and before and kv.mod_revision == before:
                return True
        return False

    def _read_anew(self, done: TxnResult) -> Sequence[KeyValue]:
        return [done.get(index).kv or _absent(key) for index, key in enumerate(self._read)]


async def stm(
    client: Client,
    apply: Callable[[STM], Awaitable[T]],
    *,
    isolation: Isolation = Isolation.SERIALIZABLE_SNAPSHOT,
) -> STMResult[T]:
    """Call ``apply(stm)``, and commit what it writes; call it again when that conflicts.

    It goes on until it has committed: put ``trio.move_on_after`` around it to bound that. What it
    reads is a key at a time; there are no ranges. A transaction of etcd holds at most 128
    operations, unless it is configured otherwise: so many keys may be read, and so many written.

    Cancellation: in `apply`, nothing is written. During the commit, all of it may have been
    written, or nothing.

    Args:
        client: an open client.
        apply: reads and writes by the `STM` that it is given, and may do so in several tasks. It
            may be called several times, and what it raises ends the transaction with nothing
            written.
        isolation: what it is kept from seeing.

    Raises:
        EtcdError: etcd cannot be reached, or refuses. If the answer to the commit was lost, a
            `ConnectionLost` whose `processed` is true, or the like: it is not known then whether
            it was carried out. That is only so if the keys that it writes were changed, by this
            commit or by another client, or if it writes keys that are not compared, see
            `Isolation`, or if it puts keys of which none was read and was there: those that it
            created may be gone again. What certainly was not carried out is committed again.
    """
    check_client(client)
    check_async("apply", apply)
    check_instance("isolation", isolation, Isolation, "an Isolation")
    backoff = Backoff(first=0.01, cap=0.5)
    known: Sequence[KeyValue] = ()
    revision = attempts = 0
    while True:
        attempts += 1
        attempt = STM(client, isolation, known, revision)
        known, revision = (), 0
        try:
            returned = await apply(attempt)
        except Exception:
            if not attempt._doomed:
                raise
        else:
            if not attempt._doomed:
                committed, revision, known = await attempt._commit()
                if committed:
                    return STMResult(returned, revision, attempts)
        if attempts >= _AT_ONCE:
            await trio.sleep(backoff.next())  # others are at it: what was read will be old
            known, revision = (), 0
