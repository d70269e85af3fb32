"""A bad argument to a lock and the like is told by the call, before anything is sent."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.bad_values import KEY, OBJECT, POSITIVE, Call
from trio_sched.etcd_shim import Client, concurrency, open_client
from trio_sched.etcd_shim.concurrency import lock, try_lock
from trio_sched.etcd_shim.errors import EtcdError
from trio_sched.etcd_shim.lease import MAX_TTL
from trio_sched.simulation import MemoryEtcd

CLIENT: Final = [*OBJECT, Client, open_client("http://127.0.0.1:1")]
TTL: Final = [*POSITIVE, MAX_TTL + 1]


def calls(client: Any) -> dict[str, Call]:
    """Return a call for each public name; of a class, for each method that takes something."""
    good = {"client": client, "name": "/n"}
    return {
        "lock": Call(lock, {"client": CLIENT, "name": KEY, "ttl": TTL}, good),
        "try_lock": Call(try_lock, {"client": CLIENT, "name": KEY, "ttl": TTL}, good),
    }


# What the package gives.
GIVEN: Final = {"HeldLock"}


def test_f72_the_table_has_all_that_is_public() -> None:
    public = {
        name
        for name in concurrency.__all__
        if not (
            isinstance(each := getattr(concurrency, name), type) and issubclass(each, EtcdError)
        )
    }
    assert {name.partition(".")[0] for name in calls(None)} | GIVEN == public


@pytest.mark.parametrize("name", calls(None))
async def test_f72_each_call_tells_before_anything_is_sent(name: str) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        call = calls(client)[name]
        assert not call.missing()
        assert not await call.wrong()
        assert not etcd.cluster.refusals.counts
