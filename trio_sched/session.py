"""A session: a lease that is renewed for a scope, and when not to believe in it.

Theory of operation
-------------------
The server counts a lease's TTL from the moment at which it handles a renewal.
That is never before the renewal was *sent*. So a deadline counted from there,
by our own monotonic clock, is never later than the server's: whoever stops at
`Session.deadline` has stopped before the server can give away what hangs on the
lease. A margin is taken off for what happens between looking at the clock and
having stopped, and for clocks whose rates differ.

Renewals are sent at a third of the TTL. One that is not answered by the next is
given up and sent anew; only the deadline ends the session, or the server's word
that the lease is gone.
"""

from __future__ import annotations

import contextlib

import trio

from trio_sched._tasks import finish
from trio_sched.etcd_shim import Client, EtcdError
from trio_sched.etcd_shim._backoff import Backoff, persist
from trio_sched.etcd_shim.errors import LeaseNotFound
from trio_sched.etcd_shim.lease import new_lease_id
from trio_sched.exceptions import SessionLost

__all__ = ["Session", "grant_session", "revoke_quietly", "revoke_surely"]

_RENEWALS_PER_TTL = 3


def margin_of(ttl: float) -> float:
    """Return what is taken off a TTL for safety, in seconds."""
    return min(1.0, ttl / 10)


class Session:
    """A lease of ours. Made by `grant_session`; `keep` renews it.

    Attributes:
        lease: its id.
        ttl: the TTL that the server gave it, in seconds.
        deadline: by trio's clock, when to stop believing in it.
    """

    def __init__(self, client: Client, lease: int, ttl: int, sent: float) -> None:
        self._client = client
        self.lease = lease
        self.ttl = ttl
        self._sent = sent
        self._lost: str | None = None
        self._scope = trio.CancelScope()
        self.deadline = sent
        self._acknowledge(sent, ttl)

    @property
    def alive(self) -> bool:
        """True as long as the lease may be believed in. Asks the clock each time."""
        return self._lost is None and trio.current_time() < self.deadline

    def lose(self, reason: str) -> SessionLost:
        """Note that the session is over; return the error that says so."""
        if self._lost is None:
            self._lost = reason
        return SessionLost(self.lease, self._lost)

    async def keep(self) -> None:
        """Renew the lease until it is lost.

        Raises:
            SessionLost: it is: the deadline passed, or the server said so.
        """
        backoff = Backoff(cap=max(0.1, self.ttl / 10))
        with self._scope:
            self._scope.deadline = self.deadline
            while True:
                await trio.sleep_until(self._sent + self.ttl / _RENEWALS_PER_TTL)
                if await self._renew():
                    backoff.reset()
                else:
                    await trio.sleep(backoff.next())
        raise self.lose("no renewal was acknowledged in time")

    async def _renew(self) -> bool:
        sent = trio.current_time()
        with trio.move_on_after(self.ttl / _RENEWALS_PER_TTL):
            try:
                self._acknowledge(sent, await self._client.lease_renew(self.lease))
            except LeaseNotFound as exc:
                raise self.lose("the lease was revoked or has lapsed") from exc
            except EtcdError:
                return False  # the deadline decides how long this may go on
            return True
        return False

    def _acknowledge(self, sent: float, ttl: int) -> None:
        if sent + ttl - margin_of(ttl) < self.deadline:
            return
        self._sent = sent
        self.ttl = ttl
        self.deadline = sent + ttl - margin_of(ttl)
        self._scope.deadline = self.deadline


async def grant_session(client: Client, ttl: int, grace: float) -> Session:
    """Grant a lease under an id of our own, and return the session on it.

    Cancelled while the answer is awaited, it waits up to `grace` seconds more
    for it, and revokes the lease again, so that none is left behind.
    """
    lease = new_lease_id()
    sent = trio.current_time()
    try:
        granted = await finish(grace, client.lease_grant, ttl, lease)
        await trio.lowlevel.checkpoint_if_cancelled()
    except BaseException:
        with trio.move_on_after(grace, shield=True):
            await revoke_quietly(client, lease)
        raise
    return Session(client, granted.id, granted.ttl, sent)


async def revoke_quietly(client: Client, lease: int) -> bool:
    """Revoke a lease; tell whether it is certainly gone. Raises no `EtcdError`."""
    try:
        await client.lease_revoke(lease)
    except LeaseNotFound:
        return True
    except EtcdError:
        return False
    return True


async def revoke_surely(client: Client, lease: int) -> None:
    """Revoke a lease, as often as it takes. As patient as the scope it runs in."""
    with contextlib.suppress(LeaseNotFound):
        await persist(client.lease_revoke, lease)
