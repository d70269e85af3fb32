"""One call, as grpclib's generated stubs use it.

The stubs ask a channel for a call, enter it with ``async with``, and use
`send_message`, `recv_message`, `end`, `cancel` and ``async for``. Nothing in
leaving a call waits: a cancelled call becomes an RST_STREAM that is queued, so
a caller's own exception or cancellation is never replaced by one from here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, Self, TypeVar, cast

import trio
from grpclib.const import Cardinality, Status

from trio_sched.etcd_shim.channel._call_state import READS_ONLY, CallState
from trio_sched.etcd_shim.errors import (
    ConnectionLost,
    DeadlineExceeded,
    EtcdError,
    RemoteProtocolError,
)

if TYPE_CHECKING:
    from grpclib.client import Stream

    from trio_sched.etcd_shim.channel._connection import Connection
    from trio_sched.etcd_shim.channel.http2.header_blocks import Field

__all__ = ["Call", "Connections", "ProtoMessage", "deliver", "leave_member", "send_message_nowait"]


class ProtoMessage(Protocol):
    """What is needed of a protobuf message."""

    def SerializeToString(self) -> bytes:  # noqa: N802 # protobuf's name
        """Return the message encoded."""
        ...

    @classmethod
    def FromString(cls, data: bytes, /) -> Self:  # noqa: N802 # protobuf's name
        """Return the message that `data` encodes."""
        ...


class Connections(ABC):
    """Where a call gets its connection."""

    __slots__ = ()

    @property
    @abstractmethod
    def ready(self) -> Connection | None:
        """The connection that `connection` would return at once, if there is one."""

    @abstractmethod
    async def connection(self) -> Connection:
        """Return a connection that takes calls."""

    @abstractmethod
    def headers(
        self,
        connection: Connection,
        path: str,
        metadata: Mapping[str, str] | None,
        timeout: float | None,
    ) -> Sequence[Field]:
        """Return the headers of a request."""

    @abstractmethod
    def leave(self, connection: Connection, error: EtcdError) -> None:
        """Go to another member, if there is one."""

    @abstractmethod
    def note_failure(self, connection: Connection, error: EtcdError) -> None:
        """Learn from the error that a call ended with."""


Req = TypeVar("Req", bound=ProtoMessage)
Rep = TypeVar("Rep", bound=ProtoMessage)


class Call(Generic[Req, Rep]):
    """A call that is sent when its first message, or `send_request`, is.

    Errors of the server, and a connection that ends under the call, come out of
    whatever method waits for the answer.
    """

    __slots__ = (
        "_cancel_scope",
        "_channel",
        "_connection",
        "_metadata",
        "_one_reply",
        "_one_request",
        "_path",
        "_replied",
        "_reply_type",
        "_state",
        "_stream_id",
        "_timeout",
    )

    def __init__(
        self,
        channel: Connections,
        path: str,
        cardinality: Cardinality,
        reply_type: type[Rep],
        timeout: float | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self._channel = channel
        self._path = path
        self._one_reply = not cardinality.server_streaming
        self._one_request = not cardinality.client_streaming
        self._reply_type = reply_type
        self._timeout = timeout
        self._metadata = metadata
        self._cancel_scope: trio.CancelScope | None = None
        self._connection: Connection | None = None
        self._state: CallState | None = None
        self._stream_id = 0
        self._replied = False

    async def __aenter__(self) -> Self:
        if self._timeout is not None:
            self._cancel_scope = trio.move_on_after(self._timeout)
            self._cancel_scope.__enter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reset()
        scope, self._cancel_scope = self._cancel_scope, None
        if scope is not None and scope.__exit__(exc_type, exc, traceback):
            raise DeadlineExceeded(
                Status.DEADLINE_EXCEEDED, f"no answer to {self._path} within {self._timeout} s"
            ) from None

    def _reset(self) -> None:
        if self._connection is not None:
            self._connection.cancel(self._stream_id)

    # ---- sending -----------------------------------------------------------------

    async def send_request(self, *, end: bool = False) -> None:
        """Begin the call without a message. A checkpoint."""
        await trio.lowlevel.checkpoint_if_cancelled()
        connection, state = await self._begin()
        if end:
            connection.end(self._stream_id, state)
        connection.flush()

    async def send_message(self, message: Req, *, end: bool = False) -> None:
        """Send a message; begin the call with it if it has not begun.

        Waits until the message has found room in the windows, unless it is a
        request that an answer will be waited for anyway. Cancelled, the message
        may be sent in part, and the call can only be left.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        connection, state = self._connection, self._state
        if connection is None or state is None:
            connection, state = await self._begin()
        if state.ended:
            self._raise_ended(state)
        connection.send(self._stream_id, state, message.SerializeToString(), end=end)
        connection.flush()
        if not self._one_request:
            await self._wait_for_room(connection, state)

    def send_message_nowait(self, message: Req) -> bool:
        """Send a message of a call that has begun; False, and nothing, if that takes waiting."""
        connection, state = self._connection, self._state
        if connection is None or state is None or state.ended or not state.sent:
            return False
        connection.send(self._stream_id, state, message.SerializeToString(), end=False)
        connection.flush()
        return True

    async def end(self) -> None:
        """End our half of the call. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self._connection is not None and self._state is not None and not self._state.ended:
            self._connection.end(self._stream_id, self._state)
            self._connection.flush()

    async def cancel(self) -> None:
        """Cancel the call: RST_STREAM. A checkpoint."""
        self._reset()
        await trio.lowlevel.checkpoint()

    async def _begin(self) -> tuple[Connection, CallState]:
        while self._connection is None or self._state is None:
            connection = self._channel.ready
            if connection is None or not connection.admission.enter_nowait():
                connection = await self._channel.connection()
                if not await connection.admission.enter():
                    continue
            self._open_on(connection)
        return self._connection, self._state

    def _open_on(self, connection: Connection) -> None:
        """Begin the call on a connection which has let it in."""
        try:
            opened = connection.open(
                self._channel.headers(connection, self._path, self._metadata, self._timeout)
            )
        except BaseException:
            connection.admission.leave()  # what cannot be sent keeps no place
            raise
        if opened is not None:
            self._connection = connection
            self._stream_id, self._state = opened
            self._state.path = self._path
            self._state.reads_only = self._metadata is READS_ONLY

    async def _wait_for_room(self, connection: Connection, state: CallState) -> None:
        await connection.wait_drained()
        while not state.sent and not state.ended:
            await state.wait_for_room()

    def _raise_ended(self, state: CallState) -> None:
        if state.error is not None:
            raise state.error
        raise ConnectionLost(f"the server ended {self._path} before all was sent")

    # ---- receiving -----------------------------------------------------------------

    def recv_message(self) -> Awaitable[Rep | None]:
        """Wait for the next message and return it; None after the last one.

        Cancelled, no message is lost.

        Raises:
            RpcError: the server ended the call with an error.
            ConnectionLost: the connection ended first.
        """
        return self._recv_one_reply() if self._one_reply else self._recv_next()

    async def _recv_next(self) -> Rep | None:
        connection, state = await self._begin()
        if state.messages:
            await trio.lowlevel.checkpoint()
        while not state.messages and not state.ended:
            await state.wakeup.wait()
        if state.messages:
            return self._decode(self._next_payload(connection, state))
        if state.error is not None:
            self._fail(connection, state.error)
        return None

    async def deliver(self, take: Callable[[Rep], object]) -> None:
        """Have each message given to `take` when it arrives, until the call has ended.

        What grpclib does not have, for a stream that many share: the task that
        waits for a message is woken by the one that reads the connection, in its own
        tick, and not by another task one tick later. So `take` must be quick, and cannot
        wait. What it raises comes out of here, and nothing more is given to it.

        Fails as `recv_message` does. A checkpoint. Cancelled, messages that come
        later can be received still.

        Raises:
            trio.BusyResourceError: they are given to another already.
        """
        connection, state = await self._begin()
        if state.sink is not None:
            raise trio.BusyResourceError("another task takes the messages already")
        delivery = _Delivery(state, take, self._decode)
        try:
            while state.messages and delivery.failure is None:
                delivery(self._next_payload(connection, state))
            if state.ended or delivery.failure is not None:
                await trio.lowlevel.checkpoint()
            else:
                state.sink = delivery
            while not state.ended and delivery.failure is None:
                await state.wakeup.wait()
        finally:
            state.sink = None
        if delivery.failure is not None:
            raise delivery.failure
        if state.error is not None:
            self._fail(connection, state.error)

    def _next_payload(self, connection: Connection, state: CallState) -> bytes:
        payload = state.messages.pop(0)
        if not state.ended:
            connection.consumed(self._stream_id, payload)
        return payload

    async def _recv_one_reply(self) -> Rep | None:
        connection, state = self._connection, self._state
        if connection is None or state is None:
            connection, state = await self._begin()
        while not state.ended:
            await state.wakeup.wait()
        if state.error is not None:
            self._fail(connection, state.error)
        if not state.messages:
            if self._replied:
                return None
            raise RemoteProtocolError(f"the answer to {self._path} holds no message")
        self._replied = True
        return self._decode(state.messages.pop(0))

    def leave_member(self, error: EtcdError) -> None:
        """Have the member left on which the call is, as it does not answer; see `Channel.leave`."""
        if self._connection is not None:
            self._channel.leave(self._connection, error)

    def _fail(self, connection: Connection, error: EtcdError) -> NoReturn:
        self._channel.note_failure(connection, error)
        raise error

    def _decode(self, payload: bytes) -> Rep:
        try:
            return self._reply_type.FromString(payload)
        except Exception as exc:
            raise RemoteProtocolError(f"the answer to {self._path} cannot be decoded") from exc

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Rep:
        """Wait for the next message; the end of the call ends the loop."""
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message


class _Delivery(Generic[Rep]):
    """Gives the messages of a call to its receiver, until one cannot be given.

    Attributes:
        failure: why that one could not.
    """

    __slots__ = ("_decode", "_state", "_take", "failure")

    def __init__(
        self, state: CallState, take: Callable[[Rep], object], decode: Callable[[bytes], Rep]
    ) -> None:
        self._state = state
        self._take = take
        self._decode = decode
        self.failure: Exception | None = None

    def __call__(self, payload: bytes) -> None:
        """Give a message; called by the connection's reader, which nothing raised here may end."""
        try:
            self._take(self._decode(payload))
        except Exception as exc:  # noqa: BLE001 # raised by `Call.deliver`
            self.failure = exc
            self._state.sink = None
            self._state.wakeup.notify()


def deliver(stream: Stream[Req, Rep], take: Callable[[Rep], object]) -> Awaitable[None]:
    """Do `Call.deliver` on what a stub calls a stream, which is a call of ours."""
    return cast("Call[Req, Rep]", stream).deliver(take)


def leave_member(stream: Stream[Req, Rep], error: EtcdError) -> None:
    """Do `Call.leave_member` on what a stub calls a stream."""
    cast("Call[Req, Rep]", stream).leave_member(error)


def send_message_nowait(stream: Stream[Req, Rep], message: Req) -> bool:
    """Do `Call.send_message_nowait` on what a stub calls a stream."""
    return cast("Call[Req, Rep]", stream).send_message_nowait(message)
