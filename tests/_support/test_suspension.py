"""What trio's clock does not count (F56), by clocks that are told."""

from __future__ import annotations

from functools import partial
from math import inf

import pytest
import trio
import trio.testing
from grpclib.const import Status

from tests.host.test_patience import PATH, in_no_time
from tests.host.test_slots import Work
from trio_sched import open_client, schedule
from trio_sched._support.suspension import (
    SystemSuspension,
    check_interval,
    lease_time,
    set_suspension,
    suspended,
)
from trio_sched.etcd_shim._keep import KeptLease
from trio_sched.etcd_shim.errors import LeaseLost, LeaseNotFound
from trio_sched.simulation import MemoryEtcd


class Clocks:
    """Two clocks; `boottime` gains on the other while the machine is suspended."""

    def __init__(self) -> None:
        self.monotonic, self.boottime = 100.0, 300.0

    def suspend(self, seconds: float) -> None:
        self.boottime += seconds

    def source(self) -> SystemSuspension:
        return SystemSuspension(lambda: self.monotonic, lambda: self.boottime)


def test_f56_what_boottime_gains_is_a_suspension() -> None:
    clocks = Clocks()
    source = clocks.source()
    assert source() == 0.0
    clocks.monotonic += 50
    clocks.boottime += 50
    assert source() == 0.0
    clocks.suspend(7.5)
    assert source() == pytest.approx(7.5)
    clocks.suspend(100)
    assert source() == pytest.approx(107.5)


def test_it_does_not_waver() -> None:
    """The two are not read in one moment: what lies in between is no suspension."""
    clocks = Clocks()
    source = clocks.source()
    for late in (0.001, 0.3, 0.0, 5.0, 0.002):
        clocks.monotonic += late  # it was read that much later
        assert source() == 0.0
        clocks.monotonic -= late
    clocks.suspend(1)
    assert source() == source() == pytest.approx(1)


async def test_by_default_the_system_is_asked() -> None:
    await trio.lowlevel.checkpoint()
    assert suspended() == suspended() >= 0.0
    assert 0 < check_interval() < inf
    before = trio.current_time()
    assert lease_time() >= before


@in_no_time
async def test_f56_a_lease_is_over_when_the_machine_was_suspended_for_too_long() -> None:
    clocks = Clocks()
    set_suspension(clocks.source())

    async def renew(_lease: int) -> int:
        await trio.sleep(1)
        clocks.suspend(3)  # after it was sent
        return 10

    kept = KeptLease(renew, 1, 10, lease_time())
    assert kept.deadline == pytest.approx(trio.current_time() + 9)
    clocks.suspend(5)
    assert kept.alive
    assert kept.deadline == pytest.approx(trio.current_time() + 4)
    with trio.move_on_after(5):
        await kept.keep_alive()
    assert kept.deadline == pytest.approx(trio.current_time() + 10 - 1 - 4 - 3, abs=2)
    clocks.suspend(20)
    assert not kept.alive


@in_no_time
async def test_f56_renewals_are_due_by_the_time_that_counts() -> None:
    clocks, sent = Clocks(), list[float]()
    set_suspension(clocks.source())

    async def renew(_lease: int) -> int:
        await trio.lowlevel.checkpoint()
        sent.append(trio.current_time())
        if len(sent) == 2:
            raise LeaseNotFound(Status.NOT_FOUND, "gone")
        return 9

    began = trio.current_time()
    kept = KeptLease(renew, 1, 9, lease_time())
    clocks.suspend(2)
    with pytest.raises(LeaseLost), trio.fail_after(60):
        await kept.keep_alive()
    assert 1 - 9 / 30 <= sent[0] - began <= 1 + 1e-3  # on the last beat before


@in_no_time
async def test_f56_work_is_ended_when_the_machine_wakes_up_too_late() -> None:
    """No timer is due, and no event comes: the clocks alone say it."""
    clocks, etcd, work = Clocks(), MemoryEtcd(), Work()
    set_suspension(clocks.source())
    async with (
        etcd.open_client(host="a") as client,
        schedule(client, PATH, "a", session_ttl=30) as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await work.wait_running(1)
        for path in etcd.network.paths("a").values():
            path.hold()
        began = trio.current_time()
        clocks.suspend(28.5)
        assert result.deadline - trio.current_time() < 1
        clocks.suspend(2)
        assert not result.scheduled
        await work.wait_running(0)
        assert trio.current_time() - began <= 0.5
        for path in etcd.network.paths("a").values():
            path.release()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [9.5, 12, 60])
async def test_f56_work_goes_on_after_it_though_the_lease_still_lives(
    seconds: float, path: str
) -> None:
    """Its deadline has passed, and so has work; etcd, which did not sleep, still renews it."""
    clocks, work, etcd = Clocks(), Work(), MemoryEtcd()
    set_suspension(clocks.source())
    async with (
        etcd.open_client() as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(partial(result.run_while_scheduled, work, restart=True))
        await work.wait_running(1)
        clocks.suspend(seconds)
        await work.wait_running(0)
        with trio.fail_after(30):
            await work.wait_running(1)
        assert result.scheduled
        assert result.statistics().sessions == 2
        nursery.cancel_scope.cancel()


async def test_a_suspension_shorter_than_the_margin_ends_nothing(endpoint: str, path: str) -> None:
    clocks, work = Clocks(), Work()
    set_suspension(clocks.source())
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(result.run_while_scheduled, work)
        await work.wait_running(1)
        clocks.suspend(3)
        assert result.scheduled
        assert work.running == 1
        nursery.cancel_scope.cancel()
