"""A Trio channel under grpclib's generated stubs: gRPC over HTTP/2, in layers.

``http2`` is the sans-I/O protocol: bytes in, events out. ``_connection`` moves the
bytes with its service tasks; ``_channel`` makes connections; ``_call`` is what
the stubs hold in their hands.
"""

from trio_sched._support.lazy import homes, lazy
from trio_sched.etcd_shim.channel._call import deliver, leave_member, send_message_nowait
from trio_sched.etcd_shim.channel._call_state import READS_ONLY
from trio_sched.etcd_shim.channel._channel import Channel, open_channel
from trio_sched.etcd_shim.channel._endpoint import ByteStream, Endpoint
from trio_sched.etcd_shim.channel._network_users import network_awaited
from trio_sched.etcd_shim.channel._settings import ChannelSettings, Credentials, PingPolicy
from trio_sched.etcd_shim.channel._transport import Access, ClientProtocol, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trio_sched.etcd_shim.channel._statistics import (
        ChannelStatistics as ChannelStatistics,
        ConnectionStatistics as ConnectionStatistics,
        EndpointStatistics as EndpointStatistics,
    )

_STATISTICS = "ChannelStatistics ConnectionStatistics EndpointStatistics"

__all__ = [
    "READS_ONLY",
    "Access",
    "ByteStream",
    "Channel",
    "ChannelSettings",
    "ChannelStatistics",
    "ClientProtocol",
    "ConnectionStatistics",
    "Credentials",
    "Endpoint",
    "EndpointStatistics",
    "PingPolicy",
    "Transport",
    "deliver",
    "leave_member",
    "network_awaited",
    "open_channel",
    "send_message_nowait",
]

if not TYPE_CHECKING:  # else any name would be taken for one of ours
    __getattr__, __dir__ = lazy(
        __name__, homes({"trio_sched.etcd_shim.channel._statistics": _STATISTICS})
    )
