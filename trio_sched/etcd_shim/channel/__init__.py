"""A Trio channel under grpclib's generated stubs: gRPC over HTTP/2, in layers.

``http2`` is the sans-I/O protocol: bytes in, events out. ``_connection`` moves the
bytes with its service tasks; ``_channel`` makes connections; ``_call`` is what
the stubs hold in their hands.
"""

from trio_sched.etcd_shim.channel._call import deliver as deliver
from trio_sched.etcd_shim.channel._call import send_message_nowait as send_message_nowait
from trio_sched.etcd_shim.channel._channel import Access as Access
from trio_sched.etcd_shim.channel._channel import Channel as Channel
from trio_sched.etcd_shim.channel._channel import ChannelStatistics as ChannelStatistics
from trio_sched.etcd_shim.channel._channel import open_channel as open_channel
from trio_sched.etcd_shim.channel._connection import ConnectionStatistics as ConnectionStatistics
from trio_sched.etcd_shim.channel._endpoint import Endpoint as Endpoint
from trio_sched.etcd_shim.channel._settings import ChannelSettings as ChannelSettings
from trio_sched.etcd_shim.channel._settings import Credentials as Credentials
from trio_sched.etcd_shim.channel._settings import PingPolicy as PingPolicy

__all__ = [
    "Access",
    "Channel",
    "ChannelSettings",
    "ChannelStatistics",
    "ConnectionStatistics",
    "Credentials",
    "Endpoint",
    "PingPolicy",
    "deliver",
    "open_channel",
    "send_message_nowait",
]
