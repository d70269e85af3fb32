"""Who makes calls: what grpclib's stubs take for a channel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from grpclib.const import Cardinality
from hpack import NeverIndexedHeaderTuple

from trio_sched.etcd_shim.channel._call import Call, Connections, ProtoMessage
from trio_sched.etcd_shim.channel._connection import Connection
from trio_sched.etcd_shim.channel._endpoint import Endpoint
from trio_sched.etcd_shim.errors import ConnectionLost, EtcdError

__all__ = ["Caller", "HeaderList", "OneConnection"]

Req = TypeVar("Req", bound=ProtoMessage)
Rep = TypeVar("Rep", bound=ProtoMessage)
HeaderList = tuple[tuple[bytes, bytes], ...]

_MAX_TIMEOUT = 99_999_999  # milliseconds; eight digits are what the header takes


class CallCounts:
    """What a channel was used for; meanings as in `ChannelStatistics`."""

    __slots__ = ("calls", "retries", "watch_events")

    def __init__(self) -> None:
        self.calls: int = 0
        self.retries: int = 0
        self.watch_events: int = 0

    def values(self) -> tuple[int, int, int]:
        """Return all of them, in this order."""
        return self.calls, self.retries, self.watch_events


class Caller(Connections):
    """Makes calls on connections that a subclass provides."""

    __slots__ = ("counts", "token")

    def __init__(self) -> None:
        self.counts: CallCounts = CallCounts()
        self.token: str | None = None

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[Req],
        reply_type: type[Rep],
        *,
        timeout: float | None = None,
        deadline: object = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Call[Req, Rep]:
        """Return a call that is not sent yet. The stubs call this.

        Args:
            name: the method's path, such as ``/etcdserverpb.KV/Range``.
            cardinality: who streams.
            request_type: protobuf class of requests.
            reply_type: protobuf class of replies.
            timeout: seconds until the call fails with `DeadlineExceeded`.
            deadline: not supported; give a timeout, or use a cancel scope.
            metadata: further headers.
        """
        del request_type  # the message knows how to encode itself
        if deadline is not None:
            raise TypeError("a deadline is not supported: give a timeout, or use a cancel scope")
        return Call(self, name, cardinality, reply_type, timeout, metadata)

    def headers(
        self,
        connection: Connection,
        path: str,
        metadata: Mapping[str, str] | None,
        timeout: float | None,
    ) -> HeaderList:
        cached = _request_headers(connection.endpoint, path)
        extra: list[tuple[bytes, bytes]] = []
        if timeout is not None:
            limit = max(1, min(int(timeout * 1000), _MAX_TIMEOUT))
            # A value that is another each time would push all others out of hpack's table.
            extra.append(NeverIndexedHeaderTuple(b"grpc-timeout", b"%dm" % limit))
        if self.token is not None:
            extra.append((b"token", self.token.encode()))
        if metadata:
            extra += [(key.encode(), value.encode()) for key, value in metadata.items()]
        return (*cached, *extra) if extra else cached


class OneConnection(Caller):
    """Makes calls on one connection only."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    @property
    def ready(self) -> Connection | None:
        """That connection, if it takes calls."""
        return self._connection if self._connection.accepting else None

    async def connection(self) -> Connection:
        """Return that connection.

        Raises:
            ConnectionLost: it takes no more calls.
        """
        if not self._connection.accepting:
            raise self._connection.error or ConnectionLost(
                f"{self._connection.endpoint} takes no more calls", processed=False
            )
        return self._connection

    def note_failure(self, connection: Connection, error: EtcdError) -> None:
        """Do nothing: there is no other connection to move on to."""

    def leave(self, connection: Connection, error: EtcdError) -> None:
        """Do nothing, likewise."""


@lru_cache(maxsize=256)  # the same lists for all clients, which do not change them
def _request_headers(endpoint: Endpoint, path: str) -> HeaderList:
    return (
        (b":method", b"POST"),
        (b":scheme", b"https" if endpoint.scheme == "https" else b"http"),
        (b":path", path.encode()),
        (b":authority", endpoint.authority),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"trio-sched"),
    )
