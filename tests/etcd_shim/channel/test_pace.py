"""How often a client connects where that comes to nothing (F69)."""

from __future__ import annotations

import pytest
import trio

from tests.host.test_patience import in_no_time
from trio_sched.etcd_shim import Client, EtcdError
from trio_sched.etcd_shim.channel._pace import Pace
from trio_sched.simulation import MemoryEtcd
from trio_sched.simulation.network import Network

SECONDS = 60
CALLERS = 200


@in_no_time
async def test_the_first_attempts_are_made_at_once_and_a_good_one_begins_anew() -> None:
    pace = Pace()
    pauses = []
    for _ in range(30):
        pauses.append(pace.pause)
        pace.failed()
    assert pauses[:3] == [0, 0, 0]
    assert all(0 < pause <= 0.5 for pause in pauses[3:])
    await trio.sleep(0.5)
    assert pace.pause == 0
    pace.failed()
    assert pace.pause > 0
    pace.worked()
    assert pace.pause == 0


async def insist(client: Client) -> None:
    while True:
        try:
            await client.get("k")
        except EtcdError:
            await trio.sleep(0.05)


@pytest.mark.parametrize("hung_up", [False, True], ids=["refused", "accepted and hung up"])
@in_no_time
async def test_f69_where_connecting_is_in_vain_it_is_no_storm(hung_up: bool) -> None:
    etcd = MemoryEtcd()
    connects = 0
    real_connect = Network.connect

    async def connect(self: Network, host: str, url: str, make: object) -> object:
        nonlocal connects
        connects += 1
        if not in_vain:
            return await real_connect(self, host, url, make)  # type: ignore[arg-type] # as given
        if not hung_up:
            raise ConnectionRefusedError
        stream = await real_connect(self, host, url, make)  # type: ignore[arg-type] # as given
        for path in etcd.network.paths(host).values():
            path.cut()
        return stream

    in_vain = True
    async with etcd.open_client() as client, trio.open_nursery() as nursery:
        etcd.network.connect = connect.__get__(etcd.network)  # type: ignore[method-assign]
        for _ in range(CALLERS):
            nursery.start_soon(insist, client)
        await trio.sleep(SECONDS)
        assert 0 < connects <= 5 * SECONDS
        in_vain = False
        with trio.fail_after(1):
            assert (await client.put("k", "1")).revision == 2
        nursery.cancel_scope.cancel()
