"""Locks and more, by etcd's own recipes; clients of Go and `etcdctl` take part in them.

What is made here is what Go's ``clientv3/concurrency`` and its recipes make in etcd. It is no
part of what `open_client` imports.
"""

from trio_sched.etcd_shim.concurrency.errors import (
    BarrierFull,
    BarrierHeld,
    DequeueUncertain,
    KeyDeleted,
    Locked,
)
from trio_sched.etcd_shim.concurrency.locks import HeldLock, lock, try_lock

__all__ = [
    "BarrierFull",
    "BarrierHeld",
    "DequeueUncertain",
    "HeldLock",
    "KeyDeleted",
    "Locked",
    "lock",
    "try_lock",
]
