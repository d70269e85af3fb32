"""What an error of etcd is about: the one table that sorts them; what follows is others' to say.

Each class that is not named here is about what its nearest base class is about.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from grpclib.const import Status

from trio_sched.etcd_shim import errors

__all__ = ["TRANSIENT", "About", "about", "is_odd_end"]


class About(Enum):
    """What an error is about."""

    WAY = "the way to etcd"  # or one member of it: another attempt may help
    ETCD = "etcd itself"  # it can not, or will not: until somebody mends that
    PERMISSION = "what this user may do"
    GONE = "something that is gone"  # a lease, history, a watch, the store that it was
    CLIENT = "our own client"  # its block was left


_ABOUT: Final = {
    errors.EtcdError: About.ETCD,
    errors.ClientClosed: About.CLIENT,
    errors.ConnectionFailed: About.WAY,
    errors.ConnectionLost: About.WAY,
    errors.DeadlineExceeded: About.WAY,
    errors.TooManyRequests: About.WAY,
    errors.Unavailable: About.WAY,
    errors.AuthenticationFailed: About.PERMISSION,
    errors.PermissionDenied: About.PERMISSION,
    errors.Unauthenticated: About.PERMISSION,
    errors.FutureRevision: About.GONE,
    errors.LeaseExists: About.GONE,
    errors.LeaseLost: About.GONE,
    errors.LeaseNotFound: About.GONE,
    errors.RevisionCompacted: About.GONE,
    errors.RevisionWentBack: About.GONE,
    errors.WatchCanceled: About.GONE,
    errors.WatchOverflow: About.GONE,
}

TRANSIENT: Final[tuple[type[errors.EtcdError], ...]] = tuple(
    kind for kind, what in _ABOUT.items() if what is About.WAY
)
"""Errors that say nothing about the request: trying again may help."""


_ODD_STATUSES: Final = {
    Status.ABORTED,
    Status.CANCELLED,
    Status.DATA_LOSS,
    Status.INTERNAL,
    Status.UNKNOWN,
}


def is_odd_end(error: errors.EtcdError) -> bool:
    """Whether a stream may have ended by this because of something between us and etcd.

    Proxies end streams for reasons of their own: without a status, or with one that says little.
    """
    if isinstance(error, errors.RpcError):
        return type(error) is errors.RpcError and error.status in _ODD_STATUSES
    return isinstance(error, errors.RemoteProtocolError)


def about(error: errors.EtcdError) -> About:
    """Return what an error is about."""
    return next(_ABOUT[kind] for kind in type(error).__mro__ if kind in _ABOUT)
