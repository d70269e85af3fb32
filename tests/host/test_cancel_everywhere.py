"""A whole life, cancelled or broken off at each of its steps in turn.

The life joins, leads, decides, loses its session, joins again, sees another come
and go, runs something in a slot, and leaves. An instrument counts the steps of all
tasks, ours and those behind the scenes, and at the n-th does its deed. Whatever n
is, nothing may be left in etcd, by another client's word, and what comes out is what
was thrown in.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

from trio_sched import Client, Result, Slot, open_client, open_host, schedule
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.host import membership, sharing
from trio_sched.simulation import MemoryEtcd
from trio_sched.simulation.network import MemoryTransport

PARTS = 2  # so that each test takes its time alone

Deed = Callable[[str, str, int], Awaitable[bool]]


class Boom(Exception):
    pass


class AtStep(trio.abc.Instrument):
    """Does its deed just before the n-th step of any task."""

    def __init__(self, step: int, deed: Callable[[], object]) -> None:
        self._left = step
        self.deed = deed

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self.deed()

    @property
    def done(self) -> bool:
        return self._left <= 0


async def until(result: Result, *names: str) -> None:
    async for hosts in result:
        if hosts == names and (not names or result.scheduled):
            return


async def live_inside(client: Client, path: str, result: Result) -> None:
    """Lead, lose the session, join again, and see another come and go."""
    await until(result, "a")
    candidates = await client.get_prefix(f"{path}/election/")
    await client.delete(candidates.kvs[0].key)
    await until(result)
    await until(result, "a")
    async with schedule(client, path, "b", max_count=2, session_ttl=5):
        while result.newest != ("a", "b"):
            await result.next()
    await result.run_while_scheduled(work)


async def work(_slot: Slot) -> None:
    await trio.lowlevel.checkpoint()


async def live_on_two_paths(client: Client, path: str) -> None:
    """Do so on one of two paths of a host."""
    async with (
        open_host(client, "a", session_ttl=5) as host,
        host.schedule(f"{path}/stays"),
        host.schedule(path, max_count=2) as result,
    ):
        await live_inside(client, path, result)


async def run_path_cancelled(endpoint: str, path: str, step: int) -> bool:
    """Cancel one of two paths of a host, which goes on; nothing is left of it, or it is owed."""
    async with (
        open_client(endpoint) as client,
        open_host(client, "a", session_ttl=5) as host,
        host.schedule(f"{path}/stays"),
    ):
        with trio.CancelScope() as scope:
            at_step = AtStep(step, scope.cancel)
            trio.lowlevel.add_instrument(at_step)
            async with host.schedule(path, max_count=2) as result:
                await live_inside(client, path, result)
        trio.lowlevel.remove_instrument(at_step)
        for below in ("exchange", "election", "slots", "marks"):
            assert not (await client.get_prefix(f"{path}/{below}/")).kvs
        async with host.schedule(path, max_count=2) as again:
            await until(again, "a")
            assert host.statistics().owed == 0
        return at_step.done


async def run_cancelled_on_shared(endpoint: str, path: str, step: int) -> bool:
    """Cancel a host and its two paths from outside."""
    async with open_client(endpoint) as client:
        with trio.CancelScope() as scope:
            at_step = AtStep(step, scope.cancel)
            trio.lowlevel.add_instrument(at_step)
            await live_on_two_paths(client, path)
        trio.lowlevel.remove_instrument(at_step)
        return at_step.done


async def run_cancelled(endpoint: str, path: str, step: int) -> bool:
    """Cancel from outside; return whether the life was long enough for that."""
    async with open_client(endpoint) as client:
        with trio.CancelScope() as scope:
            at_step = AtStep(step, scope.cancel)
            trio.lowlevel.add_instrument(at_step)
            async with schedule(client, path, "a", max_count=2, session_ttl=5) as result:
                await live_inside(client, path, result)
        trio.lowlevel.remove_instrument(at_step)
        return at_step.done


async def run_broken_off(endpoint: str, path: str, step: int) -> bool:
    """Raise from the body, in place of whatever it is waiting for."""
    boom = Boom()
    caught: Boom | None = None
    async with open_client(endpoint) as client:
        with trio.CancelScope() as outside:
            at_step = AtStep(step, outside.cancel)
            trio.lowlevel.add_instrument(at_step)
            try:
                async with schedule(client, path, "a", max_count=2, session_ttl=5) as result:
                    with trio.CancelScope() as inside:
                        at_step.deed = inside.cancel
                        await live_inside(client, path, result)
                    at_step.deed = outside.cancel
                    if inside.cancelled_caught:
                        raise boom
            except Boom as exc:
                caught = exc
        trio.lowlevel.remove_instrument(at_step)
        if caught is not None:
            assert caught is boom
            assert (caught.__cause__, caught.__context__) == (None, None)
        return at_step.done


async def run_interrupted(endpoint: str, path: str, step: int) -> bool:
    """Press Ctrl-C."""
    async with open_client(endpoint) as client:
        at_step = AtStep(step, lambda: signal.raise_signal(signal.SIGINT))
        trio.lowlevel.add_instrument(at_step)
        async with schedule(client, path, "a", max_count=2, session_ttl=5) as result:
            await live_inside(client, path, result)
        trio.lowlevel.remove_instrument(at_step)
        return at_step.done


async def run_interrupted_on_shared(endpoint: str, path: str, step: int) -> bool:
    """Press Ctrl-C while a host is on two paths."""
    async with open_client(endpoint) as client:
        at_step = AtStep(step, lambda: signal.raise_signal(signal.SIGINT))
        trio.lowlevel.add_instrument(at_step)
        await live_on_two_paths(client, path)
        trio.lowlevel.remove_instrument(at_step)
        return at_step.done


def run(deed: Deed, endpoint: str, path: str, step: int) -> bool:
    """Run in a Trio of its own; one KeyboardInterrupt, not in a group, is what Ctrl-C gives."""
    try:
        return trio.run(deed, endpoint, path, step)
    except KeyboardInterrupt:
        assert deed in {run_interrupted, run_interrupted_on_shared}
        return True


async def leftovers(endpoint: str, path: str, before: set[int]) -> tuple[list[bytes], set[int]]:
    async with open_client(endpoint) as witness:
        keys = [kv.key for kv in await witness.get_prefix(f"{path}/")]
        return keys, set(await witness.lease_list()) - before


async def leases(endpoint: str) -> set[int]:
    async with open_client(endpoint) as witness:
        return set(await witness.lease_list())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(
    "deed",
    [
        run_cancelled,
        run_broken_off,
        run_interrupted,
        run_path_cancelled,
        run_cancelled_on_shared,
        run_interrupted_on_shared,
    ],
)
def test_f9_f10_f27_nothing_is_left_at_any_step(
    endpoint: str, path: str, deed: Deed, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Joining again at once, as hundreds of lives are lived here.
    for module in (membership, sharing):
        monkeypatch.setattr(module, "Backoff", lambda **_: Backoff(first=0.001, cap=0.001))
    before = trio.run(leases, endpoint)
    step = part + 1
    while run(deed, endpoint, path, step):
        assert trio.run(leftovers, endpoint, path, before) == ([], set()), f"at step {step}"
        step += PARTS
    assert step > 100, "a whole life has more steps than that"


@pytest.mark.parametrize("kind", ["schedule", "open_host"])
def test_f27_ctrl_c_that_finds_the_connecting_task_ends_the_block_at_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python raises it in whatever runs. Who waits for the connection then has to clean up."""

    async def interrupted(*_: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    async def main() -> None:
        async with MemoryEtcd().open_client() as client:
            if kind == "schedule":
                async with schedule(client, "/p", "a"):
                    pass
            async with open_host(client, "a"):
                pass

    async def timed() -> float:
        began = trio.current_time()
        with pytest.raises(KeyboardInterrupt):
            await main()
        return trio.current_time() - began

    monkeypatch.setattr(MemoryTransport, "open_stream", interrupted)
    assert trio.run(timed, clock=MockClock(autojump_threshold=0)) < 1
