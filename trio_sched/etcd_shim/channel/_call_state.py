"""What has arrived for one call, between the connection that reads it and the task that waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim.errors import EtcdError

__all__ = ["READS_ONLY", "CallState"]

READS_ONLY: Final[Mapping[str, str]] = {}
"""As the metadata of a Txn: it only reads. These are no headers; the mapping itself is the mark."""

_RESUMED: Final = frozenset({"/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"})
_STREAMS: Final = _RESUMED | {"/etcdserverpb.Maintenance/Snapshot"}
_MOVABLE: Final = _RESUMED | {
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Maintenance/Status",
}


class CallState:
    """What has arrived for one call, and who waits for more.

    Attributes:
        path: of its method.
        reads_only: whether it is a transaction that only reads.
        abandoned: whether nothing waits for it any more, though the server has it still.
    """

    __slots__ = (
        "_room",
        "abandoned",
        "ended",
        "error",
        "messages",
        "path",
        "reads_only",
        "sent",
        "sink",
        "wakeup",
    )

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.sink: Callable[[bytes], None] | None = None  # takes them instead
        self.ended: bool = False
        self.error: EtcdError | None = None
        self.path: str = ""
        self.reads_only: bool = False
        self.abandoned: bool = False
        self.sent: bool = True  # nothing of ours waits for a window
        self.wakeup: Wakeup = Wakeup()
        self._room: Wakeup | None = None  # most calls never wait for it

    @property
    def streams(self) -> bool:
        """Whether it is a stream, which is answered now and then or not at all."""
        return self.path in _STREAMS

    @property
    def movable(self) -> bool:
        """Whether another member may do as well, as it is resumed or repeated there."""
        return self.reads_only or self.path in _MOVABLE

    def finish(self, error: EtcdError | None) -> bool:
        """Note how the call ended; wake the tasks that wait, and return whether there were any."""
        self.ended = True
        self.error = error
        return self.wakeup.notify() | self.wake_room()

    async def wait_for_room(self) -> None:
        """Wait until what was queued is sent, or the call has ended; see `sent` and `ended`."""
        if self._room is None:
            self._room = Wakeup()
        await self._room.wait()

    def wake_room(self) -> bool:
        """Wake the task that waits for room; return whether there was one."""
        return self._room is not None and self._room.notify()
