"""The scheduler from asyncio, on a real etcd: its cancellation, its exceptions, its tasks."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Coroutine
from contextlib import closing, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import pytest
import trio

import trio_sched
from trio_sched import EndOfResults, EtcdError, HostnameInUse, Hosts, SlotLost, StrategyError
from trio_sched.aio import (
    AioClient,
    AioObservation,
    AioResult,
    AioSlot,
    AioStream,
    observe,
    open_client,
    open_host,
    schedule,
)
from trio_sched.aio._guest import _guests
from trio_sched.etcd_shim import Compare, Put
from trio_sched.host.newest import DecisionFeed
from trio_sched.host.observation import Observation
from trio_sched.testing._ports import free_ports

T = TypeVar("T")

PATIENCE = 30  # seconds


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a program of asyncio's; nothing of Trio's is left when it ends."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE):
            value = await main
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(guest.stopping for guest in _guests.values())
        return value

    return asyncio.run(bounded(), debug=True)


async def until(result: AioObservation, *names: str) -> Hosts:
    async for hosts in result:
        if hosts == names:
            return hosts
    raise AssertionError


async def nothing_is_left(client: AioClient, path: str) -> bool:
    return not (await client.get_prefix(f"{path}/")).count


def test_two_hosts_agree_and_leave_nothing(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client:
            async with schedule(client, path, "a", max_count=2) as one:
                async with schedule(client, path, "b", max_count=2) as other:
                    assert await until(one, "a", "b") == await until(other, "a", "b")
                    assert one.scheduled
                    left = one.deadline - asyncio.get_running_loop().time()
                    assert 0 < left <= 10
                    assert (await one.wait_scheduled()) == ("a", "b")
                    await other.update(zone="north")
                    await other.drain()
                    await until(one, "a")
                    await other.undrain()
                    await until(one, "a", "b")
                await until(one, "a")
                await one.shutdown()
                with pytest.raises(EndOfResults):
                    await one.next()
                assert [hosts async for hosts in one] == []
            assert await nothing_is_left(client, path)

    run(main())


def test_a_cancelled_body_leaves_nothing(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client:
            inside = asyncio.Event()

            async def live() -> None:
                async with schedule(client, path, "a") as result:
                    await until(result, "a")
                    inside.set()
                    await result.wait_unscheduled()

            task = asyncio.create_task(live())
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await nothing_is_left(client, path)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2), schedule(client, path, "a") as result:
                    await until(result, "nobody")
            assert await nothing_is_left(client, path)

    run(main())


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003, 0.006, 0.01, 0.02, 0.05])
def test_cancelled_at_any_moment_it_leaves_nothing(endpoint: str, path: str, delay: float) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(delay):
                        async with open_client(endpoint) as other:
                            async with schedule(other, path, "a") as result:
                                await until(result, "nobody")
                assert await nothing_is_left(client, path)

    run(main())


def test_work_is_a_task_of_asyncio_and_ends_before_its_slot_is_freed(
    endpoint: str, path: str
) -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    async def work(slot: AioSlot, name: str) -> str:
        seen.append(f"{name} begins")
        begun.set()
        try:
            if len(seen) == 1:
                await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)  # noqa: ASYNC102 # asyncio's
            seen.append(f"{name} ends")
        return f"token {slot.token}"

    async def main() -> None:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            running = asyncio.create_task(result.run_while_scheduled(work, "it"))
            await begun.wait()
            (slot,) = (await client.get_prefix(f"{path}/slots/")).kvs
            await client.delete(slot.key)
            assert (await running).startswith("token ")
            assert seen == ["it begins", "it ends", "it begins", "it ends"]
            assert not (await client.get_prefix(f"{path}/slots/")).count

            async def fail(_slot: AioSlot) -> None:
                await asyncio.sleep(0)
                raise KeyError("of the work")

            with pytest.raises(KeyError, match="of the work"):
                await result.run_while_scheduled(fail)
            assert not (await client.get_prefix(f"{path}/slots/")).count
            seen.clear()
            begun.clear()
            running = asyncio.create_task(result.run_while_scheduled(work, "again"))
            await begun.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert seen == ["again begins", "again ends"]
            assert not (await client.get_prefix(f"{path}/slots/")).count

    run(main())


def test_the_slot_is_one_for_asyncio(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:

            async def work(slot: AioSlot) -> AioSlot:
                left = slot.deadline - asyncio.get_running_loop().time()
                assert 0 < left <= 10
                assert slot.session_alive
                assert not slot.lost
                assert (await slot.txn([], [Put(f"{path}/written", "x")])).succeeded
                assert slot.token in (await slot.read_roster()).tokens
                done = await slot.run_process(["echo", "it"], capture_stdout=True)
                assert done.stdout == b"it\n"
                assert (await client.txn([*slot.guard()], [Put(f"{path}/written", "y")])).succeeded
                return slot

            slot = await result.run_while_scheduled(work)
            await slot.wait_lost()
            assert slot.lost
            with pytest.raises(SlotLost):
                await slot.txn([], [Put(f"{path}/written", "late")])
            assert (await client.get(f"{path}/written")).value == b"y"

    run(main())


def test_a_process_under_a_slot_that_is_lost_is_ended(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            slots: list[AioSlot] = []
            deletions: list[asyncio.Task[object]] = []

            async def work(slot: AioSlot) -> int:
                slots.append(slot)
                if len(slots) == 1:
                    deletions.append(asyncio.create_task(client.delete(slot.key)))
                    await slot.run_process(["sleep", "300"])
                return len(slots)

            assert await result.run_while_scheduled(work) == 2

    run(main())


def test_work_and_checks_begin_out_of_trio(endpoint: str, path: str) -> None:
    """A task may begin to run where it is made, as by ``asyncio.eager_task_factory``."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        with suppress(RuntimeError):
            made.append(trio.lowlevel.current_task().name)
        return asyncio.Task(coro, loop=loop, **options)

    async def check() -> bool:
        await asyncio.sleep(0)
        return True

    async def work(_slot: AioSlot) -> str:
        await asyncio.sleep(0)
        return "done"

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        async with open_client(endpoint) as client:
            async with schedule(client, path, "a", health_check=check) as result:
                assert await result.run_while_scheduled(work) == "done"
        assert made == []

    run(main())


def test_what_ends_the_block_cancels_its_body_and_leaves_it(endpoint: str, path: str) -> None:
    def broken(_hosts: object, _options: object) -> list[str]:
        raise ValueError("of the strategy")

    async def main() -> None:
        async with open_client(endpoint) as client:
            with pytest.raises(Exception, match="of the strategy") as caught:
                async with schedule(client, path, "a", strategy=broken, strict=True):
                    await asyncio.sleep(3600)
            assert type(caught.value).__name__ == "StrategyError"
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()
            assert await nothing_is_left(client, path)
            async with schedule(client, path, "b", session_ttl=2) as result:
                await until(result, "b")
                with pytest.raises(HostnameInUse):
                    async with schedule(client, path, "b", session_ttl=2):
                        pass
                with pytest.raises(LookupError):
                    async with schedule(client, f"{path}/x", "b"):
                        raise LookupError

    run(main())


def test_a_block_that_fails_leaves_no_cancellation_behind(endpoint: str, path: str) -> None:
    """Whatever the body makes of it; and whatever was asked of its task before."""

    def broken(_hosts: object, _options: object) -> list[str]:
        raise ValueError("of the strategy")

    async def fail(client: AioClient, after: type[BaseException] | None) -> None:
        async with schedule(client, path, "a", strategy=broken, strict=True):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if after is not None:
                    raise after from None

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with open_client(endpoint) as client:
            for after in (None, LookupError, asyncio.CancelledError):
                with pytest.raises(LookupError if after is LookupError else StrategyError):
                    await fail(client, after)
                assert not task.cancelling()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
            with pytest.raises(StrategyError):  # as in clean-up after a cancellation
                await fail(client, asyncio.CancelledError)
            assert task.cancelling() == 1
            task.uncancel()

    run(main())


def test_a_host_on_many_paths_with_a_health_check(endpoint: str, path: str) -> None:
    healthy = False

    async def check() -> bool:
        await asyncio.sleep(0)
        return healthy

    async def main() -> None:
        nonlocal healthy
        async with (
            open_client(endpoint) as client,
            open_host(client, "a", health_check=check, health_interval=0.05) as host,
            host.schedule(f"{path}/one") as one,
            host.schedule(f"{path}/other") as other,
            observe(client, f"{path}/one") as decisions,
            observe(client, f"{path}/one", pool=True) as everything,
        ):
            healthy = True
            await until(one, "a")
            await until(other, "a")
            await until(decisions, "a")
            async for state in everything:
                if state.hosts == ("a",):
                    break
            assert everything.newest.pool.keys() == {"a"}
            await host.drain("so")
            await until(other)
            await host.undrain()
            await host.update(weight=2)
            assert host.statistics().paths == 2

    run(main())


def test_the_client_is_an_etcd_client(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client:
            key = f"{path}/key"
            async with client.watch(key) as events:
                await client.put(key, "one")
                event = await anext(events)
                assert event.kv.value == b"one"
            answer = await client.txn([Compare.version(key, "==", 1)], [Put(key, "two")])
            assert answer.succeeded
            async with client.open_lease(5) as kept:
                await client.put(f"{path}/leased", "x", lease=kept.id)
                assert kept.alive
            assert (await client.get(f"{path}/leased")).kv is None
            async with client.follow(f"{path}/") as follower:
                assert [kv.value for kv in follower.first] == [b"two"]
                await client.delete(key)
                assert (await anext(follower)).kv.key == key.encode()
            assert client.statistics().calls
            with pytest.raises(AttributeError):
                _ = client.nothing_of_that_name

    run(main())


def test_it_ends_with_its_last_block_and_begins_again(endpoint: str, path: str) -> None:
    async def main() -> None:
        for number in range(3):
            async with open_client(endpoint) as client:
                await client.put(f"{path}/{number}", "x")

        async def one_of_many(number: int) -> AioResult:
            async with open_client(endpoint) as client:
                async with schedule(client, f"{path}/{number % 5}", f"h{number}") as result:
                    await result.next()
                    return result

        await asyncio.gather(*(one_of_many(number) for number in range(20)))

    run(main())
    gc.collect()
    assert not len(_guests)


def test_a_decision_that_came_while_it_was_cancelled_is_not_read_when_it_is_old(
    endpoint: str,
) -> None:
    """As of decisions the newest is read, and each once."""

    async def main() -> None:
        async with open_client(endpoint) as client:
            guest, feed = client._guest, DecisionFeed("/p")
            decisions = AioObservation(guest, Observation(feed))
            for first, *later in (["a"], ["b", "c"], ["d", "e", "f"], ["g", "h", "g"]):
                begun = asyncio.Event()

                async def next_slowly(begun: asyncio.Event = begun) -> Hosts:
                    item = await feed.next()
                    begun.set()
                    with trio.CancelScope(shield=True):
                        await trio.sleep(0.01)
                    return item

                feed.publish(Hosts(first, revision=feed.count + 1))
                task = asyncio.create_task(decisions._read(next_slowly))
                await begun.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                for name in later:
                    feed.publish(Hosts(name, revision=feed.count + 1))
                assert await decisions.next() == tuple([first, *later][-1])
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await decisions.next()
            assert feed.returned == 4

    run(main())


def test_what_the_client_gives_is_for_asyncio_too(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client:
            inner = client.namespace(path)
            await inner.put("/key", "x")
            assert [kv.key for kv in await inner.get_prefix("/")] == [b"/key"]
            assert (await client.get(f"{path}/key")).value == b"x"
            async with schedule(inner, "/jobs", "a") as result:
                assert (await result.next()) == ("a",)
                assert (await client.get(f"{path}/jobs/scheduled")).value == b"a"
            assert (await client.maintenance.hash_kv()).revision
            assert len(await client.cluster.member_list()) == 1
            assert isinstance(await client.auth.user_list(), tuple)
            async with client.maintenance.open_snapshot() as parts:
                async for part in parts:
                    assert part

    run(main())


def test_context_variables_of_the_caller_are_those_of_work_and_of_checks(
    endpoint: str, path: str
) -> None:
    mine = ContextVar("mine", default="")
    checked: list[str] = []

    async def check() -> bool:
        await asyncio.sleep(0)
        checked.append(mine.get())
        return True

    async def work(_slot: AioSlot) -> str:
        await asyncio.sleep(0)
        return mine.get()

    async def main() -> None:
        async with open_client(endpoint) as client:
            mine.set("of the block")
            async with schedule(client, path, "a", health_check=check) as result:
                mine.set("of the call")
                assert await result.run_while_scheduled(work) == "of the call"
        assert set(checked) == {"of the block"}

    run(main())


def test_a_health_check_that_is_cancelled_is_one_that_fails(endpoint: str, path: str) -> None:
    async def check() -> bool:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    async def main() -> None:
        async with (
            open_client(endpoint) as client,
            observe(client, path, pool=True) as states,
            schedule(client, path, "a", health_check=check),
        ):
            async for state in states:
                if any("cancelled" in host.reason for host in state.pool.values()):
                    break

    run(main())


def test_in_another_loop_it_is_refused_and_nothing_is_done(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client, open_host(client, "a") as host:

            async def elsewhere() -> None:
                with pytest.raises(RuntimeError, match="in the loop that it was opened in"):
                    await client.put(f"{path}/x", "x")
                for block in (schedule(client, path, "a"), host.schedule(path), client.watch("/")):
                    with pytest.raises(RuntimeError, match="in the loop that it was opened in"):
                        async with block:
                            pass

            await asyncio.to_thread(asyncio.run, elsewhere())
            assert await nothing_is_left(client, path)
        with pytest.raises(RuntimeError, match="was left"):
            async with schedule(client, path, "a"):
                pass

    run(main())


def test_ctrl_c_leaves_the_loop_as_without_us_and_what_is_open_can_be_left(
    endpoint: str, path: str
) -> None:
    """Where the loop has no handler of its own, as under ``run_until_complete``."""

    async def main() -> None:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            await until(result, "a")
            loop.call_later(0.01, signal.raise_signal, signal.SIGINT)
            await result.wait_unscheduled()

    async def look() -> bool:
        async with open_client(endpoint) as client:
            return await nothing_is_left(client, path)

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    loop = asyncio.new_event_loop()
    with closing(loop):
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        assert loop.run_until_complete(look())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_etcd_that_is_away_is_an_error(path: str) -> None:
    async def main() -> None:
        (port,) = free_ports(1)
        with pytest.raises(EtcdError):
            async with open_client(f"http://127.0.0.1:{port}", connect_timeout=0.2) as client:
                async with schedule(client, path, "a"):
                    pass

    run(main())


def test_bad_arguments_are_errors_at_the_call(endpoint: str, path: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="nonsense"):
            open_client("nonsense://")
        async with open_client(endpoint) as client:
            with pytest.raises(TypeError, match="AioClient"):
                schedule(client.trio_client, path, "a")  # type: ignore[arg-type] # on purpose
            with pytest.raises(TypeError):
                schedule(client, path, "a", health_check=len)  # type: ignore[arg-type] # likewise
            with pytest.raises(ValueError, match="path"):
                async with schedule(client, "x", "a"):
                    pass
            async with schedule(client, path, "a") as result:
                with pytest.raises(TypeError):
                    await result.run_while_scheduled(len)  # type: ignore[arg-type] # likewise

    run(main())


async def test_in_a_program_of_trio_it_says_so(endpoint: str) -> None:
    with pytest.raises(RuntimeError, match="is for programs of asyncio"):
        async with open_client(endpoint):
            pass


def test_the_functions_of_trio_say_so_in_a_program_of_asyncio(endpoint: str, path: str) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"use trio_sched\.aio"):
            async with trio_sched.open_client(endpoint):
                pass
        async with open_client(endpoint) as client:
            trio_client = client.trio_client
            for block in (
                trio_sched.schedule(trio_client, path, "a"),
                trio_sched.open_host(trio_client, "a"),
                trio_sched.observe(trio_client, path),
                trio_sched.observe(trio_client, path, pool=True),
                trio_sched.open_reaper(trio_client),
            ):
                with pytest.raises(RuntimeError, match=r"use trio_sched\.aio"):
                    async with block:
                        pass

    run(main())


def test_tasks_that_call_while_the_block_is_left_get_an_error_and_none_hangs(
    endpoint: str, path: str
) -> None:
    async def call(client: AioClient) -> None:
        while True:
            await client.get(path)

    async def main() -> None:
        for _ in range(10):
            async with open_client(endpoint) as client:
                tasks = [asyncio.create_task(call(client)) for _ in range(8)]
                await client.get(path)
            for exc in await asyncio.gather(*tasks, return_exceptions=True):
                assert type(exc).__name__ in {"RuntimeError", "ClientClosed"}, repr(exc)
            with pytest.raises(RuntimeError, match="left"):
                await client.get(path)

    run(main())


def test_what_came_while_it_was_cancelled_is_not_lost(endpoint: str) -> None:
    """As a task of Trio's that is cancelled may still come to its result."""

    class Late:
        def __init__(self) -> None:
            self.begun, self.comes, self.number = asyncio.Event(), trio.Event(), 0

        async def __anext__(self) -> int:
            self.begun.set()
            with trio.CancelScope(shield=True):
                await self.comes.wait()
            self.number += 1
            return self.number

    async def main() -> None:
        async with open_client(endpoint) as client:
            guest, late = client._guest, Late()
            stream: AioStream[int] = AioStream(guest, late)
            task = asyncio.ensure_future(anext(stream))
            await late.begun.wait()
            task.cancel()
            await asyncio.sleep(0)
            guest.run_soon(late.comes.set)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await anext(stream) == 1
            assert await anext(stream) == 2

    run(main())
