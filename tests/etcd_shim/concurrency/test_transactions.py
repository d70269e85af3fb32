"""Software transactional memory under faults. What it does is in ``simulation/contract``."""

from __future__ import annotations

import pytest
import trio

from tests.etcd_shim.concurrency.losing import lose_answer
from tests.etcd_shim.concurrency.rows import WAIT
from tests.etcd_shim.sweep import sweep
from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim.concurrency import STM, Isolation, stm
from trio_sched.etcd_shim.errors import ConnectionFailed, ConnectionLost, InvalidArgument
from trio_sched.testing import open_etcd, open_faulty_link

SERIAL = [
    Isolation.SERIALIZABLE_SNAPSHOT,
    Isolation.SERIALIZABLE,
    Isolation.REPEATABLE_READS,
]


@pytest.mark.parametrize("isolation", SERIAL)
async def test_f17_a_commit_that_was_not_carried_out_is_made_once(
    endpoint: str, path: str, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def increment(stm: STM) -> None:
        stm.put(path, str(int(await stm.get(path) or 0) + 1))

    async with open_client(endpoint) as client:
        await client.put(path, "5")
        lose_answer(monkeypatch, client, carried_out=False)
        done = await stm(client, increment, isolation=isolation)
        assert done.attempts == 1
        (kv,) = await client.get(path)
        assert (kv.value, kv.version) == (b"6", 2)


@pytest.mark.parametrize("isolation", SERIAL)
async def test_f17_a_commit_that_was_carried_out_is_not_made_twice(
    endpoint: str, path: str, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was ours is not known, so the error is raised."""

    async def increment(stm: STM) -> None:
        stm.put(path, str(int(await stm.get(path) or 0) + 1))

    async with open_client(endpoint) as client:
        await client.put(path, "5")
        lose_answer(monkeypatch, client, carried_out=True)
        with pytest.raises(ConnectionLost, match="the answer is lost"):
            await stm(client, increment, isolation=isolation)
        (kv,) = await client.get(path)
        assert (kv.value, kv.version) == (b"6", 2)


async def test_f17_a_commit_that_cannot_have_been_carried_out_is_a_conflict(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client changed what was read, and not what is written: ours was refused."""
    async with open_client(endpoint) as client, open_client(endpoint) as other:
        await client.put(f"{path}/sum", "0")

        async def add(stm: STM) -> None:
            stm.put(
                f"{path}/sum",
                str(int(await stm.get(f"{path}/sum") or 0) + int(await stm.get(f"{path}/by") or 1)),
            )

        lose_answer(
            monkeypatch, client, carried_out=False, then=lambda: other.put(f"{path}/by", "10")
        )
        done = await stm(client, add)
        assert done.attempts == 2
        (kv,) = await client.get(f"{path}/sum")
        assert (kv.value, kv.version) == (b"10", 2)


@pytest.mark.parametrize("isolation", SERIAL)
async def test_f17_a_key_that_was_created_and_taken_away_is_not_created_again(
    endpoint: str, path: str, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is absent as it was before, so its conditions do not show that it was there."""

    async def create(stm: STM) -> None:
        assert await stm.get(path) is None
        stm.put(path, "job")

    async def take() -> None:
        taken.append((await other.delete(path)).deleted)

    taken: list[int] = []
    async with open_client(endpoint) as client, open_client(endpoint) as other:
        lose_answer(monkeypatch, client, carried_out=True, then=take)
        with pytest.raises(ConnectionLost, match="the answer is lost"):
            await stm(client, create, isolation=isolation)
        assert taken == [1]
        assert (await client.get(path)).kv is None


async def test_f17_a_blind_write_is_not_made_twice(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(stm: STM) -> None:
        stm.put(path, "x")
        await trio.lowlevel.checkpoint()

    async with open_client(endpoint) as client:
        for isolation in Isolation:
            with monkeypatch.context() as patch:
                lose_answer(patch, client, carried_out=True)
                with pytest.raises(ConnectionLost):
                    await stm(client, write, isolation=isolation)
        (kv,) = await client.get(path)
        assert kv.version == len(Isolation)


async def test_f10_cancelled_at_each_checkpoint_it_writes_all_or_nothing(path: str) -> None:
    async with open_etcd() as server:
        async with open_client(server.endpoint) as client, open_client(server.endpoint) as witness:

            async def move(stm: STM) -> None:
                amount = int(await stm.get(f"{path}/a") or 100)
                stm.put(f"{path}/a", str(amount - 1))
                stm.put(f"{path}/b", str(int(await stm.get(f"{path}/b") or 0) + 1))

            async def both_or_none() -> None:
                values = [int(kv.value) for kv in await witness.get_prefix(f"{path}/")]
                assert sum(values) in (0, 100)

            assert await sweep(lambda: stm(client, move), both_or_none) > 3


async def test_a_connection_cut_now_and_then_loses_no_increment(endpoint: str, path: str) -> None:
    """What is counted as committed is there; what is uncertain is there at most once."""
    certain = uncertain = 0

    async def increment(stm: STM) -> None:
        stm.put(path, str(int(await stm.get(path) or 0) + 1))

    with trio.fail_after(WAIT):
        async with open_faulty_link(endpoint) as link, open_client(link.endpoint) as client:

            async def work() -> None:
                nonlocal certain, uncertain
                for number in range(10):
                    try:
                        await stm(client, increment)
                        certain += 1
                    except (ConnectionFailed, ConnectionLost):  # cut again while it connects
                        uncertain += 1
                    if number % 3 == 0:
                        link.cut()

            await client.get(path)
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(work)
            assert certain + uncertain == 40
            async with open_client(endpoint) as witness:
                found = int((await witness.get(path)).value or 0)
            assert certain <= found <= certain + uncertain


async def test_more_keys_than_etcd_takes_are_refused(endpoint: str, path: str) -> None:
    async def read_many(stm: STM) -> None:
        for number in range(129):
            await stm.get(f"{path}/{number}")
        stm.put(path, "x")

    async with open_client(endpoint) as client:
        with pytest.raises(InvalidArgument, match="too many operations"):
            await stm(client, read_many)


async def test_where_there_is_no_etcd_it_says_so_at_once() -> None:
    async def read(stm: STM) -> None:
        await stm.get("/a")

    async def write(stm: STM) -> None:
        stm.put("/a", "x")
        await trio.lowlevel.checkpoint()

    async with open_client("http://127.0.0.1:1") as client:
        for apply in (read, write):
            with pytest.raises(ConnectionFailed):
                await stm(client, apply)
