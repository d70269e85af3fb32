"""The scheduler from blocking code, on a real etcd: threads, signals, forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextvars import ContextVar
from pathlib import Path
from typing import cast

import pytest
import trio

from tests.places import ROOT
from tests.sync.interrupted import Interrupted
from trio_sched import EndOfResults, EtcdError, HostnameInUse, Hosts
from trio_sched.etcd_shim import Compare, Put
from trio_sched.sync import (
    SyncClient,
    SyncObservation,
    SyncSlot,
    observe,
    open_client,
    open_host,
    schedule,
)
from trio_sched.sync._portal import Portal
from trio_sched.testing._ports import free_ports


def until(result: SyncObservation, *names: str) -> Hosts:
    return next(hosts for hosts in result if hosts == names)


def nothing_is_left(client: SyncClient, path: str) -> bool:
    return not client.get_prefix(f"{path}/").count


def no_thread_is_left() -> bool:
    return not [each for each in threading.enumerate() if each.name == "trio_sched.sync"]


def test_two_hosts_agree_and_leave_nothing(endpoint: str, path: str) -> None:
    with open_client(endpoint) as client:
        with schedule(client, path, "a", max_count=2) as one:
            with schedule(client, path, "b", max_count=2) as other:
                assert until(one, "a", "b") == until(other, "a", "b")
                assert one.scheduled
                assert 0 < one.deadline - time.monotonic() <= 10
                assert one.wait_scheduled() == ("a", "b")
                other.update(zone="north")
                other.drain()
                until(one, "a")
                other.undrain()
                until(one, "a", "b")
            until(one, "a")
            one.shutdown()
            with pytest.raises(EndOfResults):
                one.next()
            assert list(one) == []
        assert nothing_is_left(client, path)
    assert no_thread_is_left()
    with pytest.raises(RuntimeError, match="left"):
        client.get("/x")


def test_work_runs_in_the_thread_that_asks_and_is_asked_to_stop(endpoint: str, path: str) -> None:
    begun, seen = threading.Event(), list[str]()
    here = threading.get_ident()

    def work(slot: SyncSlot, stop: threading.Event, name: str) -> str:
        assert threading.get_ident() == here
        assert slot.deadline > time.monotonic()
        assert not slot.lost
        assert slot.txn([], [Put(f"{path}/written", name)]).succeeded
        assert slot.token in slot.read_roster().tokens
        seen.append(f"{name} begins")
        begun.set()
        if len(seen) == 1:
            assert stop.wait(20)
            assert slot.lost
        seen.append(f"{name} ends")
        return f"token {slot.token}"

    def delete_slot(client: SyncClient) -> None:
        begun.wait()
        (slot,) = client.get_prefix(f"{path}/slots/").kvs
        client.delete(slot.key)

    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        other = threading.Thread(target=delete_slot, args=(client,))
        other.start()
        assert result.run_while_scheduled(work, "it").startswith("token ")
        other.join()
        assert seen == ["it begins", "it ends"] * 2
        assert not client.get_prefix(f"{path}/slots/").count

        def fail(_slot: SyncSlot, _stop: threading.Event) -> None:
            raise KeyError("of the work")

        with pytest.raises(KeyError, match="of the work"):
            result.run_while_scheduled(fail)
        assert not client.get_prefix(f"{path}/slots/").count


def test_a_process_under_a_slot_that_is_lost_is_ended_and_work_begins_anew(
    endpoint: str, path: str, tmp_path: Path
) -> None:
    slots: list[SyncSlot] = []
    pids = tmp_path / "pids"
    begun = threading.Event()

    def work(slot: SyncSlot, stop: threading.Event) -> str:
        slots.append(slot)
        if len(slots) > 1:
            done = slot.run_process(["echo", "it"], capture_stdout=True)
            with pytest.raises(subprocess.CalledProcessError):
                slot.run_process(["false"])
            with pytest.raises(TypeError):
                slot.run_process(["true"], task_status=None)
            return done.stdout.decode()
        begun.set()
        with pytest.raises(CancelledError):
            slot.run_process(f"sleep 300 & echo $! > {pids}; wait", shell=True)
        assert stop.is_set()
        slot.run_process(["touch", str(tmp_path / "never")])  # which raises at once
        raise AssertionError("not reached")

    def delete_slot(client: SyncClient) -> None:
        begun.wait()
        while not (pids.exists() and pids.read_text().endswith("\n")):
            time.sleep(0.01)
        (slot,) = client.get_prefix(f"{path}/slots/").kvs
        client.delete(slot.key)

    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        other = threading.Thread(target=delete_slot, args=(client,))
        other.start()
        assert result.run_while_scheduled(work) == "it\n"
        other.join()
    assert len(slots) == 2
    assert not (tmp_path / "never").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


def leave_while_it_works(
    client: SyncClient,
    path: str,
    work: Callable[[SyncSlot, threading.Event], None],
    begun: threading.Event,
    ended: list[str],
) -> threading.Thread:
    """Leave a path while another thread works there; return that, which notes when it ends."""
    with schedule(client, path, "a") as result:

        def run() -> None:
            with pytest.raises(EndOfResults):
                result.run_while_scheduled(work)
            ended.append("call")

        thread = threading.Thread(target=run)
        thread.start()
        begun.wait()
    return thread


def test_a_process_of_work_ends_when_the_block_is_left(endpoint: str, path: str) -> None:
    begun, ended = threading.Event(), list[str]()

    def work(slot: SyncSlot, _stop: threading.Event) -> None:
        begun.set()
        slot.run_process(["sleep", "300"])

    with open_client(endpoint) as client:
        leave_while_it_works(client, path, work, begun, ended).join()
        assert ended == ["call"]
        assert nothing_is_left(client, path)


def test_leaving_the_block_asks_work_in_another_thread_to_stop(endpoint: str, path: str) -> None:
    begun, ended = threading.Event(), list[str]()

    def work(_slot: SyncSlot, stop: threading.Event) -> None:
        begun.set()
        stop.wait(20)
        ended.append("work")

    with open_client(endpoint) as client:
        thread = leave_while_it_works(client, path, work, begun, ended)
        assert ended[0] == "work"
        thread.join()
        assert ended == ["work", "call"]
        assert nothing_is_left(client, path)


def test_what_ends_the_block_is_raised_by_what_waits_and_by_leaving(
    endpoint: str, path: str
) -> None:
    def broken(_hosts: object, _options: object) -> list[str]:
        raise ValueError("of the strategy")

    with open_client(endpoint) as client:
        with pytest.raises(Exception, match="of the strategy") as caught:
            with schedule(client, path, "a", strategy=broken, strict=True) as result:
                result.wait_unscheduled()
                result.next()
        assert type(caught.value).__name__ == "StrategyError"
        with schedule(client, path, "b", session_ttl=2) as result:
            until(result, "b")
            with pytest.raises(HostnameInUse), schedule(client, path, "b", session_ttl=2):
                pass
            with pytest.raises(LookupError), schedule(client, f"{path}/x", "b"):
                raise LookupError
        assert nothing_is_left(client, path)


def test_a_host_on_many_paths_with_a_health_check(endpoint: str, path: str) -> None:
    healthy = threading.Event()
    with (
        open_client(endpoint) as client,
        open_host(client, "a", health_check=healthy.is_set, health_interval=0.05) as host,
        host.schedule(f"{path}/one") as one,
        host.schedule(f"{path}/other") as other,
        observe(client, f"{path}/one") as decisions,
        observe(client, f"{path}/one", pool=True) as everything,
    ):
        healthy.set()
        until(one, "a")
        until(other, "a")
        until(decisions, "a")
        assert next(state for state in everything if state.hosts == ("a",)).pool.keys() == {"a"}
        host.drain("so")
        until(other)
        host.undrain()
        host.update(weight=2)
        assert host.statistics().paths == 2
        assert one.statistics().sessions == 1


def test_the_client_is_an_etcd_client(endpoint: str, path: str) -> None:
    with open_client(endpoint) as client:
        key = f"{path}/key"
        with client.watch(key) as events:
            client.put(key, "one")
            assert next(events).kv.value == b"one"
        assert client.txn([Compare.version(key, "==", 1)], [Put(key, "two")]).succeeded
        with client.open_lease(5) as kept:
            client.put(f"{path}/leased", "x", lease=kept.id)
            assert kept.alive
        assert client.get(f"{path}/leased").kv is None
        with client.follow(f"{path}/") as follower:
            assert [kv.value for kv in follower.first] == [b"two"]
            client.delete(key)
            assert next(follower).kv.key == key.encode()
        assert client.statistics().calls
        with pytest.raises(AttributeError):
            _ = client.nothing_of_that_name


def test_many_threads_share_a_client(endpoint: str, path: str) -> None:
    with open_client(endpoint) as client:

        def put(number: int) -> None:
            for step in range(20):
                client.put(f"{path}/{number}/{step}", "x")

        threads = [threading.Thread(target=put, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.get_prefix(f"{path}/").count == 200


PROGRAM = """
import sys, threading
from trio_sched.sync import open_client, schedule
def work(slot, stop):
    print("works", flush=True)
    threading.Event().wait(60)
with open_client(sys.argv[1]) as client, schedule(client, sys.argv[2], "a") as result:
    if sys.argv[3] == "work":
        result.run_while_scheduled(work)
    elif sys.argv[3] == "wait":
        result.next()
        print("works", flush=True)
        result.wait_unscheduled()
    else:
        result.next()
        result.drain()
        print("works", flush=True)
        result.run_while_scheduled(work)
"""


@pytest.mark.parametrize("what", ["work", "wait", "turn"])
def test_ctrl_c_ends_what_blocks_and_nothing_is_left(
    endpoint: str, path: str, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, file, endpoint, path, what],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "works\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    with open_client(endpoint) as client:
        assert nothing_is_left(client, path)


OPEN_AT_EXIT = """
import os, sys, threading
from trio_sched.sync import open_client, schedule
_, endpoint, path, what = sys.argv
def decisions():
    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        yield from result
def work(slot, stop):
    begun.set()
    stop.wait()
def run():
    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        result.run_while_scheduled(work)
if what == "generator":
    thrown_away = decisions()
    next(thrown_away)
elif what == "block":
    block = open_client(endpoint)
    inner = schedule(block.__enter__(), path, "a")
    inner.__enter__().next()
elif what == "thread":
    begun = threading.Event()
    threading.Thread(target=run, daemon=True).start()
    begun.wait()
else:
    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        result.next()
        if pid := os.fork():
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert result.scheduled
        else:
            sys.exit(7)
"""


@pytest.mark.parametrize("what", ["generator", "block", "thread", "fork"])
def test_what_is_open_when_the_interpreter_ends_is_left(
    endpoint: str, path: str, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "program.py"
    file.write_text(OPEN_AT_EXIT)
    subprocess.run(
        [sys.executable, file, endpoint, path, what],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=20,
    )
    with open_client(endpoint) as client:
        assert nothing_is_left(client, path)


def test_what_the_client_gives_is_for_blocking_code_too(endpoint: str, path: str) -> None:
    with open_client(endpoint) as client:
        inner = client.namespace(path)
        inner.put("/key", "x")
        assert [kv.key for kv in inner.get_prefix("/")] == [b"/key"]
        assert (client.get(f"{path}/key")).value == b"x"
        with schedule(inner, "/jobs", "a") as result:
            assert result.next() == ("a",)
            assert (client.get(f"{path}/jobs/scheduled")).value == b"a"
        assert (client.maintenance.hash_kv()).revision
        assert len(client.cluster.member_list()) == 1
        assert isinstance(client.auth.user_list(), tuple)
        with client.maintenance.open_snapshot() as parts:
            for part in parts:
                assert part


def test_context_variables_of_the_caller_are_those_of_what_it_has_called(
    endpoint: str, path: str
) -> None:
    mine = ContextVar("mine", default="")
    checked: list[str] = []

    def check() -> bool:
        checked.append(mine.get())
        return True

    with open_client(endpoint) as client:
        mine.set("of the block")
        with schedule(client, path, "a", health_check=check) as result:
            result.wait_scheduled()
    assert set(checked) == {"of the block"}


def test_ctrl_c_in_the_moment_in_which_work_may_begin_does_not_hang(
    endpoint: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn was given, and is not taken any more: so it ends, and the slot is freed."""

    monkeypatch.setattr("queue.SimpleQueue", Interrupted)
    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with pytest.raises(KeyboardInterrupt):
            result.run_while_scheduled(lambda _slot, _stop: None)
        monkeypatch.undo()
        assert not client.get_prefix(f"{path}/slots/").count
        assert result.run_while_scheduled(lambda slot, _stop: slot.token) > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks in programs with threads
def test_after_a_fork_it_is_refused(endpoint: str, path: str) -> None:
    with open_client(endpoint) as client, schedule(client, path, "a") as result:
        result.next()
        pid = os.fork()
        if not pid:  # in the child, where nothing of pytest may go on
            code = 1
            try:
                client.get("/x")
            except RuntimeError as exc:
                code = 0 if "fork" in str(exc) else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert result.scheduled


def test_an_etcd_that_is_away_is_an_error(path: str) -> None:
    (port,) = free_ports(1)
    with pytest.raises(EtcdError):
        with open_client(f"http://127.0.0.1:{port}", connect_timeout=0.2) as client:
            with schedule(client, path, "a"):
                pass
    assert no_thread_is_left()


def test_bad_arguments_are_errors_at_the_call(endpoint: str, path: str) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        open_client("nonsense://")
    with open_client(endpoint) as client:
        with pytest.raises(TypeError, match="SyncClient"):
            schedule(client.trio_client, path, "a")  # type: ignore[arg-type] # on purpose
        with pytest.raises(TypeError):
            schedule(client, path, "a", health_check=5)  # type: ignore[arg-type] # likewise
        with pytest.raises(ValueError, match="path"), schedule(client, "x", "a"):
            pass
        with schedule(client, path, "a") as result:
            with pytest.raises(TypeError):
                result.run_while_scheduled(5)  # type: ignore[arg-type] # likewise
            with pytest.raises(ValueError, match="grace"):
                result.run_while_scheduled(lambda _slot, _stop: None, grace=100)


def test_it_works_beside_a_program_of_trio(endpoint: str, path: str) -> None:
    """From a worker thread of it; it has a thread, and a Trio, of its own."""

    def block() -> None:
        with open_client(endpoint) as client:
            client.put(f"{path}/x", "y")

    async def main() -> None:
        await trio.to_thread.run_sync(block)

    trio.run(main)


def test_threads_that_call_while_the_block_is_left_get_an_error_and_none_hangs(
    endpoint: str, path: str
) -> None:
    ended: list[BaseException] = []

    def call(client: SyncClient) -> None:
        try:
            while True:
                client.get(path)
        except BaseException as exc:  # noqa: BLE001 # looked at below
            ended.append(exc)

    for _ in range(10):
        with open_client(endpoint) as client:
            threads = [threading.Thread(target=call, args=(client,), daemon=True) for _ in range(8)]
            for thread in threads:
                thread.start()
            client.get(path)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert {type(exc).__name__ for exc in ended} <= {"RuntimeError", "ClientClosed"}, ended
    assert no_thread_is_left()


def test_a_call_that_comes_while_the_thread_ends_is_refused() -> None:
    class Closed:
        def start_soon(self, _fn: object) -> None:
            raise RuntimeError("Nursery is closed to new arrivals")

    portal = Portal()
    portal._nursery = cast("trio.Nursery", Closed())
    with pytest.raises(RuntimeError, match="left"):
        portal.call(trio.sleep, 0)
    portal.close()
