"""TLS and mutual TLS, unix sockets, IPv6: other roads to the same etcd."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from trio_sched.etcd_shim import Client, open_client
from trio_sched.etcd_shim.channel import Endpoint
from trio_sched.etcd_shim.errors import ConnectionFailed
from trio_sched.testing import Etcd, open_etcd


def write(cert: trustme.LeafCert, folder: Path, name: str) -> tuple[Path, Path]:
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.private_key_pem.write_to_path(str(key))
    for blob in cert.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    return chain, key


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def live(client: Client, path: str) -> None:
    """Everything that a connection is for: calls, a watch, a lease, large values."""
    async with client.open_lease(5) as lease, client.watch(path) as watcher:
        await client.put(path, "1", lease=lease.id)
        assert (await watcher.__anext__()).kv.value == b"1"
        assert await client.lease_renew(lease.id) == 5
        large = bytes(range(256)) * 4096
        await client.put(path, large)
        assert (await client.get(path)).value == large
        assert (await watcher.__anext__()).kv.value == large
        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(client.put, f"{path}/{index}", large[: index * 1000])
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.put(path, large)
        assert (await client.get_prefix(f"{path}/")).count == 20


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def test_breakage_10_tls(authority: trustme.CA, tmp_path: Path, path: str) -> None:
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    async with open_etcd(client_tls=(cert, key, None)) as server:
        assert server.endpoint.startswith("https://")
        async with open_client(server.endpoint, ssl_context=trusting(authority)) as client:
            await live(client, path)


async def test_breakage_10_mutual_tls(authority: trustme.CA, tmp_path: Path, path: str) -> None:
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with open_etcd(client_tls=(cert, key, ca)) as server:
        context = trusting(authority)
        authority.issue_cert("client").configure_cert(context)
        async with open_client(server.endpoint, ssl_context=context) as client:
            await live(client, path)
        async with open_client(server.endpoint, ssl_context=trusting(authority)) as client:
            with pytest.raises(ConnectionFailed, match=r"(?i)certificate|alert|closed|reset|eof"):
                await client.get(path)


async def failure(server: Etcd, context: ssl.SSLContext | None, name: str) -> BaseException:
    endpoint = f"https://{name}:{server.endpoint.rpartition(':')[2]}"
    async with open_client(endpoint, ssl_context=context) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.get("a")
        assert endpoint in str(caught.value)
        return caught.value.reasons[endpoint]


async def test_f31_wrong_certificates_are_told_at_once(
    authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    async with open_etcd(client_tls=(cert, key, None)) as server:
        unknown = await failure(server, trusting(trustme.CA()), "127.0.0.1")
        assert isinstance(unknown, ssl.SSLCertVerificationError)
        assert isinstance(await failure(server, None, "127.0.0.1"), ssl.SSLCertVerificationError)
        wrong_name = await failure(server, trusting(authority), "localhost")
        assert isinstance(wrong_name, ssl.SSLCertVerificationError)
        assert "localhost" in str(wrong_name)


async def test_f31_an_expired_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    expired = authority.issue_cert("127.0.0.1", not_before=past, not_after=past)
    cert, key = write(expired, tmp_path, "server")
    async with open_etcd(client_tls=(cert, key, None)) as server:
        reason = await failure(server, trusting(authority), "127.0.0.1")
        assert "expired" in str(reason)


async def test_f31_tls_to_a_server_without_and_the_other_way(
    authority: trustme.CA, tmp_path: Path, endpoint: str
) -> None:
    tls_endpoint = endpoint.replace("http://", "https://")
    async with open_client(tls_endpoint, ssl_context=trusting(authority)) as client:
        with pytest.raises(ConnectionFailed):
            await client.get("a")
    cert, key = write(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    async with open_etcd(client_tls=(cert, key, None)) as server:
        plain = server.endpoint.replace("https://", "http://")
        async with open_client(plain, connect_timeout=2) as client:
            with pytest.raises(ConnectionFailed):
                await client.get("a")


async def test_f31_unix_and_ipv6(path: str) -> None:
    async with open_etcd(unix=True, ipv6=True) as server:
        (member,) = server.members
        for endpoint in (member.unix_endpoint, member.ipv6_endpoint):
            assert endpoint is not None
            async with open_client(endpoint) as client:
                await live(client, path + endpoint[:4])


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:2379", ("http", "127.0.0.1", 2379)),
        ("https://etcd.example", ("https", "etcd.example", 2379)),
        ("http://[::1]:5", ("http", "::1", 5)),
        ("unix:///run/etcd.sock", ("unix", "/run/etcd.sock", 0)),
        ("http://etcd/", ("http", "etcd", 2379)),
    ],
)
def test_endpoints_that_are_understood(url: str, parts: tuple[str, str, int]) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.scheme, endpoint.host, endpoint.port) == parts
    assert str(endpoint) == url


@pytest.mark.parametrize(
    "url",
    ["", "etcd:2379", "127.0.0.1:2379", "ftp://a", "http://", "unix://", "http://a/path", "http://a:x",
     "http://a:99999", "http://a?b", "http://a#b"],
)  # fmt: skip
def test_endpoints_that_are_not(url: str) -> None:
    with pytest.raises(ValueError, match=r"http|port|Port"):
        Endpoint.parse(url)


def test_an_endpoint_that_is_no_text() -> None:
    with pytest.raises(TypeError, match="str"):
        Endpoint.parse(5)  # type: ignore[arg-type] # on purpose


def test_the_authority_of_ipv6_is_bracketed() -> None:
    assert Endpoint.parse("http://[::1]:5").authority == b"[::1]:5"
    assert Endpoint.parse("unix:///x").authority == b"localhost"
