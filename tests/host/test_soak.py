"""Never more than max_count run: many faults, by a plan that a seed gives.

``TRIO_SCHED_SOAK`` is for how many seconds, ``TRIO_SCHED_SEED`` for which plan; ``nox -s soak``
sets both.
"""

from __future__ import annotations

import os
import secrets
from math import inf
from typing import TYPE_CHECKING

import pytest
import trio

from tests.host.slot_checker import Change, Life, Run, judge, stale_writes
from tests.host.soak import TTL, judged, open_soak
from trio_sched.testing import open_etcd

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = float(os.environ.get("TRIO_SCHED_SOAK", "60"))
SEED = int(os.environ.get("TRIO_SCHED_SEED") or secrets.randbelow(10**6))


@pytest.mark.timeout(SECONDS / 2 + 150)
@pytest.mark.parametrize("members", [1, 3])
async def test_never_more_than_max_count_run(path: str, tmp_path: Path, members: int) -> None:
    """One member, which is restored from snapshots, too; then three, whose leader is stopped."""
    async with open_etcd(members=members) as etcd:
        async with open_soak(etcd, path, tmp_path / "log", SEED) as soak:
            with trio.fail_after(SECONDS / 2 + 90):
                await soak.make_trouble(SECONDS / 2)
        report = await judged(etcd, soak)
    print(f"seed {SEED}, members {members}: {report}")  # noqa: T201 # shown if it fails, and by -s
    assert not report.verdict.violations, f"seed {SEED}"
    assert not report.stale, f"seed {SEED}"
    assert report.runs >= 3
    assert report.writes or not report.writers
    late = {kind: gap for kind, gap in report.gaps.items() if gap > gap_allowed(kind)}
    assert not late, f"seed {SEED}: work did not go on"


def gap_allowed(kind: str) -> float:
    """Return seconds within which work goes on after a fault has begun."""
    lasts = 2 * TTL if kind in ("freeze", "suspend", "cut", "pause_leader", "restore") else 0
    return lasts + TTL + 2 + 5  # a process has to be started, or ended, on a busy machine


@pytest.mark.timeout(180)
async def test_the_checker_catches_hosts_without_slots(path: str, tmp_path: Path) -> None:
    async with open_etcd() as etcd:
        async with open_soak(etcd, path, tmp_path / "log", 7, slots=False) as soak:
            report = await judged(etcd, soak)
            with trio.fail_after(120):
                while not report.verdict.violations:
                    await soak.make_trouble(2)
                    report = await judged(etcd, soak)
    assert "ran where" in report.verdict.violations[0]


# ---- the checker itself ----------------------------------------------------------------


A, B, C = Life("a"), Life("b"), Life("c", gone=5.0)
TWO = [Change(1, 2)]


@pytest.mark.parametrize(
    ("runs", "violations", "most"),
    [
        ([Run(A, 2, 0, 0, 1), Run(B, 3, 0, 1, 2)], 0, 1),
        ([Run(A, 2, 0, 0, 9), Run(B, 3, 1, 1, 9)], 0, 2),
        ([Run(A, 2, 0, 0, 9), Run(B, 3, 1, 1, 9), Run(C, 4, 1, 2, 3)], 1, 3),
        ([Run(A, 2, 0, 0), Run(C, 3, 1, 1), Run(B, 4, 1, 6)], 0, 2),
        ([Run(A, 2, 0, 0), Run(C, 3, 1, 1), Run(B, 4, 1, 4)], 1, 3),
        ([Run(A, 3, 0, 0, 1), Run(B, 2, 0, 1, 2)], 1, 1),  # the token went back
        ([Run(A, 3, 0, 0, 1), Run(B, 3, 1, 1, 2)], 1, 1),  # the same token twice
        ([Run(A, 1, 0, 0, 1)], 1, 1),  # nothing had been decided
    ],
)
def test_judge(runs: list[Run], violations: int, most: int) -> None:
    verdict = judge(runs, TWO)
    assert (len(verdict.violations), verdict.excused, verdict.most) == (violations, [], most)


def test_the_decision_at_the_time_counts() -> None:
    changes = [Change(1, 2), Change(10, 1)]
    runs = [Run(A, 5, 0, 0, 9), Run(B, 6, 1, 1, 9)]
    assert not judge(runs, changes).violations
    assert judge([*runs, Run(C, 11, 1, 3, 4)], changes).violations


def test_one_that_is_slow_to_begin_is_judged_by_the_decision_of_who_overtook_it() -> None:
    changes = [Change(1, 1), Change(10, 2)]
    assert not judge([Run(A, 5, 0, 3, 9), Run(B, 11, 1, 2, 9)], changes).violations
    assert judge([Run(A, 5, 0, 3, 9), Run(B, 6, 1, 2, 9)], changes).violations


def test_a_frozen_one_is_excused() -> None:
    frozen = Life("f", frozen=[(2.0, 6.0)])
    runs = [Run(frozen, 2, 0, 0, 9), Run(A, 3, 0, 6, 9)]
    verdict = judge(runs, [Change(1, 1)])
    assert not verdict.violations
    assert len(verdict.excused) == 1
    assert judge([runs[0], Run(A, 3, 0, 1, 9)], [Change(1, 1)]).violations
    assert judge([runs[0], Run(A, 3, 0, 7, 9)], [Change(1, 1)]).violations, "long awake"


def test_stale_writes() -> None:
    slots = [(5, 10.0), (7, inf)]
    assert not stale_writes([(6, 5), (9, 5), (8, 7), (99, 7)], slots)
    assert len(stale_writes([(10, 5), (6, 7), (8, 8)], slots)) == 3


def test_what_is_predicted_is_told_apart() -> None:
    runs = [Run(A, 2, 0, 0, 9), Run(B, 3, 1, 4, 9)]
    one = [Change(1, 1)]
    assert len(judge(runs, one).violations) == 1
    assert len(judge(runs, one, [(5.0, 8.0), (1.0, 3.0)]).violations) == 1
    verdict = judge(runs, one, [(3.0, 5.0)])
    assert (verdict.violations, len(verdict.predicted)) == ([], 1)


def test_what_goes_on_over_a_restore_is_told_apart() -> None:
    old = [Run(A, 7, 0, 0, 3)]
    verdict = judge([Run(B, 6, 0, 2, 9)], [Change(1, 1)], earlier=old)
    assert (verdict.violations, len(verdict.predicted)) == ([], 1)
    assert not judge([Run(B, 6, 0, 4, 9)], [Change(1, 1)], earlier=old).predicted
    assert not judge([Run(B, 6, 0, 2, 9)], TWO, earlier=old).predicted, "both may run"
