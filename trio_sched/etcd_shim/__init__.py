"""trio-etcd shim: an etcd v3 client for Trio. It knows nothing of scheduling."""

from trio_sched._support.lazy import homes, lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trio_sched.etcd_shim import errors as errors
    from trio_sched.etcd_shim._following import Follower as Follower
    from trio_sched.etcd_shim._keep import KeptLease as KeptLease
    from trio_sched.etcd_shim.auth import (
        Auth as Auth,
        AuthStatus as AuthStatus,
        Permission as Permission,
    )
    from trio_sched.etcd_shim.channel import (
        ChannelStatistics as ChannelStatistics,
        ConnectionStatistics as ConnectionStatistics,
        EndpointStatistics as EndpointStatistics,
        PingPolicy as PingPolicy,
    )
    from trio_sched.etcd_shim.client import Client as Client
    from trio_sched.etcd_shim.cluster import Cluster as Cluster, ClusterMember as ClusterMember
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
        ResponseHeader as ResponseHeader,
        Txn as Txn,
        TxnResult as TxnResult,
        prefix_range as prefix_range,
    )
    from trio_sched.etcd_shim.lease import Lease as Lease, LeaseInfo as LeaseInfo
    from trio_sched.etcd_shim.maintenance import (
        Alarm as Alarm,
        Hash as Hash,
        Maintenance as Maintenance,
        MemberStatus as MemberStatus,
    )
    from trio_sched.etcd_shim.opening import open_client as open_client
    from trio_sched.etcd_shim.tls import TLSContext as TLSContext, tls_context as tls_context
    from trio_sched.etcd_shim.watch import (
        Event as Event,
        EventType as EventType,
        WatchBatch as WatchBatch,
        Watcher as Watcher,
    )

# Where each name lives; its module is imported when the name is asked for first.
_HOMES = homes(
    {
        "trio_sched.etcd_shim._following": "Follower",
        "trio_sched.etcd_shim._keep": "KeptLease",
        "trio_sched.etcd_shim.auth": "Auth AuthStatus Permission",
        "trio_sched.etcd_shim.channel": "ChannelStatistics ConnectionStatistics "
        "EndpointStatistics PingPolicy",
        "trio_sched.etcd_shim.client": "Client",
        "trio_sched.etcd_shim.cluster": "Cluster ClusterMember",
        "trio_sched.etcd_shim.errors": "EtcdError",
        "trio_sched.etcd_shim.kv": "ALL_KEYS Compare Delete DeleteResult Get GetResult "
        "KeyValue Put PutResult ResponseHeader Txn TxnResult prefix_range",
        "trio_sched.etcd_shim.lease": "Lease LeaseInfo",
        "trio_sched.etcd_shim.maintenance": "Alarm Hash Maintenance MemberStatus",
        "trio_sched.etcd_shim.opening": "open_client",
        "trio_sched.etcd_shim.tls": "TLSContext tls_context",
        "trio_sched.etcd_shim.watch": "Event EventType WatchBatch Watcher",
    }
)

__all__ = [*_HOMES]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] # strings all
if not TYPE_CHECKING:  # else any name would be taken for one of ours
    __getattr__, __dir__ = lazy(__name__, _HOMES)
