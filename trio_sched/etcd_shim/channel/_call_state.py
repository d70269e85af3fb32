"""What has arrived for one call, between the connection that reads it and the task that waits."""

from __future__ import annotations

from collections.abc import Callable

from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim.errors import EtcdError

__all__ = ["CallState"]


class CallState:
    """What has arrived for one call, and who waits for more."""

    __slots__ = ("_room", "ended", "error", "messages", "sent", "sink", "wakeup")

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.sink: Callable[[bytes], None] | None = None  # takes them instead
        self.ended = False
        self.error: EtcdError | None = None
        self.sent = True  # nothing of ours waits for a window
        self.wakeup = Wakeup()
        self._room: Wakeup | None = None  # most calls never wait for it

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
