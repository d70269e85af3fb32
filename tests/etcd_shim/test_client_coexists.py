"""The client minds its own business: no threads, no system tasks, nothing left behind."""

from __future__ import annotations

import gc
import threading
import warnings
from pathlib import Path

import pytest
import trio

from trio_sched.etcd_shim import Client, open_client
from trio_sched.etcd_shim.errors import ClientClosed


async def live(client: Client, path: str) -> None:
    async with client.open_lease(10) as lease, client.watch(path) as events:
        await client.put(path, "1", lease=lease.id)
        assert (await events.__anext__()).kv.value == b"1"


def test_trio_runs_twice_in_one_process(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client:
            await live(client, path)

    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trio.run(main)
            gc.collect()


def test_two_runs_at_a_time_in_two_threads(endpoint: str, path: str) -> None:
    failures: list[BaseException] = []

    async def main(name: str) -> None:
        async with open_client(endpoint) as client:
            for _ in range(20):
                await live(client, f"{path}/{name}")

    def run(name: str) -> None:
        try:
            trio.run(main, name)
        except BaseException as exc:  # noqa: BLE001 # a thread would only print it
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


async def test_several_clients_in_one_run(endpoint: str, path: str) -> None:
    async with trio.open_nursery() as nursery:
        for index in range(5):

            async def one(name: str) -> None:
                async with open_client(endpoint) as client:
                    await live(client, name)

            nursery.start_soon(one, f"{path}/{index}")


async def test_no_threads_and_no_system_tasks(endpoint: str, path: str) -> None:
    root = trio.lowlevel.current_root_task()
    assert root is not None

    def system_tasks() -> set[trio.lowlevel.Task]:
        assert root is not None
        return {task for nursery in root.child_nurseries for task in nursery.child_tasks}

    tasks, threads = system_tasks(), threading.active_count()
    async with open_client(endpoint) as client:
        await live(client, path)
        assert system_tasks() == tasks
        assert threading.active_count() == threads


async def test_no_file_stays_open(endpoint: str, path: str) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(5):
        async with open_client(endpoint) as client:
            await live(client, path)
    assert open_files() == before


async def test_after_the_block_every_call_says_so(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        await live(client, path)
    calls = [
        client.get(path),
        client.put(path, "x"),
        client.lease_grant(5),
        client.lease_renew(5),
        client.status(),
    ]
    for call in calls:
        with pytest.raises(ClientClosed):
            await call
    with pytest.raises(ClientClosed):
        async with client.watch(path):
            raise AssertionError("entered")


async def test_leaving_the_block_ends_calls_that_wait(endpoint: str, path: str) -> None:
    """A task outside that uses the client when its block is left gets an error, no hang."""
    failures: list[BaseException] = []

    async def wait_for_ever(client: Client, entered: trio.Event) -> None:
        try:
            async with client.watch(path) as events:
                entered.set()
                await events.receive()
        except ClientClosed as exc:
            failures.append(exc)

    async with trio.open_nursery() as nursery:
        async with open_client(endpoint) as client:
            entered = trio.Event()
            nursery.start_soon(wait_for_ever, client, entered)  # noqa: ASYNC111 # on purpose
            await entered.wait()
    assert len(failures) == 1
