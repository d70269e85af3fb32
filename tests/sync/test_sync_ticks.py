"""Once per key, and once per tick, from code that blocks; on a real etcd."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

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
