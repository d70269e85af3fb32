"""What is done once for all hosts: on an etcd in memory, where hours pass at once."""

from __future__ import annotations

import json
from datetime import time
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import trio

from tests.host.test_patience import in_no_time
from tests.host.tick_tools import PATH, PERIOD, open_fleet
from trio_sched import Client, Control, Tick, TickSchedule, schedule
from trio_sched.simulation import MemoryEtcd

NAMES = [f"2026-01-01T0{minutes // 6}:{minutes % 6}0:00Z" for minutes in range(24)]


def names(done: list[tuple[str, str]]) -> list[str]:
    return [name for _, name in done]


@in_no_time
async def test_each_tick_is_done_once_whoever_does_it() -> None:
    async with open_fleet() as fleet:
        for host in ("a", "b", "c"):
            fleet.start(host)
        await trio.sleep(10 * PERIOD - 10)
        assert names(fleet.begun) == NAMES[:10] == names(fleet.ended)
        for outcomes in fleet.outcomes.values():  # and each has learned of each
            assert [outcome.tick.name for outcome in outcomes if outcome.tick] == NAMES[:10]
            assert all(outcome.tick.state == "done" for outcome in outcomes if outcome.tick)
        ran = [o for outcomes in fleet.outcomes.values() for o in outcomes if o.ran]
        assert len(ran) == 10
        assert {o.value for o in ran} == {host for host, _ in fleet.begun}


@in_no_time
async def test_hosts_whose_clocks_differ_by_less_than_half_a_period_agree() -> None:
    async with open_fleet() as fleet:
        fleet.ahead = {"a": -0.49 * PERIOD, "b": 0.0, "c": 0.49 * PERIOD}
        for host in ("a", "b", "c"):
            fleet.start(host)
        await trio.sleep(10 * PERIOD)
        done = names(fleet.ended)
        assert len(done) == len(set(done))
        assert done == sorted(done)
        assert set(NAMES[1:10]) <= set(done)


@in_no_time
async def test_a_clock_that_jumps_repeats_nothing_within_a_day() -> None:
    async with open_fleet() as fleet:
        fleet.start("a")
        fleet.start("b")
        await trio.sleep(5 * PERIOD + 10)
        for ahead in (-3.0 * PERIOD, 0.0, -86000.0, 0.0):
            fleet.ahead = {"a": ahead, "b": ahead}
            await trio.sleep(PERIOD / 2)
        done = names(fleet.ended)
        assert len(done) == len(set(done))


@in_no_time
async def test_a_clock_that_is_a_year_ahead_holds_up_no_other() -> None:
    async with open_fleet() as fleet:
        fleet.ahead = {"a": 366 * 86400.0}
        fleet.start("a")
        await trio.sleep(60)
        await fleet.hosts.leave("a")
        fleet.start("b")
        await trio.sleep(5 * PERIOD)
        assert names(fleet.ended)[1:6] == NAMES[:5]


@in_no_time
async def test_after_a_time_without_hosts_one_tick_is_made_up_for() -> None:
    async with open_fleet() as fleet:
        fleet.start("a")
        await trio.sleep(60)
        await fleet.hosts.leave("a")
        await trio.sleep(7 * PERIOD)
        fleet.start("b")
        await trio.sleep(60)
        assert fleet.ended == [("a", NAMES[0]), ("b", NAMES[7])]


@in_no_time
async def test_work_that_is_longer_than_the_period_leaves_ticks_out() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 2.5 * PERIOD
        for host in ("a", "b"):
            fleet.start(host)
        await trio.sleep(8 * PERIOD)
        assert names(fleet.ended) == [NAMES[0], NAMES[2], NAMES[5]]


@in_no_time
async def test_a_tick_whose_host_dies_is_done_by_another() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 100
        for host in ("a", "b"):
            fleet.start(host)
        await fleet.wait_begun(1)
        (first,) = fleet.begun
        await fleet.hosts.kill(first[0])
        await trio.sleep(300)
        other = "b" if first[0] == "a" else "a"
        assert fleet.ended == [(other, NAMES[0])]
        tick = (await fleet.ticks())[NAMES[0]]
        assert (tick.host, tick.attempt, tick.state, tick.code) == (other, 2, "done", 0)


@in_no_time
async def test_a_tick_whose_host_dies_is_not_done_again_if_it_is_to_be_left() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 100
        for host in ("a", "b"):
            fleet.start(host, on_crash="skip")
        await fleet.wait_begun(1)
        (first,) = fleet.begun
        await fleet.hosts.kill(first[0])
        await trio.sleep(300)
        assert fleet.ended == []
        tick = (await fleet.ticks())[NAMES[0]]
        assert (tick.host, tick.state, tick.code) == (first[0], "crashed", None)
        other = "b" if first[0] == "a" else "a"
        await trio.sleep(PERIOD)
        assert fleet.ended == [(other, NAMES[1])]


@in_no_time
async def test_work_that_kills_each_host_is_given_up() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 100
        for number in range(6):
            fleet.start(f"host-{number}", attempts=3)
        for number in range(3):
            await fleet.wait_begun(number + 1)
            await fleet.hosts.kill(fleet.begun[number][0])
        await trio.sleep(60)
        tick = (await fleet.ticks())[NAMES[0]]
        assert (tick.state, tick.attempt, len(fleet.begun)) == ("crashed", 3, 3)
        await trio.sleep(PERIOD + 110)
        assert names(fleet.ended) == NAMES[1:2], "and the next one is done"


@in_no_time
async def test_one_that_is_drained_hands_it_on_and_that_is_no_attempt() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 100
        for host in ("a", "b"):
            fleet.start(host, attempts=1)
        await fleet.wait_begun(1)
        (first,) = fleet.begun
        await Control(fleet.client, PATH).drain(first[0])
        await trio.sleep(300)
        other = "b" if first[0] == "a" else "a"
        assert fleet.ended == [(other, NAMES[0])]
        assert (await fleet.ticks())[NAMES[0]].attempt == 1


@in_no_time
async def test_one_that_was_begun_is_not_forgotten_when_the_next_is_due() -> None:
    """A host that has come later knows of the next one only."""
    async with open_fleet() as fleet:
        fleet.seconds = 700
        fleet.start("a")
        await fleet.wait_begun(1)
        await trio.sleep(PERIOD + 20)
        fleet.start("c")
        await trio.sleep(30)
        await fleet.hosts.kill("a")
        fleet.seconds = 1
        await trio.sleep(60)
        assert fleet.ended == [("c", NAMES[0]), ("c", NAMES[1])]


@in_no_time
async def test_what_was_begun_under_a_key_is_no_tick_that_was_forgotten() -> None:
    """A path may have both; the work for ticks is not that for the key."""
    async with open_fleet() as fleet:
        fleet.seconds = 700
        fleet.once("a", "17")
        await fleet.wait_begun(1)
        await fleet.hosts.kill("a")
        fleet.seconds = 1
        fleet.start("c")
        await trio.sleep(60)
        assert fleet.ended == [("c", NAMES[0])]
        await fleet.hosts.kill("c")
        fleet.once("d", "17")
        await trio.sleep(60)
        assert fleet.ended == [("c", NAMES[0]), ("d", "17")]


@in_no_time
@pytest.mark.parametrize(
    "odd", [{"slot": "/ticks/slots/\ud800"}, {"token": 1 << 70}, {"lease": -(1 << 70)}]
)
async def test_a_record_that_another_has_written_ends_no_host(odd: dict[str, object]) -> None:
    record = json.loads(Tick(NAMES[0], "running", "x", 7, 1, "", slot="/ticks/slots/0").encode())
    async with open_fleet() as fleet:
        value = json.dumps(record | odd)
        for key in (f"{PATH}/ticks/{NAMES[0]}", f"{PATH}/ticks.open/{NAMES[0]}"):
            await fleet.client.put(key, value)
        fleet.start("a")
        await trio.sleep(PERIOD + 60)
        assert fleet.ended == [("a", NAMES[1])]


@in_no_time
async def test_of_two_slots_one_does_it_and_the_other_waits() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 100
        for host in ("a", "b"):
            fleet.start(host, max_count=2)
        await trio.sleep(50)
        (first,) = fleet.begun
        await fleet.hosts.kill(first[0])
        await trio.sleep(300)
        assert len(fleet.begun) == 2
        assert names(fleet.ended) == NAMES[:1]


@in_no_time
async def test_a_day_is_that_of_the_calendar() -> None:
    async with open_fleet() as fleet:
        fleet.start("a", times=TickSchedule(86400, time(3), ZoneInfo("Europe/Berlin")))
        for days in range(3):
            fleet.ahead["a"] = days * 86400.0 + 4 * 3600
            await trio.sleep(60)
        expected = ["2026-01-01", "2026-01-02", "2026-01-03"]
        assert names(fleet.ended) == [f"{day}T03:00:00" for day in expected]


# ---- a key of one's own ------------------------------------------------------------


@in_no_time
async def test_a_key_is_done_once() -> None:
    async with open_fleet() as fleet:
        for host in ("a", "b", "c"):
            fleet.once(host, "order-17")
        await trio.sleep(60)
        assert len(fleet.ended) == 1
        assert sum(o.ran for outcomes in fleet.outcomes.values() for o in outcomes) == 1
        fleet.once("d", "order-17")
        fleet.once("e", "order-18")
        await trio.sleep(60)
        assert names(fleet.ended) == ["order-17", "order-18"]
        assert not fleet.outcomes["d"][0].ran


@in_no_time
async def test_it_is_remembered_for_as_long_as_is_said_and_no_longer() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 500  # longer than it is remembered for
        fleet.once("a", "k", keep=100)
        await trio.sleep(590)
        fleet.once("b", "k", keep=100)
        await trio.sleep(60)
        assert fleet.ended == [("a", "k")]
        assert not fleet.outcomes["b"][0].ran
        await trio.sleep(60)
        assert await fleet.ticks() == {}
        assert not (await fleet.client.get_prefix(f"{PATH}/")).kvs
        assert not await fleet.client.lease_list()


@in_no_time
async def test_work_that_raises_is_done_and_says_so() -> None:
    async with open_fleet() as fleet, schedule(fleet.client, PATH, "a") as result:

        async def fail(_slot: object) -> None:
            await trio.lowlevel.checkpoint()
            raise OSError("no")

        with pytest.raises(OSError, match="no"):
            await result.run_once("k", fail)
        tick = (await fleet.ticks())["k"]
        assert (tick.state, tick.code, tick.host) == ("done", 1, "a")
        assert not (await result.run_once("k", fail)).ran


@in_no_time
async def test_cancelled_it_is_begun_again_by_the_next() -> None:
    async with open_fleet() as fleet, schedule(fleet.client, PATH, "a") as result:

        async def work(_slot: object, seconds: float) -> str:
            await trio.sleep(seconds)
            return "done"

        with trio.move_on_after(5):
            await result.run_once("k", work, 100.0)
        assert (await fleet.ticks())["k"].state == "interrupted"
        outcome = await result.run_once("k", work, 1.0)
        assert (outcome.ran, outcome.value) == (True, "done")
        assert not (await fleet.client.get_prefix(f"{PATH}/ticks.open/")).kvs


@in_no_time
async def test_a_host_goes_on_at_once_with_what_it_has_interrupted_itself() -> None:
    """Its new slot has a mark of the same session, which says nothing of the one before."""
    async with (
        open_fleet() as fleet,
        schedule(fleet.client, PATH, "a", takeover_pause=600.0) as result,
    ):

        async def work(_slot: object, seconds: float) -> None:
            await trio.sleep(seconds)

        with trio.move_on_after(5):
            await result.run_once("k", work, 100.0)
        with trio.fail_after(30):
            assert (await result.run_once("k", work, 1.0)).ran


# ---- adversities -------------------------------------------------------------------


@pytest.mark.parametrize("at", range(14))
def test_an_answer_that_is_lost_at_any_step_does_not_do_it_twice(at: int) -> None:
    @in_no_time
    async def run() -> None:
        async with open_fleet() as fleet:
            fleet.start("a")
            await trio.sleep(300)
            paths = fleet.etcd.network.paths("a").values()
            await trio.sleep(300 + 0.0001 * at)
            for path in paths:
                path.cut()
            await trio.sleep(60)
            assert names(fleet.ended) == NAMES[:2]
            assert names(fleet.begun) == NAMES[:2]

    run()


@in_no_time
async def test_what_is_done_and_cannot_be_recorded_is_recorded_later() -> None:
    """All are cut off from etcd; the one that has done it comes back first."""
    async with open_fleet() as fleet:
        fleet.seconds = 2
        fleet.start("a")
        await fleet.wait_begun(1)
        for path in fleet.etcd.network.paths("a").values():
            path.hold()
        await trio.sleep(30)
        for path in fleet.etcd.network.paths("a").values():
            path.release()
        await trio.sleep(60)
        assert fleet.begun == fleet.ended == [("a", NAMES[0])]
        (outcome,) = fleet.outcomes["a"]
        assert (outcome.ran, outcome.value) == (True, "a")
        assert (await fleet.ticks())[NAMES[0]].state == "done"


@in_no_time
async def test_what_is_not_done_and_cannot_be_recorded_so_is_begun_no_more_often() -> None:
    """As etcd is silent for a moment, while the slot is held all along."""
    async with open_fleet() as fleet:
        paths = fleet.etcd.network.paths("a").values()

        async def heal() -> None:
            await trio.sleep(1.5)
            for path in paths:
                path.release()

        async def live(client: Client) -> None:
            async with trio.open_nursery() as nursery:

                async def work(_slot: object, name: str) -> None:
                    await trio.lowlevel.checkpoint()
                    fleet.begun.append(("a", name))
                    for path in paths:
                        path.hold()
                    nursery.start_soon(heal)
                    await trio.lowlevel.checkpoint()

                async with schedule(client, PATH, "a", session_ttl=10) as result:
                    await result.run_ticks(
                        TickSchedule(PERIOD), work, on_crash="skip", code_of=lambda _: None
                    )

        fleet.hosts.start_soon("a", live)
        await trio.sleep(60)
        assert fleet.begun == [("a", NAMES[0])]
        assert (await fleet.ticks())[NAMES[0]].state == "crashed"


@in_no_time
async def test_a_record_whose_lease_is_gone_is_put_again_as_long_as_it_is_worked_on() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 3000
        fleet.once("a", "k", keep=3000)
        await fleet.wait_begun(1)
        (kv,) = (await fleet.client.get_prefix(f"{PATH}/ticks/")).kvs
        await fleet.client.lease_revoke(kv.lease)
        await trio.sleep(1100)
        assert (await fleet.ticks())["k"].state == "running"
        (kv,) = (await fleet.client.get_prefix(f"{PATH}/ticks/")).kvs
        await trio.sleep(1700)
        await fleet.client.lease_revoke(kv.lease)
        await trio.sleep(300)
        assert (await fleet.ticks())["k"].state == "done"


@in_no_time
async def test_an_operator_who_takes_the_slot_away_ends_it_and_another_does_it() -> None:
    async with open_fleet() as fleet:
        fleet.seconds = 100
        fleet.start("a")
        fleet.start("b")
        await fleet.wait_begun(1)
        await fleet.client.delete(f"{PATH}/slots/0")
        await trio.sleep(400)
        assert len(fleet.begun) == 2
        assert names(fleet.ended) == NAMES[:1]


# ---- arguments ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"keep": 0}, {"on_crash": "perhaps"}, {"attempts": 0}, {"attempts": 10**6}, {"grace": 60}],
)
async def test_what_is_not_allowed_is_refused(options: dict[str, Any]) -> None:
    async with MemoryEtcd().open_client() as client, schedule(client, PATH, "a") as result:

        async def work(_slot: object) -> None:
            await trio.lowlevel.checkpoint()
            raise AssertionError

        with pytest.raises(ValueError):
            await result.run_once("k", work, **options)
        with pytest.raises(ValueError):
            await result.run_once("a/b", work)
