"""What a host says of itself: data, health, and that it is not to be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers import until
from tests.host.test_patience import in_no_time
from trio_sched import (
    EndOfResults,
    Host,
    PathObservation,
    PathState,
    StrategyOptions,
    observe,
    open_client,
    schedule,
)
from trio_sched._support.wall_time import wall_time
from trio_sched.etcd_shim.errors import ConnectionLost
from trio_sched.leader.diagnosis import diagnose
from trio_sched.model.keys import PathKeys
from trio_sched.simulation import MemoryEtcd

if TYPE_CHECKING:
    from collections.abc import Callable


async def until_state(seen: PathObservation, true: Callable[[PathState], object]) -> PathState:
    async for state in seen:
        if true(state):
            return state
    raise AssertionError("the block was left")


async def test_data_is_published_and_changed_live(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        observe(client, path, pool=True) as seen,
        schedule(
            client, path, "a", weight=2.5, zone="north", priority=-3, data={"rack": 7}
        ) as result,
    ):
        state = await until_state(seen, lambda state: state.pool)
        host = state.pool["a"]
        assert (host.weight, host.zone, host.priority, host.data) == (
            2.5, "north", -3, {"rack": 7},
        )  # fmt: skip
        assert host.options == {"max_count": 1, "strategy": "rr"}
        await result.update(weight=1, data={"rack": 8})
        kv = (await client.get(PathKeys(path).host("a"))).kv
        assert kv is not None
        again = Host.decode("a", kv.value, lease=kv.lease, joined_revision=kv.create_revision)
        assert (again.weight, again.zone, again.data) == (1.0, "north", {"rack": 8})
        assert (again.lease, again.joined_revision) == (host.lease, host.joined_revision)
        assert result.statistics().sessions == 1


async def test_when_it_joined_and_when_it_was_decided_is_told(endpoint: str, path: str) -> None:
    before = wall_time()
    async with (
        open_client(endpoint) as client,
        observe(client, path, pool=True) as seen,
        schedule(client, path, "a") as result,
    ):
        state = await until_state(seen, lambda state: state.hosts)
        assert state.record is not None
        joined = state.pool["a"].since
        assert before <= joined <= state.record.when <= wall_time()
        await result.update(zone="x")
        state = await until_state(seen, lambda state: state.pool["a"].zone)
        assert state.pool["a"].since == joined, "it did not join again"


async def test_a_strategy_sees_the_data(endpoint: str, path: str) -> None:
    def by_rack(hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
        racks = sorted(hosts, key=lambda name: str(hosts[name].data.get("rack", "")))
        return racks[: options.max_count]

    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", strategy=by_rack, data={"rack": "2"}) as a,
        schedule(client, path, "b", data={"rack": "3"}) as b,
    ):
        await until(b, "a")
        await b.update(data={"rack": "1"})
        await until(b, "b")
        await until(a, "b")


async def test_a_change_while_the_session_is_lost_goes_with_the_next(
    endpoint: str, path: str
) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await until(result, "a")
        (kv,) = await client.get_prefix(PathKeys(path).exchange)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.lease_revoke, kv.lease)
            await until(result)
            await result.update(zone="south")
        (kv,) = await client.get_prefix(PathKeys(path).exchange)
        assert Host.decode("a", kv.value, lease=0, joined_revision=0).zone == "south"


BAD: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"weight": 0}, ValueError),
    ({"weight": "2"}, TypeError),
    ({"zone": ""}, ValueError),
    ({"priority": 2**31}, ValueError),
    ({"data": {1: 2}}, TypeError),
    ({"data": {"x": "y" * 70_000}}, ValueError),
]


@pytest.mark.parametrize(
    ("bad", "error"), [*BAD, ({"health_interval": 0}, ValueError), ({"health_check": 1}, TypeError)]
)
async def test_bad_data_is_refused_before_anything_is_sent(
    path: str, bad: dict[str, Any], error: type[Exception]
) -> None:
    async with open_client("http://127.0.0.1:1") as unused:
        with pytest.raises(error):
            async with schedule(unused, path, "a", **bad):
                pass
        assert unused.statistics().connects == 0


@pytest.mark.parametrize(("bad", "error"), [*BAD, ({"colour": "red"}, TypeError)])
async def test_a_bad_update_changes_nothing(
    endpoint: str, path: str, bad: dict[str, Any], error: type[Exception]
) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a", zone="z") as result:
        before = (await client.get(PathKeys(path).host("a"))).kv
        with pytest.raises(error):
            await result.update(**bad)
        assert (await client.get(PathKeys(path).host("a"))).kv == before


async def test_drained_it_stays_and_is_not_chosen(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        observe(client, path, pool=True) as seen,
        schedule(client, path, "a") as a,
        schedule(client, path, "b") as b,
    ):
        await until(b, "a")
        await a.drain("new disk")
        await until(a, "b")
        state = await until_state(seen, lambda state: state.hosts == ("b",))
        assert not state.pool["a"].available
        assert state.pool["a"].reason == "new disk"
        assert a.statistics().leading
        await b.drain()
        await until(b)
        await a.undrain()
        await until(b, "a")
    with pytest.raises(EndOfResults):
        await a.drain()


async def test_health_says_whether_it_may_be_chosen(endpoint: str, path: str) -> None:
    outcome: list[object] = [False]
    asked = trio.lowlevel.ParkingLot()

    async def healthy() -> bool:
        asked.unpark_all()
        await trio.lowlevel.checkpoint()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        if outcome[0] is None:
            await trio.sleep_forever()
        return bool(outcome[0])

    async with (
        open_client(endpoint) as client,
        observe(client, path, pool=True) as seen,
        schedule(client, path, "a", health_check=healthy, health_interval=0.05) as result,
    ):
        state = await until_state(seen, lambda state: "says no" in str(reasons(state)))
        assert state.hosts == ()
        outcome[0] = True
        await until(result, "a")
        outcome[0] = ValueError("disk full")
        await until_state(seen, lambda state: "ValueError: disk full" in str(reasons(state)))
        await until(result)
        outcome[0] = None
        await until_state(seen, lambda state: "took longer than 0.05 s" in str(reasons(state)))
        outcome[0] = 1
        await until(result, "a")


def reasons(state: PathState) -> list[str]:
    return [host.reason for host in state.pool.values() if not host.available]


@in_no_time
async def test_a_trouble_is_published_once_and_taken_back() -> None:
    etcd, keys = MemoryEtcd(), PathKeys("/jobs")
    async with (
        etcd.open_client() as client,
        observe(client, "/jobs", pool=True) as seen,
        schedule(client, "/jobs", "a") as result,
    ):
        await until(result, "a")
        publisher = result._publisher

        async def versions() -> int:
            await trio.sleep(1)
            kv = (await client.get(keys.host("a"))).kv
            assert kv is not None
            return kv.version

        assert await versions() == 1
        publisher.note_trouble(None)
        assert await versions() == 1, "nothing has changed"
        for _ in range(5):
            publisher.note_trouble("its strategy fails: " + "x" * 300)
        assert await versions() == 2
        state = await until_state(seen, lambda state: state.pool["a"].trouble)
        assert state.pool["a"].trouble.startswith("its strategy fails: xxx")
        assert len(state.pool["a"].trouble) == 200
        assert [each.kind for each in diagnose(state) if each.level == "warning"] == [
            "host-in-trouble"
        ]
        await result.update(zone="x")
        assert seen.newest.pool["a"].trouble
        publisher.note_trouble(None)
        await until_state(seen, lambda state: not state.pool["a"].trouble)
        assert await versions() == 4
        assert result.newest == ("a",)


@in_no_time
async def test_a_write_that_the_network_held_back_does_not_undo_a_later_one() -> None:
    path, key = "/jobs", PathKeys("/jobs").host("a")
    async with MemoryEtcd().open_client() as client:
        real, held = client.txn, list[tuple[Any, ...]]()

        async def hold_back(*args: Any) -> Any:
            if not held and args[1] and getattr(args[1][0], "key", None) == key:
                held.append(args)
                raise ConnectionLost("no answer")
            return await real(*args)

        async with schedule(client, path, "a") as result:
            await until(result, "a")
            client.txn = hold_back  # type: ignore[assignment,method-assign] # only the first
            await result.update(weight=2)
            await result.update(weight=3)
            assert held
            before = (await client.get(key)).kv
            assert not (await real(*held[0])).succeeded
            assert (await client.get(key)).kv == before
            assert before is not None
            assert b'"weight":3' in before.value
