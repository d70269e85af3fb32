"""Time that jumps, on a real etcd: what waits for the network is waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf

import pytest
import trio
from trio.testing import MockClock

from trio_sched import EtcdError, open_client, schedule
from trio_sched.etcd_shim.errors import ConnectionFailed
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import autojump_clock, clock as clock_module


def run(main: Callable[[], Awaitable[None]], clock: MockClock | None = None) -> MockClock:
    """Run in a trio of its own, by a clock that jumps."""
    clock = clock or autojump_clock()
    trio.run(main, clock=clock)
    return clock


@contextmanager
def slow_server(seconds: float) -> Iterator[str]:
    """A server that accepts a connection, waits by the real clock, and hangs up."""

    def serve() -> None:
        connection, _ = listener.accept()
        time.sleep(seconds)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def connect_to(url: str, clock: MockClock) -> tuple[str, float]:
    """Return why a server let us not in, and when that was clear."""

    async def main() -> None:
        async with open_client(url, connect_timeout=5) as client:
            await client.get("/")

    with pytest.raises(ConnectionFailed) as caught:
        run(main, clock)
    return str(caught.value), clock.current_time()


def test_an_answer_that_is_on_its_way_is_not_too_late() -> None:
    with slow_server(0.3) as url:
        reason, at = connect_to(url, autojump_clock())
    assert "says nothing" not in reason
    assert at < 5


def test_the_clock_of_trio_does_not_wait_for_it() -> None:  # why there is another
    with slow_server(0.3) as url:
        reason, at = connect_to(url, MockClock(autojump_threshold=0))
    assert "accepts connections but says nothing" in reason
    assert at >= 5


def test_calls_watches_and_leases_on_a_real_etcd(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint, connect_timeout=1) as client:
            async with (
                client.open_lease(ttl=5) as lease,
                client.watch(path) as watcher,
            ):
                for number in range(20):
                    with trio.fail_after(1):
                        await client.put(path, str(number), lease=lease.id)
                        event = await anext(watcher)
                    assert event.kv.value == str(number).encode()
                    await trio.sleep(30)
            assert client.statistics().connects == 1

    assert run(main).current_time() >= 600


def test_a_host_on_a_real_etcd_for_ten_minutes(endpoint: str, path: str) -> None:
    async def main() -> None:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            with trio.fail_after(10):
                await result.wait_scheduled()
            await trio.sleep(600)
            assert result.scheduled
            assert result.statistics().sessions == 1
            assert client.statistics().connects == 1

    assert run(main).current_time() >= 600


def test_an_etcd_in_memory_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[float] = []
    monkeypatch.setattr(clock_module._Jumper, "_set_threshold", lambda _, to: polls.append(to))

    async def main() -> None:
        async with MemoryEtcd().open_client() as client, schedule(client, "/jobs", "a") as result:
            await result.wait_scheduled()
            await trio.sleep(3600)
            assert result.scheduled

    assert run(main).current_time() >= 3600
    assert set(polls) == {0.0}


def test_a_server_that_hangs_is_waited_for_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "_MAX_WAIT", 0.2)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:  # its kernel accepts, it does not
            port = listener.getsockname()[1]
            async with open_client(f"http://127.0.0.1:{port}", connect_timeout=3) as client:
                with pytest.raises(EtcdError, match="accepts connections but says nothing"):
                    await client.get("/")
            assert trio.current_time() >= 3

    run(main)


def test_it_keeps_the_threshold_that_a_test_sets(endpoint: str) -> None:
    clock = autojump_clock()

    async def main() -> None:
        async with open_client(endpoint) as client:
            for threshold in (0.0, 0.01):
                clock.autojump_threshold = threshold
                await client.get("/")
                await trio.sleep(5)
                assert clock.autojump_threshold == threshold
            clock.autojump_threshold = inf
            before = trio.current_time()
            await client.get("/")
            assert trio.current_time() == before

    run(main, clock)


def test_it_is_a_clock_of_trios_own() -> None:
    clock = autojump_clock()
    assert isinstance(clock, MockClock)
    assert clock.autojump_threshold == 0
    clock.jump(5)
    assert clock.current_time() == 5


def test_a_trio_without_its_hook_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(MockClock, "_autojump")
    with pytest.raises(RuntimeError, match=r"this version of trio has no MockClock\._autojump"):
        autojump_clock()
