"""A bad argument to the scheduler, its tools for tests, or a simulation is told by the call."""

from __future__ import annotations

import inspect
from datetime import UTC, time, timedelta, timezone
from math import inf, nan
from typing import Any, Final

import pytest
import trio

import trio_sched
from tests.bad_values import (
    ASYNC,
    CHOICE,
    COUNT,
    FLAG,
    INT64,
    NAME,
    OBJECT,
    POSITIVE,
    SECONDS,
    SEQUENCE,
    Call,
    Values,
    or_none,
)
from trio_sched import (
    Client,
    Control,
    LocalHost,
    Result,
    TickSchedule,
    observe,
    open_client,
    open_host,
    read_ticks,
    register,
    schedule,
    simulation,
    testing as tools,
)
from trio_sched.host.result import HostChanges
from trio_sched.reaper.owner import Reaper, open_reaper
from trio_sched.simulation import (
    Action,
    MemoryEtcd,
    Plan,
    Trace,
    TraceEvent,
    World,
    simulate,
    svg_chart,
    text_chart,
)
from trio_sched.testing import check_strategy, etcd_in_a_thread, open_etcd, open_faulty_link

CLIENT: Final = [*OBJECT, Client, open_client("http://127.0.0.1:1")]
PATH: Final = [*NAME, "p", "/p/", "/", "/" + "p" * 5000]
HOSTNAME: Final = [*NAME, "a,b", "a/b", "a" * 2000]
MAX_COUNT: Final = [*POSITIVE, 2**31]
STRATEGY: Final[Values] = [
    None,
    5,
    [],
    b"rr",
    "nonesuch",
    "",
    "\ud800",
    "x" * 3_000_000,
    dict,
    print,
]
WEIGHT: Final[Values] = [None, True, "1", [], 0, -1, nan, inf, 10**7]
ZONE: Final[Values] = [5, b"x", [], True, "", "z" * 256, "\ud800"]
PRIORITY: Final = [*INT64, 2**31, -(2**31) - 1]
DATA: Final[Values] = [
    5,
    "x",
    [],
    {5: 1},
    {"a": nan},
    {"a": object()},
    {"a": "\ud800"},
    {"a": "x" * 70_000},
]
TEXT_OR_NOT: Final[Values] = [5, 1.5, b"x", [], True]
HOST: Final[dict[str, Values]] = {"weight": WEIGHT, "zone": ZONE, "priority": PRIORITY}

SCHEDULE: Final = Call(
    schedule,
    {
        "client": CLIENT,
        "path": PATH,
        "hostname": HOSTNAME,
        "strategy": STRATEGY,
        "max_count": MAX_COUNT,
        "session_ttl": [*POSITIVE, 3_000_000_001],
        "reuse_lease": FLAG,
        "hosts_filter": [5, True, "x", b"x", [5], ["a,b"], [""], [f"{n:099}" for n in range(999)]],
        **HOST,
        "data": DATA,
        "health_check": or_none(ASYNC),
        "health_interval": SECONDS,
        "shutdown_timeout": [each for each in or_none(SECONDS) if each != 0],
        "logger": or_none(OBJECT),
        "debug": FLAG,
        "strict": FLAG,
        "takeover_pause": [*(each for each in SECONDS if each != 0), 3601],
        "reaper": [each for each in OBJECT if each is not True],
    },
)
OPEN_HOST: Final = Call(
    open_host,
    {
        name: bad
        for name, bad in SCHEDULE.bad.items()
        if name
        not in {
            *("path", "strategy", "max_count", "reuse_lease", "hosts_filter", "strict"),
            "takeover_pause",
        }
    },
)
LOCAL_HOST: Final = {
    "schedule": Call(
        LocalHost.schedule,
        {
            name: SCHEDULE.bad[name]
            for name in (
                "path",
                "strategy",
                "max_count",
                "hosts_filter",
                "strict",
                "takeover_pause",
            )
        },
        {"path": "/p"},
    ),
    "update": Call(LocalHost.update, {**HOST, "data": DATA, "colour": ["x"]}, options=HostChanges),
    "drain": Call(LocalHost.drain, {"reason": [None, *TEXT_OR_NOT]}),
    "undrain": Call(LocalHost.undrain),
    "statistics": Call(LocalHost.statistics),
}
OBSERVE: Final = Call(observe, {"client": CLIENT, "path": PATH, "pool": FLAG, "reconcile": SECONDS})
WHY: Final = [None, *TEXT_OR_NOT]
CONTROL: Final = {
    "read": Call(Control.read),
    "pause": Call(Control.pause, {"why": WHY}),
    "resume": Call(Control.resume),
    "drain": Call(Control.drain, {"hostname": HOSTNAME, "why": WHY}, {"hostname": "a"}),
    "undrain": Call(Control.undrain, {"hostname": HOSTNAME}),
    "set_count": Call(
        Control.set_count, {"max_count": or_none(MAX_COUNT), "why": WHY}, {"max_count": 1}
    ),
    "evict": Call(Control.evict, {"hostname": HOSTNAME, "why": WHY}, {"hostname": "a"}),
}


async def work(*_: object) -> None:
    await trio.lowlevel.checkpoint()
    raise AssertionError("run")


RESULT: Final = {
    "run_while_scheduled": Call(
        Result.run_while_scheduled,
        {
            "fn": [None, *ASYNC],
            "args": [],
            "grace": [*or_none(SECONDS[1:6]), -1, nan, inf, 6.0],
            "restart": FLAG,
        },
        {"fn": work},
    ),
    "run_once": Call(
        Result.run_once,
        {
            "key": [*NAME, "a/b", "k" * 256, "\n"],
            "fn": [None, *ASYNC],
            "args": [],
            "keep": POSITIVE,
            "on_crash": [None, *CHOICE],
            "attempts": [*POSITIVE, 1001],
            "grace": [*or_none(SECONDS[1:6]), -1, nan, inf, 6.0],
        },
        {"key": "k", "fn": work},
    ),
    "run_ticks": Call(
        Result.run_ticks,
        {
            "schedule": OBJECT,
            "fn": [None, *ASYNC],
            "on_crash": [None, *CHOICE],
            "attempts": [*POSITIVE, 1001],
            "grace": [*or_none(SECONDS[1:6]), -1, nan, inf, 6.0],
            "each": [None, 5, "x", [], trio.sleep],
            "code_of": [None, 5, "x", [], trio.sleep],
        },
        {"schedule": TickSchedule(3600), "fn": work},
    ),
    "update": Call(Result.update, {**HOST, "data": DATA, "colour": ["x"]}, options=HostChanges),
    "drain": Call(Result.drain, {"reason": WHY}),
    "undrain": Call(Result.undrain),
    "shutdown": Call(Result.shutdown),
    "wait_scheduled": Call(Result.wait_scheduled),
    "wait_unscheduled": Call(Result.wait_unscheduled),
    "statistics": Call(Result.statistics),
}
BYTES: Final[list[object]] = [None, 5, 1.5, True, "x", [], bytearray(b"x")]
WORK: Final = [None, True, 5, "1", (1, 2, 3)]
REAPER: Final = {
    "hold": Call(Reaper.hold, {"lease": INT64, "ttl": SECONDS}, {"lease": 1, "ttl": 1}),
    "release": Call(Reaper.release, {"lease": INT64}),
    "group": Call(Reaper.group, {"pgid": [*or_none(POSITIVE), 1]}),
    "taken": Call(
        Reaper.taken,
        {"slot": BYTES, "mark_key": BYTES, "mark": BYTES},
        {"slot": b"s", "mark_key": b"k", "mark": b"m"},
    ),
    "freed": Call(Reaper.freed, {"slot": BYTES}),
    "work": Call(Reaper.work, {"work": WORK}),
    "over": Call(Reaper.over, {"work": WORK}),
    "until": Call(
        Reaper.until,
        {"deadline": [None, True, "1", [], nan], "work": WORK[1:]},
        {"deadline": inf, "work": None},
    ),
}

PLAN: Final = {
    "seed": INT64,
    "hosts": POSITIVE,
    "members": POSITIVE,
    "max_count": MAX_COUNT,
    "takeover_pause": [each for each in SECONDS if each != 0],
    "ttl": POSITIVE,
    "seconds": [each for each in SECONDS if each != 0],
    "actions": SEQUENCE,
    "ticks": [*COUNT, 367 * 86400],
    "shared": [*INT64, -1, 9],
}
AT: Final = [each for each in SECONDS if each != 0]
REPLAY: Final = simulate("rr", Trace((TraceEvent(0, "join", "a"),), seconds=1.0))
SIMULATION: Final = {
    "MemoryEtcd": Call(MemoryEtcd, {"members": POSITIVE}),
    "Plan": Call(Plan, PLAN, {"seed": 1}),
    "Action": Call(
        Action,
        {"at": AT, "kind": [None, *CHOICE], "target": COUNT, "seconds": AT, "variant": COUNT},
        {"at": 1.0, "kind": "die"},
    ),
    "Trace": Call(
        Trace,
        {"events": SEQUENCE, "seconds": AT, "max_count": MAX_COUNT, "ttl": SECONDS},
        {"events": ()},
    ),
    "TraceEvent": Call(
        TraceEvent,
        {
            "at": AT,
            "do": [None, *CHOICE],
            "host": HOSTNAME,
            "data": OBJECT,
            "max_count": or_none(MAX_COUNT),
        },
        {"at": 1.0, "do": "join", "host": "a"},
    ),
    "World": Call(World, {"plan": [each for each in OBJECT if each != 5]}),
    "simulate": Call(
        simulate,
        {"strategy": STRATEGY, "trace": OBJECT, "path": PATH},
        {"strategy": "rr", "trace": Trace(())},
    ),
    "svg_chart": Call(
        svg_chart, {"replay": OBJECT, "titles": or_none(SEQUENCE[:6])}, {"replay": REPLAY}
    ),
    "text_chart": Call(
        text_chart,
        {
            "replay": OBJECT,
            "width": [*POSITIVE, 39],
            "ascii_only": FLAG,
            "titles": or_none(SEQUENCE[:6]),
        },
        {"replay": REPLAY},
    ),
}
ARGS: Final = [None, 5, "x", b"x", [5]]
TOOLS: Final = {
    "autojump_clock": Call(tools.autojump_clock),
    "check_strategy": Call(
        check_strategy,
        {
            "strategy": [None, 5, [], b"rr", "nonesuch", ""],
            "full": FLAG,
            "sticky": FLAG,
            "data": [5, "x", [], {}],
            "examples": POSITIVE,
            "seed": INT64,
        },
        {"strategy": "rr"},
    ),
    "etcd_in_a_thread": Call(
        etcd_in_a_thread,
        {"heartbeat_ms": POSITIVE[:4], "election_ms": POSITIVE[:4], "extra_args": ARGS},
    ),
    "find_etcd": Call(tools.find_etcd),
    "find_etcdctl": Call(tools.find_etcdctl),
    "open_etcd": Call(
        open_etcd,
        {
            "members": POSITIVE,
            "executable": [5, 1.5, b"x", [], True],
            "client_tls": [5, "x", (), ("a", "b"), ("a", 5, None), (None, "b", None), [1, 2, 3]],
            "auth_token_ttl": or_none(POSITIVE),
            "heartbeat_ms": POSITIVE,
            "election_ms": POSITIVE,
            "ipv6": FLAG,
            "unix": FLAG,
            "extra_args": ARGS,
            "start_timeout": SECONDS,
        },
    ),
    "open_faulty_link": Call(open_faulty_link, {"endpoint": [*NAME, "x", "http://a", "http://:1"]}),
    "open_scheduled_hosts": Call(tools.open_scheduled_hosts, {"etcd": [*OBJECT, "", "\ud800"]}),
}
FUNCTIONS: Final = {
    "Control": Call(
        Control, {"client": CLIENT, "path": PATH, "by": TEXT_OR_NOT}, {"client": None, "path": "/p"}
    ),
    "Roster": Call(
        trio_sched.Roster, {"revision": COUNT, "tokens": [None, 5, "x", [1], {1}, frozenset("x")]}
    ),
    "TickSchedule": Call(
        TickSchedule,
        {
            "period": [*POSITIVE, 367 * 86400],
            "at": [*OBJECT, time(3), time(0, tzinfo=UTC), time(0, 0, 0, 1)],
            "zone": [*OBJECT, timezone(timedelta(hours=1))],
        },
        {"period": 3600},
    ),
    "read_ticks": Call(
        read_ticks,
        {"client": CLIENT[:-1], "path": PATH, "limit": COUNT},
        {"client": None, "path": "/p"},
    ),
    "known_strategies": Call(trio_sched.known_strategies),
    "open_reaper": Call(open_reaper, {"client": CLIENT}),
    "register": Call(
        register,
        {"name": [*NAME, "n" * 256, "rr"], "strategy": [None, 5, "x", [], work, print]},
        {"name": "mine", "strategy": lambda hosts, options: ()},  # noqa: ARG005 # never called
    ),
}
# What others give or raise, or what is written by who uses it; `open_client` has its own table.
GIVEN: Final = {
    *("Candidate", "Client", "ControlState", "HeldSlot", "Host", "Hosts", "Observation"),
    *("HostStatistics", "LocalHost", "PathObservation", "PathState", "Reaper", "Result"),
    *("ResultStatistics", "Slot"),
    *("Strategy", "StrategyOptions", "StrategyTracker", "Tick", "TickOutcome", "open_client"),
    *("Diary", "Replay", "ReplayedDecision", "Span", "WorldReport"),
    *("Etcd", "FaultyLink", "Member", "ScheduledHosts"),
}
ALL: Final = [
    *(SCHEDULE, OPEN_HOST, OBSERVE, *LOCAL_HOST.values()),
    *(*CONTROL.values(), *RESULT.values(), *REAPER.values()),
    *(*SIMULATION.values(), *TOOLS.values(), *FUNCTIONS.values()),
]


def test_f72_each_public_name_is_in_a_table() -> None:
    homes = {
        trio_sched: trio_sched._HOMES.keys(),
        simulation: simulation.__all__,
        tools: tools._HOMES.keys(),
    }
    public = {
        name
        for module, names in homes.items()
        for name in names
        if not (inspect.isclass(each := getattr(module, name)) and issubclass(each, Exception))
    }
    known = {*SIMULATION, *TOOLS, *FUNCTIONS, *GIVEN, "schedule", "open_host", "observe"}
    assert public == known
    for kind, table in (
        (Control, CONTROL),
        (Result, RESULT),
        (Reaper, REAPER),
        (LocalHost, LOCAL_HOST),
    ):
        methods = {name for name, each in vars(kind).items() if inspect.isfunction(each)}
        assert {name for name in methods if not name.startswith("_")} == table.keys()


@pytest.mark.parametrize("call", ALL, ids=lambda call: call.target.__qualname__)
def test_f72_each_parameter_is_in_a_table(call: Call) -> None:
    assert not call.missing() - {"colour"}


@pytest.mark.parametrize(
    "call", [SCHEDULE, OPEN_HOST, OBSERVE], ids=["schedule", "open_host", "observe"]
)
async def test_f72_a_block_tells_before_anything_is_sent(call: Call) -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        good = {"client": client, "path": "/p", "hostname": "a"}
        good = {name: value for name, value in good.items() if name in call.bad}
        assert not await Call(call.target, call.bad, good).wrong()
        assert not etcd.cluster.refusals.counts


async def test_f72_an_operator_is_told_before_anything_is_sent() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        control = Control(client, "/p", by="me")
        assert not [each for call in CONTROL.values() for each in await call.wrong(control)]
        assert not etcd.cluster.refusals.counts


async def test_f72_a_host_goes_on_after_bad_arguments() -> None:
    async with MemoryEtcd().open_client() as client, schedule(client, "/p", "a") as result:
        await result.wait_scheduled()
        assert not [each for call in RESULT.values() for each in await call.wrong(result)]
        await result.update(zone="north")
        assert result.scheduled
        assert await result.run_while_scheduled(finish) == "done"


async def test_f72_a_host_on_many_paths_goes_on_after_bad_arguments() -> None:
    async with (
        MemoryEtcd().open_client() as client,
        open_host(client, "a") as host,
        host.schedule("/p") as result,
    ):
        await result.wait_scheduled()
        assert not [each for call in LOCAL_HOST.values() for each in await call.wrong(host)]
        await host.update(zone="north")
        assert result.scheduled


async def finish(*_: object) -> str:
    await trio.lowlevel.checkpoint()
    return "done"


async def test_f72_a_reaper_takes_no_nonsense(endpoint: str) -> None:
    async with open_client(endpoint) as client, open_reaper(client) as reaper:
        assert not [each for call in REAPER.values() for each in await call.wrong(reaper)]
        assert reaper.pid is not None


@pytest.mark.parametrize("name", [*FUNCTIONS, *SIMULATION, *TOOLS])
async def test_f72_each_function_tells_at_the_call(name: str) -> None:
    call = {**FUNCTIONS, **SIMULATION, **TOOLS}[name]
    async with MemoryEtcd().open_client() as client:
        good: dict[str, Any] = {**call.good}
        if "client" in good:
            good["client"] = client
        assert not await Call(call.target, call.bad, good).wrong()


async def test_f72_a_memory_etcd_checks_what_its_methods_are_given() -> None:
    etcd = MemoryEtcd()
    opened = Call(etcd.open_client, {"host": NAME, "connect_timeout": SECONDS})
    compact = Call(etcd.compact, {"revision": INT64})
    for call in (opened, compact):
        assert not call.missing()
        assert not await call.wrong()


async def test_f72_hosts_for_tests_check_what_they_are_given() -> None:
    async with tools.open_scheduled_hosts(MemoryEtcd()) as hosts:
        for call in (
            Call(hosts.leave, {"hostname": HOSTNAME}),
            Call(hosts.kill, {"hostname": HOSTNAME}),
            Call(hosts.join, {"hostname": HOSTNAME}, {"path": "/p"}),
            Call(hosts.start_soon, {"hostname": HOSTNAME}, {"service": finish}),
            Call(hosts.start_soon, {"service": [None, *ASYNC]}, {"hostname": "a"}),
        ):
            assert not await call.wrong()
