"""Exit codes, and the one line that says what to do."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from trio_sched.cli.connect import Connection
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.run.child import CannotRun
from trio_sched.etcd_shim.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    EtcdError,
    PermissionDenied,
    RpcError,
    Unauthenticated,
)
from trio_sched.exceptions import HostnameInUse, HostNotFound, StrategyError, TrioSchedError

__all__ = ["Exit", "explain", "strategy_failed"]


NO_HOST: Final = 68  # of the commands that are about a host


class Exit(IntEnum):
    """Exit codes that are not the child's, as ``sysexits.h`` has them where it fits."""

    USAGE = 2
    UNAVAILABLE = 69
    SOFTWARE = 70
    NOT_SCHEDULED = 75
    LOST = 76
    PERMISSION = 77


def explain(error: TrioSchedError | CannotRun, connection: Connection) -> tuple[int, str]:
    """Return the exit code for an error, and a line that says what happened and what to do."""
    if isinstance(error, CannotRun):
        return error.code, str(error)
    if isinstance(error, HostnameInUse):
        return Exit.NOT_SCHEDULED, f"{error}; give each host a --hostname of its own"
    if isinstance(error, HostNotFound):
        return NO_HOST, f"{error}; see `trio-sched members {error.path}`"
    if isinstance(error, StrategyError):
        return Exit.SOFTWARE, _another_strategy(error)
    if isinstance(error, EtcdError):
        return _explain_etcd(error, connection)
    return Exit.SOFTWARE, str(error)


def strategy_failed(error: StrategyError) -> int:
    """Say that a strategy failed, where etcd has no part in it; return the exit code."""
    Reporter(as_json=False).error(_another_strategy(error), Exit.SOFTWARE)
    return Exit.SOFTWARE


def _another_strategy(error: StrategyError) -> str:
    return f"{error}; choose another --strategy"


def _explain_etcd(error: EtcdError, connection: Connection) -> tuple[int, str]:
    who = repr(connection.user) if connection.user else "this client"
    if isinstance(error, AuthenticationFailed):
        return Exit.PERMISSION, f"etcd does not know {who} by this password: {error}"
    if isinstance(error, PermissionDenied):
        words = f"etcd does not let {who} read and write all keys below PATH/; grant it that"
        return Exit.PERMISSION, f"{words}: {error}"
    if isinstance(error, Unauthenticated) or _wants_a_user(error):
        return Exit.PERMISSION, f"etcd wants to know who we are; give --user: {error}"
    if isinstance(error, ConnectionFailed):
        return Exit.UNAVAILABLE, f"{error}; is it running there, and are --endpoints right?"
    where = ",".join(connection.endpoints)
    return Exit.UNAVAILABLE, f"etcd at {where} does not do what it should: {error}"


def _wants_a_user(error: EtcdError) -> bool:
    return isinstance(error, RpcError) and "user name is empty" in error.message
