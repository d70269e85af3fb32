"""A bad argument to the scheduler is told by the call that it is given to, and harms no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, nan
from typing import Any, Final

import pytest
import trio

from tests.bad_values import (
    ASYNC,
    FLAG,
    NAME,
    OBJECT,
    POSITIVE,
    SECONDS,
    TEXT,
    Call,
    Values,
    or_none,
)
from tests.helpers import until
from tests.host.test_patience import PATH, fleet, in_no_time
from trio_sched import Client, Control, Result, observe, open_client, register, schedule
from trio_sched.host.result import HostChanges
from trio_sched.simulation import MemoryEtcd, World, simulate
from trio_sched.testing import check_strategy, open_etcd

HOSTNAME: Final[Values] = [*NAME, "a,b", "a/b"]
PATHS: Final[Values] = [*NAME, "jobs", "/jobs/", b"/jobs"]
MAX_COUNT: Final[Values] = [*POSITIVE, 2**31]
STRATEGY: Final[Values] = [None, 5, b"x", [], "nonesuch", ""]
CLIENT: Final[Values] = [*OBJECT, Client]
SIZED: Final[Mapping[str, Values]] = {
    "weight": [None, "x", True, 0, -1, nan, inf, 1e7],
    "zone": or_none([*NAME, "z" * 256]),
    "priority": [None, "x", 1.5, True, 2**31, -(2**31) - 1],
    "data": [5, "x", ["x"], {5: 5}, {"x": object()}, {"x": nan}, {"x": "y" * 2**17}],
}
SCHEDULE: Final = Call(
    schedule,
    {
        "client": CLIENT,
        "path": PATHS,
        "hostname": HOSTNAME,
        "strategy": STRATEGY,
        "max_count": MAX_COUNT,
        "session_ttl": [*POSITIVE, 10**12],
        "reuse_lease": FLAG,
        "hosts_filter": ["host", b"x", 5, [5], ["a,b"], [None]],
        **SIZED,
        "health_check": ASYNC,
        "health_interval": SECONDS,
        "shutdown_timeout": or_none([each for each in SECONDS if each != 0]),
        "logger": ["x", 5, [], OBJECT[-1]],
        "debug": FLAG,
        "strict": FLAG,
        "reaper": ["x", 5, None, []],
    },
    {"path": PATH, "hostname": "z"},
)
OBSERVE: Final = Call(
    observe, {"client": CLIENT, "path": PATHS, "pool": FLAG, "reconcile": SECONDS}, {"path": PATH}
)
CONTROL: Final = {
    "__init__": Call(
        Control, {"client": CLIENT, "path": PATHS, "by": [5, b"x", []]}, {"path": PATH}
    ),
    "read": Call(Control.read),
    "pause": Call(Control.pause, {"why": TEXT[:-1]}),
    "resume": Call(Control.resume),
    "drain": Call(Control.drain, {"hostname": HOSTNAME, "why": TEXT[:-1]}, {"hostname": "a"}),
    "undrain": Call(Control.undrain, {"hostname": HOSTNAME}),
    "set_count": Call(
        Control.set_count, {"max_count": or_none(MAX_COUNT), "why": TEXT[:-1]}, {"max_count": 1}
    ),
    "evict": Call(Control.evict, {"hostname": HOSTNAME, "why": TEXT[:-1]}, {"hostname": "a"}),
}
RESULT: Final = {
    "run_while_scheduled": Call(
        Result.run_while_scheduled,
        {
            "fn": [None, *ASYNC],
            "args": [],
            "grace": ["x", True, [], -1, 6, inf, nan],
            "restart": FLAG,
        },
        {"fn": trio.sleep},
    ),
    "update": Call(Result.update, SIZED, options=HostChanges),
    "drain": Call(Result.drain, {"reason": [None, 5, b"x", True]}),
    "undrain": Call(Result.undrain),
}
OTHERS: Final = {
    "register": Call(
        register,
        {"name": [*NAME[:-2], ""], "strategy": [None, 5, "x", []]},
        {"name": "x", "strategy": lambda _hosts, _options: []},
    ),
    "World": Call(World, {"plan": [None, "x", 1.5, [], True]}),
    "simulate": Call(
        simulate,
        {"strategy": STRATEGY, "trace": [None, 5, "x", []], "path": PATHS},
        {"strategy": "rr"},
    ),
    "open_etcd": Call(
        open_etcd, {"members": [None, "x", 0, -1, 1.5, True], "start_timeout": SECONDS}
    ),
    "check_strategy": Call(check_strategy, {"strategy": STRATEGY}),
}


async def nothing_wrong(call: Call, *first: object, etcd: MemoryEtcd | None = None) -> None:
    """Make all wrong calls: each tells, and etcd hears of none."""
    before = dict(etcd.cluster.refusals.counts) if etcd is not None else {}
    assert await call.wrong(*first) == []
    if etcd is not None:
        counts = etcd.cluster.refusals.counts
        writes = {"KV/Put", "KV/Txn", "Lease/LeaseGrant", "Lease/LeaseRevoke", "KV/DeleteRange"}
        assert {name: counts[name] for name in writes if counts[name] != before.get(name, 0)} == {}


@pytest.mark.parametrize("call", [SCHEDULE, OBSERVE], ids=lambda call: call.target.__name__)
async def test_f72_blocks_tell_before_anything_is_sent(call: Call) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        good = {**call.good, "client": client}
        await nothing_wrong(Call(call.target, call.bad, good), etcd=etcd)
        assert call.missing() == set()


@pytest.mark.parametrize("name", CONTROL)
async def test_f72_operators_are_told(name: str) -> None:
    etcd, call = MemoryEtcd(), CONTROL[name]
    async with etcd.open_client() as client:
        if name == "__init__":
            await nothing_wrong(Call(call.target, call.bad, {**call.good, "client": client}))
        else:
            await nothing_wrong(call, Control(client, PATH), etcd=etcd)
        assert call.missing() == set()


@pytest.mark.parametrize("name", RESULT)
@in_no_time
async def test_f72_a_host_goes_on_after_each_wrong_call(name: str) -> None:
    call = RESULT[name]
    async with fleet(MemoryEtcd(), "a", "b") as (_, (result, other)):
        await nothing_wrong(call, result)
        assert call.missing() == set()
        await result.update(weight=2)
        assert result.scheduled
        assert result.newest == other.newest == ("a",)
        assert result.statistics().sessions == 1


@pytest.mark.parametrize("name", OTHERS)
async def test_f72_the_other_functions_tell(name: str) -> None:
    await nothing_wrong(OTHERS[name])


def test_f72_the_tables_have_all_that_is_public() -> None:
    def methods(of: type) -> set[str]:
        return {
            name
            for name, each in vars(of).items()
            if not name.startswith("_") and callable(each) and not isinstance(each, property)
        }

    assert methods(Control) == CONTROL.keys() - {"__init__"}
    without = {name for name in methods(Result) if _has_no_arguments(getattr(Result, name))}
    assert methods(Result) - without == RESULT.keys() - without


def _has_no_arguments(method: Callable[..., Any]) -> bool:
    return method.__code__.co_argcount + method.__code__.co_kwonlyargcount == 1


async def test_f72_a_value_of_three_megabytes_harms_nobody_else(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await until(result, "a")
        with pytest.raises(ValueError, match="65536"):
            await result.update(data={"x": "y" * 3_000_000})
        with pytest.raises(ValueError, match="zone"):
            await result.update(zone="z" * 64 * 1024)
        await result.update(data={"x": "y"})
        assert result.statistics().sessions == 1
