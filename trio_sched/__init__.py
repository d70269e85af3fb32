"""trio_sched: a distributed host scheduler for Trio, on etcd v3.

Hosts that share a path discover each other, elect a leader, and the leader's
strategy picks up to `max_count` of them; every host reads the same decision.
"""

from trio_sched._support.lazy import homes, lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trio_sched.control import Control as Control
    from trio_sched.etcd_shim import Client as Client, open_client as open_client
    from trio_sched.etcd_shim.errors import EtcdError as EtcdError
    from trio_sched.exceptions import (
        EndOfResults as EndOfResults,
        HostnameInUse as HostnameInUse,
        HostNotFound as HostNotFound,
        SessionLost as SessionLost,
        SlotLost as SlotLost,
        StrategyError as StrategyError,
        TrioSchedError as TrioSchedError,
    )
    from trio_sched.host.local import HostStatistics as HostStatistics, LocalHost as LocalHost
    from trio_sched.host.observation import (
        Observation as Observation,
        PathObservation as PathObservation,
    )
    from trio_sched.host.once import TickOutcome as TickOutcome
    from trio_sched.host.result import (
        Result as Result,
        ResultStatistics as ResultStatistics,
    )
    from trio_sched.host.slot import Slot as Slot
    from trio_sched.host.ticks import read_ticks as read_ticks
    from trio_sched.model.control_state import ControlState as ControlState
    from trio_sched.model.path_state import (
        Candidate as Candidate,
        HeldSlot as HeldSlot,
        PathState as PathState,
    )
    from trio_sched.model.records import Host as Host, Hosts as Hosts
    from trio_sched.model.roster import Roster as Roster
    from trio_sched.model.ticks import Tick as Tick, TickSchedule as TickSchedule
    from trio_sched.reaper.owner import Reaper as Reaper, open_reaper as open_reaper
    from trio_sched.scheduler import (
        observe as observe,
        open_host as open_host,
        schedule as schedule,
    )
    from trio_sched.strategies import (
        Strategy as Strategy,
        StrategyOptions as StrategyOptions,
        StrategyTracker as StrategyTracker,
        known_strategies as known_strategies,
        register as register,
    )

# Where each name lives; its module is imported when the name is asked for first.
_HOMES = homes(
    {
        "trio_sched.model.control_state": "ControlState",
        "trio_sched.host.local": "HostStatistics LocalHost",
        "trio_sched.host.observation": "PathObservation Observation",
        "trio_sched.reaper.owner": "Reaper open_reaper",
        "trio_sched.control": "Control",
        "trio_sched.etcd_shim": "Client open_client",
        "trio_sched.etcd_shim.errors": "EtcdError",
        "trio_sched.exceptions": "EndOfResults HostnameInUse HostNotFound "
        "SessionLost SlotLost StrategyError TrioSchedError",
        "trio_sched.model.records": "Host Hosts",
        "trio_sched.model.roster": "Roster",
        "trio_sched.model.path_state": "Candidate HeldSlot PathState",
        "trio_sched.host.once": "TickOutcome",
        "trio_sched.host.result": "Result ResultStatistics",
        "trio_sched.host.ticks": "read_ticks",
        "trio_sched.model.ticks": "Tick TickSchedule",
        "trio_sched.scheduler": "observe open_host schedule",
        "trio_sched.host.slot": "Slot",
        "trio_sched.strategies": "Strategy StrategyOptions StrategyTracker "
        "known_strategies register",
    }
)

__all__ = [*_HOMES]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] # strings all
if not TYPE_CHECKING:  # else any name would be taken for one of ours
    __getattr__, __dir__ = lazy(__name__, _HOMES)

__version__ = "0.2.0"
