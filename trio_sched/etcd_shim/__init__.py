"""trio-etcd shim: an etcd v3 client for Trio. It knows nothing of scheduling."""

from trio_sched._support.lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trio_sched.etcd_shim import errors as errors
    from trio_sched.etcd_shim._following import Follower as Follower
    from trio_sched.etcd_shim._keep import KeptLease as KeptLease
    from trio_sched.etcd_shim.channel import (
        ChannelStatistics as ChannelStatistics,
        ConnectionStatistics as ConnectionStatistics,
        PingPolicy as PingPolicy,
    )
    from trio_sched.etcd_shim.client import (
        Client as Client,
        MemberStatus as MemberStatus,
        open_client as open_client,
    )
    from trio_sched.etcd_shim.errors import EtcdError as EtcdError
    from trio_sched.etcd_shim.kv import (
        ALL_KEYS as ALL_KEYS,
        Compare as Compare,
        Delete as Delete,
        DeleteResult as DeleteResult,
        Get as Get,
        GetResult as GetResult,
        KeyValue as KeyValue,
        Put as Put,
        PutResult as PutResult,
        Txn as Txn,
        TxnResult as TxnResult,
        prefix_range as prefix_range,
    )
    from trio_sched.etcd_shim.lease import Lease as Lease, LeaseInfo as LeaseInfo
    from trio_sched.etcd_shim.tls import TLSContext as TLSContext, tls_context as tls_context
    from trio_sched.etcd_shim.watch import (
        Event as Event,
        EventType as EventType,
        WatchBatch as WatchBatch,
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
