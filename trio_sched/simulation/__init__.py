"""Leaders, hosts and an etcd without an etcd: for `simulate`, and for tests of strategies."""

from trio_sched.simulation.chart import svg_chart, text_chart
from trio_sched.simulation.replay import Replay, ReplayedDecision, Span, simulate
from trio_sched.simulation.search import SimulationReport, simulate_cores
from trio_sched.simulation.trace import Trace, TraceEvent

__all__ = [
    "Replay",
    "ReplayedDecision",
    "SimulationReport",
    "Span",
    "Trace",
    "TraceEvent",
    "simulate",
    "simulate_cores",
    "svg_chart",
    "text_chart",
]
