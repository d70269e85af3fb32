"""The errors of the etcd client: one tree, and one table that maps etcd's words.

.. code-block:: text

    TrioSchedError
    └── EtcdError
        ├── ClientClosed                the client's block was left
        ├── ConnectionFailed            no endpoint let us in; each with its reason
        ├── ConnectionLost              a connection ended under a call
        ├── RemoteProtocolError         the peer does not speak gRPC over HTTP/2
        ├── LeaseLost                   a lease that was kept alive is gone
        ├── MessageTooLarge             an answer is larger than we accept
        ├── RevisionWentBack            the store is another one: restored, or wiped
        │   └── ClusterChanged          … and so is the cluster
        ├── WatchCanceled               etcd ended a watch
        │   └── Compacted               … as its history is gone
        ├── WatchOverflow               a watcher did not read what it asked for
        └── RpcError                    etcd answered with an error
            ├── DeadlineExceeded
            ├── InvalidArgument
            │   ├── AuthenticationFailed
            │   ├── AuthStoreChanged
            │   └── RequestTooLarge
            ├── NotFound
            │   └── LeaseNotFound
            ├── FailedPrecondition
            │   └── LeaseExists
            ├── PermissionDenied
            ├── ProposalDropped         nothing was done; sent again, for some seconds
            ├── Unauthenticated
            ├── ResourceExhausted
            │   ├── NoSpace
            │   └── TooManyRequests
            ├── OutOfRange
            │   ├── RevisionCompacted
            │   └── FutureRevision
            ├── Unimplemented
            └── Unavailable             this member cannot, another one may
                ├── NoLeader
                └── NotPrimaryLessor

Every class carries what a program would ask for as attributes. Those of locks, elections and the
like are in ``concurrency.errors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from grpclib.const import Status

from trio_sched.exceptions import TrioSchedError

__all__ = [
    "AuthStoreChanged",
    "AuthenticationFailed",
    "ClientClosed",
    "ClusterChanged",
    "Compacted",
    "ConnectionFailed",
    "ConnectionLost",
    "DeadlineExceeded",
    "EtcdError",
    "FailedPrecondition",
    "FutureRevision",
    "InvalidArgument",
    "LeaseExists",
    "LeaseLost",
    "LeaseNotFound",
    "MessageTooLarge",
    "NoLeader",
    "NoSpace",
    "NotFound",
    "NotPrimaryLessor",
    "OutOfRange",
    "PermissionDenied",
    "ProposalDropped",
    "RemoteProtocolError",
    "RequestTooLarge",
    "ResourceExhausted",
    "RevisionCompacted",
    "RevisionWentBack",
    "RpcError",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "WatchCanceled",
    "WatchOverflow",
    "again",
    "rpc_error",
]


class EtcdError(TrioSchedError):
    """Whatever went wrong with etcd, or on the way to it."""


class ClientClosed(EtcdError):
    """The client's block was left, so it can send nothing more."""


class ConnectionFailed(EtcdError):
    """No endpoint let us in.

    Attributes:
        reasons: for each endpoint that was tried, why it failed.
    """

    def __init__(self, reasons: Mapping[str, BaseException]) -> None:
        words = "; ".join(f"{endpoint}: {_words(exc)}" for endpoint, exc in reasons.items())
        super().__init__(f"cannot connect to etcd: {words}")
        self.reasons: dict[str, BaseException] = dict(reasons)


class ConnectionLost(EtcdError):
    """The connection ended while a call was under way.

    Attributes:
        processed: False if the server certainly did nothing with the call, so
            that it may be sent again; True if it is not known.
    """

    def __init__(self, message: str, *, processed: bool = True) -> None:
        super().__init__(message)
        self.processed = processed


class RemoteProtocolError(EtcdError):
    """The peer broke HTTP/2 or gRPC, or speaks something else."""


class LeaseLost(EtcdError):
    """A lease that was kept alive is gone, or may be.

    Attributes:
        lease: its id.
        reason: one short clause in plain words.
    """

    def __init__(self, lease: int, reason: str) -> None:
        super().__init__(f"lease {lease:x} is lost: {reason}")
        self.lease = lease
        self.reason = reason


class MessageTooLarge(EtcdError):
    """The server sent a message that is larger than this client accepts.

    Attributes:
        size: its length, in bytes.
        limit: what is accepted, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the server sent a message of {size} bytes; at most {limit} are accepted")
        self.size = size
        self.limit = limit


class WatchCanceled(EtcdError):
    """etcd ended a watch.

    Attributes:
        reason: etcd's own words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"etcd ended the watch: {reason or 'no reason given'}")
        self.reason = reason


class Compacted(WatchCanceled):
    """The history that a watch asked for is gone.

    Attributes:
        revision: the oldest revision that a watch can still start at.
    """

    def __init__(self, reason: str, revision: int) -> None:
        super().__init__(reason or f"history before revision {revision} is compacted")
        self.revision = revision


class RevisionWentBack(EtcdError):
    """A linearizable answer is older than one before it: the store was restored, or wiped.

    Attributes:
        known: the highest revision that was known of.
        found: the revision of the answer.
    """

    def __init__(self, known: int, found: int) -> None:
        super().__init__(
            f"the store's revision went back from {known} to {found}: it was restored or wiped"
        )
        self.known = known
        self.found = found


class ClusterChanged(RevisionWentBack):
    """Another cluster answers than before: its store is another one, whatever its revision.

    Attributes:
        known: the highest revision that was known of.
        found: the revision of the answer.
        before: id of the cluster that answered before.
        cluster: id of the one that answers now.
    """

    def __init__(self, known: int, found: int, before: int, cluster: int) -> None:
        EtcdError.__init__(self, f"cluster {cluster:x} answers, and not {before:x} as before")
        self.known = known
        self.found = found
        self.before = before
        self.cluster = cluster


class WatchOverflow(EtcdError):
    """A watcher did not read, its buffer is full, and events had to be dropped.

    Attributes:
        limit: how many events the buffer holds.
        revision: the revision up to which every event was, or can still be, read.
    """

    def __init__(self, limit: int, revision: int) -> None:
        super().__init__(
            f"{limit} events wait to be read and more came; "
            f"a new watch can go on at revision {revision + 1}"
        )
        self.limit = limit
        self.revision = revision


class RpcError(EtcdError):
    """etcd answered a call with an error.

    Attributes:
        status: the gRPC status.
        message: etcd's own words.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(f"{status.name}: {message}" if message else status.name)
        self.status = status
        self.message = message


class DeadlineExceeded(RpcError):
    """The call's deadline passed, noticed by the client or by the server."""


class InvalidArgument(RpcError):
    """The request makes no sense to etcd."""


class AuthenticationFailed(InvalidArgument):
    """Wrong user name or password. Trying again does not help."""


class AuthStoreChanged(InvalidArgument):
    """Users or roles changed since the token was given; a new one is needed."""


class RequestTooLarge(InvalidArgument):
    """The request is larger than etcd, or its gRPC, accepts (1.5 MiB unless configured)."""


class NotFound(RpcError):
    """What the call is about does not exist."""


class LeaseNotFound(NotFound):
    """The lease does not exist: it was never granted, was revoked, or lapsed."""


class FailedPrecondition(RpcError):
    """etcd is not in the state that the call needs."""


class LeaseExists(FailedPrecondition):
    """A lease of this id has been granted already."""


class PermissionDenied(RpcError):
    """This user may not do that."""


class ProposalDropped(RpcError):
    """etcd's raft took no write, as its leader is being moved: nothing was done."""


class Unauthenticated(RpcError):
    """The token is missing, expired or unknown."""


class ResourceExhausted(RpcError):
    """etcd has no room or no time for the call."""


class NoSpace(ResourceExhausted):
    """etcd's database is at its quota: only reads and deletes work."""


class TooManyRequests(ResourceExhausted):
    """etcd is overloaded."""


class OutOfRange(RpcError):
    """The revision asked for does not exist yet."""


class RevisionCompacted(OutOfRange):
    """The revision asked for is older than what etcd keeps."""


class FutureRevision(OutOfRange):
    """The revision asked for is not there yet."""


class Unimplemented(RpcError):
    """This server does not know the method."""


class Unavailable(RpcError):
    """This member cannot serve the call now; another one may."""


class NoLeader(Unavailable):
    """The member has lost its quorum."""


class NotPrimaryLessor(Unavailable):
    """The member is not, or no longer, the one that keeps leases."""


_BY_STATUS: dict[Status, type[RpcError]] = {
    Status.DEADLINE_EXCEEDED: DeadlineExceeded,
    Status.INVALID_ARGUMENT: InvalidArgument,
    Status.NOT_FOUND: NotFound,
    Status.FAILED_PRECONDITION: FailedPrecondition,
    Status.PERMISSION_DENIED: PermissionDenied,
    Status.UNAUTHENTICATED: Unauthenticated,
    Status.RESOURCE_EXHAUSTED: ResourceExhausted,
    Status.OUT_OF_RANGE: OutOfRange,
    Status.UNIMPLEMENTED: Unimplemented,
    Status.UNAVAILABLE: Unavailable,
}

# etcd's own words decide where a status covers several things, or where it comes under a status
# that says nothing.
_BY_WORDS: tuple[tuple[str, type[RpcError]], ...] = (
    ("authentication failed", AuthenticationFailed),
    ("revision of auth store is old", AuthStoreChanged),
    ("revision in header is old", AuthStoreChanged),
    ("request is too large", RequestTooLarge),
    ("received message larger than max", RequestTooLarge),
    ("requested lease not found", LeaseNotFound),
    ("lease already exists", LeaseExists),
    ("database space exceeded", NoSpace),
    ("too many requests", TooManyRequests),
    ("required revision has been compacted", RevisionCompacted),
    ("required revision is a future revision", FutureRevision),
    ("etcdserver: no leader", NoLeader),
    ("raft proposal dropped", ProposalDropped),
    ("not a primary lessor", NotPrimaryLessor),
    ("context deadline exceeded", DeadlineExceeded),
    ("invalid auth token", Unauthenticated),
    ("user name is empty", Unauthenticated),
)


E = TypeVar("E", bound=Exception)


def again(error: E) -> E:
    """Return a copy of an error, for one of several tasks that fail by it.

    One exception object raised in many tasks would collect all their tracebacks.
    """
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


def rpc_error(status: Status, message: str) -> RpcError:
    """Return the error that stands for a gRPC status and etcd's words."""
    for words, by_words in _BY_WORDS:
        if words in message:
            return by_words(status, message)
    return _BY_STATUS.get(status, RpcError)(status, message)


def _words(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
