"""A feed: the newest counts, nothing is read twice, and revisions do not go down."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_sched.exceptions import EndOfResults
from trio_sched.host.newest import DecisionFeed, NewestOnly
from trio_sched.model.records import Hosts


def hosts(*names: str, revision: int) -> Hosts:
    return Hosts(names, revision=revision)


async def test_a_slow_reader_gets_the_newest_only() -> None:
    feed = DecisionFeed("/p")
    for revision, name in enumerate("abc", start=1):
        feed.publish(hosts(name, revision=revision))
    assert await feed.next() == ("c",)
    assert (feed.count, feed.returned) == (3, 1)


async def test_what_says_the_same_as_what_was_read_is_not_to_be_read() -> None:
    feed = DecisionFeed("/p")
    feed.publish(hosts("a", revision=1))
    await feed.next()
    feed.publish(hosts("b", revision=2))
    feed.publish(hosts("a", revision=3))
    with trio.move_on_after(0) as scope:
        await feed.next()
    assert scope.cancelled_caught
    assert feed.newest is not None
    assert feed.newest.revision == 3


async def test_a_name_that_means_another_life_of_ours_is_news() -> None:
    feed = DecisionFeed("/p")
    feed.publish(hosts("a", revision=1), ours=False)
    await feed.next()
    feed.publish(hosts("a", revision=2), ours=True)
    assert (await feed.next()).revision == 2


async def test_an_older_decision_is_ignored_unless_the_store_is_another_one() -> None:
    feed = DecisionFeed("/p")
    feed.publish(hosts("a", revision=9))
    feed.publish(hosts("b", revision=8))
    assert await feed.next() == ("a",)
    feed.begin_anew()
    assert await feed.next() == ()
    feed.publish(hosts("b", revision=3))
    assert await feed.next() == ("b",)


async def test_a_loss_is_an_empty_decision_once() -> None:
    feed = DecisionFeed("/p")
    feed.lose()  # before the first there is nothing to lose
    feed.publish(hosts("a", revision=4))
    await feed.next()
    feed.lose()
    feed.lose()
    lost = await feed.next()
    assert (lost, lost.revision) == ((), 4)
    with trio.move_on_after(0) as scope:
        await feed.next()
    assert scope.cancelled_caught


async def test_a_cancelled_reader_loses_nothing() -> None:
    feed = DecisionFeed("/p")
    with trio.CancelScope() as scope:
        scope.cancel()
        feed.publish(hosts("a", revision=1))
        await feed.next()
    assert scope.cancelled_caught
    assert await feed.next() == ("a",)


async def test_the_end_wakes_all_that_wait_and_ends_the_loop() -> None:
    feed = DecisionFeed("/p")
    reader = NewestOnly(feed)
    ends: list[str] = []

    async def iterate() -> None:
        ends.extend([str(hosts) async for hosts in reader])
        ends.append("loop")

    async def wait_changed() -> None:
        await feed.changed.park()
        ends.append("changed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(iterate)
        nursery.start_soon(wait_changed)
        await wait_all_tasks_blocked()
        feed.end()
    assert sorted(ends) == ["changed", "loop"]
    with pytest.raises(EndOfResults, match="'/p'"):
        await reader.next()


async def test_one_reader_at_a_time() -> None:
    reader = NewestOnly(DecisionFeed("/p"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.next)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await reader.next()
        nursery.cancel_scope.cancel()
