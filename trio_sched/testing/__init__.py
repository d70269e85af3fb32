"""What tests of services need: etcds, a clock that jumps, hosts, a network that misbehaves.

A pytest plugin gives them as fixtures, see ``docs/testing.md``; and `check_strategy` tries the
laws on a strategy.
"""

from trio_sched._support.lazy import homes, lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trio_sched.testing.check import check_strategy as check_strategy
    from trio_sched.testing.clock import autojump_clock as autojump_clock
    from trio_sched.testing.etcd import Etcd as Etcd, open_etcd as open_etcd
    from trio_sched.testing.find import (
        EtcdNotFound as EtcdNotFound,
        find_etcd as find_etcd,
        find_etcdctl as find_etcdctl,
    )
    from trio_sched.testing.hosts import (
        ScheduledHosts as ScheduledHosts,
        open_scheduled_hosts as open_scheduled_hosts,
    )
    from trio_sched.testing.member import EtcdStartFailed as EtcdStartFailed, Member as Member
    from trio_sched.testing.proxy import (
        FaultyLink as FaultyLink,
        open_faulty_link as open_faulty_link,
    )
    from trio_sched.testing.thread import etcd_in_a_thread as etcd_in_a_thread

# Where each name lives; its module is imported when the name is asked for first.
_HOMES = homes(
    {
        "trio_sched.testing.check": "check_strategy",
        "trio_sched.testing.clock": "autojump_clock",
        "trio_sched.testing.etcd": "Etcd open_etcd",
        "trio_sched.testing.find": "EtcdNotFound find_etcd find_etcdctl",
        "trio_sched.testing.hosts": "ScheduledHosts open_scheduled_hosts",
        "trio_sched.testing.member": "EtcdStartFailed Member",
        "trio_sched.testing.proxy": "FaultyLink open_faulty_link",
        "trio_sched.testing.thread": "etcd_in_a_thread",
    }
)

__all__ = [*_HOMES]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] # strings all
if not TYPE_CHECKING:  # else any name would be taken for one of ours
    __getattr__, __dir__ = lazy(__name__, _HOMES)
