"""A real etcd for a test or a demo, a network that misbehaves, and checks of a strategy."""

from trio_sched.testing.check import check_strategy
from trio_sched.testing.etcd import Etcd, open_etcd
from trio_sched.testing.find import EtcdNotFound, find_etcd, find_etcdctl
from trio_sched.testing.member import EtcdStartFailed, Member
from trio_sched.testing.proxy import FaultyLink, open_faulty_link

__all__ = [
    "Etcd",
    "EtcdNotFound",
    "EtcdStartFailed",
    "FaultyLink",
    "Member",
    "check_strategy",
    "find_etcd",
    "find_etcdctl",
    "open_etcd",
    "open_faulty_link",
]
