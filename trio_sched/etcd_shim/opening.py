"""Opening a client."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import NoneType

from trio_sched._support.arguments import check_instance, check_seconds
from trio_sched._support.tasks import ServiceBlock, ServiceNursery
from trio_sched.etcd_shim.channel import (
    Channel,
    ChannelSettings,
    Credentials,
    Endpoint,
    PingPolicy,
    Transport,
)
from trio_sched.etcd_shim.client import Client

__all__ = ["client_block", "open_client"]


def open_client(
    *endpoints: str,
    user: str | None = None,
    password: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = 5.0,
    max_message_size: int = 64 * 2**20,
    pings: PingPolicy | None = None,
    auto_sync_interval: float | None = None,
) -> AbstractAsyncContextManager[Client]:
    """Open a client, with ``async with``. Nothing is sent before the first call.

    Args:
        endpoints: URLs of members of one cluster, ``http://HOST:PORT``,
            ``https://HOST:PORT`` or ``unix:///PATH``; ``http://127.0.0.1:2379``
            if there are none. When one refuses, resets, is silent or has lost
            its quorum, another is used.
        user: name to authenticate by; None if etcd does not ask.
        password: goes with `user`.
        ssl_context: for ``https`` endpoints; None for Python's default one. For
            mutual TLS load a certificate into it. `tls_context` makes one of files. Each
            connection offers HTTP/2 by ALPN, as etcd needs; what the context offers by ALPN to
            others is as before once a connection has been made of it.
        connect_timeout: bound for connecting to one endpoint, in seconds.
        max_message_size: the largest answer accepted, in bytes.
        pings: when to ask a silent member whether it is still there.
        auto_sync_interval: seconds from one `Cluster.sync_endpoints` to the next, in the
            background; one that fails is made up for by the next. None for none, as members
            may be known to others by other URLs than the client can reach.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an endpoint is not understood, `user` and `password` do not come
            together, or an argument is out of bounds.
        ConnectionFailed: out of the first call, if no endpoint lets us in.
        AuthenticationFailed: out of the first call, if the password is wrong.

    A cancellation of the body leaves the connection to the clean-up inside it;
    it is closed when the block is left.
    """
    parsed = [Endpoint.parse(url) for url in endpoints or ("http://127.0.0.1:2379",)]
    if (user is None) != (password is None):
        raise ValueError("give user and password together, or neither")
    credentials = None if user is None or password is None else Credentials(user, password)
    check_instance("pings", pings, (PingPolicy, NoneType), "a PingPolicy or None")
    if ssl_context is not None:
        from trio_sched.etcd_shim.tls import check_context  # noqa: PLC0415 # not at once

        check_context(ssl_context)
    settings = ChannelSettings(connect_timeout=connect_timeout, max_message_size=max_message_size)
    if auto_sync_interval is not None:
        check_seconds("auto_sync_interval", auto_sync_interval)
    return client_block(
        parsed, ssl_context, credentials, settings, pings, auto_sync_interval=auto_sync_interval
    )


def client_block(
    endpoints: Sequence[Endpoint],
    ssl_context: ssl.SSLContext | None = None,
    credentials: Credentials | None = None,
    settings: ChannelSettings | None = None,
    pings: PingPolicy | None = None,
    transport: Transport | None = None,
    *,
    auto_sync_interval: float | None = None,
) -> ServiceBlock[Client]:
    """Do what `open_client` does, on any transport; None for the network."""
    services = ServiceNursery()
    settings, pings = settings or ChannelSettings(), pings or PingPolicy()
    channel = Channel(services, endpoints, ssl_context, credentials, settings, pings, transport)
    client = Client(channel)
    if auto_sync_interval is None:
        return ServiceBlock(services, client)
    return ServiceBlock(services, client, partial(client.cluster.keep_syncing, auto_sync_interval))
