"""Users, passwords and tokens that expire, on a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.helpers import PASSWORD, guard
from trio_sched.etcd_shim import Client, Permission, open_client
from trio_sched.etcd_shim.errors import (
    AuthenticationFailed,
    FailedPrecondition,
    PermissionDenied,
    RpcError,
)
from trio_sched.testing import Etcd, open_etcd


@asynccontextmanager
async def open_guarded(token_ttl: int = 300) -> AsyncIterator[Etcd]:
    """An etcd with the users root, and app, who may touch ``/app/`` only."""
    async with open_etcd(auth_token_ttl=token_ttl) as server:
        await guard(server)
        yield server


def expire(client: Client) -> None:
    """Make the client's token one that the server does not know."""
    client._channel.token = "no.such.token"


async def test_a_life_with_a_user() -> None:
    async with (
        open_guarded() as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
    ):
        async with client.open_lease(5) as lease, client.watch("/app/", prefix=True) as watcher:
            await client.put("/app/a", "1", lease=lease.id)
            assert (await watcher.__anext__()).kv.value == b"1"
            await client.lease_renew(lease.id)
        with pytest.raises(PermissionDenied):
            await client.get("/other")
        with pytest.raises(PermissionDenied):
            async with client.watch("/other"):
                raise AssertionError("entered")


async def test_f15_a_wrong_password_is_final() -> None:
    async with (
        open_guarded() as server,
        open_client(server.endpoint, user="app", password="wrong") as client,
    ):
        for _ in range(2):
            with pytest.raises(AuthenticationFailed) as caught:
                await client.get("/app/a")
            assert "wrong" not in repr(caught.value).replace("wrong user", "")
        with pytest.raises(AuthenticationFailed):
            async with client.watch("/app/a"):
                raise AssertionError("entered")
        with pytest.raises(AuthenticationFailed):
            await client.lease_renew(5)


async def test_no_user_where_one_is_needed() -> None:
    async with open_guarded() as server, open_client(server.endpoint) as client:
        with pytest.raises(RpcError, match="user name is empty"):
            await client.get("/app/a")


async def test_a_user_where_none_is_needed(endpoint: str, path: str) -> None:
    async with open_client(endpoint, user="app", password=PASSWORD) as client:
        await client.put(path, "1")


async def test_f15_an_unknown_token_is_renewed_once_for_all() -> None:
    async with (
        open_guarded() as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
    ):
        await client.put("/app/a", "0")
        lease = await client.lease_grant(20)
        expire(client)
        before = client.statistics().connections[0].started_calls
        async with trio.open_nursery() as nursery:
            for index in range(10):
                nursery.start_soon(client.put, f"/app/{index}", "1")
        calls = client.statistics().connections[0].started_calls - before
        assert calls == 10 + 1 + 10, "each is refused, one asks for a token, each is sent again"
        expire(client)
        async with client.watch("/app/", prefix=True) as watcher:
            expire(client)
            await client.put("/app/a", "2")
            assert (await watcher.__anext__()).kv.value == b"2"
            async with client.watch("/app/b") as other:
                await client.put("/app/b", "3")
                assert (await other.__anext__()).kv.value == b"3"
            assert (await watcher.__anext__()).kv.value == b"3"
        expire(client)
        assert await client.lease_renew(lease.id) == 20


async def test_f15_tokens_that_live_a_second() -> None:
    """A second after they were used last: since 3.5.17 or so a renewal uses one, too.

    So the lease is kept by a client of its own.
    """
    async with (
        open_guarded(token_ttl=1) as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as keeping,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
        client.watch("/app/", prefix=True) as watcher,
        keeping.open_lease(2) as lease,
    ):
        tokens = set()
        for index in range(3):
            await client.put("/app/a", str(index), lease=lease.id)
            tokens.add(client._channel.token)
            assert (await watcher.__anext__()).kv.value == b"%d" % index
            async with client.watch("/app/a", start_revision=watcher.next_revision - 1) as late:
                assert (await late.__anext__()).kv.value == b"%d" % index
            # A simple token's life is not ended by an event; it lapses by the server's clock.
            await trio.sleep(2.1)
        assert lease.alive
        assert len(tokens) >= 2


async def test_f15_a_changed_auth_store() -> None:
    async with (
        open_guarded() as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
    ):
        await client.put("/app/a", "1")
        root = f"--user=root:{PASSWORD}"
        await server.etcdctl(root, "user", "add", "another:pw")
        await client.put("/app/a", "2")
        assert (await client.get("/app/a")).value == b"2"


async def test_nothing_secret_is_shown() -> None:
    async with (
        open_guarded() as server,
        open_client(server.endpoint, user="app", password=PASSWORD) as client,
    ):
        await client.put("/app/a", "1")
        token = client._channel.token
        assert token
        shown = [repr(client), repr(client._channel), repr(client._channel._credentials)]
        shown.append(repr(client.statistics()))
        for text in shown:
            assert PASSWORD not in text
            assert token not in text


@pytest.mark.parametrize("given", [{"user": "a"}, {"password": "b"}])
async def test_user_and_password_go_together(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="together"):
        async with open_client(**given):  # type: ignore[arg-type] # a part of the arguments
            raise AssertionError("entered")


def test_an_endpoint_with_a_password_in_it_is_refused_without_showing_it() -> None:
    from trio_sched.etcd_shim.channel import Endpoint  # noqa: PLC0415

    with pytest.raises(ValueError, match="not understood") as caught:
        Endpoint.parse(f"http://app:{PASSWORD}@127.0.0.1:2379")
    assert PASSWORD not in str(caught.value)


# ---- changing users and roles ------------------------------------------------------------


async def test_users_and_roles_are_administered() -> None:
    async with open_etcd() as server:
        async with open_client(server.endpoint) as client:
            await client.auth.user_add("root", "first")
            await client.auth.user_add("app", PASSWORD)
            await client.auth.user_add("by-certificate", None)
            await client.auth.role_add("app")
            await client.auth.role_grant_permission("app", Permission.prefix("readwrite", "/app/"))
            await client.auth.role_grant_permission("app", Permission("read", "/one"))
            await client.auth.user_grant_role("app", "app")
            await client.auth.user_grant_role("root", "root")
            await client.auth.user_passwd("root", PASSWORD)
            assert set(await client.auth.user_list()) == {"root", "app", "by-certificate"}
            with pytest.raises(FailedPrecondition, match="already exists"):
                await client.auth.user_add("app", PASSWORD)
            if server.version >= (3, 5):
                assert not (await client.auth.status()).enabled
            await client.auth.enable()
        async with (
            open_client(server.endpoint, user="root", password=PASSWORD) as root,
            open_client(server.endpoint, user="app", password=PASSWORD) as app,
        ):
            if server.version >= (3, 5):
                assert (await root.auth.status()).enabled
            await app.put("/app/a", "1")
            with pytest.raises(PermissionDenied):
                await app.put("/one", "1")
            with pytest.raises(PermissionDenied):
                await app.auth.user_add("another", "x")
            assert await root.auth.user_get("app") == ("app",)
            assert await root.auth.role_list() == ("app",)
            assert set(await root.auth.role_get("app")) == {
                Permission("readwrite", b"/app/", b"/app0"),
                Permission("read", b"/one"),
            }
            await root.auth.role_revoke_permission("app", "/app/", "/app0")
            with pytest.raises(PermissionDenied):
                await app.get("/app/a")
            await root.auth.user_revoke_role("app", "app")
            assert await root.auth.user_get("app") == ()
            await root.auth.role_delete("app")
            await root.auth.user_delete("app")
            assert "app" not in await root.auth.user_list()
            await root.auth.disable()
        async with open_client(server.endpoint) as client:
            assert (await client.get("/app/a")).value == b"1"


async def test_bad_arguments_about_users_are_told_at_once() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        for call in (client.auth.user_delete, client.auth.role_add, client.auth.role_get):
            with pytest.raises(ValueError, match="must not be empty"):
                await call("")
        with pytest.raises(TypeError):
            await client.auth.user_passwd("a", 5)  # type: ignore[arg-type] # what is tested
        with pytest.raises(ValueError, match="type"):
            await client.auth.role_grant_permission(
                "a",
                Permission("all", "k"),  # type: ignore[arg-type] # what is tested
            )
        for none in (None, ("read", "k"), b"k"):
            with pytest.raises(TypeError, match="permission must be a Permission"):
                await client.auth.role_grant_permission("a", none)  # type: ignore[arg-type] # as above
        assert client.statistics().connects == 0
