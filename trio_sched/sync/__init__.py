"""The scheduler for blocking code: Django, Celery, scripts.

`open_client`, `schedule`, `open_host` and `observe` are those of `trio_sched`, with the same
arguments, as ``with`` blocks whose methods block. Trio runs in a thread of its own, as long as a
client is open. What was opened before a fork is refused after it.
"""

from trio_sched.sync._entries import observe, open_client, open_host, schedule
from trio_sched.sync._objects import (
    SyncClient,
    SyncHost,
    SyncObservation,
    SyncPathObservation,
    SyncResult,
    SyncStream,
)
from trio_sched.sync._work import SyncSlot

__all__ = [
    "SyncClient",
    "SyncHost",
    "SyncObservation",
    "SyncPathObservation",
    "SyncResult",
    "SyncSlot",
    "SyncStream",
    "observe",
    "open_client",
    "open_host",
    "schedule",
]
