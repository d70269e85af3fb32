"""A session: a lease of this host that is renewed as long as it is on a path.

Why its deadline can be relied on is in ``etcd_shim/_keep.py``. Here is what the
scheduler adds: its own error, and a grant that leaves nothing behind.
"""

from __future__ import annotations

import contextlib
from typing import Final

import trio

from trio_sched._support.chance import chance
from trio_sched._support.suspension import lease_time
from trio_sched._support.tasks import run_shielded
from trio_sched._support.wall_time import wall_milliseconds
from trio_sched.etcd_shim import Client, EtcdError
from trio_sched.etcd_shim._backoff import Backoff, retry_transient
from trio_sched.etcd_shim._keep import KeptLease
from trio_sched.etcd_shim.errors import LeaseExists, LeaseLost, LeaseNotFound
from trio_sched.exceptions import SessionLost
from trio_sched.reaper.owner import Reaper

__all__ = ["FormerLeases", "Session", "grant_session", "revoke_quietly", "revoke_surely"]


class Session:
    """A lease of ours, as one block has it: `schedule`'s own, or one that several paths share.

    Args:
        client: the client that its lease was granted with.
        kept: the lease.
        reaper: that holds it.

    Attributes:
        reaper: as given.
        unanswered: requests to create a key on its lease of which it is not known what became.
    """

    def __init__(self, client: Client, kept: KeptLease, reaper: Reaper | None = None) -> None:
        self._client = client
        self._kept = kept
        self._over: str | None = None
        self._is_shared = False
        self._waiting = trio.CancelScope()  # for the loss of what others renew
        self.reaper = reaper
        self.unanswered: int = 0

    @property
    def client(self) -> Client:
        """The client that its lease was granted with."""
        return self._client

    @property
    def lease(self) -> int:
        """Id of its lease."""
        return self._kept.id

    @property
    def ttl(self) -> int:
        """The TTL that the server gave it, in seconds."""
        return self._kept.ttl

    @property
    def deadline(self) -> float:
        """By trio's clock, until when its lease is certain to live."""
        return self._kept.deadline

    @property
    def renewals(self) -> int:
        """How many renewals of its lease were acknowledged, for all that share it."""
        return self._kept.renewals

    @property
    def renewed_at(self) -> float:
        """By trio's clock, when the newest renewal was sent that was acknowledged, or the grant."""
        return self._kept.renewed_at

    @property
    def lost_reason(self) -> str | None:
        """Why it is over, in plain words; None while it is not."""
        return self._kept.lost_reason or self._over

    @property
    def gone(self) -> bool:
        """True once etcd is known to hold its lease no more; False if it may."""
        return self._kept.gone

    def share(self) -> Session:
        """Return it for one more block, which may lose it for itself."""
        borrowed = Session(self._client, self._kept, self.reaper)
        borrowed._is_shared = True  # ours
        return borrowed

    def mark_lost(self, reason: str, *, gone: bool = False) -> SessionLost:
        """Note that its lease is over, for all that share it; return the error that says so.

        Args:
            reason: why, in plain words.
            gone: whether etcd is known to hold it no more.
        """
        self._kept.mark_lost(reason, gone=gone)
        return self._error()

    def give_up(self, reason: str) -> SessionLost:
        """Note that it is over for this block, by what is about its path; return the error.

        Who shares its lease goes on. If no other does, the lease is over.
        """
        if not self._is_shared:
            return self.mark_lost(reason)
        self.end(reason)
        self._waiting.cancel()
        return self._error()

    def end(self, reason: str) -> None:
        """Note that it is over for this block; who shares its lease goes on."""
        self._over = self._over or reason

    async def keep_alive(self) -> None:
        """Renew its lease until it is lost, and raise why.

        Raises:
            SessionLost: the deadline passed, or the server said that it is gone.
        """
        try:
            await self._kept.keep_alive()
        except LeaseLost as exc:
            raise self._error() from exc.__cause__

    async def wait_lost(self) -> None:
        """Wait until it is lost, whose lease another task renews, and raise why."""
        with self._waiting:
            await self._kept.wait_lost()
        raise self._error()

    def _error(self) -> SessionLost:
        return SessionLost(self.lease, self.lost_reason or "")


_TIME_BITS: Final = 42  # of milliseconds since 1970: until the year 2109
_CHANCE_BITS: Final = 21
_DAY: Final = 86_400_000  # milliseconds: so far may clocks be apart
_LONG_AGO: Final = 30 * _DAY
_MOST_IDS: Final = 3  # that are tried: two hosts hardly ever take the same one


def falling_lease_id() -> int:
    """Return an id for a session's lease: the later, the lower, in 16 hexadecimal digits.

    So among the keys of candidates, which end in it, the one behind ours is most likely that of
    the candidate who came before us. That is a guide; only create_revision decides.
    """
    later = (1 << _TIME_BITS) - 1 - wall_milliseconds() % (1 << _TIME_BITS)
    found = later << _CHANCE_BITS | chance().getrandbits(_CHANCE_BITS)
    return max(found, 1 << 60)  # a clock may be in the year 2200


def may_be_falling(lease: int) -> bool:
    """Return whether an id may be one of `falling_lease_id`, of the last weeks.

    Of 1,000 ids that etcd gives, hardly one looks so.
    """
    age = wall_milliseconds() - ((1 << _TIME_BITS) - 1 - (lease >> _CHANCE_BITS))
    return -_DAY < age < _LONG_AGO


async def grant_session(
    client: Client, ttl: int, grace: float, reaper: Reaper | None = None
) -> Session:
    """Grant a lease under an id of our own, and return the session on it.

    The reaper is sent it before.

    Cancelled while the answer is awaited, it waits up to `grace` seconds more
    for it, and revokes the lease again, so that none is left behind.
    """
    for _ in range(_MOST_IDS - 1):
        with contextlib.suppress(LeaseExists):
            return await _grant(client, falling_lease_id(), ttl, grace, reaper)
    return await _grant(client, falling_lease_id(), ttl, grace, reaper)


async def _grant(
    client: Client, lease: int, ttl: int, grace: float, reaper: Reaper | None
) -> Session:
    if reaper is not None:
        reaper.hold(lease, ttl)
    sent = lease_time()
    try:
        granted = await run_shielded(grace, client.lease_grant, ttl, lease)
        await trio.lowlevel.checkpoint_if_cancelled()
    except LeaseExists:  # another host's, by chance: it is not ours to revoke
        if reaper is not None:
            reaper.release(lease)
        raise
    except BaseException:
        with trio.move_on_after(grace, shield=True):
            if await revoke_quietly(client, lease) and reaper is not None:
                reaper.release(lease)
        raise
    kept = KeptLease(client.lease_renew, granted.id, granted.ttl, sent)
    return Session(client, kept, reaper)


async def revoke_quietly(client: Client, lease: int) -> bool:
    """Revoke a lease; return whether it is certainly gone. Raises no `EtcdError`."""
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
        await retry_transient(client.lease_revoke, lease)


class FormerLeases:
    """Leases of sessions of ours that are over, and may live still.

    Until they are gone, their keys are in our own way: our name, and candidates before ours.

    Args:
        client: the client to revoke with.
        reaper: leaves alone what is revoked.
    """

    def __init__(self, client: Client, reaper: Reaper | None = None) -> None:
        self._client = client
        self._reaper = reaper
        self._leases: set[int] = set()

    def add(self, lease: int) -> None:
        """Note that a lease is to be revoked."""
        self._leases.add(lease)

    def discard(self, lease: int) -> None:
        """Note that a lease is gone."""
        self._leases.discard(lease)
        if self._reaper is not None:
            self._reaper.release(lease)

    async def revoke(self) -> None:
        """Try once to revoke each. Raises no `EtcdError`."""
        for lease in tuple(self._leases):
            if await revoke_quietly(self._client, lease):
                self.discard(lease)

    async def keep_revoking(self) -> None:
        """Try again and again, until none is left."""
        backoff = Backoff()
        while self._leases:
            await trio.sleep(backoff.next())
            await self.revoke()
