"""Keeping a lease alive, and knowing until when it is certain to live.

Theory of operation
-------------------
The server counts a lease's TTL from the moment at which it handles a renewal.
That is never before the renewal was *sent*. So a deadline counted from there,
by our own monotonic clock, is never later than the server's: code that stops at
`KeptLease.deadline` has stopped before the server can give away what hangs on
the lease. Time in which the machine is suspended counts, too. A margin is taken off for what
happens between reading the clock and having stopped, and for clocks whose rates differ.

Renewals are sent at a third of the TTL. One that is not answered by the next is
given up and sent anew; only the deadline ends the lease, or the server's word
that it is gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import trio

from trio_sched._support.suspension import lease_time, suspended
from trio_sched._support.tasks import open_service_nursery, run_shielded
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim.errors import (
    ConnectionLost,
    EtcdError,
    LeaseExists,
    LeaseLost,
    LeaseNotFound,
)
from trio_sched.etcd_shim.lease import Lease, LeaseInfo

__all__ = ["KeptLease", "margin_of", "on_beat", "open_kept_lease"]

_RENEWALS_PER_TTL: Final = 3
_BEATS_PER_TTL: Final = 30
_EPSILON: Final = 1e-6  # seconds, so that what is on a beat stays on it


def on_beat(moment: float, ttl: float) -> float:
    """Return the last beat at or before a moment; there are thirty in a TTL.

    What is due in one beat, such as the renewals of a thousand leases of one TTL, goes in one piece
    to the socket, which costs a fraction.
    """
    beat = ttl / _BEATS_PER_TTL
    return (moment + _EPSILON) // beat * beat


def margin_of(ttl: float) -> float:
    """Return what is taken off a TTL for safety, in seconds."""
    return min(1.0, ttl / 10)


class KeptLease:
    """A lease of ours that `keep_alive` renews.

    Attributes:
        id: the lease's.
        ttl: the TTL that the server gave it, in seconds.
        renewals: how many were acknowledged.
    """

    def __init__(
        self, renew: Callable[[int], Awaitable[int]], lease: int, ttl: int, sent: float
    ) -> None:
        self._renew = renew
        self.id = lease
        self.ttl: int = ttl
        self.renewals: int = 0
        self._sent = sent
        self._lost: str | None = None
        self._gone = False
        self._is_lost = trio.Event()
        self._scope = trio.CancelScope()
        self._until = sent  # by `lease_time`, as `sent` is
        self._acknowledge(sent, ttl)

    @property
    def deadline(self) -> float:
        """By trio's clock, until when it is certain to live; earlier after a suspension."""
        return self._until - suspended()

    @property
    def renewed_at(self) -> float:
        """By trio's clock, when the newest renewal was sent that was acknowledged, or the grant."""
        return self._sent - suspended()

    @property
    def alive(self) -> bool:
        """True as long as the lease is certain to live. Asks the clock each time."""
        return self._lost is None and trio.current_time() < self.deadline

    @property
    def lost_reason(self) -> str | None:
        """Why it is over, in plain words; None while it is not."""
        return self._lost

    @property
    def gone(self) -> bool:
        """True once etcd is known to hold the lease no more; False if it may."""
        return self._gone

    def mark_lost(self, reason: str, *, gone: bool = False) -> Exception:
        """Note that the lease is over, and end its renewals; return the error that says so.

        Args:
            reason: why, in plain words.
            gone: whether etcd is known to hold it no more.
        """
        self._gone |= gone
        if self._lost is None:
            self._lost = reason
            self._scope.cancel()
            self._is_lost.set()
        return self._error(self._lost)

    def _error(self, reason: str) -> Exception:
        return LeaseLost(self.id, reason)

    async def wait_lost(self) -> None:
        """Wait until it is over. `alive` may say so before, as it asks the clock."""
        await self._is_lost.wait()

    async def keep_alive(self) -> None:
        """Renew the lease until it is lost, and raise why.

        Raises:
            LeaseLost: the deadline passed, or the server said that it is gone.
        """
        backoff = Backoff(cap=max(0.1, self.ttl / 10))
        with self._scope:
            self._scope.deadline = self.deadline
            while True:
                due_at = self._sent - suspended() + self.ttl / _RENEWALS_PER_TTL
                await trio.sleep_until(on_beat(due_at, self.ttl))
                if await self._try_to_renew():
                    backoff.reset()
                else:
                    await trio.sleep(backoff.next())
        raise self.mark_lost("no renewal was acknowledged in time")

    async def _try_to_renew(self) -> bool:
        sent = lease_time()
        with trio.move_on_after(self.ttl / _RENEWALS_PER_TTL):
            try:
                self._acknowledge(sent, await self._renew(self.id))
                self.renewals += 1
            except LeaseNotFound as exc:
                raise self.mark_lost("the lease was revoked or has lapsed", gone=True) from exc
            except EtcdError:
                return False  # the deadline decides how long this may go on
            return True
        return False

    def _acknowledge(self, sent: float, ttl: int) -> None:
        until = sent + ttl - margin_of(ttl)
        if until >= self._until:
            self._sent = sent
            self.ttl = ttl
            self._until = until
            self._scope.deadline = self.deadline


class Leasing(Protocol):
    """What a client can do of it."""

    async def lease_grant(self, ttl: int, lease: int | None = None) -> Lease:
        """Grant a lease."""

    async def lease_renew(self, lease: int) -> int:
        """Renew it; return its TTL."""

    async def lease_revoke(self, lease: int) -> int:
        """Revoke it."""

    async def lease_time_to_live(self, lease: int) -> LeaseInfo:
        """Ask how long it has still to live."""


async def _grant(client: Leasing, ttl: int, lease: int, *, ours: bool) -> int:
    """Grant a lease, also if the answer is lost; return its TTL.

    Args:
        client: to ask with.
        ttl: seconds.
        lease: its id.
        ours: whether the id is random, so that a lease of it can only be of a first attempt.
    """
    try:
        return (await client.lease_grant(ttl, lease)).ttl
    except ConnectionLost:
        if not ours:
            raise
    with suppress(LeaseExists):
        return (await client.lease_grant(ttl, lease)).ttl
    return (await client.lease_time_to_live(lease)).granted_ttl


@asynccontextmanager
async def open_kept_lease(
    client: Leasing, ttl: int, lease: int, *, ours: bool
) -> AsyncIterator[KeptLease]:
    """Do what `Client.open_lease` says. `ours` says whether the id is random."""
    sent = lease_time()
    granted = ttl
    is_ours = ours  # else it may be another client's until it is granted

    async def grant() -> int:
        nonlocal is_ours
        answer = await _grant(client, ttl, lease, ours=ours)
        is_ours = True
        return answer

    try:
        granted = await run_shielded(ttl, grant)
        kept = KeptLease(client.lease_renew, lease, granted, sent)
        async with open_service_nursery() as services:
            services.start_soon(kept.keep_alive)
            try:
                yield kept
            finally:
                kept.mark_lost("its block was left")
    finally:
        if is_ours:
            with trio.move_on_after(granted, shield=True), suppress(EtcdError):
                await client.lease_revoke(lease)
