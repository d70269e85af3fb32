"""What an error does, by what it is about and where it is met: one table, for all who ask.

Theory of operation
-------------------
When a host has joined once, nothing that is not about this host is a reason to leave: what it
holds is held by its lease, and by the proofs that the decision is the newest. So it is waited
out. What it held that is gone ends a session, and the next begins. At the entry of a block it is
different: an etcd that cannot be reached, or refuses, is an error at the call.

The table is in ``docs/errors.md``, too.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from trio_sched.etcd_shim._about import About, about
from trio_sched.etcd_shim.errors import EtcdError
from trio_sched.exceptions import HostnameInUse, SessionLost, StrategyError

__all__ = ["POLICY", "Subject", "Then", "Where", "outcome", "subject_of"]


class OurOwn(Enum):
    """What an error that is not etcd's is about."""

    NAME = "another process has our name"
    STRATEGY = "the strategy"


Subject: TypeAlias = About | OurOwn


class Where(Enum):
    """Where an error is met."""

    ENTRY = "at the entry"  # of a block, before there is a lease
    JOINING = "joining"  # for the first time
    JOINED = "joined"
    LEADING = "leading"  # that is, writing a decision
    TAKING = "taking a slot"
    WORKING = "working"
    LEAVING = "leaving"
    OBSERVING = "observing"


class Then(Enum):
    """What an error does."""

    END = "ends the block"
    WAIT = "is waited out"
    LOSE = "loses the session"  # or what an observer has instead: it begins anew
    RESIGN = "is waited out, then resigns"  # the next in line may do better
    LEAVE_IT = "is left to the lease"  # which lapses by itself
    NEVER = "does not come"


_ENTRY_END = {Where.ENTRY: Then.END, Where.JOINING: Then.END}
_WAITED_OUT = dict.fromkeys(Where, Then.WAIT)

POLICY: Final[dict[Subject, dict[Where, Then]]] = {
    About.WAY: {**_WAITED_OUT, Where.ENTRY: Then.END},
    About.ETCD: {**_WAITED_OUT, **_ENTRY_END},
    About.PERMISSION: {**_WAITED_OUT, **_ENTRY_END, Where.LEADING: Then.RESIGN},
    About.GONE: {**dict.fromkeys(Where, Then.LOSE), Where.LEAVING: Then.LEAVE_IT},
    About.CLIENT: {**dict.fromkeys(Where, Then.END), Where.LEAVING: Then.LEAVE_IT},
    OurOwn.NAME: {**dict.fromkeys(Where, Then.NEVER), **_ENTRY_END, Where.JOINED: Then.END},
    OurOwn.STRATEGY: {**dict.fromkeys(Where, Then.NEVER), Where.LEADING: Then.RESIGN},
}


def subject_of(error: BaseException) -> Subject | None:
    """Return what an error is about; None if it is none of those that can be foreseen."""
    if isinstance(error, EtcdError):
        return about(error)
    if isinstance(error, SessionLost):
        return About.GONE
    if isinstance(error, HostnameInUse):
        return OurOwn.NAME
    return OurOwn.STRATEGY if isinstance(error, StrategyError) else None


def outcome(error: BaseException, where: Where) -> Then:
    """Return what an error does. One that was not foreseen ends the block."""
    subject = subject_of(error)
    return Then.END if subject is None else POLICY[subject][where]
