"""What a host tells the others about itself, and how a change of it gets there.

It is published with the registration, so each session begins with what is true then;
a change in between is put into the same key, on the same lease.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

import trio

from trio_sched._support.tasks import Doorbell
from trio_sched._support.wall_time import wall_time
from trio_sched.etcd_shim import Client, Compare, Put
from trio_sched.etcd_shim._backoff import persist
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.exceptions import EndOfResults
from trio_sched.host.session import Session
from trio_sched.model.records import HostData, Options, encode_host

__all__ = ["HealthCheck", "Offering"]

HealthCheck = Callable[[], Awaitable[bool]]

_NOT_YET: Final = "its health was not checked yet"


class Offering:
    """What this host tells about itself.

    Args:
        options: that it was started with.
        data: what it tells at first.
        healthy: None, or a check; until it has passed the host is not available.
        every: seconds from the beginning of one check to that of the next, and the
            longest that a check may take.
    """

    def __init__(
        self, options: Options, data: HostData, healthy: HealthCheck | None, every: float
    ) -> None:
        self._options = options
        self._data = data
        self._healthy = healthy
        self._every = every
        self._ill = None if healthy is None else _NOT_YET
        self._drained: str | None = None
        self._since = wall_time()
        self._version = 1  # of what is to be told
        self._told = 0  # version that is published
        self._ended = False
        self._changed = Doorbell()
        self._published = trio.lowlevel.ParkingLot()

    def value(self) -> tuple[bytes, int]:
        """Return the value of the host's key, and the version that it stands for."""
        why = self._drained if self._drained is not None else self._ill
        data = self._data if why is None else replace(self._data, available=False, reason=why)
        return encode_host(self._options, data, self._since), self._version

    def begin(self) -> None:
        """Note that the host joins now, be it for the first time or again."""
        self._since = wall_time()

    def note_told(self, version: int) -> None:
        """Note that a version has been published."""
        self._told = max(self._told, version)
        self._published.unpark_all()

    def end(self) -> None:
        """Let nobody wait any more."""
        self._ended = True
        self._published.unpark_all()

    # ---- changes ---------------------------------------------------------------------

    async def update(self, changes: Mapping[str, object]) -> None:
        """Change what is told, and wait until it is published.

        Raises:
            TypeError: see `HostData`.
            ValueError: see `HostData`.
            EndOfResults: the block was left before.
        """
        self._data = replace(self._data, **changes)  # type: ignore[arg-type] # it checks them
        await self._tell()

    async def drain(self, reason: str | None) -> None:
        """Tell that this host is not to be chosen; None ends that."""
        if reason is not None:
            HostData(reason=reason)  # checks it
        self._drained = reason
        await self._tell()

    async def _tell(self) -> None:
        self._note_change()
        version = self._version
        await trio.lowlevel.checkpoint()
        while self._told < version:
            if self._ended:
                raise EndOfResults("the block was left before the change was published")
            await self._published.park()

    def _note_change(self) -> None:
        self._version += 1
        self._changed.ring()

    # ---- tasks -----------------------------------------------------------------------

    async def publish(self, client: Client, key: bytes, session: Session) -> None:
        """Publish each change, until cancelled.

        Raises:
            SessionLost: the key, or its lease, is gone.
        """
        while True:
            while self._told == self._version:
                await self._changed.wait()
            value, version = self.value()
            try:
                answer = await persist(
                    client.txn,
                    [Compare.lease(key, "==", session.lease)],
                    [Put(key, value, session.lease)],
                )
            except LeaseNotFound as exc:
                raise session.lose("the lease was revoked or has lapsed") from exc
            if not answer.succeeded:
                raise session.lose(f"its key {key.decode()} is gone")
            self.note_told(version)

    async def check_health(self) -> None:
        """Check now and then whether this host is well, until cancelled."""
        while self._healthy is not None:
            began = trio.current_time()
            ill = await self._look(self._healthy)
            if ill != self._ill:
                self._ill = ill
                self._note_change()
            await trio.sleep_until(began + self._every)

    async def _look(self, healthy: HealthCheck) -> str | None:
        """Return why this host is not well; None if it is."""
        with trio.move_on_after(self._every):
            try:
                return None if await healthy() else "its health check says no"
            except Exception as exc:  # noqa: BLE001 # whatever it is, it is the reason
                return f"its health check raised {type(exc).__name__}: {exc}"
        return f"its health check took longer than {self._every:g} s"
