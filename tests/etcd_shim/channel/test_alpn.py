"""What a TLS context offers by ALPN is read, changed for one connection, and given back."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from tests.etcd_shim.test_transport import live, trusting, write
from trio_sched.etcd_shim import open_client, tls_context
from trio_sched.etcd_shim.channel._alpn import offered_protocols, offering_h2
from trio_sched.etcd_shim.errors import ConnectionFailed
from trio_sched.testing import open_etcd

OFFERS: list[list[str]] = [[], ["http/1.1"], ["h2"], ["http/1.1", "h2", "x" * 255]]


def negotiated(context: ssl.SSLContext, authority: trustme.CA) -> str | None:
    """Return what a server that knows all protocols comes to with a client of a context."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    server.set_alpn_protocols(["http/1.1", "h2"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (ours, theirs, ours, theirs):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return ours.selected_alpn_protocol()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_what_a_context_offers(offer: list[str], host: str) -> None:
    context = ssl.create_default_context()
    if offer:
        context.set_alpn_protocols(offer)
    assert offered_protocols(context, host) == offer


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_a_context_of_a_version_offers(newest: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    context.maximum_version = newest
    context.set_alpn_protocols(["a", "b"])
    assert offered_protocols(context, "localhost") == ["a", "b"]


@pytest.mark.parametrize("offer", OFFERS)
def test_it_is_given_back(authority: trustme.CA, offer: list[str]) -> None:
    context = trusting(authority)
    context.set_alpn_protocols(offer)
    before = negotiated(context, authority)
    with pytest.raises(ZeroDivisionError), offering_h2(context, "localhost"):
        assert negotiated(context, authority) == "h2"
        raise ZeroDivisionError
    assert offered_protocols(context, "localhost") == offer
    assert negotiated(context, authority) == before


@pytest.mark.parametrize("offer", OFFERS)
async def test_a_context_is_used_beside_us(
    authority: trustme.CA, tmp_path: Path, path: str, offer: list[str]
) -> None:
    """With a real etcd, which speaks HTTP/2 over TLS only if ALPN says so."""
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    context = trusting(authority)
    context.set_alpn_protocols(offer)
    before = negotiated(context, authority)
    async with (
        open_etcd(client_tls=(cert, key, None)) as server,
        open_client(server.endpoint, ssl_context=context) as client,
    ):
        await live(client, path)
        assert negotiated(context, authority) == before
        assert client.statistics().connects == 1


async def test_a_context_of_ours_is_left_alone_too(authority: trustme.CA, tmp_path: Path) -> None:
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    context = tls_context(cacert=ca)
    async with (
        open_etcd(client_tls=(cert, key, None)) as server,
        open_client(server.endpoint, ssl_context=context) as client,
    ):
        await client.get("a")
    assert offered_protocols(context, "localhost") == []


async def serve_tls(
    authority: trustme.CA, target: tuple[str, int] | None, task_status: trio.TaskStatus[int]
) -> None:
    """Serve TLS without ALPN: carry what comes to a target, or answer it as HTTP/1.1 would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
        async for data in source:
            await sink.send_all(data)

    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        if target is None:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            await stream.aclose()
            return
        async with await trio.open_tcp_stream(*target) as theirs, trio.open_nursery() as nursery:
            nursery.start_soon(pump, stream, theirs)
            await pump(theirs, stream)

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await handle(trio.SSLStream(stream, context, server_side=True, https_compatible=True))
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listener.socket.getsockname()[1])
    await trio.serve_listeners(serve, [listener])


async def test_a_server_without_alpn(
    authority: trustme.CA, endpoint: str, path: str, nursery: trio.Nursery
) -> None:
    """One that carries all to etcd is as good as any; what else answers is said to."""
    etcd = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
    tunnel: int = await nursery.start(serve_tls, authority, etcd)
    context = trusting(authority)
    async with open_client(f"https://127.0.0.1:{tunnel}", ssl_context=context) as client:
        await live(client, path)
    web: int = await nursery.start(serve_tls, authority, None)
    async with open_client(f"https://127.0.0.1:{web}", ssl_context=context) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.get("a")
    assert "HTTP/1" in str(caught.value)
