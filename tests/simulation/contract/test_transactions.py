"""Software transactional memory, on a real etcd and on the one in memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.etcd_shim.concurrency.rows import WAIT
from tests.simulation.servers import Server
from trio_sched.etcd_shim import Client, Get, GetResult, Put
from trio_sched.etcd_shim.concurrency import STM, Isolation, stm
from trio_sched.etcd_shim.errors import LeaseNotFound, RpcError

SERIAL = [
    Isolation.SERIALIZABLE_SNAPSHOT,
    Isolation.SERIALIZABLE,
    Isolation.REPEATABLE_READS,
]


async def test_reads_and_writes_are_one_transaction(client: Client, path: str) -> None:
    lease = (await client.lease_grant(60)).id
    await client.put(f"{path}/a", "1")
    before = (await client.put(f"{path}/gone", "x")).revision

    async def apply(stm: STM) -> bytes | None:
        assert await stm.get(f"{path}/a") == b"1"
        assert await stm.get(f"{path}/none") is None
        assert await stm.rev(f"{path}/none") == 0
        assert await stm.rev(f"{path}/gone") == before
        stm.put(f"{path}/a", "2")
        stm.put(f"{path}/leased", b"y", lease=lease)
        stm.delete(f"{path}/gone")
        stm.delete(f"{path}/none")
        assert await stm.get(f"{path}/a") == b"2"
        assert await stm.get(f"{path}/gone") is None
        assert await stm.rev(f"{path}/gone") == before
        assert (await client.get(f"{path}/a")).value == b"1", "nothing is written yet"
        return await stm.get(f"{path}/leased")

    done = await stm(client, apply)
    assert (done.returned, done.attempts, done.revision) == (b"y", 1, before + 1)
    kvs = {kv.key: kv for kv in await client.get_prefix(f"{path}/")}
    assert {key: kv.value for key, kv in kvs.items()} == {
        f"{path}/a".encode(): b"2",
        f"{path}/leased".encode(): b"y",
    }
    assert {kv.mod_revision for kv in kvs.values()} == {done.revision}
    assert kvs[f"{path}/leased".encode()].lease == lease


@pytest.mark.parametrize("isolation", SERIAL)
async def test_no_change_is_lost(
    server: Server, client: Client, path: str, isolation: Isolation
) -> None:
    async def increment(stm: STM) -> None:
        stm.put(path, str(int(await stm.get(path) or 0) + 1))

    async def work(own: Client) -> None:
        for _ in range(5):
            await stm(own, increment, isolation=isolation)

    with trio.fail_after(WAIT):
        async with server.open_client() as other, trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(work, (client, other)[number % 2])
    assert (await client.get(path)).value == b"40"


@pytest.mark.parametrize("isolation", SERIAL)
async def test_a_read_that_has_changed_is_a_conflict(
    client: Client, path: str, isolation: Isolation
) -> None:
    calls = 0

    async def copy(stm: STM) -> None:
        nonlocal calls
        value = await stm.get(f"{path}/from") or b"none"
        calls += 1
        if calls < 5:
            await client.put(f"{path}/from", f"changed {calls}")
        stm.put(f"{path}/to", value)

    done = await stm(client, copy, isolation=isolation)
    assert (done.attempts, calls) == (5, 5)
    assert (await client.get(f"{path}/to")).value == b"changed 4"


async def test_read_committed_never_conflicts(client: Client, path: str) -> None:
    async def copy(stm: STM) -> None:
        value = await stm.get(f"{path}/from") or b"none"
        await client.put(f"{path}/from", "changed")
        assert await stm.get(f"{path}/from") is None, "what was read stays so"
        stm.put(f"{path}/to", value)

    done = await stm(client, copy, isolation=Isolation.READ_COMMITTED)
    assert done.attempts == 1
    assert (await client.get(f"{path}/to")).value == b"none"


@pytest.mark.parametrize("isolation", Isolation)
async def test_what_is_written_has_changed_before(
    client: Client, path: str, isolation: Isolation
) -> None:
    """A conflict with `SERIALIZABLE_SNAPSHOT` alone, as it was not read."""
    changes = ["x"]

    async def write(stm: STM) -> None:
        await stm.get(f"{path}/read")
        if changes:
            await client.put(f"{path}/written", changes.pop())
        stm.put(f"{path}/written", "ours")

    done = await stm(client, write, isolation=isolation)
    assert done.attempts == (2 if isolation is Isolation.SERIALIZABLE_SNAPSHOT else 1)
    assert (await client.get(f"{path}/written")).value == b"ours"


@pytest.mark.parametrize("isolation", Isolation)
async def test_what_is_read_together_was_there_together(
    client: Client, path: str, isolation: Isolation
) -> None:
    """By the serializable ones in each attempt; by repeatable reads in the one that commits."""
    a, b = f"{path}/a", f"{path}/b"
    await client.put(a, "1")
    await client.put(b, "1")
    pairs: list[tuple[bytes | None, bytes | None]] = []

    async def read_both(stm: STM) -> tuple[bytes | None, bytes | None]:
        first = await stm.get(a)
        if not pairs:
            await client.put(a, "2")
            await client.put(b, "2")
        pairs.append((first, await stm.get(b)))
        return pairs[-1]

    done = await stm(client, read_both, isolation=isolation)
    mixed, old, new = (b"1", b"2"), (b"1", b"1"), (b"2", b"2")
    if isolation in (Isolation.SERIALIZABLE_SNAPSHOT, Isolation.SERIALIZABLE):
        assert (pairs, done.returned) == ([old], old)
    elif isolation is Isolation.REPEATABLE_READS:
        assert (pairs, done.returned) == ([mixed, new], new)
    else:
        assert (pairs, done.returned) == ([mixed], mixed)


@pytest.mark.parametrize("isolation", SERIAL[:2])
async def test_a_snapshot_that_is_compacted_is_read_anew(
    client: Client, path: str, isolation: Isolation
) -> None:
    """Also if the function does not let the error pass, or fails because of it."""
    calls = 0

    async def read(stm: STM) -> int:
        nonlocal calls
        calls += 1
        await stm.get(f"{path}/a")
        if calls <= 3:
            revision = (await client.put(f"{path}/b", str(calls))).revision
            await client.compact(revision)
        if calls == 2:
            with pytest.raises(RpcError):
                await stm.get(f"{path}/b")
        elif calls == 3:
            try:
                await stm.get(f"{path}/b")
            except RpcError:
                raise ValueError from None
        else:
            return int(await stm.get(f"{path}/b") or 0)
        return 0

    done = await stm(client, read, isolation=isolation)
    assert (done.returned, done.attempts, calls) == (3, 4, 4)


async def test_what_the_function_raises_writes_nothing(client: Client, path: str) -> None:
    error = KeyError("of the function")

    async def fail(stm: STM) -> None:
        await trio.lowlevel.checkpoint()
        stm.put(path, "x")
        raise error

    with pytest.raises(KeyError) as caught:
        await stm(client, fail)
    assert caught.value is error
    assert (await client.get(path)).kv is None


async def test_what_etcd_refuses_is_raised(client: Client, path: str) -> None:
    async def hang_on_nothing(stm: STM) -> None:
        await trio.lowlevel.checkpoint()
        stm.put(path, "x", lease=987_654_321)

    with pytest.raises(LeaseNotFound):
        await stm(client, hang_on_nothing)


async def test_a_function_may_read_in_several_tasks(client: Client, path: str) -> None:
    await client.put(f"{path}/0", "0")

    async def read_all(stm: STM) -> dict[int, bytes | None]:
        found: dict[int, bytes | None] = {}

        async def read(number: int) -> None:
            found[number] = await stm.get(f"{path}/{number}")

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(read, number)
        stm.put(f"{path}/1", "1")
        return found

    done = await stm(client, read_all)
    assert done.returned == {0: b"0", 1: None, 2: None, 3: None, 4: None}


@pytest.mark.parametrize("isolation", SERIAL[:2])
async def test_tasks_that_read_first_at_the_same_time_read_one_revision(
    client: Client, path: str, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = client.get
    asked = 0

    async def change_between(key: bytes, *, revision: int) -> GetResult:
        nonlocal asked
        asked += 1
        if asked == 2:
            both = [Put(f"{path}/a", "new"), Put(f"{path}/b", "new")]
            await client.txn(success=both)
        return await get(key, revision=revision)

    async def read_both(stm: STM) -> set[bytes | None]:
        found: set[bytes | None] = set()

        async def read(name: str) -> None:
            found.add(await stm.get(f"{path}/{name}"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "a")
            nursery.start_soon(read, "b")
        return found

    monkeypatch.setattr(client, "get", change_between)
    assert (await stm(client, read_both, isolation=isolation)).returned == {None}


async def test_one_that_does_nothing_asks_nothing(client: Client, path: str) -> None:
    async def nothing(_stm: STM) -> str:
        await trio.lowlevel.checkpoint()
        return path

    done = await stm(client, nothing)
    assert (done.returned, done.revision, done.attempts) == (path, 0, 1)


async def test_a_conflict_costs_no_reads(
    client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has changed comes with the refusal."""
    read = client.read
    asked: list[Get] = []

    async def counted(request: Get) -> GetResult:
        asked.append(request)
        return await read(request)

    monkeypatch.setattr(client, "read", counted)
    changes = ["x", "y"]

    async def apply(stm: STM) -> None:
        values = [await stm.get(f"{path}/{number}") for number in range(3)]
        if changes:
            await client.put(f"{path}/0", changes.pop())
        stm.put(f"{path}/all", repr(values))

    done = await stm(client, apply)
    assert (done.attempts, len(asked)) == (3, 3)
    assert (await client.get(f"{path}/all")).value == b"[b'x', None, None]"
