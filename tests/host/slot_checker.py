"""Judges a history of runs: were there ever more than allowed? Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

__all__ = ["Change", "Life", "Run", "Verdict", "judge", "stale_writes"]


@dataclass
class Life:
    """A process of a host.

    Attributes:
        name: unique to this process.
        gone: by CLOCK_MONOTONIC, when it was certainly gone; infinity while it is not.
        frozen: when it was stopped for longer than its lease lives, each time, and until when its
            work is to have ended after that.
    """

    name: str
    gone: float = inf
    frozen: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A piece of work, as the process itself wrote it down.

    Attributes:
        life: the process.
        token: of its slot.
        index: of its slot.
        began: by CLOCK_MONOTONIC.
        ended: the same; infinity if it wrote no end.
    """

    life: Life
    token: int
    index: int
    began: float
    ended: float = inf

    def goes_on_at(self, moment: float, *, but_frozen: bool) -> bool:
        """Tell whether it went on then; not, with `but_frozen`, if freezing excuses it."""
        if but_frozen and any(
            self.began <= first <= moment <= last for first, last in self.life.frozen
        ):
            return False
        return self.began <= moment < min(self.ended, self.life.gone)


@dataclass(frozen=True)
class Change:
    """From this revision on, the decision allows so many hosts."""

    revision: int
    max_count: int


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        violations: in plain words.
        excused: overlaps with a process that had been frozen beyond its lease.
        most: the highest number that ran at once, the excused left out.
        predicted: overlaps that began in a time for which they are predicted.
    """

    violations: list[str]
    excused: list[str]
    most: int
    predicted: list[str] = field(default_factory=list)


def judge(
    runs: Iterable[Run],
    changes: Sequence[Change],
    risky: Sequence[tuple[float, float]] = (),
    earlier: Iterable[Run] = (),
) -> Verdict:
    """Check each beginning: how many ran, and how many might have, by the decision then?

    Args:
        runs: what ran.
        changes: of the decision.
        risky: times for which overlaps are predicted, by CLOCK_MONOTONIC.
        earlier: what began before the store was restored; that too many run because of them is
            predicted.
    """
    ordered = sorted(runs, key=lambda run: run.began)
    violations, excused, most = _tokens(ordered), [], 0
    predicted: list[str] = []
    revisions = [change.revision for change in changes]
    for run in ordered:
        others = [other for other in ordered if other is not run]
        certain = [o for o in others if o.goes_on_at(run.began, but_frozen=True)]
        possible = [o for o in others if o.goes_on_at(run.began, but_frozen=False)]
        most = max(most, 1 + len(certain))
        # By the newest decision that any of them goes by: who takes a slot counts those held.
        newest = max(each.token for each in (run, *certain))
        position = bisect_right(revisions, newest - 1)
        if not position:
            violations.append(f"token {run.token} of {run.life.name}: nothing had been decided")
            continue
        allowed = changes[position - 1].max_count
        words = f"{1 + len(possible)} ran where {allowed} may, when {_shown(run)} began: " + (
            ", ".join(map(_shown, possible))
        )
        is_risky = any(first <= run.began <= last for first, last in risky)
        if 1 + len(certain) > allowed and is_risky:
            predicted.append(words)
        elif 1 + len(certain) > allowed:
            violations.append(words)
        elif 1 + len(possible) > allowed:
            excused.append(words)
        before = [o for o in earlier if o.goes_on_at(run.began, but_frozen=True)]
        if before and 1 + len(certain) <= allowed < 1 + len(certain) + len(before):
            predicted.append(
                f"{words}, and from before a restore " + ", ".join(map(_shown, before))
            )
    return Verdict(violations, excused, most, predicted)


def _tokens(ordered: Sequence[Run]) -> list[str]:
    """Tokens are unique, and grow for each slot."""
    last: dict[int, Run] = {}
    seen: set[int] = set()
    found: list[str] = []
    for run in ordered:
        before = last.get(run.index)
        if run.token in seen or (before is not None and run.token <= before.token):
            found.append(f"the token of {_shown(run)} does not grow")
        seen.add(run.token)
        last[run.index] = run
    return found


def _shown(run: Run) -> str:
    return f"{run.life.name} in slot {run.index} by token {run.token}"


def stale_writes(
    writes: Iterable[tuple[int, int]], slots: Iterable[tuple[int, float]]
) -> list[str]:
    """Find guarded writes that went through though their slot was gone.

    Args:
        writes: revision and token of each write that etcd holds.
        slots: token of each slot that there ever was, and the revision of its end.
    """
    ends = dict(slots)
    return [
        f"revision {revision} was written by token {token}, whose slot ended at {ends.get(token)}"
        for revision, token in writes
        if not token < revision < ends.get(token, -inf)
    ]
