"""`Observation` and `PathObservation`: what ``observe()`` gives, and what keeps them going."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from trio_sched._support.suspension import lease_time, suspended
from trio_sched._support.tasks import check_in_trio, open_plain_nursery, open_service_nursery
from trio_sched.etcd_shim import Client, GetResult
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim.errors import EtcdError, RevisionWentBack
from trio_sched.host.following import PathFollower
from trio_sched.host.newest import DecisionFeed, Feed, NewestOnly
from trio_sched.host.patience import Patience
from trio_sched.host.policy import Then, Where, outcome
from trio_sched.host.reads import read_path
from trio_sched.model.keys import KeyRange, PathKeys
from trio_sched.model.path_state import PathState
from trio_sched.model.path_view import PathView
from trio_sched.model.records import Hosts

__all__ = ["Observation", "PathObservation", "observe_decisions", "observe_everything"]

_MAX_DELAY: Final = 1.0  # seconds before what is gone is read anew


class Observation(NewestOnly[Hosts]):
    """The stream of decisions of a path.

    Iterate it, or call `next`. Every method that waits is a checkpoint, and a
    cancelled one loses no decision. Within one life of the store revisions never go
    down, and the same decision is not returned twice in a row.

    Attributes:
        path: the path.
    """

    def __repr__(self) -> str:
        """Show the path and the newest decision."""
        return f"<{type(self).__name__} of {self.path!r}: {self.newest!r}>"

    @property
    def newest(self) -> Hosts | None:
        """The newest decision, read or not; None before the first."""
        return self._feed.newest


class _PathFeed(Feed[PathState]):
    """States of a path, decoded when they are asked for."""

    def __init__(self, keys: PathKeys) -> None:
        super().__init__(keys.path)
        self.changed_at: float = trio.current_time()
        self.view: PathView = PathView(keys)

    @property
    def newest(self) -> PathState:
        return self.view.state()

    def take(self, view: PathView) -> None:
        self.view = view
        self.changed_at = trio.current_time()
        self._notify()


class PathObservation(NewestOnly[PathState]):
    """The stream of states of a path: hosts, decision, slots and control, all as of one revision.

    Iterate it, or call `next`; the first comes at once, also when there is nothing
    below the path. Every method that waits is a checkpoint, and a cancelled one loses
    nothing.

    Attributes:
        path: the path.
    """

    def __init__(self, feed: _PathFeed, observer: _Observer) -> None:
        super().__init__(feed)
        self._states = feed
        self._observer = observer

    def __repr__(self) -> str:
        """Show the path, and the revision of what is known."""
        return f"<PathObservation of {self.path!r} at revision {self._states.view.revision}>"

    @property
    def newest(self) -> PathState:
        """The newest state, read or not."""
        return self._states.newest

    @property
    def answered_at(self) -> float:
        """By trio's clock, when etcd last sent a change or answered a read."""
        return max(self._states.changed_at, self._observer.follower.fresh_at - suspended())


class _Observer:
    """Follows one range of a path for a feed."""

    def __init__(self, client: Client, keys: PathKeys, covered: KeyRange, reconcile: float) -> None:
        self._client = client
        self._keys = keys
        self._covered = covered
        self._reconcile = reconcile
        self._patience = Patience(where=Where.OBSERVING)
        self.follower: PathFollower = self._new_follower()

    def _new_follower(self) -> PathFollower:
        return PathFollower(self._client, self._keys, self._reconcile, patience=self._patience)

    async def begin(self) -> GetResult:
        """Read the range once, and load it.

        Raises:
            EtcdError: etcd cannot be reached, or refuses.
        """
        asked_at = lease_time()
        found = await read_path(self._client, self._keys, self._covered)
        self.follower.cover(self._covered, found, asked_at)
        return found

    async def run(self, feed: Feed[Hosts] | Feed[PathState], first: GetResult | None) -> None:
        """Go on from what `begin` read, until cancelled."""
        backoff = Backoff(cap=_MAX_DELAY)
        while True:
            began_at = trio.current_time()
            try:
                async with open_plain_nursery() as nursery:
                    nursery.start_soon(self._follow, first)
                    await self._pass_on(feed)
            except EtcdError as exc:
                if outcome(exc, Where.OBSERVING) is not Then.LOSE:
                    feed.end(exc)
                    raise
                if isinstance(exc, RevisionWentBack):
                    feed.begin_anew()
            if trio.current_time() > began_at + _MAX_DELAY:
                backoff.reset()
            self.follower, first = self._new_follower(), None
            await trio.sleep(backoff.next())

    async def _follow(self, first: GetResult | None) -> None:
        if self._covered == self._keys.decision:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self.follower.follow, self._covered, first)
                nursery.start_soon(self.follower.keep_fresh)
        else:  # more than a proof can be about: it is all read anew
            await self.follower.follow(self._covered, first, self._reconcile)

    async def _pass_on(self, feed: Feed[Hosts] | Feed[PathState]) -> None:
        follower = self.follower
        await follower.wait(lambda view: bool(view.covered))
        while True:
            feed.take(follower.view)
            await follower.changed.park()


@asynccontextmanager
async def observe_decisions(
    client: Client, path: str, reconcile: float
) -> AsyncIterator[Observation]:
    """Learn the decisions of a path. See `observe`."""
    check_in_trio()
    keys = PathKeys(path)
    feed = DecisionFeed(path)
    observer = _Observer(client, keys, keys.decision, reconcile)
    async with _observing(observer, feed):
        yield Observation(feed)


@asynccontextmanager
async def observe_everything(
    client: Client, path: str, reconcile: float
) -> AsyncIterator[PathObservation]:
    """Learn all that is below a path. See `observe`."""
    check_in_trio()
    keys = PathKeys(path)
    feed = _PathFeed(keys)
    observer = _Observer(client, keys, keys.everything, reconcile)
    async with _observing(observer, feed):
        yield PathObservation(feed, observer)


@asynccontextmanager
async def _observing(
    observer: _Observer, feed: Feed[Hosts] | Feed[PathState]
) -> AsyncIterator[None]:
    first = await observer.begin()
    feed.take(observer.follower.view)
    async with open_service_nursery() as services:
        services.start_soon(observer.run, feed, first, name=f"observe {feed.path}")
        try:
            yield
        finally:
            if not feed.ended:
                feed.end()
