"""What a host publishes about itself, and how a change of it gets there.

It is published with the registration, so each session begins with what is true then;
a change in between is put into the same key, on the same lease.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

import trio

from trio_sched._support.tasks import Wakeup
from trio_sched._support.text import clip
from trio_sched._support.wall_time import wall_time
from trio_sched.etcd_shim import Client, Compare, Get, KeyValue, Put
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.host.newest import end_of
from trio_sched.host.patience import Patience
from trio_sched.host.session import Session
from trio_sched.model.records import MAX_WORDS, HostData, Options, encode_host

__all__ = ["HealthCheck", "HostPublisher"]

HealthCheck = Callable[[], Awaitable[bool]]

_NOT_YET: Final = "its health was not checked yet"


class HostPublisher:
    """Publishes what is known of this host.

    Args:
        options: that it was started with.
        data: what is published at first.
        health_check: None, or a check; until it has passed the host is not available.
        health_interval: seconds from the beginning of one check to that of the next, and the
            longest that a check may take.
        note_available: is given whether this host may be chosen, when that has changed.
    """

    def __init__(
        self,
        options: Options,
        data: HostData,
        health_check: HealthCheck | None,
        health_interval: float,
        note_available: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._data = data
        self._health_check = health_check
        self._health_interval = health_interval
        self._unhealthy = None if health_check is None else _NOT_YET
        self._drained: str | None = None
        self._trouble = ""
        self._since = wall_time()
        self._version = 1  # of what is to be published
        self._published_version = 0  # version that is published
        self._ended = False
        self._failure: Exception | None = None
        self._changed = Wakeup()
        self._published = trio.lowlevel.ParkingLot()
        self._note_available = note_available
        note_available(health_check is None)

    def value(self) -> tuple[bytes, int]:
        """Return the value of the host's key, and the version that it stands for."""
        why = self._drained if self._drained is not None else self._unhealthy
        data = self._data if why is None else replace(self._data, available=False, reason=why)
        return encode_host(self._options, data, self._since, self._trouble), self._version

    def begin(self) -> None:
        """Note that the host joins now, for the first time or again."""
        self._since = wall_time()

    def note_published(self, version: int) -> None:
        """Note that a version has been published."""
        self._published_version = max(self._published_version, version)
        self._published.unpark_all()

    def end(self, failure: Exception | None = None) -> None:
        """End all waiting: this host has left, or its life has failed."""
        self._ended, self._failure = True, failure
        self._published.unpark_all()

    # ---- changes ---------------------------------------------------------------------

    async def update(self, changes: Mapping[str, object]) -> None:
        """Change what is published, and wait until it is published.

        Raises:
            TypeError: see `HostData`.
            ValueError: see `HostData`.
            EndOfResults: the block was left before. If something failed, that is raised.
        """
        self._data = replace(self._data, **changes)  # type: ignore[arg-type] # it checks them
        await self._publish_change()

    async def drain(self, reason: str | None) -> None:
        """Publish that this host is not to be chosen; None ends that."""
        self._drained = reason
        self._note_availability()
        await self._publish_change()

    def note_trouble(self, words: str | None) -> None:
        """Publish what this host has trouble with, for people; None when it is over.

        It is not waited for, and nothing is written if the words are those that are
        published already.
        """
        trouble = clip(words or "", MAX_WORDS)
        if trouble != self._trouble:
            self._trouble = trouble
            self._note_change()

    async def _publish_change(self) -> None:
        self._note_change()
        version = self._version
        await trio.lowlevel.checkpoint()
        while self._published_version < version:
            if self._ended:
                words = "the block was left before the change was published"
                raise end_of(self._failure, words)
            await self._published.park()

    def _note_availability(self) -> None:
        self._note_available(self._drained is None and self._unhealthy is None)

    def _note_change(self) -> None:
        self._version += 1
        self._changed.notify()

    # ---- tasks -----------------------------------------------------------------------

    async def publish(
        self, client: Client, joined: KeyValue, session: Session, patience: Patience
    ) -> None:
        """Publish each change, until cancelled.

        Each write is for the key as it was known, so one that the network held back does not
        undo a later one.

        Args:
            client: to write with.
            joined: the host's key, as it was when it joined.
            session: its session.
            patience: what is waited out.

        Raises:
            SessionLost: the key, or its lease, is gone.
        """
        key, known = joined.key, joined.mod_revision
        while True:
            while self._published_version == self._version:
                await self._changed.wait()
            value, version = self.value()
            try:
                answer = await patience.insist(
                    client.txn,
                    [Compare.mod_revision(key, "==", known)],
                    [Put(key, value, session.lease)],
                    [Get(key)],
                )
            except LeaseNotFound as exc:
                raise session.mark_lost("the lease was revoked or has lapsed") from exc
            kv = None if answer.succeeded else answer.get(0).kv
            if not answer.succeeded and (kv is None or kv.lease != session.lease):
                raise session.mark_lost(f"its key {key.decode()} is gone")
            known = answer.revision if kv is None else kv.mod_revision
            if kv is None or kv.value == value:
                self.note_published(version)

    async def watch_health(self) -> None:
        """Check now and then whether this host is healthy, until cancelled."""
        while self._health_check is not None:
            began = trio.current_time()
            unhealthy = await self._check(self._health_check)
            if unhealthy != self._unhealthy:
                self._unhealthy = unhealthy
                self._note_availability()
                self._note_change()
            await trio.sleep_until(began + self._health_interval)

    async def _check(self, health_check: HealthCheck) -> str | None:
        """Return why this host is not healthy; None if it is."""
        with trio.move_on_after(self._health_interval):
            try:
                return None if await health_check() else "its health check says no"
            except Exception as exc:  # noqa: BLE001 # whatever it is, it is the reason
                return f"its health check raised {type(exc).__name__}: {exc}"
        return f"its health check took longer than {self._health_interval:g} s"
