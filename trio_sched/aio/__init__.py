"""The scheduler for asyncio programs.

`open_client`, `schedule`, `open_host` and `observe` are those of `trio_sched`, with the same
arguments, and with asyncio's cancellation and exceptions. Trio runs beside asyncio's loop, in the
same thread, by its guest mode, as long as a client is open.
"""

from trio_sched.aio._entries import observe, open_client, open_host, schedule
from trio_sched.aio._objects import (
    AioClient,
    AioHost,
    AioObservation,
    AioPathObservation,
    AioResult,
    AioSlot,
    AioStream,
)

__all__ = [
    "AioClient",
    "AioHost",
    "AioObservation",
    "AioPathObservation",
    "AioResult",
    "AioSlot",
    "AioStream",
    "observe",
    "open_client",
    "open_host",
    "schedule",
]
