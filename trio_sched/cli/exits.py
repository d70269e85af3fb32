"""Exit codes, and the one line that says what to do."""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from typing import Final

from trio_sched.cli.connect import Connection
from trio_sched.cli.reporter import Reporter
from trio_sched.etcd_shim.errors import (
    AuthenticationFailed,
    AuthStoreChanged,
    ClientClosed,
    ConnectionFailed,
    ConnectionLost,
    DeadlineExceeded,
    EtcdError,
    LeaseLost,
    NoLeader,
    NoSpace,
    PermissionDenied,
    RemoteProtocolError,
    RevisionWentBack,
    RpcError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from trio_sched.exceptions import (
    EndOfResults,
    HostnameInUse,
    HostNotFound,
    SessionLost,
    SlotLost,
    StrategyError,
    TrioSchedError,
)

__all__ = ["CannotRun", "Exit", "explain", "strategy_failed"]


NO_PATH: Final = 66  # of the commands that show a path
NO_HOST: Final = 68  # of the commands that are about a host


class Exit(IntEnum):
    """Exit codes that are not the child's, as ``sysexits.h`` has them where it fits."""

    USAGE = 2
    UNAVAILABLE = 69
    SOFTWARE = 70
    NOT_SCHEDULED = 75
    LOST = 76
    PERMISSION = 77


class CannotRun(Exception):
    """The command cannot be run.

    Attributes:
        code: 127 if there is no such command, else 126, as a shell has it.
    """

    def __init__(self, command: str, reason: int) -> None:
        super().__init__(f"cannot run {command!r}: {os.strerror(reason)}")
        self.code = 127 if reason == errno.ENOENT else 126


_BUG: Final = "{error}; this is a bug of trio-sched, please report it"
_TRY_AGAIN: Final = "etcd at {where} cannot serve us now, try again: {error}"

# The first that fits counts, so what is special comes first.
_TABLE: Final[tuple[tuple[type[TrioSchedError], int, str], ...]] = (
    # ours
    (HostnameInUse, Exit.NOT_SCHEDULED, "{error}; give each host a --hostname of its own"),
    (HostNotFound, NO_HOST, "{error}; see `trio-sched members {error.path}`"),
    (StrategyError, Exit.SOFTWARE, "{error}; choose another --strategy"),
    (SessionLost, Exit.LOST, "{error}; try again"),
    (SlotLost, Exit.LOST, "{error}; try again"),
    (EndOfResults, Exit.SOFTWARE, _BUG),
    (ClientClosed, Exit.SOFTWARE, _BUG),
    # who we are
    (AuthenticationFailed, Exit.PERMISSION, "etcd does not know {who} by this password: {error}"),
    (AuthStoreChanged, Exit.PERMISSION, "etcd's users have changed, try again: {error}"),
    (
        PermissionDenied,
        Exit.PERMISSION,
        "etcd does not let {who} read and write all keys below PATH/; grant it that: {error}",
    ),
    (Unauthenticated, Exit.PERMISSION, "etcd wants to know who we are; {user_hint}: {error}"),
    # the way to etcd
    (
        ConnectionFailed,
        Exit.UNAVAILABLE,
        "{error}; is it running there, and are --endpoints right?",
    ),
    (
        ConnectionLost,
        Exit.UNAVAILABLE,
        "the connection to etcd at {where} was lost: {error}; see `trio-sched status`, try again",
    ),
    (
        RemoteProtocolError,
        Exit.UNAVAILABLE,
        "what answers at {where} does not speak as etcd does; are --endpoints right? {error}",
    ),
    # etcd itself
    (LeaseLost, Exit.LOST, "{error}; try again"),
    (
        NoSpace,
        Exit.UNAVAILABLE,
        "etcd at {where} has no space left; make room, then `etcdctl alarm disarm`: {error}",
    ),
    (
        NoLeader,
        Exit.UNAVAILABLE,
        "etcd at {where} has no leader; are enough of its members running? {error}",
    ),
    (TooManyRequests, Exit.UNAVAILABLE, _TRY_AGAIN),
    (DeadlineExceeded, Exit.UNAVAILABLE, _TRY_AGAIN),
    (Unavailable, Exit.UNAVAILABLE, _TRY_AGAIN),
    (
        RevisionWentBack,
        Exit.UNAVAILABLE,
        "etcd at {where} was restored, or wiped; see `trio-sched status`: {error}",
    ),
    (
        Unimplemented,
        Exit.UNAVAILABLE,
        "what answers at {where} is no etcd, or one older than 3.4: {error}",
    ),
    (EtcdError, Exit.UNAVAILABLE, "etcd at {where} does not do what it should: {error}"),
    (TrioSchedError, Exit.SOFTWARE, _BUG),
)


def explain(error: TrioSchedError | CannotRun, connection: Connection) -> tuple[int, str]:
    """Return the exit code for an error, and a line that says what happened and what to do."""
    if isinstance(error, CannotRun):
        return error.code, str(error)
    if isinstance(error, RpcError) and "user name is empty" in error.message:
        error = Unauthenticated(error.status, error.message)
    code, words = next((code, words) for kind, code, words in _TABLE if isinstance(error, kind))
    user = connection.user
    said = words.format(
        error=error,
        who=repr(user) if user else "this client",
        where=",".join(connection.endpoints),
        user_hint=f"it does not accept {user!r} now, so try again" if user else "give --user",
    )
    return code, " ".join(said.split())  # on one line, whatever etcd says


def strategy_failed(error: StrategyError) -> int:
    """Say that a strategy failed, where etcd has no part in it; return the exit code."""
    Reporter(as_json=False).error(f"{error}; choose another --strategy", Exit.SOFTWARE)
    return Exit.SOFTWARE
