"""Leases: grant, revoke, list, and renewals over one shared stream.

All leases of a client are renewed over one LeaseKeepAlive call. A service task
owns that call; `Renewals.renew` hands it an id and waits for the answer. When
the call ends, each task that waits gets its error, and the next renewal begins a
new one.

etcd serves such a call in order, and a follower forwards each renewal to the raft leader: one
that is forwarded to a dead leader holds up all behind it, for up to seven seconds. So a renewal
that is not answered within a quarter of the time that its task has, or within a second, ends the
call, and the next one is made to another member if there is one.

To leave a member costs: all watches are asked for again elsewhere, too. Where all members, or our
own machine, are merely slow, that would make them slower still, and go on for ever. So a call on
which answers come, if late, goes on; and each member that is left in vain makes us more patient.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias

import trio
from grpclib.const import Status

from trio_sched._support.arguments import check_int
from trio_sched._support.chance import chance
from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim._about import is_odd_end
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.channel import deliver, leave_member, send_message_nowait
from trio_sched.etcd_shim.errors import (
    ClientClosed,
    ConnectionLost,
    EtcdError,
    LeaseNotFound,
    again,
)

if TYPE_CHECKING:
    from grpclib.client import Stream

    from trio_sched._support.tasks import ServiceNursery
    from trio_sched.etcd_shim._pb.services_grpc import LeaseStub

__all__ = ["MAX_TTL", "Lease", "LeaseInfo", "check_ttl", "id_to_grant", "new_lease_id"]

MAX_TTL: Final = 9_000_000_000
"""The longest TTL that etcd grants, in seconds."""

# A member that has lost its quorum fails such a call instead of staying silent.
HAS_LEADER = {"hasleader": "true"}


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was granted.

    Attributes:
        id: its id.
        ttl: the TTL that the server gave it, in seconds; it may be longer than
            the one asked for.
    """

    id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """How a lease does.

    Attributes:
        id: its id.
        ttl: seconds until it lapses.
        granted_ttl: the TTL that it was granted with, in seconds.
        keys: the keys that hang on it, if they were asked for.
        raft_term: of the member that answered. When it changes, so has the raft
            leader, and each lease has its whole TTL before it again.
        revision: the store's revision.
    """

    id: int
    ttl: int
    granted_ttl: int
    keys: tuple[bytes, ...]
    raft_term: int = 0
    revision: int = 0


def new_lease_id() -> int:
    """Return a random id for a lease: positive, 63 bits."""
    return chance().getrandbits(62) + 1


def id_to_grant(lease: int | None) -> int:
    """Return the id of a lease to be granted; a new one for None."""
    if lease is None:
        return new_lease_id()
    if check_int("lease", lease) == 0:
        raise ValueError("lease must not be 0, which stands for no lease; None for a random id")
    return lease


def check_ttl(ttl: int, most: int = MAX_TTL) -> int:
    """Return `ttl` if it can be asked for, else raise.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is not between 1 and `most`.
    """
    check_int("a TTL in seconds", ttl)
    if not 1 <= ttl <= most:
        raise ValueError(f"a TTL must be between 1 and {most} seconds, not {ttl}")
    return ttl


_MIN_PATIENCE: Final = 0.15  # seconds
_PATIENCE_BEHIND: Final = 0.3  # of a renewal that waits behind another, or for its stream
_MAX_PATIENCE: Final = 1.0
_MAX_STRAIN: Final = 8.0  # times as patient as usual
_RECOVERY: Final = 10.0  # seconds without a late renewal until we are as impatient as usual
_LAST_CHANCE: Final = 0.001  # seconds: enough to read what the kernel has already

_Call: TypeAlias = "Stream[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]"


class _Renewal:
    """One renewal that a task waits for.

    Attributes:
        due: by trio's clock, when an answer is due; 0.0 if it is not worked out yet.
    """

    __slots__ = ("due", "error", "ttl", "wakeup")

    def __init__(self) -> None:
        self.due = 0.0
        self.wakeup = Wakeup()
        self.error: EtcdError | None = None
        self.ttl: int | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or self.ttl is not None


def _due_of_this_task(strain: float) -> float:
    """Return when an answer is due to a renewal that this task sends now, by trio's clock."""
    now = trio.current_time()
    time_left = trio.current_effective_deadline() - now
    patience = min(_MAX_PATIENCE, max(_MIN_PATIENCE, time_left / 4))
    return now + min(patience * strain, max(patience, time_left / 2))


class Renewals:
    """The shared stream of renewals. See the head of the module.

    Args:
        services: where its tasks are started.
        stub: to call with.
        on_first_answer: run as a service task when a renewal was answered first.
    """

    __slots__ = (
        "_answered_at",
        "_call",
        "_due",
        "_on_first_answer",
        "_pending",
        "_queued",
        "_services",
        "_serving",
        "_strain",
        "_strained_at",
        "_stub",
    )

    def __init__(
        self,
        services: ServiceNursery,
        stub: LeaseStub,
        on_first_answer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._services = services
        self._on_first_answer = on_first_answer
        self._stub = stub
        self._queued: list[int] = []
        self._pending: dict[int, list[_Renewal]] = {}
        self._serving = False
        self._call: _Call | None = None
        self._due: trio.CancelScope | None = None  # until an answer is due
        self._answered_at = -inf  # when an answer came last
        self._strain = 1.0  # how many times as patient as usual we are
        self._strained_at = -inf  # when one was late last

    @property
    def awaits_answer(self) -> bool:
        """Whether a renewal was sent that is not answered."""
        return self._call is not None and bool(self._pending)

    async def renew(self, lease: int) -> int:
        """Renew a lease and return its TTL, in seconds.

        Cancelled, the renewal may still reach the server.

        Raises:
            LeaseNotFound: the lease is gone.
            EtcdError: the stream ended before the answer came.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._services.closing:
            raise ClientClosed("the client's block was left")
        renewal = _Renewal()
        self._pending.setdefault(lease, []).append(renewal)
        if self._call is None:
            self._queued.append(lease)
        else:
            self._send(self._call, lease)
            if self._due is not None and self._due.deadline == inf:  # else there is a look soon
                self._due.deadline = renewal.due = _due_of_this_task(self._strain)
        if not self._serving:
            self._serving = True
            self._services.start_soon(self._serve)
        while not renewal.done:
            await renewal.wakeup.wait()
        if renewal.error is not None:
            raise renewal.error
        if not renewal.ttl:
            raise LeaseNotFound(Status.NOT_FOUND, f"lease {lease:x} is gone")
        return renewal.ttl

    def _send(self, call: _Call, lease: int) -> None:
        """Send a renewal at once, or in its turn when that takes waiting."""
        if self._queued or not send_message_nowait(call, pb.LeaseKeepAliveRequest(id=lease)):
            self._queued.append(lease)
            if len(self._queued) == 1:
                self._services.start_soon(self._send_queued, call)

    async def _serve(self) -> None:
        """Run one LeaseKeepAlive call to its end."""
        error: EtcdError = ConnectionLost("the stream of renewals ended")
        try:
            async with self._stub.LeaseKeepAlive.open(metadata=HAS_LEADER) as call:
                await call.send_request()
                self._call = call
                self._answered_at = -inf
                queued, self._queued = self._queued, []
                for lease in queued:
                    self._send(call, lease)
                await self._deliver(call)
        except EtcdError as exc:
            error = exc
            if is_odd_end(exc):
                error = ConnectionLost(f"the stream of renewals ended: {exc}")
                error.__cause__ = exc
        finally:
            self._serving = False
            self._call = None
            self._fail_all(error)

    def _waiting(self) -> Iterator[_Renewal]:
        for waiting in self._pending.values():
            yield from waiting

    async def _deliver(self, call: _Call) -> None:
        """Take answers until the call ends, or one that is due does not come."""
        last_chance = False
        while True:
            now, patience = trio.current_time(), _PATIENCE_BEHIND * self._strain
            for renewal in self._waiting():
                renewal.due = renewal.due or now + patience
            due = min((renewal.due for renewal in self._waiting()), default=inf)
            due = max(due, self._answered_at + patience)  # they are answered in order
            if due <= now:
                if last_chance:
                    self._strain = min(2 * self._strain, _MAX_STRAIN)
                    self._strained_at = now
                    error = ConnectionLost("a renewal was not answered in time")
                    leave_member(call, error)
                    raise error
                due = now + _LAST_CHANCE  # if our process was stopped, the answer may wait
            last_chance = due == now + _LAST_CHANCE
            with trio.CancelScope(deadline=due) as self._due:
                await deliver(call, self._settle)
                return

    async def _send_queued(self, call: _Call) -> None:
        with suppress(EtcdError):  # the call has ended, as its reader learns, too
            while self._queued and self._call is call:
                await call.send_message(pb.LeaseKeepAliveRequest(id=self._queued[0]))
                if self._call is call:  # else what is queued is for the next call
                    self._queued.pop(0)

    def _settle(self, answer: pb.LeaseKeepAliveResponse) -> None:
        waiting = self._pending.get(answer.id)
        if waiting is None:
            return
        self._answered_at = trio.current_time()
        if self._answered_at > self._strained_at + _RECOVERY:
            self._strain = 1.0
        renewal = waiting.pop(0)
        if not waiting:
            del self._pending[answer.id]
        renewal.ttl = answer.ttl
        if self._on_first_answer is not None:
            self._services.start_soon(self._on_first_answer)
            self._on_first_answer = None
        renewal.wakeup.notify()

    def _fail_all(self, error: EtcdError) -> None:
        self._queued.clear()
        pending, self._pending = self._pending, {}
        for waiting in pending.values():
            for renewal in waiting:
                renewal.error = again(error)
                renewal.wakeup.notify()
