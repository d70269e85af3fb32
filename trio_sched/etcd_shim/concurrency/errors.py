"""What goes wrong with locks, elections, barriers and queues, besides what goes wrong with etcd.

.. code-block:: text

    EtcdError
    ├── BarrierFull         all places of a double barrier were taken before us
    ├── BarrierHeld         a barrier is held already
    ├── DequeueUncertain    an item may have been taken, or not
    ├── KeyDeleted          another client deleted the key by which we wait, hold or lead
    └── Locked              another client has the lock
"""

from __future__ import annotations

from trio_sched.etcd_shim.errors import EtcdError
from trio_sched.etcd_shim.kv import KeyValue

__all__ = ["BarrierFull", "BarrierHeld", "DequeueUncertain", "KeyDeleted", "Locked"]


class BarrierFull(EtcdError):
    """All places of a double barrier were taken before us.

    Attributes:
        key: the name of the barrier.
        count: how many places it has.
    """

    def __init__(self, key: bytes, count: int) -> None:
        super().__init__(f"{count} have entered the barrier {key!r} before us")
        self.key: bytes = key
        self.count: int = count


class BarrierHeld(EtcdError):
    """A barrier is held already.

    Attributes:
        key: its name.
    """

    def __init__(self, key: bytes) -> None:
        super().__init__(f"the barrier {key!r} is held already")
        self.key: bytes = key


class DequeueUncertain(EtcdError):
    """The answer that says whether an item was taken is lost; by what, if known, is the cause.

    We may have taken the item, or another client has, or it is still in the queue, as etcd was not
    reached. Only the program knows whether doing it twice does less harm than not doing it.

    Attributes:
        kv: the item.
    """

    def __init__(self, kv: KeyValue) -> None:
        super().__init__(f"the item {kv.key!r} may have been taken by us: the answer is lost")
        self.kv: KeyValue = kv


class KeyDeleted(EtcdError):
    """Another client deleted the key by which we wait, hold a lock, or lead.

    Attributes:
        key: the key.
    """

    def __init__(self, key: bytes) -> None:
        super().__init__(f"another client deleted our key {key!r}")
        self.key: bytes = key


class Locked(EtcdError):
    """Another client has the lock.

    Attributes:
        owner: its key; the value is empty.
    """

    def __init__(self, owner: KeyValue) -> None:
        super().__init__(f"another client has the lock, by its key {owner.key!r}")
        self.owner: KeyValue = owner
