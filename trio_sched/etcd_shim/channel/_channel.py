"""A channel: connects when it must, and where it can.

Theory of operation
-------------------
The channel has at most one connection that takes new calls. It is made when the
first call needs it, by service tasks, so a caller that is cancelled meanwhile
takes nothing from the others who wait for it. A connection is one such task, from
its first byte to its last.

*Connecting* is a race, unless there is one endpoint only. The endpoints are tried
in turn, beginning with the one after the last that was tried; the next begins when
one fails, or is silent for a moment; the one that is first to send its SETTINGS
wins. (A stopped process's kernel accepts connections, so being connected means
nothing.) If none wins, each endpoint has its reason. All that is decided at
once by the task that brings the event; another one is needed for the pauses only.

*Moving on.* A connection that ends is replaced when the next call comes. One
whose member says that it cannot serve - it has lost its quorum, or is no longer
the one that keeps leases - is retired: calls under way stay on it, new calls go
to the next endpoint.

*Tokens.* With a user, the first connection asks for a token; all calls carry it.
A caller whose token is refused asks for a new one, once for all callers.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import trio

from trio_sched._support.tasks import ServiceBlock, ServiceNursery, Wakeup
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import AuthStub
from trio_sched.etcd_shim.channel._caller import Caller, OneConnection
from trio_sched.etcd_shim.channel._connection import Connection
from trio_sched.etcd_shim.channel._endpoint import ByteStream, Endpoint, root_cause
from trio_sched.etcd_shim.channel._network_users import Stream, note_network_user
from trio_sched.etcd_shim.channel._settings import ChannelSettings, Credentials, PingPolicy
from trio_sched.etcd_shim.channel._statistics import ChannelStatistics
from trio_sched.etcd_shim.channel._transport import NetworkTransport, Transport
from trio_sched.etcd_shim.errors import (
    ClientClosed,
    ConnectionFailed,
    EtcdError,
    FailedPrecondition,
    Unavailable,
    again,
)

if TYPE_CHECKING:
    import grpclib.client

__all__ = ["Access", "Channel", "open_channel"]


@dataclass(frozen=True)
class Access:
    """Where a channel connects to, and as which user. The password is in no repr.

    Attributes:
        endpoints: the members.
        credentials: user and password, if there are any.
        ssl_context: for ``https``, if one was given.
    """

    endpoints: tuple[Endpoint, ...]
    credentials: Credentials | None
    ssl_context: ssl.SSLContext | None


class _Attempt:
    """An attempt to connect, which several callers may wait for."""

    __slots__ = ("done", "error", "left", "reasons", "runners", "wakeup", "winner")

    def __init__(self, endpoints: int) -> None:
        self.done = trio.Event()
        self.error: EtcdError | None = None
        # of the race:
        self.left = endpoints  # that have not failed
        self.reasons: dict[str, BaseException] = {}
        self.runners: dict[Endpoint, trio.CancelScope] = {}
        self.winner: Connection | None = None
        self.wakeup = Wakeup()


class Channel(Caller):
    """Made by `open_channel`. See the head of the module."""

    __slots__ = (
        "__weakref__",
        "_attempt",
        "_connects",
        "_credentials",
        "_current",
        "_endpoints",
        "_next",
        "_open",
        "_pings",
        "_refreshing",
        "_services",
        "_settings",
        "_ssl_context",
        "_streams",
        "_transport",
    )

    def __init__(
        self,
        services: ServiceNursery,
        endpoints: Sequence[Endpoint],
        ssl_context: ssl.SSLContext | None,
        credentials: Credentials | None,
        settings: ChannelSettings,
        pings: PingPolicy,
        transport: Transport | None = None,
    ) -> None:
        super().__init__()
        self._transport = transport or NetworkTransport()
        self._services = services
        self._endpoints = tuple(dict.fromkeys(endpoints))
        self._ssl_context = ssl_context
        self._credentials = credentials
        self._settings = settings
        self._pings = pings
        self._next = 0
        self._current: Connection | None = None
        self._attempt: _Attempt | None = None
        self._open: set[Connection] = set()
        self._connects = 0
        self._refreshing: trio.Lock | None = None
        self._streams: list[Stream] = []

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where the channel connects to."""
        return self._endpoints

    @property
    def access(self) -> Access:
        """What another process needs to connect as this channel does."""
        return Access(self._endpoints, self._credentials, self._ssl_context)

    @property
    def services(self) -> ServiceNursery:
        """Where what uses the channel can run tasks that end with it."""
        return self._services

    @property
    def ready(self) -> Connection | None:
        """The connection that takes calls, if there is one."""
        current = self._current
        return current if current is not None and current.accepting else None

    async def connection(self) -> Connection:
        """Return a connection that takes calls; make it if there is none.

        Not a checkpoint if there is one.

        Raises:
            ConnectionFailed: no endpoint let us in.
            AuthenticationFailed: the user or the password is wrong.
            ClientClosed: the channel's block was left.
        """
        lost: dict[str, BaseException] = {}
        while True:
            if self._current is not None and self._current.accepting:
                return self._current
            if self._services.closing:
                raise ClientClosed("the client's block was left")
            if self._attempt is None:
                self._connect()
            attempt = self._attempt
            assert attempt is not None
            await attempt.done.wait()
            await trio.lowlevel.checkpoint()  # who hangs up at once may be found out by now
            if attempt.error is not None:
                raise again(attempt.error)
            self._note_lost(attempt, lost)

    def _note_lost(self, attempt: _Attempt, lost: dict[str, BaseException]) -> None:
        """Give up on endpoints that let us in and hang up at once, rather than try for ever."""
        winner = attempt.winner
        if winner is None or winner.error is None:
            return
        again_and_again = winner.endpoint.url in lost
        lost[winner.endpoint.url] = winner.error
        if again_and_again or len(lost) == len(self._endpoints):
            raise ConnectionFailed(lost)

    def note_failure(self, connection: Connection, error: EtcdError) -> None:
        """Move on to another member if this one says that it cannot serve."""
        if isinstance(error, Unavailable) and len(self._endpoints) > 1:
            connection.retire()

    def statistics(self) -> ChannelStatistics:
        """Return how the channel does."""
        return ChannelStatistics(tuple(c.statistics() for c in self._open), self._connects)

    # ---- connecting ------------------------------------------------------------

    @property
    def awaits_network(self) -> bool:
        """Whether a connection is being made, or a server is to send something next."""
        awaited = any(each.awaits_server for each in self._open)
        return (
            awaited
            or self._attempt is not None
            or any(each.awaits_answer for each in self._streams)
        )

    def note_stream(self, stream: Stream) -> None:
        """Have `awaits_network` ask a stream, of whose answers the connection knows little."""
        self._streams.append(stream)

    def _connect(self) -> None:
        """Begin an attempt."""
        if self._transport.on_network:
            note_network_user(self)
        self._attempt = attempt = _Attempt(len(self._endpoints))
        if len(self._endpoints) == 1:
            self._try_next(attempt)
        else:
            self._services.start_soon(self._race, attempt)

    async def _race(self, attempt: _Attempt) -> None:
        """Send the endpoints off, one after the other."""
        for _ in self._endpoints:
            left = attempt.left
            self._try_next(attempt)
            with trio.move_on_after(self._settings.stagger):
                while attempt.winner is None and attempt.left == left:
                    await attempt.wakeup.wait()
            if attempt.winner is not None:
                return

    def _try_next(self, attempt: _Attempt) -> None:
        endpoint = self._endpoints[self._next]
        self._next = (self._next + 1) % len(self._endpoints)
        attempt.runners[endpoint] = self._services.start_soon(self._run, attempt, endpoint)

    async def _run(self, attempt: _Attempt, endpoint: Endpoint) -> None:
        """Open a connection and serve it to its end."""
        try:
            connection = await self._open_connection(attempt, endpoint)
            if connection is not None:
                await self._serve(attempt, connection)
        finally:
            if self._services.closing:
                self._settle(attempt, ClientClosed("the client's block was left"))

    async def _open_connection(self, attempt: _Attempt, endpoint: Endpoint) -> Connection | None:
        timeout = self._settings.connect_timeout
        try:
            with trio.CancelScope(deadline=trio.current_time() + timeout):
                stream = await self._transport.open_stream(endpoint, self._ssl_context)
                sent = _send_preface(stream, self._transport.preface())
                return Connection(
                    endpoint,
                    stream,
                    self._transport.protocol(self._settings.max_message_size),
                    self._settings,
                    self._pings,
                    self._services,
                    partial(self._win, attempt),
                    sent=sent,
                )
        except (OSError, ValueError, trio.BrokenResourceError) as exc:
            # A name that the resolver does not take, or TLS, is a ValueError.
            self._lose(attempt, endpoint, root_cause(exc))
            return None
        self._lose(attempt, endpoint, TimeoutError(f"no answer in {timeout} s"))
        return None

    async def _serve(self, attempt: _Attempt, connection: Connection) -> None:
        self._connects += 1
        self._open.add(connection)
        try:
            error = await connection.run()
        finally:
            self._open.discard(connection)
            if self._current is connection:
                self._current = None
        self._lose(attempt, connection.endpoint, error)

    def _win(self, attempt: _Attempt, connection: Connection) -> None:
        """Note that a connection is ready; only the first one counts."""
        if attempt.winner is not None:
            return
        attempt.winner = connection
        attempt.wakeup.notify()
        for endpoint, runner in attempt.runners.items():
            if endpoint != connection.endpoint:
                runner.cancel()
        if self._credentials is not None and self.token is None:
            self._services.start_soon(self._log_in, attempt, connection, self._credentials)
        else:
            self._settle(attempt, None)

    def _lose(self, attempt: _Attempt, endpoint: Endpoint, reason: BaseException) -> None:
        """Note that a connection could not be made, or is over."""
        attempt.reasons[endpoint.url] = reason
        attempt.left -= 1
        attempt.wakeup.notify()
        if attempt.left == 0 and attempt.winner is None:
            self._settle(attempt, ConnectionFailed(attempt.reasons))

    def _settle(self, attempt: _Attempt, error: EtcdError | None) -> None:
        """Let the tasks that wait know what came of an attempt, once."""
        if attempt.done.is_set():
            return
        attempt.error = error
        if error is None:
            self._current = attempt.winner
        self._attempt = None
        attempt.done.set()

    # ---- tokens ----------------------------------------------------------------

    async def _log_in(
        self, attempt: _Attempt, connection: Connection, credentials: Credentials
    ) -> None:
        """Get a token over the connection that won."""
        try:
            await self._fetch_token(OneConnection(connection), credentials)
        except EtcdError as exc:
            self._settle(attempt, exc)
            connection.retire()  # it did not let us log in
        else:
            self._settle(attempt, None)
        finally:
            if self._services.closing:
                self._settle(attempt, ClientClosed("the client's block was left"))

    async def _fetch_token(self, caller: Caller, credentials: Credentials) -> None:
        stub = AuthStub(cast("grpclib.client.Channel", caller))
        request = pb.AuthenticateRequest(name=credentials.user, password=credentials.password)
        try:
            self.token = (await stub.Authenticate(request)).token
        except FailedPrecondition:
            self.token = None  # authentication is not enabled

    async def refresh_token(self, stale: str | None) -> bool:
        """Ask for a new token in place of `stale`; False if there is no user.

        Raises:
            AuthenticationFailed: the user or the password is wrong now.
        """
        if self._credentials is None:
            return False
        if self._refreshing is None:
            self._refreshing = trio.Lock()
        async with self._refreshing:
            if self.token == stale:
                # Other calls go on with the stale one meanwhile, which they may still be good for:
                # without any, etcd would take them for a client that has no name.
                caller = OneConnection(await self.connection())
                if self.token == stale:
                    await self._fetch_token(caller, self._credentials)
        return True


def _send_preface(stream: ByteStream, preface: bytes) -> int:
    """Send the connection preface, to be answered meanwhile; return how much was sent."""
    try:
        return stream.send_nowait(preface)
    except OSError:
        stream.close()
        raise


def open_channel(
    endpoints: Sequence[Endpoint],
    *,
    ssl_context: ssl.SSLContext | None = None,
    credentials: Credentials | None = None,
    settings: ChannelSettings | None = None,
    pings: PingPolicy | None = None,
) -> ServiceBlock[Channel]:
    """Open a channel, with ``async with``; nothing is sent before the first call.

    Its tasks outlive the body and whatever cancels it; when the block is left,
    the connection is closed.

    Args:
        endpoints: where to connect to; one or more.
        ssl_context: for ``https`` endpoints.
        credentials: who we are; None if etcd does not ask.
        settings: bounds.
        pings: when to ask a silent peer whether it is there.
    """
    services = ServiceNursery()
    channel = Channel(
        services,
        endpoints,
        ssl_context,
        credentials,
        settings or ChannelSettings(),
        pings or PingPolicy(),
    )
    return ServiceBlock(services, channel)
