"""Worlds: what holds in them, whatever happens, and that a seed always gives the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import trio

from trio_sched.simulation.plan import KINDS, Action, Plan
from trio_sched.simulation.world import World

pytestmark = pytest.mark.usefixtures("untraced")

SEEDS = range(24)

FAILED_ONCE = {
    "a session is lost while a slot is taken": 242,
    "a session is lost while a slot is taken, by an operator's hand": 249,
    "a session is lost while a slot is taken, for want of a proof": 294,
    "a session is lost while a slot is taken, by silence": 140,
    "a restored store lets leases begin anew": 343,
}


# What worlds found once. A seed gives another world when more is drawn from it; a plan does not.
def planned(seed: int, *actions: list[Any], **options: Any) -> Plan:
    return Plan(seed, actions=tuple(Action(*each) for each in actions), **options)


FAILED_PLANS = {
    "a full etcd refuses transactions while nothing is covered that could be proven": planned(
        910003985,
        [3.239, "isolate", 0, 0.289, 5],
        [4.21, "miss", 0, 0.0, 4],
        [4.45, "die", 1, 0.415, 2],
        [9.385, "full", 0, 1.956, 5],
        [10.155, "leave", 4, 0.366, 2],
        hosts=5,
        members=1,
        max_count=2,
        ttl=3,
        seconds=12.0,
        takeover_pause=3.0,
    ),
    "operators who were held up all steer at once": planned(
        890002070,
        [11.854, "isolate", 0, 0.306, 5],
        [14.187, "isolate", 0, 7.071, 3],
        [14.949, "drain", 0, 8.207, 5],
        [17.503, "pause-path", 1, 0.296, 5],
        [19.828, "drain", 1, 14.921, 1],
        [21.6, "isolate", 0, 9.772, 3],
        [22.081, "drain", 1, 0.295, 3],
        [31.877, "isolate", 0, 3.479, 1],
        [33.601, "pause-path", 1, 0.278, 5],
        [34.074, "pause-path", 1, 0.127, 1],
        [35.435, "drain", 1, 0.961, 4],
        hosts=2,
        members=1,
        max_count=2,
        ttl=10,
        seconds=37.0,
    ),
    "a host on two paths, as etcd is full and refuses transactions that only read": planned(
        770000195,
        [30.435, "full", 2, 3.856, 5],
        hosts=1,
        members=1,
        max_count=1,
        ttl=2,
        seconds=35.0,
        takeover_pause=2.0,
        shared=1,
    ),
    "a watch misses a host that joins, and brings what comes after it": planned(
        770000165,
        [10.924, "refuse", 1, 20.862, 5],
        [27.39, "miss", 0, 0.0, 3],
        hosts=2,
        members=1,
        max_count=2,
        ttl=10,
        seconds=41.0,
        takeover_pause=10.0,
        shared=1,
    ),
    "a tick that a host leaves, and comes back to under the same session": planned(
        17051,
        [23.683, "leave", 1, 13.096, 5],
        [30.46, "leave", 0, 0.161, 1],
        hosts=2,
        members=1,
        max_count=1,
        ttl=10,
        seconds=37.0,
        takeover_pause=10.0,
        shared=1,
        ticks=10,
    ),
    "max_count falls between a take and the beginning of the work": planned(
        655852847,
        [3.093, "stall", 0, 3.428, 5],
        [5.522, "die", 1, 1.512, 5],
        [6.987, "isolate", 0, 2.157, 3],
        [8.914, "cut", 0, 0.0, 4],
        [9.324, "go", 0, 0.204, 1],
        [10.133, "crowd", 1, 0.0, 3],
        [10.805, "leave", 0, 0.854, 5],
        [10.862, "forbid", 0, 0.277, 4],
        [12.259, "count", 0, 0.629, 2],
        hosts=2,
        members=1,
        max_count=1,
        ttl=2,
        seconds=60.0,
        takeover_pause=2.0,
    ),
    "a mark that was released is there again, in a restored store": planned(
        126642455,
        [4.856, "silence", 2, 9.261, 1],
        [7.34, "die", 1, 0.596, 4],
        [17.507, "early", 1, 0.0, 1],
        [35.534, "die", 0, 5.713, 0],
        [53.114, "die", 0, 0.153, 3],
        [55.953, "restore", 1, 0.0, 1],
        hosts=3,
        members=3,
        max_count=2,
        ttl=10,
        seconds=56.0,
        takeover_pause=10.0,
    ),
    "a host that was killed pauses for the slot that it has not released": planned(
        435827867,
        [28.663, "die", 1, 0.113, 3],
        hosts=3,
        members=1,
        max_count=3,
        ttl=10,
        seconds=29.0,
        takeover_pause=10.0,
    ),
    "work that begins anew sees the mark of one that was killed for the first time": planned(
        936606693,
        [52.869, "foreign", 2, 0.0, 1],
        [53.546, "count", 1, 6.086, 3],
        [59.697, "die", 2, 0.333, 4],
        hosts=3,
        members=1,
        max_count=1,
        ttl=10,
        seconds=60.0,
        takeover_pause=10.0,
    ),
    "a leader's watch is resumed on a store that was restored, and has caught up": planned(
        1000846,
        [74.441, "silence", 0, 11.801, 1],
        [95.081, "evict", 1, 0.0, 1],
        [99.616, "refuse", 2, 3.74, 0],
        [106.698, "restore", 0, 0.0, 1],
        hosts=4,
        members=1,
        max_count=1,
        ttl=5,
        seconds=107.0,
    ),
    "a slot comes back, in a restored store, while etcd has no room for another": planned(
        421392354,
        [44.564, "full", 0, 11.032, 5],
        [51.562, "restore", 0, 0.0, 2],
        hosts=8,
        members=1,
        max_count=3,
        ttl=5,
        seconds=56.0,
    ),
    "a renewal that a killed host had sent waits at a member that stands still": planned(
        50000868,
        [15.119, "stall", 0, 6.698, 0],
        [18.783, "pause", 0, 3.854, 4],
        [19.052, "die", 4, 0.503, 0],
        hosts=1,
        members=3,
        max_count=1,
        ttl=5,
        seconds=23.0,
    ),
    "a host that loses its session lets go of the decision before it says so": planned(
        70001426,
        [3.924, "early", 1, 0.0, 4],
        [5.708, "early", 1, 0.0, 4],
        [7.696, "early", 1, 0.0, 1],
        [7.882, "early", 0, 0.0, 4],
        [10.022, "early", 0, 0.0, 2],
        [13.431, "early", 0, 0.0, 1],
        [16.658, "early", 2, 0.0, 4],
        [16.885, "early", 2, 0.0, 3],
        [17.8, "early", 0, 0.0, 0],
        hosts=8,
        members=1,
        max_count=3,
        ttl=3,
        seconds=18.0,
    ),
    "what a host says of itself arrives late, after it has said another thing": planned(
        80003751,
        [43.969, "silence", 1, 16.078, 3],
        [55.89, "sick", 1, 5.318, 3],
        [57.812, "silence", 1, 7.673, 0],
        [58.659, "update", 1, 0.0, 1],
        hosts=1,
        members=3,
        max_count=1,
        ttl=10,
        seconds=60.0,
    ),
    "a restored store has caught up before a host joins it, with an older decision": planned(
        100022,
        [102.525, "count", 5, 0.305, 1],
        [112.187, "early", 2, 0.0, 2],
        [117.481, "foreign", 3, 0.0, 2],
        [117.544, "stall", 0, 1.162, 0],
        [119.298, "restore", 0, 0.0, 0],
        [119.771, "full", 1, 6.788, 3],
        hosts=8,
        members=3,
        max_count=3,
        ttl=3,
        seconds=120.0,
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_holds_for_every_seed(seed: int) -> None:
    report = World(seed).run()
    assert report.violations == ()
    assert report.diary.works
    assert report.diary.readings


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_whatever_happens_most(kind: str) -> None:
    plan = Plan.random(1, seconds=60, kinds=[kind])
    assert {action.kind for action in plan.actions} == {kind}
    assert World(plan).run().violations == ()


@pytest.mark.parametrize("seed", FAILED_ONCE.values(), ids=FAILED_ONCE)
def test_a_seed_that_failed_once(seed: int) -> None:
    assert World(seed).run().violations == ()


@pytest.mark.parametrize("plan", FAILED_PLANS.values(), ids=FAILED_PLANS)
def test_a_plan_that_failed_once(plan: Plan) -> None:
    assert World(plan).run().violations == ()


def test_worlds_are_not_all_alike_and_much_happens_in_them() -> None:
    """Else the tests above could pass for want of anything going wrong."""
    plans = [Plan.random(seed) for seed in range(200)]
    assert {action.kind for plan in plans for action in plan.actions} == set(KINDS)
    assert 100 < sum(plan.assumes for plan in plans) < 180
    assert len({World(seed).run().digest for seed in range(5)}) == 5


PROGRAM = """
from trio_sched.simulation.world import World
print(*(World(seed).run().digest for seed in (1, 2, 5)))
"""


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_gives_the_same_in_each_process(hash_seed: str) -> None:
    here = [World(seed).run().digest for seed in (1, 2, 5)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", PROGRAM]
    there = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert there.stdout.split() == here


def test_a_world_leaves_trio_as_it_was() -> None:
    core = trio._core._run
    before = core._r.getstate(), core._ALLOW_DETERMINISTIC_SCHEDULING
    World(Plan(3, seconds=5.0)).run()
    assert (core._r.getstate(), core._ALLOW_DETERMINISTIC_SCHEDULING) == before


def test_a_world_runs_once() -> None:
    world = World(Plan(3, seconds=5.0))
    world.run()
    with pytest.raises(RuntimeError, match="once"):
        world.run()


# Plans


def test_a_plan_is_read_as_it_was_written() -> None:
    for seed in range(20):
        plan = Plan.random(seed)
        assert Plan.from_json(plan.as_json()) == plan


@pytest.mark.parametrize("text", ["{}", "[]", '{"seed": 1, "actions": [[1, "dance"]]}', "no"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Plan.from_json(text)


def test_an_action_is_checked() -> None:
    for bad in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="at and seconds"):
            Action(bad, "die")
        with pytest.raises(ValueError, match="at and seconds"):
            Action(1.0, "die", 0, bad)


def test_actions_can_be_left_out() -> None:
    plan = Plan(1, actions=(Action(1, "die"), Action(2, "cut", 1), Action(3, "leave", 2, 4.0)))
    assert [action.kind for action in plan.without([1]).actions] == ["die", "leave"]
    assert plan.last_fault == 7.0
    assert plan.assumes
    assert not Plan(1, actions=(Action(1, "freeze"),)).assumes
