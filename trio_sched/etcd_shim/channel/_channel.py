"""A channel: connects when it must, and where it can.

Theory of operation
-------------------
The channel has at most one connection that takes new calls. It is made when the
first call needs it, by service tasks, so a caller that is cancelled meanwhile
takes nothing from the others who wait for it. A connection is one such task, from
its first byte to its last.

*Connecting* is a race (`Attempt`), unless there is one address only. The endpoints are tried
in turn, beginning with the one after the last that was tried; the next begins when
one fails, or is silent for a moment; the one that is first to send its SETTINGS
wins. (A stopped process's kernel accepts connections, so being connected means
nothing.) A name is resolved each time, and each of its addresses is a member. If none
wins, each has its reason. All that is decided at
once by the task that brings the event; another one is needed for the pauses only.

*Moving on.* A connection that ends is replaced when the next call comes. A member is *left* if it
says that it cannot serve, or if calls are overdue and a read that asks it whether it serves is not
answered either: new calls go to the next one, and so does what may be made twice or resumed.
Writes stay, as nothing but their answers says what became of them.

*Tokens.* With a user, the first connection asks for a token; all calls carry it.
A caller whose token is refused asks for a new one, once for all callers; calls that begin
meanwhile wait for it.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, cast

import trio

from trio_sched._support.tasks import ServiceBlock, ServiceNursery
from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim._pb.services_grpc import KVStub
from trio_sched.etcd_shim.channel._attempt import Attempt, LeftMembers, deciding
from trio_sched.etcd_shim.channel._caller import Caller, OneConnection
from trio_sched.etcd_shim.channel._connection import Connection
from trio_sched.etcd_shim.channel._endpoint import Endpoint, root_cause
from trio_sched.etcd_shim.channel._network_users import Stream, note_network_user
from trio_sched.etcd_shim.channel._pace import Pace
from trio_sched.etcd_shim.channel._settings import ChannelSettings, Credentials, PingPolicy
from trio_sched.etcd_shim.channel._tokens import fetch_token
from trio_sched.etcd_shim.channel._transport import (
    Access,
    NetworkTransport,
    Transport,
    send_preface,
)
from trio_sched.etcd_shim.errors import (
    ClientClosed,
    ConnectionFailed,
    ConnectionLost,
    DeadlineExceeded,
    EtcdError,
    Unavailable,
    again,
)

if TYPE_CHECKING:
    import grpclib.client

    from trio_sched.etcd_shim.channel._statistics import ChannelStatistics

__all__ = ["Channel", "open_channel"]

_LAST_CHANCE: Final = 0.001  # seconds: enough to read what the kernel has already


class Channel(Caller):
    """Made by `open_channel`. See the head of the module."""

    __slots__ = (
        "__weakref__",
        "_attempt",
        "_connects",
        "_credentials",
        "_current",
        "_endpoints",
        "_left",
        "_lost_at",
        "_next",
        "_open",
        "_pace",
        "_pings",
        "_probing",
        "_reasons",
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
        self._pace = Pace()
        self._current: Connection | None = None
        self._attempt: Attempt | None = None
        self._left = LeftMembers()
        self._reasons: dict[str, str] = {}  # why an address is not used, by its label
        self._lost_at = -inf  # when one ended last on which calls had been answered
        self._probing: set[Connection] = set()
        self._open: set[Connection] = set()
        self._connects = 0
        self._refreshing: trio.Event | None = None
        self._streams: list[Stream] = []

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where the channel connects to."""
        return self._endpoints

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Connect to others from now on; the member that is used is left if it is none of them."""
        self._endpoints, self._next = tuple(dict.fromkeys(endpoints)), 0
        urls = {endpoint.url for endpoint in self._endpoints}
        current = self._current
        if current is not None and current.accepting and current.endpoint.url not in urls:
            current.leave(ConnectionLost(f"{current.endpoint} is no endpoint any more"))

    @property
    def access(self) -> Access:
        """What another process needs to connect as this channel does."""
        return Access(self._endpoints, self._credentials, self._ssl_context)

    @property
    def on_network(self) -> bool:
        """Whether the members are real ones."""
        return self._transport.on_network

    @property
    def services(self) -> ServiceNursery:
        """Where what uses the channel can run tasks that end with it."""
        return self._services

    @property
    def ready(self) -> Connection | None:
        """The connection that takes calls, if there is one, and no token is awaited."""
        current = self._current
        if current is None or not current.accepting or self._refreshing is not None:
            return None
        return current

    async def connection(self) -> Connection:
        """Return a connection that takes calls; make it if there is none.

        Not a checkpoint if there is one.

        Raises:
            ConnectionFailed: no endpoint let us in.
            AuthenticationFailed: the user or the password is wrong.
            ClientClosed: the channel's block was left.
        """
        if self._refreshing is not None:
            await self._refreshing.wait()
        return await self._connection()

    async def _connection(self) -> Connection:
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

    def _note_lost(self, attempt: Attempt, lost: dict[str, BaseException]) -> None:
        """Give up on addresses that let us in and hang up at once, rather than try for ever."""
        winner = attempt.winner
        if winner is None or winner.error is None:
            return
        again_and_again = winner.endpoint.label in lost
        lost[winner.endpoint.label] = winner.error
        if again_and_again or len(lost) == len(self._endpoints):
            raise ConnectionFailed(lost)

    def statistics(self) -> ChannelStatistics:
        """Return how the channel does."""
        from trio_sched.etcd_shim.channel import _statistics as s  # noqa: PLC0415 # not at once

        current = self._current
        used = None if current is None or not current.accepting else current.endpoint
        known = {endpoint.label: endpoint.url for endpoint in self._endpoints if endpoint != used}
        unused = {label: self._reasons.get(label, "not tried yet") for label in known}
        unused |= {label: why for label, why in self._reasons.items() if label not in known}
        if used is not None:
            unused.pop(used.label, None)
            if used.address:
                unused.pop(used.url, None)
        return s.ChannelStatistics(
            tuple(c.statistics() for c in self._open),
            self._connects,
            None if used is None else used.label,
            tuple(s.EndpointStatistics(label, why) for label, why in unused.items()),
            *self.counts.values(),
        )

    # ---- leaving a member --------------------------------------------------------

    def note_failure(self, connection: Connection, error: EtcdError) -> None:
        """Move on to another member if this one says that it cannot serve."""
        if isinstance(error, DeadlineExceeded):
            self.leave(connection, error)
        elif isinstance(error, Unavailable) and self._may_leave(connection, error):
            connection.retire()  # streams end by themselves there, if they must

    def leave(self, connection: Connection, error: EtcdError) -> None:
        """Go to another member if there is one, with all that can be taken along."""
        if self._may_leave(connection, error):
            connection.leave(ConnectionLost(f"{connection.endpoint} was left: {error}"))

    def _may_leave(self, connection: Connection, error: EtcdError) -> bool:
        """Return whether there is another member to go to; note why, then."""
        if not connection.accepting or not self._has_others(connection.endpoint):
            return False
        self._left.add(connection.endpoint)
        self._reasons[connection.endpoint.label] = str(error)
        return True

    def _has_others(self, endpoint: Endpoint) -> bool:
        return len(self._endpoints) > 1 or endpoint.siblings

    def _note_silence(self, connection: Connection) -> None:
        """Ask a member whether it answers, as calls are overdue."""
        others = self._has_others(connection.endpoint)
        if others and connection.accepting and connection not in self._probing:
            self._probing.add(connection)
            self._services.start_soon(self._probe, connection)

    async def _probe(self, connection: Connection) -> None:
        """Leave a member that does not answer a linearizable read in time, nor anything else."""
        answered = connection.unanswered.answered
        stub = KVStub(cast("grpclib.client.Channel", OneConnection(connection)))
        try:
            with trio.CancelScope(deadline=trio.current_time() + self._settings.probe_timeout):
                await stub.Range(pb.RangeRequest(key=b"\0", limit=1, keys_only=True))
                return
            await trio.sleep(_LAST_CHANCE)  # if our process was stopped, answers may wait
            if connection.unanswered.answered == answered:
                self.leave(connection, ConnectionLost("it does not answer calls"))
        except EtcdError as exc:  # any other is an answer
            self.note_failure(connection, exc)
        finally:
            self._probing.discard(connection)

    def may_return(self) -> bool:
        """Whether we were connected until a moment ago, so that members that refuse may restart."""
        return trio.current_time() < self._lost_at + self._settings.restart_patience

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
        turn = self._next
        found = self._left.order((*self._endpoints[turn:], *self._endpoints[:turn]))
        self._attempt = attempt = Attempt(found)
        if not self._pace.pause and len(found) == 1 and not self._transport.resolves(found[0]):
            self._try_next(attempt)
        else:
            self._services.start_soon(self._decide, attempt)

    async def _decide(self, attempt: Attempt) -> None:
        with deciding(partial(self._settle, attempt), self._services):
            if self._pace.pause:
                await trio.sleep(self._pace.pause)
            await self._race(attempt)

    async def _race(self, attempt: Attempt) -> None:
        """Send the addresses off, one after the other."""
        while attempt.winner is None and attempt.left:
            if attempt.queue:
                self._try_next(attempt)
            lost, until = attempt.lost, trio.current_time() + self._settings.stagger
            while attempt.runs_on(lost):
                with trio.CancelScope(deadline=until if attempt.queue else inf) as pause:
                    await attempt.wakeup.wait()
                if pause.cancelled_caught:
                    break

    def _try_next(self, attempt: Attempt) -> None:
        endpoint = attempt.queue.popleft()
        if endpoint in self._endpoints:
            self._next = (self._endpoints.index(endpoint) + 1) % len(self._endpoints)
        attempt.runners[endpoint] = self._services.start_soon(self._run, attempt, endpoint)

    async def _run(self, attempt: Attempt, endpoint: Endpoint) -> None:
        """Open a connection and serve it to its end."""
        with deciding(partial(self._settle, attempt), self._services):
            connection = await self._open_connection(attempt, endpoint)
            if connection is not None:
                await self._serve(attempt, connection)

    async def _open_connection(self, attempt: Attempt, endpoint: Endpoint) -> Connection | None:
        timeout = self._settings.connect_timeout
        try:
            with trio.CancelScope(deadline=trio.current_time() + timeout):
                endpoint = await self._resolved(attempt, endpoint)
                stream = await self._transport.open_stream(endpoint, self._ssl_context)
                sent = send_preface(stream, self._transport.preface())
                return Connection(
                    endpoint,
                    stream,
                    self._transport.protocol(self._settings.max_message_size),
                    self._settings,
                    self._pings,
                    self._services,
                    partial(self._win, attempt),
                    on_silence=self._note_silence,
                    sent=sent,
                )
        except (OSError, ValueError, trio.BrokenResourceError) as exc:
            # A name that the resolver does not take, or TLS, is a ValueError.
            self._lose(attempt, endpoint, root_cause(exc))
            return None
        self._lose(attempt, endpoint, TimeoutError(f"no answer in {timeout} s"))
        return None

    async def _resolved(self, attempt: Attempt, endpoint: Endpoint) -> Endpoint:
        """Return the first address of an endpoint, and have its others tried next."""
        if not self._transport.resolves(endpoint):
            return endpoint
        first, *others = self._left.order(await self._transport.resolve(endpoint))
        attempt.runners[first] = attempt.runners.pop(endpoint)
        attempt.expand(others)
        return first

    async def _serve(self, attempt: Attempt, connection: Connection) -> None:
        self._connects += 1
        self._open.add(connection)
        try:
            error = await connection.run()
        finally:
            self._open.discard(connection)
            if self._current is connection:
                self._current = None
            if connection.unanswered.answered:
                self._lost_at = trio.current_time()
                self._pace.worked()
            else:
                self._pace.failed()
        self._reasons.setdefault(
            connection.endpoint.label, str(error)
        )  # why it was left goes first
        self._lose(attempt, connection.endpoint, error)

    def _win(self, attempt: Attempt, connection: Connection) -> None:
        """Note that a connection is ready; only the first one counts."""
        if not attempt.win(connection):
            return
        self._reasons.pop(connection.endpoint.label, None)
        for label, reason in attempt.reasons.items():
            self._reasons[label] = str(reason) or type(reason).__name__
        for endpoint in attempt.runners:
            if endpoint is not connection.endpoint and endpoint.label not in attempt.reasons:
                self._reasons[endpoint.label] = "another one answered sooner"
        if self._credentials is not None and self.token is None:
            self._services.start_soon(self._log_in, attempt, connection, self._credentials)
        else:
            self._settle(attempt, None)

    def _lose(self, attempt: Attempt, endpoint: Endpoint, reason: BaseException) -> None:
        """Note that a connection could not be made, or is over."""
        if attempt.lose(endpoint, reason):
            for label, why in attempt.reasons.items():
                self._reasons[label] = str(why) or type(why).__name__
            self._settle(attempt, ConnectionFailed(attempt.reasons))

    def _settle(self, attempt: Attempt, error: EtcdError | None) -> None:
        """Let the tasks that wait know what came of an attempt, once."""
        if attempt.done.is_set():
            return
        attempt.error = error
        if error is None:
            self._current = attempt.winner
        elif attempt.winner is None:
            self._pace.failed()
        self._attempt = None
        attempt.done.set()

    # ---- tokens ----------------------------------------------------------------

    async def _log_in(
        self, attempt: Attempt, connection: Connection, credentials: Credentials
    ) -> None:
        """Get a token over the connection that won."""
        with deciding(partial(self._settle, attempt), self._services):
            try:
                self.token = await fetch_token(OneConnection(connection), credentials)
            except EtcdError as exc:
                self._settle(attempt, exc)
                connection.retire()  # it did not let us log in
            else:
                self._settle(attempt, None)

    async def refresh_token(self, stale: str | None) -> bool:
        """Ask for a new token in place of `stale`; False if there is no user.

        Calls that begin meanwhile wait.

        Raises:
            AuthenticationFailed: the user or the password is wrong now.
        """
        if self._credentials is None:
            return False
        while self._refreshing is not None:
            await self._refreshing.wait()
        if self.token != stale:
            return True
        refreshing = self._refreshing = trio.Event()
        try:
            caller = OneConnection(await self._connection())
            if self.token == stale:
                self.token = await fetch_token(caller, self._credentials)
        finally:
            self._refreshing = None
            refreshing.set()
        return True


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
