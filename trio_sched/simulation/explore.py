"""Searching worlds for what must not be: seed after seed, and the one that fails made small."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from time import process_time
from typing import Final

from trio_sched.simulation.chart import svg_chart, text_chart
from trio_sched.simulation.plan import KINDS, Plan
from trio_sched.simulation.replay import Replay, ReplayedDecision, Span
from trio_sched.simulation.world import World, WorldReport

__all__ = ["Search", "command_of", "describe", "draw", "explore", "shrink"]

_SHOWN: Final = 10  # violations
_TICKS: Final = 10  # seconds from one to the next


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Attributes:
        worlds: how many were run.
        simulated: how many seconds they were, by their own clocks.
        cpu: how many seconds of CPU that took.
        failure: the first that something was wrong with; None if all held.
    """

    worlds: int
    simulated: float
    cpu: float
    failure: WorldReport | None


def explore(
    first_seed: int,
    seconds: float,
    progress: Callable[[Search], None] = lambda _: None,
    *,
    kinds: Iterable[str] = KINDS,
    ticks: int | None = None,
) -> Search:
    """Run worlds, seed after seed, until one fails or the time is over.

    Args:
        first_seed: of the first world.
        seconds: of CPU time.
        progress: called after each world.
        kinds: of what may happen.
        ticks: as of a `Plan`, for all worlds; None for some in each fourth world, and none in
            others.
    """
    kinds = frozenset(kinds)
    began, simulated = process_time(), 0.0
    for worlds in count(1):
        plan = Plan.random(first_seed + worlds - 1, kinds=kinds)
        some = _TICKS if worlds % 4 == 0 else 0
        report = World(replace(plan, ticks=some if ticks is None else ticks)).run()
        simulated += report.seconds
        failure = report if report.violations else None
        search = Search(worlds, simulated, process_time() - began, failure)
        progress(search)
        if failure is not None or search.cpu >= seconds:
            return search
    raise AssertionError("not reached")


# ---- a failure, made small -------------------------------------------------------


def shrink(report: WorldReport, seconds: float = 60.0) -> WorldReport:
    """Return a world that fails too, and in which less happens.

    Args:
        report: of a world that failed.
        seconds: of CPU time that this may take.
    """
    until = process_time() + seconds
    smaller: WorldReport | None = report
    while smaller is not None:
        report, smaller = smaller, None
        for plan in _smaller_plans(report.plan):
            if process_time() > until:
                return report
            tried = World(plan).run()
            if tried.violations:
                smaller = tried
                break
    return report


def _smaller_plans(plan: Plan) -> Iterator[Plan]:
    """Return plans in which less happens, those with much less first."""
    number = len(plan.actions)
    size = number
    while size:
        for start in range(0, number, size):
            yield plan.without(range(start, min(number, start + size)))
        size //= 2
    end = max(math.ceil(plan.last_fault), 1)
    if end < plan.seconds:
        yield replace(plan, seconds=float(end))
    if plan.hosts > 1:
        fewer = plan.hosts - 1
        yield replace(plan, hosts=fewer, shared=min(plan.shared, fewer))
    if plan.members > 1:
        yield replace(plan, members=1)
    if plan.max_count > 1:
        yield replace(plan, max_count=plan.max_count - 1)


def command_of(plan: Plan) -> str:
    """Return the command that runs a plan again."""
    return f"python -m trio_sched.simulation --plan {shlex.quote(plan.as_json())}"


# ---- showing it ------------------------------------------------------------------


def draw(report: WorldReport, *, svg: bool = False) -> str:
    """Draw which host worked when, and which was there; as text, or as SVG."""
    titles = [_title(report), *report.violations[:2]]
    picture = _picture(report)
    return svg_chart(picture, titles=titles) if svg else text_chart(picture, titles=titles[:1])


def describe(report: WorldReport) -> str:
    """Say what is wrong with a world, what happened in it, and how to run it again."""
    actions = [
        f"{action.at:9.3f} {action.kind} {action.target} for {action.seconds:g} s"
        for action in report.plan.actions
    ]
    lines = [
        *report.violations[:_SHOWN],
        "",
        draw(report),
        *actions,
        "",
        "Again:",
        command_of(report.plan),
    ]
    return "\n".join(lines) + "\n"


def _title(report: WorldReport) -> str:
    plan = report.plan
    return (
        f"seed {plan.seed}: {plan.hosts} hosts, {plan.members} members, max_count "
        f"{plan.max_count}, TTL {plan.ttl} s"
    )


def _picture(report: WorldReport) -> Replay:
    plan, diary = report.plan, report.diary
    hosts = tuple(f"host-{number}" for number in range(plan.hosts))
    spans = [span for host in hosts for span in _spans(report, host)]
    decisions = [
        ReplayedDecision(entry.at, (), "", (change.value or b"no host").decode())
        for entry in diary.entries
        for change in entry.changes
        if change.key.endswith(b"/scheduled")
    ]
    return Replay(
        strategy="rr",
        max_count=plan.max_count,
        seconds=report.seconds,
        hosts=hosts,
        spans=tuple(spans),
        decisions=tuple(decisions),
        placements=0,
        churn=0,
        unscheduled=0.0,
        unfilled=0.0,
        scheduled={},
        balance=0.0,
    )


def _spans(report: WorldReport, host: str) -> Iterator[Span]:
    """Return when a host worked, and when it was there and did not."""
    for label, (joined, ended) in report.diary.lives.items():
        if label.rpartition("#")[0] != host or joined >= ended:
            continue
        at, end = joined, min(ended, report.seconds)
        for work in report.diary.works:
            if work.host == host and joined <= work.begin < end:
                yield Span(host, "waiting", at, work.begin)
                at = min(work.end, end)
                yield Span(host, "scheduled", work.begin, at)
        yield Span(host, "waiting", at, end)
