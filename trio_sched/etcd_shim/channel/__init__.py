"""A Trio channel under grpclib's generated stubs: gRPC over h2, in layers.

``_protocol`` is the pure half: bytes in, events out. ``_connection`` moves the
bytes with two service tasks; ``_channel`` makes connections; ``_call`` is what
the stubs hold in their hands.
"""

from trio_sched.etcd_shim.channel._channel import (
    Channel as Channel,
)
from trio_sched.etcd_shim.channel._channel import (
    ChannelStatistics as ChannelStatistics,
)
from trio_sched.etcd_shim.channel._channel import (
    open_channel as open_channel,
)
from trio_sched.etcd_shim.channel._connection import ConnectionStatistics as ConnectionStatistics
from trio_sched.etcd_shim.channel._endpoint import Endpoint as Endpoint

__all__ = ["Channel", "ChannelStatistics", "ConnectionStatistics", "Endpoint", "open_channel"]
