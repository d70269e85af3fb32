"""What a user must be permitted: to read and write what is below the name."""

from __future__ import annotations

import pytest
import trio

from tests.etcd_shim.concurrency.rows import WAIT, row, wait_row
from tests.helpers import PASSWORD, guard
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim.concurrency import (
    STM,
    DoubleBarrier,
    Election,
    PriorityQueue,
    Queue,
    lock,
    stm,
)
from trio_sched.etcd_shim.errors import PermissionDenied
from trio_sched.testing import open_etcd


async def test_a_user_needs_the_prefix_of_the_name_and_no_more() -> None:
    async with open_etcd() as server:
        await guard(server)
        async with (
            open_client(server.endpoint, user="app", password=PASSWORD) as client,
            open_client(server.endpoint, user="root", password=PASSWORD) as root,
        ):
            with trio.fail_after(WAIT):
                async with trio.open_nursery() as nursery:

                    async def wait() -> None:
                        async with lock(client, "/app/lock"):
                            pass

                    async with lock(client, "/app/lock"):
                        nursery.start_soon(wait)
                        await wait_row(client, "/app/lock", 2)
                async with Election(client, "/app/election").campaign("me") as leadership:
                    await leadership.proclaim("still me")
                async with DoubleBarrier(client, "/app/barrier", 1).enter():
                    pass
                await Queue(client, "/app/queue").enqueue("x")
                assert await Queue(client, "/app/queue").dequeue() == b"x"

                async def write(stm: STM) -> None:
                    stm.put("/app/a", await stm.get("/app/b") or b"none")

                await stm(client, write)
            assert not await row(root, "/app/lock")


async def test_what_is_forbidden_is_raised_and_leaves_nothing() -> None:
    async with open_etcd() as server:
        await guard(server)
        async with (
            open_client(server.endpoint, user="app", password=PASSWORD) as client,
            open_client(server.endpoint, user="root", password=PASSWORD) as root,
        ):
            with pytest.raises(PermissionDenied):
                async with lock(client, "/other"):
                    raise AssertionError("it is forbidden")
            with pytest.raises(PermissionDenied):
                async with Election(client, "/other").observe() as leaders:
                    await leaders.__anext__()
            with pytest.raises(PermissionDenied):
                await PriorityQueue(client, "/app/queue").enqueue("x", 1)  # needs __/app/queue, too
            assert not len(await root.get_prefix("/other"))
            assert not await root.lease_list()
