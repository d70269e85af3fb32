"""What is required of our client, next to what was measured."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from _catalogue import GO, OURS, ROWS
from _runner import Plan, Results, Sample

UNSUPPORTED = {("etcd-client-py", "get")}  # it has no serializable reads

__all__ = ["REQUIREMENTS", "Requirement", "Verdict", "verdicts"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """Ours must take at most `factor` times what another takes."""

    row: str
    peer: str
    factor: float
    figure: str = "cpu"

    @property
    def text(self) -> str:
        """Return it in words."""
        bound = f"<= {self.factor} x" if self.factor != 1 else "no worse than"
        return f"{self.row}, {self.figure}: {bound} {self.peer}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A requirement, and how it stands.

    Attributes:
        requirement: what is required.
        ratio: ours by the other's, the median over the rounds; None if not measured.
        low: the lower quartile.
        high: the upper quartile.
    """

    requirement: Requirement
    ratio: float | None = None
    low: float = 0
    high: float = 0

    @property
    def passed(self) -> bool:
        """Whether it is met."""
        if self.ratio is None:
            return False
        return self.ratio <= self.requirement.factor


# Of a watch's events no time is taken, as they come in bursts.
TIMED = tuple(row.name for row in ROWS if row.name != "watch")

# The rows "cold" and "process" are for information: nearly all of the one is first-time work of the
# interpreter, and of the other what imports leave, and import is not judged.
REQUIREMENTS = (
    *(Requirement(row, GO, 1) for row in ("seq", "conc", "watch", "renew", "connect")),
    *(Requirement(row, GO, 1.15) for row in ("get", "event")),
    *(Requirement(row, GO, 1, "p99") for row in TIMED),
    *(Requirement(row.name, "grpc.aio", 0.5) for row in ROWS),
    *(
        Requirement(row.name, "etcd-client-py", 0.5)
        for row in ROWS
        if row.name != "connect" and ("etcd-client-py", row.name) not in UNSUPPORTED
    ),
    *(Requirement(row, "grpc.aio", 1, "p99") for row in TIMED if row != "connect"),
    *(Requirement(row.name, "grpclib", 1) for row in ROWS if row.name != "connect"),
    Requirement("event", "grpclib", 1, "wall"),
    Requirement("memory", "grpclib", 1, "bytes"),
    Requirement("connect", "grpclib", 1),
    Requirement("connect", "grpclib", 1, "wall"),
)


def verdicts(plan: Plan, results: Results) -> list[Verdict]:
    """Judge each requirement that the plan has figures for.

    Ratios are of the same round, where the machine's load is alike.
    """
    rows = {row.name for row in plan.rows}
    columns = {column.name for column in plan.columns}
    return [
        _judge(requirement, results)
        for requirement in REQUIREMENTS
        if requirement.row in rows and {OURS, requirement.peer} <= columns
    ]


def _judge(requirement: Requirement, results: Results) -> Verdict:
    figure = requirement.figure
    ours = results.samples.get((requirement.row, OURS), [])
    theirs = results.samples.get((requirement.row, requirement.peer), [])
    ratios = sorted(
        _figure(a, figure) / _figure(b, figure) for a, b in zip(ours, theirs, strict=False)
    )
    if not ratios:
        return Verdict(requirement)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    return Verdict(requirement, statistics.median(ratios), low, high)


def _figure(sample: Sample, name: str) -> float:
    if name == "p99":
        latencies = sorted(sample["latencies"])
        return float(latencies[int(len(latencies) * 0.99)])
    return float(sample[name])
