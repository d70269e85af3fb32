"""Locks and more, by etcd's own recipes; clients of Go and `etcdctl` take part in them.

What is made here is what Go's ``clientv3/concurrency`` and its recipes make in etcd. It is no
part of what `open_client` imports.
"""

from trio_sched.etcd_shim.concurrency.barriers import Barrier, DoubleBarrier
from trio_sched.etcd_shim.concurrency.elections import Election, LeaderObserver, Leadership
from trio_sched.etcd_shim.concurrency.errors import (
    BarrierFull,
    BarrierHeld,
    DequeueUncertain,
    KeyDeleted,
    Locked,
)
from trio_sched.etcd_shim.concurrency.locks import HeldLock, lock, try_lock
from trio_sched.etcd_shim.concurrency.queues import PriorityQueue, Queue
from trio_sched.etcd_shim.concurrency.transactions import STM, Isolation, STMResult, stm

__all__ = [
    "STM",
    "Barrier",
    "BarrierFull",
    "BarrierHeld",
    "DequeueUncertain",
    "DoubleBarrier",
    "Election",
    "HeldLock",
    "Isolation",
    "KeyDeleted",
    "LeaderObserver",
    "Leadership",
    "Locked",
    "PriorityQueue",
    "Queue",
    "STMResult",
    "lock",
    "stm",
    "try_lock",
]
