"""A cluster in memory: for tests of services, for `simulate`, and to find our own faults.

`MemoryEtcd` is an etcd without a process, `World` a whole cluster under a seed and a clock that
jumps, and `simulate` replays a trace of hosts that come and go.
"""

from trio_sched.simulation.chart import svg_chart, text_chart
from trio_sched.simulation.diary import Diary
from trio_sched.simulation.memory_etcd import MemoryEtcd
from trio_sched.simulation.plan import Action, Plan
from trio_sched.simulation.replay import simulate
from trio_sched.simulation.replay_report import Replay, ReplayedDecision, Span
from trio_sched.simulation.trace import Trace, TraceEvent
from trio_sched.simulation.world import World, WorldReport

__all__ = [
    "Action",
    "Diary",
    "MemoryEtcd",
    "Plan",
    "Replay",
    "ReplayedDecision",
    "Span",
    "Trace",
    "TraceEvent",
    "World",
    "WorldReport",
    "simulate",
    "svg_chart",
    "text_chart",
]
