"""A channel: connects when it must, and to whom it can.

Theory of operation
-------------------
The channel has at most one connection that takes new calls. It is made when the
first call needs it, by service tasks, so a caller that is cancelled meanwhile
takes nothing from the others who wait for it.

*Connecting* is a race. The endpoints are tried in turn, beginning with the one
after the last that was tried; the next begins when one fails, or is silent for
a moment; whoever first says its first words of HTTP/2 wins. (A stopped process's
kernel accepts connections, so being connected means nothing.) If nobody wins,
each endpoint has its reason.

*Moving on.* A connection that ends is replaced when the next call comes. One
whose member says that it cannot serve - it has lost its quorum, or is no longer
the one that keeps leases - is retired: calls under way stay on it, new calls go
to the next endpoint.

*Tokens.* With a user, the first connection asks for a token; all calls carry it.
Whoever is told that it is not good asks for a new one, once for all callers.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import trio

from trio_sched._tasks import Doorbell, ServiceNursery, open_service_nursery
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import AuthStub
from trio_sched.etcd_shim.channel._caller import Caller, OneConnection
from trio_sched.etcd_shim.channel._connection import Connection, ConnectionStatistics
from trio_sched.etcd_shim.channel._endpoint import Endpoint, open_byte_stream, root_cause
from trio_sched.etcd_shim.channel._protocol import Protocol
from trio_sched.etcd_shim.channel._settings import ChannelSettings, Credentials, PingPolicy
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

__all__ = ["Channel", "ChannelStatistics", "open_channel"]


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A snapshot of a channel.

    Attributes:
        connections: those that are open; more than one while calls on an older
            one are finished.
        connects: how many were made in all.
    """

    connections: tuple[ConnectionStatistics, ...]
    connects: int


class _Attempt:
    """An attempt to connect, which several callers may wait for."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: EtcdError | None = None
        # of the race:
        self.reasons: dict[str, BaseException] = {}
        self.runners: dict[str, trio.CancelScope] = {}
        self.racing: list[Connection] = []
        self.winner: Connection | None = None
        self.news = Doorbell()

    @property
    def undecided(self) -> bool:
        return self.winner is None and len(self.reasons) < len(self.runners)

    def fail(self, endpoint: Endpoint, reason: BaseException) -> None:
        self.reasons[endpoint.url] = reason
        self.news.ring()

    async def wait_news(self) -> None:
        """Wait until a connection is ready or an endpoint has failed."""
        await self.news.wait()
        for connection in self.racing:
            if self.winner is None and connection.ready.is_set() and connection.error is None:
                self.winner = connection


class Channel(Caller):
    """Made by `open_channel`. See the head of the module."""

    def __init__(
        self,
        services: ServiceNursery,
        endpoints: Sequence[Endpoint],
        ssl_context: ssl.SSLContext | None,
        credentials: Credentials | None,
        settings: ChannelSettings,
        pings: PingPolicy,
    ) -> None:
        super().__init__()
        self._services = services
        self._endpoints = tuple(endpoints)
        self._ssl_context = ssl_context
        self._credentials = credentials
        self._settings = settings
        self._pings = pings
        self._next = 0
        self._current: Connection | None = None
        self._attempt: _Attempt | None = None
        self._open: set[Connection] = set()
        self._connects = 0
        self._refreshing = trio.Lock()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where the channel connects to."""
        return self._endpoints

    @property
    def services(self) -> ServiceNursery:
        """Where what uses the channel can run tasks that end with it."""
        return self._services

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
                self._attempt = _Attempt()
                self._services.start_soon(self._connect, self._attempt)
            attempt = self._attempt
            await attempt.done.wait()
            if attempt.error is not None:
                raise again(attempt.error)
            self._note_lost(attempt, lost)

    def _note_lost(self, attempt: _Attempt, lost: dict[str, BaseException]) -> None:
        """Give up if whoever lets us in hangs up at once, rather than try for ever."""
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

    async def _connect(self, attempt: _Attempt) -> None:
        """Race for a connection, make it the current one, tell those who wait."""
        try:
            await self._race(attempt)
            if attempt.winner is None:
                attempt.error = ConnectionFailed(attempt.reasons)
            else:
                await self._log_in(attempt.winner)
                self._current = attempt.winner
        except EtcdError as exc:
            attempt.error = exc
            if attempt.winner is not None:
                attempt.winner.retire()  # it did not let us log in
        except trio.Cancelled:
            attempt.error = ClientClosed("the client's block was left")
            raise
        finally:
            self._attempt = None
            attempt.done.set()

    async def _race(self, attempt: _Attempt) -> None:
        for _ in self._endpoints:
            endpoint = self._endpoints[self._next]
            self._next = (self._next + 1) % len(self._endpoints)
            attempt.runners[endpoint.url] = self._services.start_soon(self._run, attempt, endpoint)
            failed = len(attempt.reasons)
            with trio.move_on_after(self._settings.stagger):
                while attempt.undecided and len(attempt.reasons) == failed:
                    await attempt.wait_news()
            if attempt.winner is not None:
                break
        while attempt.undecided:
            await attempt.wait_news()
        for url, runner in attempt.runners.items():
            if attempt.winner is None or url != attempt.winner.endpoint.url:
                runner.cancel()

    async def _run(self, attempt: _Attempt, endpoint: Endpoint) -> None:
        """Open a connection and serve it to its end."""
        try:
            with trio.fail_after(self._settings.connect_timeout):
                stream = await open_byte_stream(endpoint, self._ssl_context)
        except trio.TooSlowError:
            words = f"no answer in {self._settings.connect_timeout} s"
            attempt.fail(endpoint, TimeoutError(words))
            return
        except (OSError, trio.BrokenResourceError) as exc:
            attempt.fail(endpoint, root_cause(exc))
            return
        protocol = Protocol(max_message_size=self._settings.max_message_size)
        connection = Connection(
            endpoint, stream, protocol, self._settings, self._pings, attempt.news
        )
        self._connects += 1
        self._open.add(connection)
        attempt.racing.append(connection)
        try:
            error = await connection.run()
        finally:
            self._open.discard(connection)
            if self._current is connection:
                self._current = None
        attempt.fail(endpoint, error)

    # ---- tokens ----------------------------------------------------------------

    async def _log_in(self, connection: Connection) -> None:
        if self._credentials is not None and self.token is None:
            await self._fetch_token(OneConnection(connection), self._credentials)

    async def _fetch_token(self, caller: Caller, credentials: Credentials) -> None:
        stub = AuthStub(cast("grpclib.client.Channel", caller))
        request = pb.AuthenticateRequest(name=credentials.user, password=credentials.password)
        try:
            self.token = (await stub.Authenticate(request)).token
        except FailedPrecondition:
            self.token = None  # authentication is not enabled: nobody asks who we are

    async def refresh_token(self, stale: str | None) -> bool:
        """Ask for a new token in place of `stale`; False if there is no user.

        Raises:
            AuthenticationFailed: the user or the password is wrong now.
        """
        if self._credentials is None:
            return False
        async with self._refreshing:
            if self.token == stale:
                self.token = None
                caller = OneConnection(await self.connection())
                if self.token is None:
                    await self._fetch_token(caller, self._credentials)
        return True


@asynccontextmanager
async def open_channel(
    endpoints: Sequence[Endpoint],
    *,
    ssl_context: ssl.SSLContext | None = None,
    credentials: Credentials | None = None,
    settings: ChannelSettings | None = None,
    pings: PingPolicy | None = None,
) -> AsyncIterator[Channel]:
    """Open a channel; nothing is sent before the first call.

    Its tasks outlive the body and whatever cancels it; when the block is left,
    the connection is closed.

    Args:
        endpoints: where to connect to; one or more.
        ssl_context: for ``https`` endpoints.
        credentials: who we are; None if etcd does not ask.
        settings: bounds.
        pings: when to ask a silent peer whether it is there.
    """
    async with open_service_nursery() as services:
        yield Channel(
            services,
            endpoints,
            ssl_context,
            credentials,
            settings or ChannelSettings(),
            pings or PingPolicy(),
        )
