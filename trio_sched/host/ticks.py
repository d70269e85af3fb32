"""Claims of ticks: which host does one, in etcd.

Theory of operation
-------------------
A tick is done by the host that has *claimed* it: that has put ``PATH/ticks/NAME``, in a transaction
that holds only while its slot is held (`Slot.txn`) and while the key is as it was read. So of all
hosts, whatever they believe, one claims it; and a claim that arrives late, from a host that has
lost its slot since, is refused.

The claim names the slot that it was made in. As long as that slot's key is there, under the same
token, the claim is alive. When the key is gone without the tick being over, the work has ended, as
a slot is freed after its work, or its host was lost: then the next host that holds a slot takes the
claim over, or closes it as crashed. If the slot went with its lease, and its mark is still there,
the holder may not have ended yet: that is waited for, as before the slot itself is taken
(``marks.py``).

The record hangs on a lease of its own, which lives as long as it is to be remembered; while the
work goes on it is renewed, and it is renewed at the end. ``PATH/ticks.open/NAME`` is put and
deleted in the same transactions: so it costs little to see which ticks are not over.

Lost answers: a claim is read back. It is ours if it names our slot and token, as no other host has
these, and one host does one thing at a time. The end of a tick is written by comparing the
mod_revision of the claim. If the claim is gone with its lease, it is put anew, as long as the slot
is held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, get_args

import trio

from trio_sched._support.arguments import check_choice, check_int
from trio_sched._support.wall_time import wall_time
from trio_sched.etcd_shim import Client, Compare, Delete, EtcdError, KeyValue, Put
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim.client import check_client
from trio_sched.etcd_shim.errors import LeaseExists, LeaseNotFound
from trio_sched.etcd_shim.kv import Operation
from trio_sched.etcd_shim.lease import MAX_TTL, new_lease_id
from trio_sched.exceptions import SlotLost
from trio_sched.host.marks import is_of_lease
from trio_sched.host.patience import Patience
from trio_sched.host.policy import Where
from trio_sched.host.session import revoke_quietly
from trio_sched.host.slot import Slot
from trio_sched.model.keys import PathKeys, check_path
from trio_sched.model.ticks import MAX_ATTEMPTS, Tick

__all__ = ["Claim", "OnCrash", "TickClaims", "TickOptions", "check_tick_options", "read_ticks"]

OnCrash: TypeAlias = Literal["again", "skip"]

_MAX_REMEMBERED: Final = 100  # ticks that are done, and could not be recorded as such
_MAX_MARKS: Final = 100
_CLEANUP_TIMEOUT: Final = 0.5  # seconds; else it lapses by itself


@dataclass(frozen=True, slots=True)
class TickOptions:
    """How ticks are done.

    Attributes:
        keep: seconds for which one is remembered after its end.
        again: whether a claim whose host was lost is taken over.
        attempts: how often one is begun at most.
    """

    keep: int
    again: bool = True
    attempts: int = 5


def check_tick_options(keep: int, on_crash: OnCrash, attempts: int) -> TickOptions:
    """Return the options, checked.

    Raises:
        TypeError: one is of a wrong type.
        ValueError: one is not allowed.
    """
    return TickOptions(
        check_int("keep", keep, 1, MAX_TTL),
        check_choice("on_crash", on_crash, get_args(OnCrash)) == "again",
        check_int("attempts", attempts, 1, MAX_ATTEMPTS),
    )


@dataclass(slots=True)
class Claim:
    """A tick that is ours to do.

    Attributes:
        tick: as it was recorded.
        lease: id of the lease that the record hangs on.
        revision: mod_revision of the record.
        keep: seconds for which it is remembered.
    """

    tick: Tick
    lease: int
    revision: int
    keep: int


@dataclass(slots=True)
class TickClaims:
    """The claims of one host on a path.

    Args:
        keys: of the path.
        hostname: that claims.
        pause: seconds before a claim is taken over whose slot went with its lease.
    """

    keys: PathKeys
    hostname: str
    pause: float
    _marks_seen: dict[bytes, float] = field(default_factory=dict)
    _unrecorded: dict[str, Tick] = field(default_factory=dict)
    _lease: int = 0  # that was granted for a claim, and has none yet

    async def open_names(self, slot: Slot) -> list[str]:
        """Return the names of ticks that are not over, in order."""
        prefix = self.keys.open_ticks
        found = await _patience().insist(slot.client.get_prefix, prefix)
        names = (kv.key.removeprefix(prefix).decode(errors="replace") for kv in found.kvs)
        return sorted(names)

    async def claim(
        self, slot: Slot, name: str, next_name: str | None, options: TickOptions
    ) -> Claim | Tick | None:
        """Claim a tick for the work in this slot.

        Returns:
            The claim; or what is recorded, if it is over, or another host's; or None if the one
            after it has been begun before it was.

        Raises:
            SlotLost: the slot is gone.
            EtcdError: by what the work is lost.
        """
        backoff = Backoff(first=0.01, cap=1.0)
        try:
            while True:
                found = await _patience().insist(self._claim, slot, name, next_name, options)
                if not isinstance(found, bool):
                    return found  # else it has changed in between
                await trio.sleep(backoff.next())
        finally:
            lease, self._lease = self._lease, 0
            if lease:
                with trio.move_on_after(_CLEANUP_TIMEOUT, shield=True):
                    await revoke_quietly(slot.client, lease)

    async def _claim(
        self, slot: Slot, name: str, next_name: str | None, options: TickOptions
    ) -> Claim | Tick | bool | None:
        key = self.keys.tick(name)
        kv = (await slot.client.get(key)).kv
        if kv is not None:
            return await self._go_on(slot, kv, Tick.decode(name, kv.value), options)
        not_there = [Compare.create_revision(key, "==", 0)]
        if next_name is not None:
            after = self.keys.tick(next_name)
            if (await slot.client.get(after)).kv is not None:
                return None
            not_there.append(Compare.create_revision(after, "==", 0))
        return await self._put_claim(slot, self._made(slot, name, 1), not_there, options)

    async def _go_on(
        self, slot: Slot, kv: KeyValue, tick: Tick, options: TickOptions
    ) -> Claim | Tick | bool:
        """Do what there is to do about a tick that was begun."""
        if tick.over:
            return tick
        same = [Compare.mod_revision(kv.key, "==", kv.mod_revision)]
        known = self._unrecorded.get(tick.name)
        if known is not None and (known.token, known.slot) == (tick.token, tick.slot):
            return await self._close(slot, known, kv.lease, same)
        ours = (tick.token, tick.slot) == (slot.token, _text(slot.key))
        if ours and tick.state == "running":
            self._lease = 0 if kv.lease == self._lease else self._lease
            return Claim(tick, kv.lease, kv.mod_revision, options.keep)  # its answer was lost
        if not ours and not await self._is_dead(slot, tick):
            return tick
        return await self._take_over(slot, kv, tick, options)

    async def _take_over(
        self, slot: Slot, kv: KeyValue, tick: Tick, options: TickOptions
    ) -> Claim | Tick | bool:
        """Claim what another host has begun and not ended, or close it."""
        same = [Compare.mod_revision(kv.key, "==", kv.mod_revision)]
        attempt = tick.attempt + (tick.state == "running")
        if not options.again or attempt > options.attempts:
            crashed = replace(tick, state="crashed", ended=wall_time())
            return await self._close(slot, crashed, kv.lease, same)
        if (tick.token, tick.slot) != (slot.token, _text(slot.key)):
            same.append(Compare.create_revision(tick.slot or b"-", "!=", tick.token))
        claim = await self._put_claim(slot, self._made(slot, tick.name, attempt), same, options)
        if claim and kv.lease:
            await revoke_quietly(slot.client, kv.lease)
        return claim

    def _made(self, slot: Slot, name: str, attempt: int) -> Tick:
        return Tick(
            name,
            "running",
            self.hostname,
            slot.token,
            attempt,
            wall_time(),
            slot=_text(slot.key),
            lease=slot.lease,
        )

    async def _put_claim(
        self, slot: Slot, tick: Tick, compare: Sequence[Compare], options: TickOptions
    ) -> Claim | bool:
        """Put a claim on a lease of its own; False if what was read has changed."""
        # One lease for all attempts: the first may be carried out late, when its answer was lost.
        lease = self._lease = self._lease or await grant(slot.client, options.keep)
        try:
            answer = await slot.txn(compare, self._puts(tick, lease))
        except LeaseNotFound:
            self._lease = 0
            return False
        if not answer.succeeded:
            return False
        self._lease = 0
        return Claim(tick, lease, answer.revision, options.keep)

    def _puts(self, tick: Tick, lease: int) -> list[Operation]:
        name, value = tick.name, tick.encode()
        opened = self.keys.open_tick(name)
        is_open = Delete(opened) if tick.over else Put(opened, b"", lease)
        return [Put(self.keys.tick(name), value, lease), is_open]

    async def _close(
        self, slot: Slot, tick: Tick, lease: int, compare: Sequence[Compare]
    ) -> Tick | bool:
        """Record that another's tick is over, or one of ours of before."""
        try:
            answer = await slot.txn(compare, self._puts(tick, lease))
        except LeaseNotFound:
            return False
        if answer.succeeded:
            self._unrecorded.pop(tick.name, None)
        return tick if answer.succeeded else False

    async def _is_dead(self, slot: Slot, tick: Tick) -> bool:
        """Return whether the slot that a claim was made in is gone, and its work has ended."""
        key = tick.slot.encode()
        number = self.keys.slot_number(key)
        if number is None:
            return True
        kv = (await slot.client.get(key)).kv
        if kv is not None:  # if it was taken anew, its mark is that of the new holder
            return kv.create_revision != tick.token
        mark = (await slot.client.get(self.keys.mark(number))).value or b""
        if not is_of_lease(mark, tick.lease):
            return True
        if len(self._marks_seen) > _MAX_MARKS:
            self._marks_seen.clear()
        now = trio.current_time()
        return now >= self._marks_seen.setdefault(mark, now) + self.pause

    # ---- the end -----------------------------------------------------------------------

    async def finish(self, slot: Slot, claim: Claim, state: str, code: int | None = None) -> Tick:
        """Record how it ended. Raises no `EtcdError`; as patient as the scope it runs in.

        One that is done, and cannot be recorded as such, is remembered here: when this host comes
        to it again, and no other has meanwhile, it is recorded.
        """
        tick = replace(claim.tick, state=state, ended=wall_time(), code=code)
        if tick.over:
            while len(self._unrecorded) >= _MAX_REMEMBERED:
                del self._unrecorded[next(iter(self._unrecorded))]
            self._unrecorded[tick.name] = tick
        with contextlib.suppress(EtcdError):
            await _patience().insist(self._finish, slot, claim, tick)
            self._unrecorded.pop(tick.name, None)
        return tick

    async def _finish(self, slot: Slot, claim: Claim, tick: Tick) -> None:
        client, key = slot.client, self.keys.tick(tick.name)
        with contextlib.suppress(LeaseNotFound):
            await client.lease_renew(claim.lease)
            same = [Compare.mod_revision(key, "==", claim.revision)]
            if (await client.txn(same, self._puts(tick, claim.lease))).succeeded:
                return
        await self._put_again(slot, claim, tick)

    async def _put_again(self, slot: Slot, claim: Claim, tick: Tick) -> None:
        """Put a record that is gone with its lease, as long as the slot is held."""
        if (await slot.client.get(self.keys.tick(tick.name))).kv is not None:
            return  # ours, whose answer was lost; or another's, who has taken it over
        await self._restore(slot, claim, tick)

    async def _restore(self, slot: Slot, claim: Claim, tick: Tick) -> None:
        lease = await grant(slot.client, claim.keep)
        absent = [Compare.create_revision(self.keys.tick(tick.name), "==", 0)]
        with contextlib.suppress(SlotLost, LeaseNotFound):
            answer = await slot.txn(absent, self._puts(tick, lease))
            if answer.succeeded:
                claim.lease, claim.revision = lease, answer.revision
                return
        await revoke_quietly(slot.client, lease)

    async def keep(self, slot: Slot, claim: Claim) -> None:
        """Renew the lease of a claim while its work goes on. Never returns."""
        while True:
            await trio.sleep(claim.keep / 3)
            await _patience().insist(self._renew, slot, claim)

    async def _renew(self, slot: Slot, claim: Claim) -> None:
        try:
            await slot.client.lease_renew(claim.lease)
        except LeaseNotFound:
            await self._restore(slot, claim, claim.tick)


def _text(key: bytes) -> str:
    return key.decode(errors="surrogateescape")


def _patience() -> Patience:
    return Patience(where=Where.WORKING)


async def grant(client: Client, ttl: int) -> int:
    """Grant a lease for what is to be remembered; return its id."""
    lease = new_lease_id()
    with contextlib.suppress(LeaseExists):  # the answer to the first attempt was lost
        await Patience(where=Where.WORKING).insist(client.lease_grant, ttl, lease)
    return lease


async def read_ticks(client: Client, path: str, limit: int = 0) -> tuple[Tick, ...]:
    """Return what is recorded of the ticks of a path, the newest first.

    Args:
        client: an open client.
        path: what the hosts share.
        limit: how many at most; 0 for all.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is not allowed.
        EtcdError: etcd cannot be reached, or refuses.
    """
    prefix = PathKeys(check_path(path)).ticks
    found = await check_client(client).get_prefix(
        prefix,
        limit=check_int("limit", limit, 0),
        sort_order="descending",
        sort_target="create_revision",
    )
    names = (kv.key.removeprefix(prefix).decode(errors="replace") for kv in found.kvs)
    return tuple(Tick.decode(name, kv.value) for name, kv in zip(names, found.kvs, strict=True))
