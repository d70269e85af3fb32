"""What a host publishes about itself, and how a change of it gets there.

It is published with the registration, so each session begins with what is true then;
a change in between is put into the same key, on the same lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import trio

from trio_sched._support.text import clip
from trio_sched._support.wall_time import wall_time
from trio_sched.etcd_shim import Client, Compare, Get, Put
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.host.newest import end_of
from trio_sched.host.patience import Patience
from trio_sched.host.session import Session
from trio_sched.model.records import MAX_WORDS, HostData, Options, encode_host

__all__ = ["HostPublisher"]


class HostPublisher:
    """Publishes what is known of this host.

    Args:
        options: that it was started with.
        data: what is published at first.
        unhealthy: why this host is not healthy at first; None if it is.
        note_available: is given whether this host may be chosen, when that has changed.
    """

    def __init__(
        self,
        options: Options,
        data: HostData,
        unhealthy: str | None = None,
        note_available: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._data = data
        self._unhealthy = unhealthy
        self._drained: str | None = None
        self._host_drained: str | None = None
        self._trouble = ""
        self._since = wall_time()
        self._version = 1  # of what is to be published
        self._published_version = 0  # version that is published
        self._ended = False
        self._failure: Exception | None = None
        self._start: Callable[[], None] | None = None
        self._publishing = False
        self._known = 0  # mod_revision of the host's key
        self._published = trio.lowlevel.ParkingLot()
        self._note_available = note_available
        note_available(unhealthy is None)

    def value(self) -> tuple[bytes, int]:
        """Return the value of the host's key, and the version that it stands for."""
        why = self._why_not
        data = self._data if why is None else replace(self._data, available=False, reason=why)
        return encode_host(self._options, data, self._since, self._trouble), self._version

    @property
    def _why_not(self) -> str | None:
        """Why this host is not to be chosen; None if it may be."""
        reasons = (self._drained, self._host_drained, self._unhealthy)
        return next((reason for reason in reasons if reason is not None), None)

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

    def change(self, changes: Mapping[str, object]) -> int:
        """Change what is published; return the version to wait for.

        Raises:
            TypeError: see `HostData`.
            ValueError: see `HostData`.
        """
        self._data = replace(self._data, **changes)  # type: ignore[arg-type] # it checks them
        return self._note_change()

    def drain(self, reason: str | None) -> int:
        """Publish that this host is not to be chosen on this path; None ends that."""
        self._drained = reason
        self._note_availability()
        return self._note_change()

    def drain_host(self, reason: str | None) -> int:
        """Publish that this host is not to be chosen on any of its paths; None ends that."""
        self._host_drained = reason
        self._note_availability()
        return self._note_change()

    def note_health(self, unhealthy: str | None) -> None:
        """Publish why this host is not healthy; None when it is."""
        self._unhealthy = unhealthy
        self._note_availability()
        self._note_change()

    def note_trouble(self, words: str | None) -> None:
        """Publish what this host has trouble with, for people; None when it is over.

        It is not waited for, and nothing is written if the words are those that are
        published already.
        """
        trouble = clip(words or "", MAX_WORDS)
        if trouble != self._trouble:
            self._trouble = trouble
            self._note_change()

    async def wait_published(self, version: int) -> None:
        """Wait until a version is published. A checkpoint.

        Raises:
            EndOfResults: the block was left before. If something failed, that is raised.
        """
        await trio.lowlevel.checkpoint()
        while self._published_version < version:
            if self._ended:
                words = "the block was left before the change was published"
                raise end_of(self._failure, words)
            await self._published.park()

    def _note_availability(self) -> None:
        self._note_available(self._why_not is None)

    def _note_change(self) -> int:
        self._version += 1
        self._start_if_needed()
        return self._version

    def _start_if_needed(self) -> None:
        is_behind = self._published_version < self._version
        if self._start is not None and is_behind and not self._publishing:
            self._publishing = True
            self._start()

    # ---- tasks -----------------------------------------------------------------------

    def begin_publishing(self, known: int, start: Callable[[], None]) -> None:
        """Have changes published from now on.

        Args:
            known: mod_revision of the host's key, as it joined with it.
            start: called when there is something to publish; it starts `publish` as a task.
        """
        self._known, self._start, self._publishing = known, start, False
        self._start_if_needed()

    def stop_publishing(self) -> None:
        """Start no more tasks: their nursery is being left."""
        self._start = None

    async def publish(
        self, client: Client, key: bytes, session: Session, patience: Patience
    ) -> None:
        """Publish what has changed, until there is nothing more.

        Each write is for the key as it was known, so one that the network held back does not
        undo a later one.

        Args:
            client: to write with.
            key: the host's.
            session: its session.
            patience: what is waited out.

        Raises:
            SessionLost: the key, or its lease, is gone.
        """
        while self._published_version < self._version:
            value, version = self.value()
            try:
                answer = await patience.insist(
                    client.txn,
                    [Compare.mod_revision(key, "==", self._known)],
                    [Put(key, value, session.lease)],
                    [Get(key)],
                )
            except LeaseNotFound as exc:
                raise session.mark_lost("the lease was revoked or has lapsed") from exc
            kv = None if answer.succeeded else answer.get(0).kv
            if not answer.succeeded and (kv is None or kv.lease != session.lease):
                raise session.give_up(f"its key {key.decode()} is gone")
            self._known = answer.revision if kv is None else kv.mod_revision
            if kv is None or kv.value == value:
                self.note_published(version)
        self._publishing = False
