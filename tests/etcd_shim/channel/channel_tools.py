"""What the tests of the channel share: a channel to a scripted server, and the stubs on it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from tests.etcd_shim.channel.scripted_server import (
    Manners,
    Script,
    ScriptedServer,
    answer,
    open_server,
)
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import AuthStub, KVStub, WatchStub
from trio_sched.etcd_shim.channel import (
    Channel,
    ChannelSettings,
    Credentials,
    PingPolicy,
    open_channel,
)

if TYPE_CHECKING:
    import grpclib.client

__all__ = [
    "GUARD",
    "Certificates",
    "assert_idle",
    "auth",
    "get",
    "kv",
    "make_certificates",
    "open_pair",
    "watch",
    "watch_request",
]

GUARD = 30  # seconds after which a test that hangs is ended; nothing is measured against it


def kv(channel: Channel) -> KVStub:
    return KVStub(cast("grpclib.client.Channel", channel))


def watch(channel: Channel) -> WatchStub:
    return WatchStub(cast("grpclib.client.Channel", channel))


def auth(channel: Channel) -> AuthStub:
    return AuthStub(cast("grpclib.client.Channel", channel))


async def get(channel: Channel, key: bytes = b"key") -> pb.RangeResponse:
    return await kv(channel).Range(pb.RangeRequest(key=key))


def watch_request(key: bytes = b"key") -> pb.WatchRequest:
    return pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key))


async def assert_idle(channel: Channel) -> None:
    """Nothing is left of any call, once what is on its way has arrived."""
    await wait_all_tasks_blocked()
    for connection in channel.statistics().connections:
        assert connection.open_calls == 0
        assert connection.waiting_calls == 0
        assert connection.unread_bytes == 0
        assert connection.unsent_bytes == 0


@dataclass(frozen=True)
class Certificates:
    server: ssl.SSLContext
    client: ssl.SSLContext


def make_certificates() -> Certificates:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.set_alpn_protocols(["h2"])
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificates(server, client)


@asynccontextmanager
async def open_pair(
    script: Script = answer,
    manners: Manners | None = None,
    *,
    settings: ChannelSettings | None = None,
    pings: PingPolicy | None = None,
    credentials: Credentials | None = None,
    certificates: Certificates | None = None,
    more: Sequence[ScriptedServer] = (),
) -> AsyncIterator[tuple[ScriptedServer, Channel]]:
    """Open a server and a channel to it, and to `more`; end them if they hang."""
    with trio.fail_after(GUARD):
        async with (
            open_server(
                script, manners, ssl_context=certificates.server if certificates else None
            ) as server,
            open_channel(
                [server.endpoint, *(other.endpoint for other in more)],
                ssl_context=certificates.client if certificates else None,
                credentials=credentials,
                settings=settings,
                pings=pings,
            ) as channel,
        ):
            yield server, channel
