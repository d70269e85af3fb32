"""Users, roles and tokens that change while a client works, with both kinds of tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.helpers import PASSWORD, guard
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim.errors import AuthenticationFailed, PermissionDenied, RpcError
from trio_sched.testing import Etcd, open_etcd

TOKENS = ["simple", "jwt"]
ROOT = f"--user=root:{PASSWORD}"


def write_keys(folder: Path) -> tuple[Path, Path]:
    """Write a key that tokens are signed with, and the public half of it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / "jwt.key", folder / "jwt.pub"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, form))
    return private, public


@asynccontextmanager
async def open_guarded(folder: Path, tokens: str, ttl: int = 300) -> AsyncIterator[Etcd]:
    """An etcd with the users root, and app, who may touch ``/app/`` only."""
    if tokens == "jwt":
        private, public = write_keys(folder)
        method = f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={ttl}s"
        options = [f"--auth-token={method}"]
    else:
        options = [f"--auth-token-ttl={ttl}"]
    async with open_etcd(extra_args=options) as server:
        await guard(server)
        yield server


@pytest.mark.parametrize("tokens", TOKENS)
async def test_f66_users_come_while_we_work(tmp_path: Path, tokens: str) -> None:
    """Reads, writes, transactions, grants, renewals and watches: each user makes tokens old."""
    async with (
        open_guarded(tmp_path, tokens) as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
        client.watch("/app/", prefix=True) as first,
        client.open_lease(10) as kept,
    ):
        for number in range(3):
            await server.etcdctl(ROOT, "user", "add", f"user-{number}:pw")
            await client.put("/app/a", str(number))
            assert (await first.__anext__()).kv.value == b"%d" % number
            await server.etcdctl(ROOT, "user", "passwd", f"user-{number}", stdin="x\nx\n")
            async with client.watch("/app/b") as second:
                await client.put("/app/b", str(number))
                assert (await second.__anext__()).kv.value == b"%d" % number
            assert (await first.__anext__()).kv.key == b"/app/b"
            await server.etcdctl(ROOT, "role", "add", f"role-{number}")
            assert (await client.get("/app/a")).value == b"%d" % number
            await client.lease_renew(kept.id)
            lease = await client.lease_grant(10)
            await client.lease_revoke(lease.id)
        assert kept.alive


@pytest.mark.parametrize("tokens", TOKENS)
async def test_f66_tokens_that_live_a_second(tmp_path: Path, tokens: str) -> None:
    async with (
        open_guarded(tmp_path, tokens, ttl=1) as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
        client.watch("/app/", prefix=True) as watcher,
        client.open_lease(4) as lease,
    ):
        for number in range(3):
            await client.put("/app/a", str(number), lease=lease.id)
            assert (await watcher.__anext__()).kv.value == b"%d" % number
            start = watcher.next_revision - 1
            async with client.watch("/app/a", start_revision=start) as late:
                assert (await late.__anext__()).kv.value == b"%d" % number
            await trio.sleep(2.1)  # a token lapses by the server's clock, without an event
        assert lease.alive


@pytest.mark.parametrize("tokens", TOKENS)
async def test_f66_one_authentication_during_which_others_wait(tmp_path: Path, tokens: str) -> None:
    async with (
        open_guarded(tmp_path, tokens) as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
    ):
        await client.put("/app/a", "0")
        client._channel.token = "no.such.token"
        before = client.statistics().connections[0].started_calls
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(client.get, f"/app/{number}")
            while client._channel._refreshing is None:
                await trio.lowlevel.checkpoint()
            for number in range(10):  # which begin while the token is asked for
                nursery.start_soon(client.get, f"/app/{number}")
        calls = client.statistics().connections[0].started_calls - before
        assert calls == 10 + 1 + 10 + 10, "those wait, and are refused by none"


@pytest.mark.parametrize("tokens", TOKENS)
async def test_f66_a_role_that_is_taken_away_ends_what_it_must(tmp_path: Path, tokens: str) -> None:
    async with (
        open_guarded(tmp_path, tokens) as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
    ):
        for words in (
            "role add other",
            "role grant-permission other --prefix=true readwrite /other/",
            "user grant-role app other",
        ):
            await server.etcdctl(ROOT, *words.split())
        async with client.watch("/app/", prefix=True) as watcher, client.open_lease(10) as lease:
            await client.put("/other/a", "1")
            await server.etcdctl(ROOT, "user", "revoke-role", "app", "other")
            with pytest.raises(PermissionDenied):
                await client.put("/other/a", "2")
            with pytest.raises(PermissionDenied):
                async with client.watch("/other/a"):
                    raise AssertionError("entered")
            await client.put("/app/a", "3", lease=lease.id)
            assert (await watcher.__anext__()).kv.value == b"3"
            assert lease.alive


@pytest.mark.parametrize("tokens", TOKENS)
async def test_f71_a_forbidden_watch_ends_alone(tmp_path: Path, tokens: str) -> None:
    """The stream that it shares goes on as it is; no other watch is created again."""
    async with (
        open_guarded(tmp_path, tokens) as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
        client.watch("/app/", prefix=True) as watcher,
    ):
        stream = client._watches._call
        for _ in range(2):
            with pytest.raises(PermissionDenied):
                async with client.watch("/forbidden"):
                    raise AssertionError("entered")
        assert client._watches._call is stream
        await client.put("/app/a", "1")
        assert (await watcher.__anext__()).kv.value == b"1"


@pytest.mark.parametrize("tokens", TOKENS)
async def test_f66_a_password_that_changes_is_told(tmp_path: Path, tokens: str) -> None:
    async with (
        open_guarded(tmp_path, tokens) as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
    ):
        await client.put("/app/a", "1")
        await server.etcdctl(
            ROOT, "user", "passwd", "app", "--interactive=false", stdin="another-one\n"
        )
        with pytest.raises(AuthenticationFailed) as caught:
            while True:  # a simple token may be good for some time
                await client.get("/app/a")
                client._channel.token = "no.such.token"
        assert PASSWORD not in repr(caught.value)


@pytest.mark.parametrize("tokens", TOKENS)
async def test_f66_authentication_that_begins_while_we_are_connected(
    tmp_path: Path, tokens: str
) -> None:
    """Our connection has no token yet: "user name is empty"."""
    if tokens == "jwt":
        private, public = write_keys(tmp_path)
        method = f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=300s"
        options = [f"--auth-token={method}"]
    else:
        options = []
    async with (
        open_etcd(extra_args=options) as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
        client.watch("/app/", prefix=True) as watcher,
    ):
        await client.put("/app/a", "1")
        await guard(server)
        await client.put("/app/a", "2")
        async with client.watch("/app/a") as other:
            await client.put("/app/a", "3")
            assert (await other.__anext__()).kv.value == b"3"
        seen = [(await watcher.__anext__()).kv.value for _ in range(3)]
        assert seen == [b"1", b"2", b"3"]
        await server.etcdctl(ROOT, "auth", "disable")
        await client.put("/app/a", "4")
        assert (await watcher.__anext__()).kv.value == b"4"


async def test_without_a_user_nothing_is_tried_again(tmp_path: Path) -> None:
    async with (
        open_guarded(tmp_path, "simple") as server,
        open_client(server.endpoint) as client,
    ):
        for _ in range(2):
            with pytest.raises(RpcError, match="user name is empty"):
                await client.get("/app/a")
        assert client.statistics().connections[0].started_calls == 2
