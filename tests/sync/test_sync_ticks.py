"""Once per key, and once per tick, from code that blocks; on a real etcd."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.sync.interrupted import Interrupted
from trio_sched import TickSchedule
from trio_sched.sync import SyncClient, SyncSlot, open_client, schedule

TIMEOUT = 20


def test_a_key_is_done_once_on_one_of_two_hosts(endpoint: str, path: str) -> None:
    done: list[tuple[str, int]] = []

    def work(_slot: SyncSlot, stop: threading.Event, name: str) -> int:
        assert not stop.is_set()
        done.append((name, threading.get_ident()))
        return len(done)

    with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as one,
        schedule(client, path, "b") as other,
        ThreadPoolExecutor() as threads,
    ):
        runs = [threads.submit(each.run_once, "order-7", work, "it") for each in (one, other)]
        outcomes = [run.result(TIMEOUT) for run in runs]
        assert [name for name, _ in done] == ["it"]
        assert sorted(outcome.ran for outcome in outcomes) == [False, True]
        assert not one.run_once("order-7", work, "again").ran
        with pytest.raises(TypeError):
            one.run_once("order-8", 5)  # type: ignore[arg-type] # that is the point
        with pytest.raises(ValueError, match="key"):
            one.run_once("a/b", work, "it")
        client.delete_prefix(f"{path}/ticks")


def test_what_returns_after_it_was_asked_to_stop_is_not_done(endpoint: str, path: str) -> None:
    begun, seen = threading.Event(), list[bool]()

    def work(_slot: SyncSlot, stop: threading.Event) -> None:
        begun.set()
        if not seen:
            assert stop.wait(TIMEOUT)
        seen.append(stop.is_set())

    def delete_slot(client: SyncClient) -> None:
        begun.wait()
        (slot,) = client.get_prefix(f"{path}/slots/").kvs
        client.delete(slot.key)

    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        other = threading.Thread(target=delete_slot, args=(client,))
        other.start()
        assert result.run_once("key", work).ran
        other.join()
        assert seen == [True, False]
        client.delete_prefix(f"{path}/ticks")


def test_ticks_one_after_the_other(endpoint: str, path: str) -> None:
    names: list[str] = []

    def work(_slot: SyncSlot, _stop: threading.Event, name: str) -> None:
        names.append(name)
        if len(names) == 3:
            raise KeyError("enough")

    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with pytest.raises(KeyError, match="enough"):
            result.run_ticks(TickSchedule(1), work)
        client.delete_prefix(f"{path}/ticks")
    assert names == sorted(set(names))
    assert len(names) == 3


def test_ctrl_c_before_it_begins_leaves_it_undone(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was claimed, and its turn is not taken: so it is not done, and the next call does it."""

    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        monkeypatch.setattr("queue.SimpleQueue", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            result.run_once("key", lambda _slot, _stop: None)
        monkeypatch.undo()
        assert not client.get_prefix(f"{path}/slots/").count
        outcome = result.run_once("key", lambda slot, _stop: slot.token)
        assert outcome.ran
        assert outcome.value is not None
        client.delete_prefix(f"{path}/ticks")


class Later:
    """What can be called, and gives what has to be awaited."""

    async def __call__(self, *_: object) -> bool:
        return True


async def later(*_: object) -> bool:
    await asyncio.sleep(0)
    return True


ASYNC = {"a function": later, "a partial": partial(later, 1), "an object": Later()}


@pytest.mark.parametrize("fn", ASYNC.values(), ids=ASYNC)
def test_an_async_function_is_refused_before_anything_is_done(
    endpoint: str, path: str, fn: Any
) -> None:
    """It would come back at once, and what it has not done would be recorded as done."""
    with open_client(endpoint) as client:
        with schedule(client, path, "a") as result:
            with pytest.raises(TypeError, match="must not be async"):
                result.run_once("key", fn)
            with pytest.raises(TypeError, match="must not be async"):
                result.run_ticks(TickSchedule(1), fn)
            with pytest.raises(TypeError, match="must not be async"):
                result.run_while_scheduled(fn)
            assert not client.get_prefix(f"{path}/ticks").count
        with pytest.raises(TypeError, match="must not be async"):
            schedule(client, path, "b", health_check=fn)


def test_what_gives_what_has_to_be_awaited_is_an_error_and_not_healthy(
    endpoint: str, path: str
) -> None:
    """That of a lambda shows when it is called only."""
    asked = threading.Event()
    undone: Any = lambda *_: later()  # noqa: E731 # a lambda is what it is about

    def check() -> Any:
        asked.set()
        return later()

    with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as well,
        schedule(client, path, "b", strategy="alpha", health_check=check) as ill,
    ):
        well.wait_scheduled()
        with pytest.raises(TypeError, match="must not be async"):
            well.run_while_scheduled(undone)
        assert asked.wait(TIMEOUT)
        well.shutdown()
        # It leads now, and would choose itself.
        while (hosts := ill.next()).leader != "b":
            pass
        assert not ill.scheduled
        assert hosts == ()
