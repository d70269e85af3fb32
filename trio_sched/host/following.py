"""Keeping a `PathView` up to date: by watches, and by proofs that nothing was missed.

Theory of operation
-------------------
`follow` keeps one range: it reads it, watches on from there, and reads it again when the
history is gone; all of that is `etcd_shim`'s `Follower`. What it learns goes into the view,
and `changed` wakes the tasks that read from there.

A watch can fall silent without an end, or lose an event (etcd issues 15402, 18089). So now and
then one transaction asks whether the keys that matter still have the mod_revisions that the
view has; only if not does it read them. It is linearizable, so the view was the newest when
the transaction was *sent*: that moment is `fresh_at`. What it found to differ is loaded, and
the range is watched anew from there. Those of one client are made together, see ``proofs.py``.

No linearizable answer has a lower revision than one before it, unless the store is another
one, restored or wiped: that is `RevisionWentBack`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from math import inf

import trio

from trio_sched._support.suspension import lease_time, suspended
from trio_sched._support.tasks import open_plain_nursery
from trio_sched.etcd_shim import Client, GetResult, KeyValue
from trio_sched.etcd_shim._following import Follower, Read, open_follower
from trio_sched.etcd_shim.errors import ClusterChanged, EtcdError, RevisionWentBack
from trio_sched.etcd_shim.watch import EventType, WatchBatch, Watcher
from trio_sched.host.expectations import (
    Expectation,
    Leftovers,
    expected,
    expected_to_lead,
    mod_revision,
)
from trio_sched.host.patience import Patience, Wait
from trio_sched.host.proofs import Proofs, find_differences, proofs_of
from trio_sched.host.reads import Reads, found_keys, read_path
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.path_view import PathView

__all__ = ["PathFollower"]

_BUFFER_SIZE = 100_000  # events that may wait to be read
_MAX_READS = 3  # of a range, if events overtake them


class PathFollower:
    """Keeps a view of a path up to date.

    Args:
        client: the client to read and to watch with.
        keys: of the path.
        interval: seconds from one proof to the next.
        own: keys of ours that have to be proven, too, where they are covered.
        patience: what is waited out; None for faults on the way to etcd.

    Attributes:
        view: what is known.
        changed: where to wait for the next change of it.
        fresh_at: by `lease_time`, when the view was the newest for certain.
        healed: how often a proof showed what no watch had brought.
        patience: as given.
        interval: as given.
        alone: whether the next proof is to be made by itself, at once.
        leftovers: what must not be there; None for nothing.
        longest: seconds that a proof may be old, until `keep_fresh` gives up.
        on_change: called with each change of the view, before who waits for one.
    """

    def __init__(
        self,
        client: Client,
        keys: PathKeys,
        interval: float,
        own: tuple[bytes, ...] = (),
        patience: Patience | None = None,
    ) -> None:
        self._client = client
        self.patience: Patience = patience or Patience()
        self.interval: float = interval
        self.alone: bool = False
        self.leftovers: Leftovers | None = None
        self.longest: float = inf
        self.on_change: Callable[[], None] = lambda: None
        self._proving = trio.CancelScope()
        self._proofs: Proofs | None = None  # with which it is proven
        self._leading: Follower | None = None  # of all that a leader has to know
        self._read_whole_at = 0  # revision of the last read of that
        self._asked_at = -inf  # by `lease_time`, when a proof was asked for last
        self._known = 0  # revision of the view then
        self._nap = trio.CancelScope()  # until it is due
        self._proven = (keys.scheduled, keys.record, *own)
        self._watching: dict[KeyRange, trio.CancelScope] = {}
        self._corrections: dict[KeyRange, GetResult] = {}
        self.view: PathView = PathView(keys)
        self.changed: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.fresh_at: float = lease_time()
        self.healed: int = 0
        self._cluster = 0  # id of etcd's; 0 as long as it is not known

    # ---- what is covered ---------------------------------------------------------------

    def cover(self, covered: KeyRange, found: GetResult, asked_at: float | None = None) -> None:
        """Load a read of a range, sent at `asked_at`: a proof, if it has all to be proven."""
        is_first = not any(self.view.covers(key) for key in self._proven)
        self._load(covered, found)
        is_proof = all(key in covered for key in self._proven if self.view.covers(key))
        if asked_at is not None and is_proof:
            if is_first:
                self.fresh_at = asked_at  # what proved an empty view does not prove this
            self._note_fresh(asked_at)
        self.note_change()

    def _load(self, covered: KeyRange, found: GetResult) -> None:
        newest = self.view.covered.get(covered, 0)
        if covered == self.view.keys.leading and found.revision >= newest:  # else it is ignored
            self._read_whole_at = found.revision
        self.view.load(covered, found, found.revision)

    def replace(self, covered: KeyRange, found: GetResult) -> None:
        """Cover `covered` in place of all ranges that lie in it, without a gap."""
        former = [each for each in self.view.covered if each != covered and each.within(covered)]
        self._load(covered, found)
        for each in former:
            self._uncover(each)
        self.note_change()

    def note_change(self) -> None:
        """Wake who waits for a change of the view."""
        self.on_change()
        self.changed.unpark_all()

    def split(self, covered: KeyRange, *parts: KeyRange) -> None:
        """Cover parts of a range by themselves, too: they stay when the range is given up.

        Until they are followed, they are kept by proofs.
        """
        for part in parts:
            self.view.load(part, self.view.within(part), self.view.covered[covered])

    def _uncover(self, covered: KeyRange) -> None:
        self.view.uncover(covered)
        if covered in self._watching:
            self._watching[covered].cancel()

    async def follow(
        self,
        covered: KeyRange,
        first: GetResult | Read | None = None,
        reconcile: float | None = None,
        *,
        at_once: bool = True,
    ) -> None:
        """Keep a range up to date until cancelled, or until it is not covered any more.

        Args:
            covered: the range.
            first: what a read of it gave, which is covered already; or what waits for a read
                that is made elsewhere, while the watch begins; None to read it now.
            reconcile: seconds from one read of all of it to the next; None for never.
            at_once: whether to read it again if the watch begins behind `first`.

        Raises:
            RevisionWentBack: the store is another one.
            EtcdError: the watch cannot go on.
        """
        read = Reads(first if callable(first) else None, partial(self._read_and_cover, covered))
        found = None if callable(first) else first
        if found is not None:
            self.cover(covered, found)
        try:
            while True:
                with trio.CancelScope() as self._watching[covered]:
                    await self._keep_watching(covered, read, found, reconcile, at_once=at_once)
                if covered not in self.view.covered:
                    return
                found = self._corrections.pop(covered, None)
        finally:
            if covered == self.view.keys.leading:
                self._leading = None
            del self._watching[covered]
            self.view.uncover(covered)

    async def _keep_watching(
        self,
        covered: KeyRange,
        read: Read,
        first: GetResult | None,
        reconcile: float | None,
        *,
        at_once: bool,
    ) -> None:
        """Watch, and begin anew with a read when etcd has refused that for a while."""
        wait = Wait(self.patience)
        try:
            while True:
                try:
                    return await self._watch(
                        covered, read, first, reconcile, wait.worked, at_once=at_once
                    )
                except EtcdError as exc:
                    await wait.out(exc)
                first = None
        finally:
            wait.end()

    async def _watch(
        self,
        covered: KeyRange,
        read: Read,
        first: GetResult | None,
        reconcile: float | None,
        note_begun: Callable[[], None],
        *,
        at_once: bool,
    ) -> None:
        def watch(revision: int) -> AbstractAsyncContextManager[Watcher]:
            return self._client.watch(
                covered.first,
                range_end=covered.end,
                start_revision=revision,
                buffer_size=_BUFFER_SIZE,
            )

        async with open_follower(read, watch, reconcile, first, at_once=at_once) as follower:
            note_begun()
            if covered == self.view.keys.leading:
                self._leading = follower
            while covered in self.view.covered:
                batch = await follower.receive()
                self._take(covered, batch)
                self.healed += follower.healed
                follower.healed = 0

    async def _read_and_cover(self, covered: KeyRange) -> GetResult:
        asked_at = lease_time()
        found = await self.read(covered)
        self.cover(covered, found, asked_at)
        return found

    def _take(self, covered: KeyRange, batch: WatchBatch) -> None:
        """Take in what a watch brought, unless the range was given up meanwhile."""
        view = self.view
        known = view.covered.get(covered)
        if known is None:
            return
        for event in batch.events:
            if event.kv.mod_revision <= known:
                continue  # it is in what a read, or a proof, has loaded meanwhile
            if not view.keys.is_ours(event.kv.key):
                continue  # of another path, which begins with this one
            if event.type is EventType.PUT:
                view.put(event.kv, batch.revision)
            else:
                view.delete(event.kv.key, batch.revision)
        view.advance(covered, batch.revision)
        self.note_change()

    async def read(self, covered: KeyRange) -> GetResult:
        """Read a range, as often as it takes until etcd answers; it is not loaded.

        Raises:
            RevisionWentBack: the store is another one.
            EtcdError: etcd refused.
        """
        known = self.view.revision
        read = partial(read_path, together=not proofs_of(self._client).refused)
        found = await self.patience.insist(read, self._client, self.view.keys, covered)
        _check_revision(known, found.revision)
        if found.revision >= self.view.covered.get(covered, found.revision + 1):
            for kv in found:
                self._check_key(kv, known)
        return found

    async def reload(self, covered: KeyRange) -> bool:
        """Read a range anew, and load it; return whether that was done. Raises as `read` does.

        A read that events have overtaken is not loaded, and proves nothing.
        """
        for _ in range(_MAX_READS):
            asked_at = lease_time()
            found = await self.read(covered)
            if found.revision >= self.view.covered.get(covered, 0):
                self._correct(covered, found, asked_at)
                return True
        return False

    def _correct(self, covered: KeyRange, found: GetResult, asked_at: float | None = None) -> None:
        """Load a read of a range, and watch it anew from there."""
        if covered in self.view.covered:
            self.cover(covered, found, asked_at)
            if covered in self._watching:
                self._corrections[covered] = found
                self._watching[covered].cancel()

    async def wait(self, condition: Callable[[PathView], bool]) -> None:
        """Wait until something holds for the view. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while not condition(self.view):
            await self.changed.park()

    async def wait_changed_key(self, kv: KeyValue, revision: int) -> None:
        """Wait until a key that was so at `revision` is deleted, or created anew.

        If that was just before the watch, it is noticed up to 0.1 s late.
        """
        found = found_keys(revision, kv)

        def is_another(view: PathView) -> bool:
            now = view.get(kv.key)
            return now is None or now.create_revision != kv.create_revision

        await self.wait_for(KeyRange.of(kv.key), found, is_another, at_once=False)

    async def wait_for(
        self,
        covered: KeyRange,
        found: GetResult,
        condition: Callable[[PathView], bool],
        *,
        at_once: bool = True,
    ) -> None:
        """Follow a range, from what a read of it gave, until something holds.

        Raises:
            RevisionWentBack: the store is another one.
            EtcdError: the watch cannot go on.
        """
        async with open_plain_nursery() as nursery:
            self.cover(covered, found)
            follow = partial(self.follow, at_once=at_once)
            nursery.start_soon(follow, covered, found, name=self.follow)
            await self.wait(condition)
            nursery.cancel_scope.cancel()

    # ---- proofs ------------------------------------------------------------------------

    async def keep_fresh(self) -> None:
        """Prove now and then that the view is the newest, until cancelled.

        Returns when it was not, for `longest` seconds.

        Raises:
            RevisionWentBack: the store is another one.
            EtcdError: etcd refused.
        """
        self._proofs = proofs = proofs_of(self._client)
        self._asked_at = self.fresh_at
        with proofs.sharing(self), self._proving:
            self._note_fresh(self.fresh_at)
            while True:
                while (due_at := self.due_at) > lease_time():
                    with trio.CancelScope(deadline=due_at - suspended()) as self._nap:
                        await trio.sleep_forever()
                if self.alone or not await proofs.prove(self._client, self):
                    self._asked_at = lease_time()
                    proofs.note_asked(self)
                    await self.prove()
                    self.alone = False

    def _note_fresh(self, asked_at: float) -> None:
        """Note that the view was the newest when this was asked."""
        self.fresh_at = max(self.fresh_at, asked_at)
        self._proving.deadline = self.fresh_at - suspended() + self.longest
        if self._proofs is not None and self.fresh_at > self._asked_at:
            self._proofs.note_asked(self)

    @property
    def due_at(self) -> float:
        """By `lease_time`, when it has to be proven again."""
        return -inf if self.alone else max(self.fresh_at, self._asked_at) + self.interval

    def expected(self) -> dict[bytes, Expectation]:
        """Return the keys to be proven: as they are in the view, or not to hang on our lease."""
        return expected(self.view, self._proven, self.leftovers)

    def expected_to_lead(self) -> dict[bytes, Expectation]:
        """Return what shows, besides, that all that a leader has to know is the newest."""
        leading = self._leading
        if leading is None or trio.current_time() - leading.fresh_at < 1.5 * self.interval:
            return {}  # that was known just now: it is shown by every second proof
        return expected_to_lead(self.view, self._proven, self._read_whole_at)

    def note_all_proven(self, asked_at: float) -> None:
        """Note that all that a leader has to know is the newest."""
        if self._leading is not None:
            self._leading.note_fresh(asked_at - suspended())

    def begin_proof(self, asked_at: float) -> None:
        """Note that a proof is asked for, together with those of others."""
        self._asked_at = asked_at
        self._known = self.view.revision
        self._nap.deadline = self.due_at - suspended()  # not to wake just to sleep again

    def note_proven(self, asked_at: float, revision: int, cluster: int) -> None:
        """Note that all is as expected; or be proven alone if the answer is another store's."""
        is_other = cluster and self._cluster and cluster != self._cluster
        if revision < self._known or is_other:
            self.prove_alone()
        else:
            self._note_fresh(asked_at)

    def prove_alone(self) -> None:
        """Be due at once, by itself."""
        self.alone = True
        self._nap.cancel()

    def bears(self, error: EtcdError) -> bool:
        """Return whether an error is waited out."""
        return self.patience.bears(error)

    async def prove(self) -> None:
        """Prove that the view is the newest, or load what differs. Raises as `keep_fresh` does.

        Flat, and with plain reads in its else: so it stays out of raft, and is
        linearizable though it reads nothing when all is as it was.
        """
        anything = {self._proven[0]: Expectation()}  # where nothing is covered: etcd has to answer
        wanted, known = self.expected() or anything, self.view.revision
        asked_at = lease_time()
        found, revision = await self.patience.insist(self._find_differences, wanted)
        _check_revision(known, revision)
        if self.leftovers is not None:
            for key, kv in found.items():
                if kv is not None and wanted[key].not_on and not wanted[key].is_met(kv):
                    self.leftovers.note_found(kv)
        if found and not await self._load_differences(found, revision, known):
            return
        self._note_fresh(asked_at)

    async def _find_differences(
        self, wanted: Mapping[bytes, Expectation]
    ) -> tuple[Mapping[bytes, KeyValue | None], int]:
        """Return the keys, none if all are as expected, and the revision at which they are."""
        proofs = proofs_of(self._client)
        found, revision, cluster = await find_differences(self._client, proofs, wanted)
        self.check_cluster(cluster, revision)
        return found, revision

    def check_cluster(self, cluster: int, revision: int) -> None:
        """Check that it is the cluster that has answered before; some proxies do not say.

        Raises:
            ClusterChanged: it is another one.
        """
        if cluster and self._cluster and cluster != self._cluster:
            raise ClusterChanged(self.view.revision, revision, self._cluster, cluster)
        self._cluster = cluster or self._cluster

    async def _load_differences(
        self, found: Mapping[bytes, KeyValue | None], revision: int, asked_by: int
    ) -> bool:
        """Load what differs from the view; return whether it is the newest now."""
        complete = True
        for covered, known in list(self.view.covered.items()):
            keys = [key for key in found if key in covered]
            if not any(self._differs(key, found[key], revision) for key in keys):
                continue
            for key in keys:
                self._check_key(found[key], asked_by)
            self.healed += 1
            if self._is_whole(covered) and known <= revision:
                self._correct(covered, found_keys(revision, *(found[key] for key in keys)))
            else:  # these are only some of its keys, or events have come since
                complete = await self.reload(covered) and complete
        return complete

    def _differs(self, key: bytes, kv: KeyValue | None, revision: int) -> bool:
        """Return whether a key is not as it was found at `revision`, unless it has changed since.

        That the watch has come further than that proves nothing: it may have missed this key's
        event and brought a later one, or have been resumed on a store that was restored.
        """
        seen = mod_revision(self.view.get(key))
        return seen != mod_revision(kv) and seen <= revision

    def _is_whole(self, covered: KeyRange) -> bool:
        """Return whether a proof is about all keys of a range."""
        return covered in {self.view.keys.decision, KeyRange.of(covered.first)}

    def _check_key(self, kv: KeyValue | None, known: int) -> None:
        """Check a key by what was known when it was asked for: a store may have caught up."""
        seen = 0 if kv is None else mod_revision(self.view.get(kv.key))
        if kv is not None and kv.mod_revision < seen <= known:
            raise RevisionWentBack(seen, kv.mod_revision)


def _check_revision(known: int, found: int) -> None:
    if found < known:  # when it was asked for; events may have overtaken it since
        raise RevisionWentBack(known, found)
