"""A real etcd for a test or a demo, and a simulator. Nothing else in the package imports it."""

from ._chart import svg_chart, text_chart
from ._check import check_strategy
from ._etcd import Etcd, open_etcd
from ._find import EtcdNotFound, find_etcd, find_etcdctl
from ._member import EtcdStartFailed, Member
from ._proxy import FaultyLink, open_faulty_link
from ._replay import Replay, ReplayedDecision, Span, simulate
from ._simulate import SimulationReport, simulate_cores
from ._trace import Trace, TraceEvent

__all__ = [
    "Etcd",
    "EtcdNotFound",
    "EtcdStartFailed",
    "FaultyLink",
    "Member",
    "Replay",
    "ReplayedDecision",
    "SimulationReport",
    "Span",
    "Trace",
    "TraceEvent",
    "check_strategy",
    "find_etcd",
    "find_etcdctl",
    "open_etcd",
    "open_faulty_link",
    "simulate",
    "simulate_cores",
    "svg_chart",
    "text_chart",
]
