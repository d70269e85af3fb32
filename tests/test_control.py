"""What operators do to a path, and what its hosts make of it."""

from __future__ import annotations

import pytest
import trio

from tests.helpers import until
from tests.host.test_publishing import until_state
from trio_sched import (
    Client,
    Control,
    ControlState,
    EndOfResults,
    HostNotFound,
    observe,
    open_client,
    schedule,
)
from trio_sched.model.keys import PathKeys


async def test_pause_keeps_the_decision_and_drops_the_dead(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        observe(client, path, pool=True) as seen,
        schedule(client, path, "a", max_count=2) as a,
    ):
        control = Control(client, path, by="anna")
        async with schedule(client, path, "b") as b:
            await until(b, "a", "b")
            state = await control.pause("new switch")
            assert state.paused
            async with schedule(client, path, "c") as c:
                await b.shutdown()
                assert await until(c, "a")
                seen_state = await until_state(seen, lambda state: state.hosts == ("a",))
                note = seen_state.control.note("paused")
                assert note is not None
                assert (note.by, note.why) == ("anna", "new switch")
                assert seen_state.record is not None
                assert seen_state.record.options["control"] == {
                    "paused": True, "revision": state.revision,
                }  # fmt: skip
                await control.resume()
                await until(a, "a", "c")


async def test_drain_set_count_and_evict(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as a,
        schedule(client, path, "b"),
        schedule(client, path, "c"),
    ):
        control = Control(client, path)
        await until(a, "a")
        await control.drain("a")
        await until(a, "b")
        await control.set_count(2)
        await until(a, "b", "c")
        await control.undrain("a")
        await control.set_count(None)
        await until(a, "b")
        await control.evict("b")
        assert len(await a.next()) == 1
        assert a.newest is not None
        assert "b" not in a.newest
        assert (await control.read()).drained == frozenset()


async def test_a_leader_from_later_knows_it_too(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        await Control(client, path).drain("a")
        async with (
            observe(client, path, pool=True) as seen,
            schedule(client, path, "z") as first,
            schedule(client, path, "b", strategy="alpha") as b,
            schedule(client, path, "a"),
        ):
            await until(b, "z")
            await first.shutdown()
            state = await until_state(seen, lambda state: state.hosts.leader == "b")
            assert state.hosts == ("b",), "alpha would have taken a"
        await client.delete(PathKeys(path).control)


async def test_operators_at_once_do_not_overwrite_each_other(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        control = Control(client, path)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(control.drain, f"host{number}")
        state = await control.read()
        assert state.drained == {f"host{number}" for number in range(20)}
        await client.delete(PathKeys(path).control)


async def test_what_is_not_allowed(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        with pytest.raises(ValueError, match="must start with '/'"):
            Control(client, "jobs")
        control = Control(client, path)
        with pytest.raises(ValueError, match="1 or more"):
            await control.set_count(0)
        with pytest.raises(ValueError, match="must not hold"):
            await control.drain("a/b")
        with pytest.raises(HostNotFound) as caught:
            await control.evict("nobody")
        assert (caught.value.path, caught.value.hostname) == (path, "nobody")
        assert await control.read() == ControlState()


async def test_observing_all_begins_with_what_is_there(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with observe(client, path, pool=True) as seen:
            state = await seen.next()
            assert (state.hosts, dict(state.pool), state.leader) == ((), {}, None)
            await live_and_look(client, path, state.revision)
            state = await until_state(seen, lambda state: not state.pool and not state.hosts)
            assert dict(state.slots) == {}
        with pytest.raises(EndOfResults):
            await seen.next()


async def live_and_look(client: Client, path: str, revision: int) -> None:
    async def work(_slot: object) -> None:
        async with observe(client, path, pool=True) as seen:
            state = await until_state(seen, lambda state: state.slots)
            assert state.revision > revision
            assert state.hosts == ("a",)
            assert state.leader is not None
            assert state.leader.name == "a"
            assert state.slots[0].name == "a"
            assert state.slots[0].lease == state.pool["a"].lease == state.leader.lease
            assert state.record is not None
            assert state.record.hosts == {"a": state.leader.lease}

    async with schedule(client, path, "a") as result:
        await result.run_while_scheduled(work)
