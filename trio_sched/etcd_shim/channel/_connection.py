"""The half of a connection that waits: a reader, a writer, and the open calls.

Theory of operation
-------------------
The pure half (`Protocol`) turns bytes into events; this half moves the bytes.
All of its bookkeeping is synchronous, so no cancellation can come in between.

Two service tasks own the byte stream. Nobody else ever awaits it: a cancelled
`send_all` would leave half a frame behind, and the server would have to reset
the connection with everybody's calls on it. Whoever has something to send puts
it into the protocol and calls `flush`. That tries the socket once, without
waiting; what the kernel does not take at once is left to the writer.

A call waits at most for two things: to be let in (`Admission`), and for news
(`CallState.news`, `CallState.room`), which the reader brings.

A third service task watches the peer. A connection can die without a word: a
host that was switched off, a cable, a stopped process whose kernel still takes
our bytes. While there are calls, it looks now and then whether the peer has been
silent, and too long; then it pings; and if nothing at all comes back, the
connection is lost. When our own process was stopped, the answer may be waiting
in the kernel, so the reader gets a turn before that is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import trio

from trio_sched._tasks import Doorbell
from trio_sched.etcd_shim.channel._admission import Admission
from trio_sched.etcd_shim.channel._endpoint import root_cause
from trio_sched.etcd_shim.channel._events import (
    CallEnded,
    ConnectionBroken,
    Event,
    GoAway,
    Headers,
    Message,
    Metadata,
    Pong,
    RequestSent,
    SettingsChanged,
)
from trio_sched.etcd_shim.errors import ConnectionLost, EtcdError, again

if TYPE_CHECKING:
    from trio_sched.etcd_shim.channel._endpoint import ByteStream, Endpoint
    from trio_sched.etcd_shim.channel._protocol import Protocol
    from trio_sched.etcd_shim.channel._settings import ChannelSettings, PingPolicy

__all__ = ["CallState", "Connection", "ConnectionStatistics"]

# A peer that makes us answer (pings, settings) and does not read is cut off.
_MAX_OUTPUT = 32 * 2**20


class CallState:
    """What has arrived for one call, and who waits for more."""

    __slots__ = ("ended", "error", "initial", "messages", "news", "room", "sent", "trailers")

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.initial: Metadata | None = None
        self.trailers: Metadata | None = None
        self.ended = False
        self.error: EtcdError | None = None
        self.sent = True  # nothing of ours waits for a window
        self.news = Doorbell()
        self.room = Doorbell()

    def finish(self, error: EtcdError | None, trailers: Metadata = ()) -> bool:
        """Note how the call ended and wake whoever waits; tell whether somebody did."""
        self.ended = True
        self.error = error
        self.trailers = trailers
        return self.news.ring() | self.room.ring()


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """A snapshot of one connection.

    Attributes:
        endpoint: URL of the member.
        open_calls: calls under way.
        waiting_calls: calls that wait until the server takes more.
        unread_bytes: received for calls, and not yet taken by them.
        unsent_bytes: queued, and not yet taken by the kernel.
        started_calls: calls ever begun.
    """

    endpoint: str
    open_calls: int
    waiting_calls: int
    unread_bytes: int
    unsent_bytes: int
    started_calls: int


class Connection:
    """One HTTP/2 connection. See the head of the module."""

    def __init__(
        self,
        endpoint: Endpoint,
        stream: ByteStream,
        protocol: Protocol,
        settings: ChannelSettings,
        pings: PingPolicy,
        news: Doorbell | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._news = news or Doorbell()  # rung when `ready` is set
        self._settings = settings
        self._pings = pings
        self._pinged_at = -inf
        self._heard_at = trio.current_time()
        self._asked_at: float | None = None  # when we sent the first bytes not answered yet
        self._heard = Doorbell()
        self._used = Doorbell()
        self._stream = stream
        self._protocol = protocol
        self._calls: dict[int, CallState] = {}
        self._started_calls = 0
        self._unsent = b""
        self._writer = Doorbell()
        self._woken = 0  # tasks, by what was read last
        self._gathering = False  # what they send, to send it together
        self._writing = True  # until we have begun
        self._drained = trio.lowlevel.ParkingLot()
        self._error: EtcdError | None = None
        self._ending = trio.CancelScope()
        self.accepting = True
        self.ready = trio.Event()  # the server's first words have come, or the connection is over
        self.admission = Admission(protocol.max_calls, settings.max_waiting_calls)

    @property
    def error(self) -> EtcdError | None:
        """Why the connection is over; None while it is not."""
        return self._error

    # ---- the service tasks ---------------------------------------------------

    async def run(self) -> EtcdError:
        """Serve until the connection is over; return why it is.

        Cancelled, it closes the connection, and calls under way end with
        `ConnectionLost`.
        """
        self._protocol.start()
        self._writing = not self._try_to_send()
        try:
            with self._ending:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch_peer)
                    await self._read()
        finally:
            self._break(ConnectionLost("the connection was closed"))
            self._protocol.close()
            self._try_to_send()  # the farewell, if the kernel has room for it
            with trio.CancelScope(shield=True):
                await self._stream.aclose()
        assert self._error is not None
        return self._error

    async def _write(self) -> None:
        while True:
            data = self._unsent + self._protocol.take_output()
            self._unsent = b""
            if data:
                try:
                    await self._stream.send_all(data)
                except (OSError, trio.BrokenResourceError) as exc:
                    self._lose(exc)
                    return
            else:
                if self._writing:
                    self._writing = False
                    self._drained.unpark_all()
                await self._writer.wait()

    async def _read(self) -> None:
        while self._error is None:
            try:
                data = await self._stream.receive_some()
            except (OSError, trio.BrokenResourceError) as exc:
                self._lose(exc)
                return
            self._heard_at = trio.current_time()
            self._asked_at = None
            self._heard.ring()
            events = self._protocol.receive(data) if data else self._protocol.receive_eof()
            for event in events:
                self._take(event)
            if self._woken > 1 or (self._woken and self._protocol.output_size):
                await self._flush_together()
            elif self._started_calls:  # before the first one, acknowledgements can go with it
                self.flush()
            self._woken = 0

    async def _flush_together(self) -> None:
        """Give those who were just woken a turn, and send once what comes of it.

        A caller that got its answer often has the next request ready. Sent together
        with our acknowledgements, and with the requests of the others who were
        woken, it costs one system call instead of one for each. Two checkpoints,
        as trio runs the tasks of one turn in any order.
        """
        self._gathering = self._woken > 1
        await trio.lowlevel.cancel_shielded_checkpoint()
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._gathering = False
        self.flush()

    async def _watch_peer(self) -> None:
        pings = self._pings
        with trio.move_on_after(self._settings.connect_timeout):
            await self.ready.wait()
        if not self.ready.is_set():
            self._break(ConnectionLost(f"{self.endpoint} accepts connections but says nothing"))
        while self._error is None:
            if not self._calls:
                await self._used.wait()
            await trio.sleep(pings.patience)
            if self._calls and self._is_suspicious(trio.current_time()):
                await self._ask_peer()

    def _is_suspicious(self, now: float) -> bool:
        pings = self._pings
        if now - self._pinged_at < pings.gap:
            return False
        unanswered = self._asked_at is not None and now - self._asked_at >= pings.patience
        return unanswered or now - self._heard_at >= pings.interval

    async def _ask_peer(self) -> None:
        heard_at, self._pinged_at = self._heard_at, trio.current_time()
        self._protocol.ping(b"are you?")
        self.flush()
        with trio.move_on_after(self._pings.timeout):
            await self._heard.wait()
        await trio.lowlevel.checkpoint()  # let the reader take what has come meanwhile
        if self._heard_at == heard_at and self._error is None:
            self._break(
                ConnectionLost(f"{self.endpoint} does not answer a ping in {self._pings.timeout} s")
            )

    # ---- what the reader brings -----------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case Message() | CallEnded() | Headers() | RequestSent():
                # A GOAWAY among the same bytes may have ended the call already.
                call = self._calls.get(event.stream_id)
                if call is not None:
                    self._take_news(call, event)
            case SettingsChanged():
                self.admission.set_limit(self._protocol.max_calls)
                self._be_ready()
            case GoAway():
                self._go_away(event)
            case ConnectionBroken(error):
                self._break(error)
            case Pong():
                pass

    def _take_news(
        self, call: CallState, event: Message | CallEnded | Headers | RequestSent
    ) -> None:
        if isinstance(event, Message):
            call.messages.append(event.payload)
            self._woken += call.news.ring()
        elif isinstance(event, CallEnded):
            self._woken += self._forget(event.stream_id).finish(event.error, event.metadata)
        elif isinstance(event, Headers):
            call.initial = event.metadata
        else:
            call.sent = True
            call.room.ring()

    def _forget(self, stream_id: int) -> CallState:
        call = self._calls.pop(stream_id)
        self.admission.leave()
        if not self.accepting and not self._calls:
            self._break(ConnectionLost("the server said goodbye", processed=False))
        return call

    def _go_away(self, event: GoAway) -> None:
        if event.too_many_pings:
            self._pings.complained()
        self._stop_accepting()
        error = ConnectionLost(
            f"the server said goodbye before it looked at the call ({event.reason!r})",
            processed=False,
        )
        for stream_id in [id_ for id_ in self._calls if id_ > event.last_stream_id]:
            self._protocol.reset(stream_id)
            self._forget(stream_id).finish(error)
        if not self._calls:
            self._break(error)

    def retire(self) -> None:
        """Take no new calls; those under way go on, and the last one closes it."""
        self._stop_accepting()
        if not self._calls:
            self._break(ConnectionLost("the connection was retired", processed=False))

    def _stop_accepting(self) -> None:
        self.accepting = False
        self.admission.close()

    def _lose(self, exc: BaseException) -> None:
        reason = root_cause(exc)
        words = str(reason) or repr(reason)
        error = ConnectionLost(f"the connection to {self.endpoint} broke: {words}")
        error.__cause__ = reason
        self._break(error)

    def _break(self, error: EtcdError) -> None:
        """End everything, once."""
        if self._error is not None:
            return
        self._error = error
        self._stop_accepting()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.finish(again(error))
        self._drained.unpark_all()
        self._be_ready()
        self._ending.cancel()

    def _be_ready(self) -> None:
        self.ready.set()
        self._news.ring()

    # ---- what calls want --------------------------------------------------------

    def open(self, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, CallState] | None:
        """Begin a call whose place in `admission` is taken.

        None means that this connection takes no more calls.
        """
        stream_id = self._protocol.open(headers) if self.accepting else None
        if stream_id is None:
            self.admission.leave()
            self.retire()
            return None
        call = CallState()
        self._calls[stream_id] = call
        self._used.ring()
        self._started_calls += 1
        return stream_id, call

    def send(self, stream_id: int, call: CallState, payload: bytes, *, end: bool) -> None:
        """Queue a message of a call that has not ended. `flush` sends it."""
        if self._asked_at is None:
            self._asked_at = trio.current_time()
        call.sent = self._protocol.send(stream_id, payload, end=end)

    def end(self, stream_id: int, call: CallState) -> None:
        """Queue the end of our half of a call. `flush` sends it."""
        call.sent = self._protocol.end(stream_id)

    def consumed(self, stream_id: int, payloads: Sequence[bytes]) -> None:
        """Give the windows of messages back that were taken."""
        for payload in payloads:
            self._protocol.consumed(stream_id, payload)
        if self._protocol.output_size:
            self.flush()

    def cancel(self, stream_id: int) -> None:
        """Reset a call, if it is still open."""
        if stream_id in self._calls:
            self._protocol.reset(stream_id)
            self._forget(stream_id).finish(None)
            self.flush()

    def flush(self) -> None:
        """See to it that what is queued gets sent. Never waits."""
        if self._gathering:
            return
        if self._writing or self._error is not None:
            if self._protocol.output_size > _MAX_OUTPUT:
                self._break(ConnectionLost(f"{self.endpoint} does not read what we send"))
            return
        if not self._try_to_send():
            self._writing = True
            self._writer.ring()

    def _try_to_send(self) -> bool:
        """Offer what is queued to the kernel; False if some of it is left."""
        data = self._unsent + self._protocol.take_output()
        if not data:
            return True
        try:
            sent = self._stream.send_nowait(data)
        except OSError as exc:
            self._lose(exc)
            return True
        self._unsent = data[sent:]
        return not self._unsent

    async def wait_drained(self) -> None:
        """Wait until the kernel has taken what is queued. Always a checkpoint."""
        if self._writing and self._error is None:
            await self._drained.park()
        else:
            await trio.lowlevel.checkpoint()

    def statistics(self) -> ConnectionStatistics:
        """Return how the connection does."""
        return ConnectionStatistics(
            endpoint=str(self.endpoint),
            open_calls=len(self._calls),
            waiting_calls=self.admission.waiting,
            unread_bytes=sum(len(m) for call in self._calls.values() for m in call.messages),
            unsent_bytes=len(self._unsent) + self._protocol.output_size,
            started_calls=self._started_calls,
        )
