"""Plays a program to an etcd, step by step, and notes what it answers and what watches say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import trio
from google.protobuf import text_format
from google.protobuf.message import Message

from tests.simulation.programs import Compact, Renew, Step, Watch, absolute, relative
from trio_sched.etcd_shim import ALL_KEYS, Client, Event, EventType, KeyValue, Watcher
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import Compacted, RpcError

__all__ = ["Answer", "Player", "show"]

SENTINEL = b"~"  # what it is put for is to be seen by the watch of everything
DELIVERY = 20  # seconds until a wait for events is given up

Answer: TypeAlias = Message | tuple[str, str] | int | None


class Log:
    """A watch, and what it was given so far.

    Attributes:
        start: the first revision that it is to be given, as etcd counts.
        compacted: whether that was gone already, so that it ends with an error.
        events: what came, as etcd counts.
        error: the class of what ended it, with the revision that it names.
        synced: whether it was given all that was there when it began. etcd takes a moment for
            that, and may be overtaken by a compaction.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.start = 0
        self.compacted = False
        self.events: list[Event] = []
        self.error: tuple[str, int] | None = None
        self.synced = False
        self.changed = trio.lowlevel.ParkingLot()

    async def read(self, watcher: Watcher) -> None:
        try:
            while True:
                self.events += (await watcher.receive()).events  # none: it is only progress
                self.synced = True
                self.changed.unpark_all()
        except Compacted as error:
            self.error = type(error).__name__, error.revision
            self.changed.unpark_all()

    def wants(self, event: Event) -> bool:
        """Whether it is to be given an event."""
        watch, key = self.watch, event.kv.key
        if event.kv.mod_revision < self.start:
            return False
        if not (watch.puts if event.type is EventType.PUT else watch.deletes):
            return False
        if not watch.range_end:
            return key == watch.key
        return watch.key <= key and (watch.range_end == ALL_KEYS or key < watch.range_end)


class Player:
    """One etcd, to which a program is played. Make it with `begin`."""

    def __init__(self, client: Client, nursery: trio.Nursery) -> None:
        self._client = client
        self._nursery = nursery
        self._base = 0
        self._compacted = 0
        self._everything = Log(Watch(b"\0", ALL_KEYS, 0, prev_kv=True, puts=True, deletes=True))
        self._logs: list[Log] = []
        self._methods = self._find_methods(client)

    @staticmethod
    def _find_methods(client: Client) -> dict[type[Message], Callable[[Any], Awaitable[Message]]]:
        kv, lease = client._kv, client._lease
        return {
            pb.RangeRequest: kv.Range,
            pb.PutRequest: kv.Put,
            pb.DeleteRangeRequest: kv.DeleteRange,
            pb.TxnRequest: kv.Txn,
            pb.LeaseGrantRequest: lease.LeaseGrant,
            pb.LeaseRevokeRequest: lease.LeaseRevoke,
            pb.LeaseTimeToLiveRequest: lease.LeaseTimeToLive,
            pb.LeaseLeasesRequest: lease.LeaseLeases,
        }

    async def begin(self) -> None:
        """Clear the etcd, and begin to watch everything."""
        client = self._client
        for lease in await client.lease_list():
            await client.lease_revoke(lease)
        await client.delete(b"\0", ALL_KEYS)
        await client.put(SENTINEL, b"")
        self._base = self._compacted = (await client.delete(SENTINEL)).revision
        await self._client.compact(self._base, physical=True)
        await self._watch(self._everything)

    async def play(self, step: Step) -> Answer:
        """Carry out a step; return what comparable etcds answer alike."""
        match step:
            case None:
                return None
            case Watch():
                log = Log(step)
                self._logs.append(log)
                return await self._watch(log)
            case Compact():
                return await self._catch_errors(self._compact(step.revision + self._base - 2))
            case Renew():
                return await self._catch_errors(self._client.lease_renew(step.lease))
            case Message():
                return await self._catch_errors(self._send(step))

    async def finish(self) -> list[object]:
        """Wait until all watches have been given everything; return what that was."""
        await self._catch_up()
        return [
            (log.watch, self._relative_error(log), [self._relative_event(e) for e in log.events])
            for log in (self._everything, *self._logs)
        ]

    # ---- requests ------------------------------------------------------------------

    async def _send(self, request: Message) -> Message:
        answer = await self._methods[type(request)](absolute(request, self._base))
        answer = relative(answer, self._base)
        _drop_what_may_differ(answer)
        return answer

    async def _compact(self, revision: int) -> None:
        # etcd reads how a key was before only as it sends an event; if it is late, that is gone.
        await self._catch_up()
        await self._wait_synced()
        await self._client.compact(revision, physical=True)
        self._compacted = revision

    @staticmethod
    async def _catch_errors(call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except RpcError as error:
            return f"{type(error).__name__} {error.status.name}", error.message

    # ---- watches -------------------------------------------------------------------

    async def _watch(self, log: Log) -> int:
        start = log.watch.start + self._base - 2 if log.watch.start else 0
        if start == self._compacted:
            start += 1  # what of that revision is left depends on etcd's version
        log.start = start
        log.compacted = 0 < start < self._compacted
        return await self._nursery.start(self._read, log)  # type: ignore[no-any-return]

    async def _read(self, log: Log, *, task_status: trio.TaskStatus[int]) -> None:
        watch = log.watch
        async with self._client.watch(
            watch.key,
            range_end=watch.range_end,
            start_revision=log.start,
            prev_kv=watch.prev_kv,
            puts=watch.puts,
            deletes=watch.deletes,
            progress_notify=True,
        ) as watcher:
            log.start = watcher.next_revision
            log.synced = log.start > watcher.created_revision
            task_status.started(watcher.created_revision - self._base)
            await log.read(watcher)

    async def _catch_up(self) -> None:
        with trio.fail_after(DELIVERY):
            await self._client.put(SENTINEL, b"")
            revision = (await self._client.delete(SENTINEL)).revision
            everything = self._everything
            while not everything.events or everything.events[-1].kv.mod_revision < revision:
                await everything.changed.park()
            for log in self._logs:
                await self._wait_delivered(log)

    async def _wait_delivered(self, log: Log) -> None:
        expected = sum(map(log.wants, self._everything.events))
        while log.error is None and (log.compacted or len(log.events) < expected):
            await log.changed.park()

    async def _wait_synced(self) -> None:
        with trio.fail_after(DELIVERY):
            for log in self._logs:
                while not log.synced and log.error is None:
                    await log.changed.park()

    def _relative_error(self, log: Log) -> tuple[str, int] | None:
        return log.error and (log.error[0], log.error[1] - self._base)

    def _relative_event(self, event: Event) -> object:
        return event.type, self._relative_kv(event.kv), self._relative_kv(event.prev_kv)

    def _relative_kv(self, kv: KeyValue | None) -> object:
        if kv is None:
            return None
        created = kv.create_revision and kv.create_revision - self._base
        return kv.key, kv.value, created, kv.mod_revision - self._base, kv.version, kv.lease


def _drop_what_may_differ(answer: Message) -> None:
    """Forget which cluster it is, the order in which Go iterates, and how much time has passed."""
    header = cast("pb.PutResponse", answer).header
    header.ClearField("cluster_id")
    header.ClearField("member_id")
    header.ClearField("raft_term")
    if isinstance(answer, pb.LeaseTimeToLiveResponse):
        answer.keys[:] = sorted(answer.keys)
        answer.ttl = min(answer.ttl, 1)
    elif isinstance(answer, pb.LeaseLeasesResponse):
        answer.leases.sort(key=lambda lease: lease.id)


def show(value: object) -> str:
    """Return a step, or an answer, in one line."""
    if isinstance(value, Message):
        fields = text_format.MessageToString(value, as_one_line=True)
        return f"{type(value).__name__}({fields})"
    return repr(value)
