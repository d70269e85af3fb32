"""An etcd in memory, and real hosts on it: for `simulate`, and for tests of strategies."""

from trio_sched.simulation.chart import svg_chart, text_chart
from trio_sched.simulation.replay import Replay, ReplayedDecision, Span, simulate
from trio_sched.simulation.trace import Trace, TraceEvent

__all__ = [
    "Replay",
    "ReplayedDecision",
    "Span",
    "Trace",
    "TraceEvent",
    "simulate",
    "svg_chart",
    "text_chart",
]
