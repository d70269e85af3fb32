"""A gRPC client's half of HTTP/2, sans-I/O: one way for each frame.

``connection`` turns bytes into ``events`` and back, on top of ``sending``. Each
rule names its section of RFC 9113.
"""

from trio_sched.etcd_shim.channel.http2.connection import (
    Http2Connection as Http2Connection,
    connection_preface as connection_preface,
)

__all__ = ["Http2Connection", "connection_preface"]
