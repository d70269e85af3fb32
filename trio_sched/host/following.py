"""Following the stored decision: by watches, and by reads that prove them fresh.

Two watches tell of the two keys; `DecisionView` puts them together. A watch can
fall silent without an end, or lose an event, by a fault of etcd; nothing in the
watch itself tells. So now and then both keys are read, linearizably. What the
read shows was the newest when it was *sent*: if it is what the watches told,
they are fresh as of then; if not, it heals them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from trio_sched._support.tasks import Doorbell, open_plain_nursery
from trio_sched.etcd_shim import Client, Event, EventType
from trio_sched.etcd_shim._backoff import persist
from trio_sched.etcd_shim.errors import Compacted, RevisionCompacted, WatchOverflow
from trio_sched.host.joining import version_of
from trio_sched.model.decision_view import DecisionView, Version
from trio_sched.model.keys import PathKeys

__all__ = ["DecisionFollower"]

# Seconds after which the other half of a decision is read, no longer awaited.
_HALF_DECISION_PATIENCE: Final = 0.25


class DecisionFollower:
    """Keeps a `DecisionView` up to date.

    Args:
        client: the client to read and to watch with.
        keys: of the path.
        settled: called without waiting after each change of the view that is not
            only one half of a decision.
        reconcile: seconds between two reads of what is watched.

    Attributes:
        view: what is known.
        revision: the store's revision at which it was read last.
        fresh_at: by trio's clock, when `view` was the newest for certain.
        healed: how often a read showed what no watch had told.
    """

    def __init__(
        self, client: Client, keys: PathKeys, settled: Callable[[], None], reconcile: float
    ) -> None:
        self._client = client
        self._keys = keys
        self._settled = settled
        self._reconcile = reconcile
        self._half_known = Doorbell()
        self.view = DecisionView()
        self.revision = 0
        self.fresh_at = trio.current_time()
        self.healed = 0

    def learn(self, scheduled: Version, decision: Version, revision: int, asked_at: float) -> None:
        """Take in what a read told that was sent at `asked_at`."""
        self.view.load(scheduled, decision, revision)
        self.revision = revision
        self.fresh_at = asked_at
        self._settle()

    async def read(self) -> None:
        """Read both keys, as often as it takes until etcd answers."""
        while True:
            with suppress(RevisionCompacted):
                return await persist(self.begin)

    async def begin(self) -> None:
        """Read both keys once, at one revision.

        Raises:
            RevisionCompacted: compacted between the two reads.
            EtcdError: etcd did not answer, or refused.
        """
        keys = self._keys
        asked_at = trio.current_time()
        scheduled = await self._client.get(keys.scheduled)
        decision = await self._client.get(keys.decision, revision=scheduled.revision)
        self.learn(version_of(scheduled), version_of(decision), scheduled.revision, asked_at)

    def take(self, event: Event) -> None:
        """Take in an event of one of the two keys that somebody else watches, too."""
        if event.kv.key == self._keys.scheduled:
            self.view.take_scheduled(_version(event))
        elif event.kv.key == self._keys.decision:
            self.view.take_decision(_version(event))

    def complete(self, revision: int) -> None:
        """Note that all events of both keys up to `revision` were taken in."""
        self.view.complete(revision)
        self._settle()

    async def follow(self) -> None:
        """Follow the decision from what was read last on, until cancelled.

        Raises:
            EtcdError: the watches cannot go on.
        """
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self.keep_fresh)
            while True:
                with suppress(Compacted, WatchOverflow):  # what was missed is in the read below
                    await self._watch_both(self.revision)
                await self.read()

    async def _watch_both(self, revision: int) -> None:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(
                self._watch, self._keys.scheduled, self.view.take_scheduled, revision
            )
            nursery.start_soon(self._watch, self._keys.decision, self.view.take_decision, revision)
            nursery.start_soon(self._complete_halves)

    async def _watch(self, key: bytes, take: Callable[[Version], None], revision: int) -> None:
        async with self._client.watch(key, start_revision=revision + 1) as watcher:
            while True:
                for event in (await watcher.receive()).events:
                    take(_version(event))
                self._settle()

    def _settle(self) -> None:
        """Pass the decision on, unless only one half of it is known."""
        if self.view.settled:
            self._settled()
        else:
            self._half_known.ring()

    async def _complete_halves(self) -> None:
        """Read a decision of which only one half has come for some time."""
        while True:
            if self.view.settled:
                await self._half_known.wait()
            await trio.sleep(_HALF_DECISION_PATIENCE)
            if not self.view.settled:
                await self.read()

    async def keep_fresh(self) -> None:
        """Read both keys now and then, until cancelled."""
        while True:
            await trio.sleep_until(self.fresh_at + self._reconcile)
            before = self.view.stored
            await self.read()
            now = self.view.stored
            if (now.mod_revision, now.record) != (before.mod_revision, before.record):
                self.healed += 1


def _version(event: Event) -> Version:
    kv = event.kv
    if event.type is EventType.DELETE:
        return Version(None, kv.mod_revision)
    return Version(kv.value, kv.mod_revision, kv.lease)
