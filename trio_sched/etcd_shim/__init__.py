"""trio-etcd shim: an etcd v3 client for Trio. It knows nothing of scheduling."""

from trio_sched._support.lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trio_sched.etcd_shim import errors as errors
    from trio_sched.etcd_shim._following import Follower as Follower
    from trio_sched.etcd_shim._keep import KeptLease as KeptLease
    from trio_sched.etcd_shim.channel import (
        ChannelStatistics as ChannelStatistics,
    )
    from trio_sched.etcd_shim.channel import (
        ConnectionStatistics as ConnectionStatistics,
    )
    from trio_sched.etcd_shim.channel import (
        PingPolicy as PingPolicy,
    )
    from trio_sched.etcd_shim.client import (
        Client as Client,
    )
    from trio_sched.etcd_shim.client import (
        MemberStatus as MemberStatus,
    )
    from trio_sched.etcd_shim.client import (
        open_client as open_client,
    )
    from trio_sched.etcd_shim.errors import EtcdError as EtcdError
    from trio_sched.etcd_shim.kv import (
        ALL_KEYS as ALL_KEYS,
    )
    from trio_sched.etcd_shim.kv import (
        Compare as Compare,
    )
    from trio_sched.etcd_shim.kv import (
        Delete as Delete,
    )
    from trio_sched.etcd_shim.kv import (
        DeleteResult as DeleteResult,
    )
    from trio_sched.etcd_shim.kv import (
        Get as Get,
    )
    from trio_sched.etcd_shim.kv import (
        GetResult as GetResult,
    )
    from trio_sched.etcd_shim.kv import (
        KeyValue as KeyValue,
    )
    from trio_sched.etcd_shim.kv import (
        Put as Put,
    )
    from trio_sched.etcd_shim.kv import (
        PutResult as PutResult,
    )
    from trio_sched.etcd_shim.kv import (
        Txn as Txn,
    )
    from trio_sched.etcd_shim.kv import (
        TxnResult as TxnResult,
    )
    from trio_sched.etcd_shim.kv import (
        prefix_range as prefix_range,
    )
    from trio_sched.etcd_shim.lease import Lease as Lease
    from trio_sched.etcd_shim.lease import LeaseInfo as LeaseInfo
    from trio_sched.etcd_shim.tls import TLSContext as TLSContext
    from trio_sched.etcd_shim.tls import tls_context as tls_context
    from trio_sched.etcd_shim.watch import (
        Event as Event,
    )
    from trio_sched.etcd_shim.watch import (
        EventType as EventType,
    )
    from trio_sched.etcd_shim.watch import (
        WatchBatch as WatchBatch,
    )
    from trio_sched.etcd_shim.watch import (
        Watcher as Watcher,
    )

# Where each name lives; its module is imported when the name is asked for first.
_HOMES = {
    "Follower": "trio_sched.etcd_shim._following",
    "KeptLease": "trio_sched.etcd_shim._keep",
    "ChannelStatistics": "trio_sched.etcd_shim.channel",
    "ConnectionStatistics": "trio_sched.etcd_shim.channel",
    "PingPolicy": "trio_sched.etcd_shim.channel",
    "Client": "trio_sched.etcd_shim.client",
    "MemberStatus": "trio_sched.etcd_shim.client",
    "open_client": "trio_sched.etcd_shim.client",
    "EtcdError": "trio_sched.etcd_shim.errors",
    "ALL_KEYS": "trio_sched.etcd_shim.kv",
    "Compare": "trio_sched.etcd_shim.kv",
    "Delete": "trio_sched.etcd_shim.kv",
    "DeleteResult": "trio_sched.etcd_shim.kv",
    "Get": "trio_sched.etcd_shim.kv",
    "GetResult": "trio_sched.etcd_shim.kv",
    "KeyValue": "trio_sched.etcd_shim.kv",
    "Put": "trio_sched.etcd_shim.kv",
    "PutResult": "trio_sched.etcd_shim.kv",
    "Txn": "trio_sched.etcd_shim.kv",
    "TxnResult": "trio_sched.etcd_shim.kv",
    "prefix_range": "trio_sched.etcd_shim.kv",
    "Lease": "trio_sched.etcd_shim.lease",
    "LeaseInfo": "trio_sched.etcd_shim.lease",
    "TLSContext": "trio_sched.etcd_shim.tls",
    "tls_context": "trio_sched.etcd_shim.tls",
    "Event": "trio_sched.etcd_shim.watch",
    "EventType": "trio_sched.etcd_shim.watch",
    "WatchBatch": "trio_sched.etcd_shim.watch",
    "Watcher": "trio_sched.etcd_shim.watch",
}

__getattr__, __dir__ = lazy(__name__, _HOMES)
