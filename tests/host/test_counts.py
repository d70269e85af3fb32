"""What `statistics()` of a host counts, on a real etcd."""

from __future__ import annotations

import ast
from math import inf

import pytest
import trio

from tests.places import PACKAGE
from trio_sched import Result, Slot, open_client, schedule
from trio_sched.etcd_shim._retry import call
from trio_sched.etcd_shim.errors import ConnectionLost, RevisionWentBack
from trio_sched.host.counts import HostCounts, cause_of_loss

LOSING = ("mark_lost", "give_up")


async def work_until_cancelled(_slot: Slot) -> None:
    await trio.sleep_forever()


def reasons() -> set[str]:
    """The beginnings of all that sessions are lost by, as the source has them."""
    found: set[str] = set()
    files = [*PACKAGE.joinpath("host").glob("*.py"), PACKAGE / "etcd_shim" / "_keep.py"]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOSING:
                (words, *_) = node.args
                if isinstance(words, ast.JoinedStr):
                    words = words.values[0]
                if isinstance(words, ast.Constant):
                    found.add(str(words.value))
    return found


def test_every_reason_has_a_cause() -> None:
    left = {"the host's block was left", "its block was left"}  # these are no losses
    assert len(reasons()) > 6
    assert {cause_of_loss(words) for words in reasons() - left} >= {"no_renewal", "lease_gone"}
    assert not [words for words in reasons() - left if cause_of_loss(words) == "other"]


def test_a_store_that_went_back_is_a_cause_of_its_own() -> None:
    assert cause_of_loss("whatever", RevisionWentBack(5, 3)) == "store_went_back"


async def wait_until(result: Result, what: str) -> None:
    """Poll, bounded by the test's own timeout: the counts are no events."""
    while not getattr(result.statistics(), what):  # noqa: ASYNC110 # see above
        await trio.sleep(0.01)


async def test_a_loss_is_counted_by_its_cause(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await client.delete(f"{path}/exchange/a")
        await wait_until(result, "losses")
        assert result.statistics().losses == {"key_gone": 1}
        await result.wait_scheduled()
        assert result.statistics().sessions == 2


async def test_decisions_are_counted_with_the_time_that_they_took(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await result.wait_scheduled()
        counted = result.statistics()
        assert counted.decisions_written == 1
        assert counted.write_seconds > 0
        assert counted.write_buckets[inf] == 1
        assert list(counted.write_buckets.values()) == sorted(counted.write_buckets.values())
        async with schedule(client, path, "b") as other:
            assert other.statistics().decisions_written == 0


async def test_renewals_are_counted(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        async with schedule(client, path, "a", session_ttl=2) as result:
            assert result.statistics().valid_until > trio.current_time()
            began = result.statistics().renewed_at
            await wait_until(result, "renewals")
            assert result.statistics().renewed_at > began
        assert result.statistics().valid_until == -inf


async def test_renewals_of_former_sessions_count(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a", session_ttl=2) as result,
    ):
        await wait_until(result, "renewals")
        counted = result.statistics().renewals
        await client.delete(f"{path}/exchange/a")
        await wait_until(result, "losses")
        assert result.statistics().renewals >= counted


async def test_works_are_counted_by_what_ended_them(endpoint: str, path: str) -> None:
    async def fails(_slot: Slot) -> None:  # noqa: ASYNC124 # work is async
        raise ZeroDivisionError

    async def returns(_slot: Slot) -> None:  # noqa: ASYNC124 # likewise
        assert result.statistics().holds_slot

    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await result.run_while_scheduled(returns)
        with pytest.raises(ZeroDivisionError):
            await result.run_while_scheduled(fails)
        assert not result.statistics().holds_slot
        assert result.statistics().works == {"returned": 1, "raised": 1}


@pytest.mark.parametrize(
    ("what", "cause"), [("slots/0", "slot_lost"), ("exchange/a", "session_lost")]
)
async def test_works_that_are_lost_are_counted(
    endpoint: str, path: str, what: str, cause: str
) -> None:
    began = trio.Event()

    async def work(_slot: Slot) -> None:
        began.set()
        await trio.sleep_forever()

    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run_while_scheduled, work)
            await began.wait()
            await client.delete(f"{path}/{what}")
            await wait_until(result, "works")
            assert result.statistics().works == {cause: 1}
            nursery.cancel_scope.cancel()


async def test_work_that_is_dropped_or_cancelled_is_counted(endpoint: str, path: str) -> None:
    began = trio.Event()

    async def work(_slot: Slot) -> None:
        began.set()
        await trio.sleep_forever()

    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run_while_scheduled, work)
            await began.wait()
            await result.drain()
            await wait_until(result, "works")
            assert result.statistics().works == {"dropped": 1}
            began = trio.Event()
            await result.undrain()
            await began.wait()
            nursery.cancel_scope.cancel()
        assert result.statistics().works == {"dropped": 1, "cancelled": 1}


async def test_who_waits_for_a_slot_shows_it(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await client.put(f"{path}/slots/0", "other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(result.run_while_scheduled, work_until_cancelled)
            await wait_until(result, "waits_for_slot")
            assert not result.statistics().holds_slot
            await client.delete(f"{path}/slots/0")
            await wait_until(result, "holds_slot")
            assert not result.statistics().waits_for_slot
            nursery.cancel_scope.cancel()


async def test_calls_and_watch_events_are_counted(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        assert client.statistics().calls == 0
        async with client.watch(path, prefix=True) as watcher:
            for number in range(3):
                await client.put(f"{path}/{number}", "x")
            seen = 0
            while seen < 3:
                seen += len((await watcher.receive()).events)
        assert client.statistics().calls == 3
        assert client.statistics().retries == 0
        assert client.statistics().watch_events == 3


async def test_a_call_that_is_made_again_counts_once(endpoint: str) -> None:
    faults = [ConnectionLost("it was lost", processed=False)]

    async def method(request: str) -> str:
        await trio.lowlevel.checkpoint()
        if faults:
            raise faults.pop()
        return request

    async with open_client(endpoint) as client:
        assert await call(client._channel, method, "x", repeatable=False) == "x"
        assert (client.statistics().calls, client.statistics().retries) == (1, 1)


async def test_an_event_that_needs_no_decision_does_not_make_the_next_one_slow(
    autojump_clock: object,
) -> None:
    del autojump_clock
    counts = HostCounts()
    counts.note_event()
    await trio.sleep(100)
    counts.note_settled()
    counts.note_event()
    await trio.sleep(0.02)
    counts.note_event()
    counts.note_written()
    assert counts.write_seconds == pytest.approx(0.02)
    assert counts.write_buckets()[0.01] == 0
    assert counts.write_buckets()[0.025] == 1
