"""A real etcd for a test or a demo, a network that misbehaves, and checks of a strategy."""

from ._check import check_strategy
from ._etcd import Etcd, open_etcd
from ._find import EtcdNotFound, find_etcd, find_etcdctl
from ._member import EtcdStartFailed, Member
from ._proxy import FaultyLink, open_faulty_link

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
