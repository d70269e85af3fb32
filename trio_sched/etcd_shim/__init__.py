"""trio-etcd shim: an etcd v3 client for Trio. It knows nothing of scheduling."""

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
