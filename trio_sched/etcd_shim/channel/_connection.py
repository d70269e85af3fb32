"""The half of a connection that waits: a reader, at times a writer, and the open calls.

Theory of operation
-------------------
The protocol (`ClientProtocol`) turns bytes into events; this half moves the bytes.
All of its bookkeeping is synchronous, so no cancellation can come in between.

Service tasks own the byte stream. No other task awaits it: a cancelled
`send_all` would leave half a frame behind, and the server would have to reset
the connection with all calls on it. A task that has something to send puts
it into the protocol and calls `flush`. That tries the socket once, without
waiting; what the kernel does not take at once is left to the writer, a task that
is started when it is first needed: never, for most connections. What comes of an
answer, by the tasks that it woke, is gathered until they have run, and sent at once.

A call waits at most for two things: to be let in (`Admission`), and for events
(`CallState`), which the reader brings. Messages of a stream that many share it
hands over itself, see `Call.deliver`.

The reader also checks the peer, at the times that its `PeerLiveness` asks for. A
check breaks off a wait for bytes, in which none can get lost: the scope around
the wait ends, the peer is judged, and the wait goes on in the next scope. (With
TLS a read may have to send, too: when the peer renews its keys and wants ours
renewed. A check in just that moment would end the connection.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim.channel._admission import Admission
from trio_sched.etcd_shim.channel._before_wait import BeforeWaitHook
from trio_sched.etcd_shim.channel._call_state import CallState
from trio_sched.etcd_shim.channel._endpoint import root_cause
from trio_sched.etcd_shim.channel._liveness import PeerLiveness, Verdict
from trio_sched.etcd_shim.channel._unanswered import Unanswered
from trio_sched.etcd_shim.channel.http2.events import (
    CallEnded,
    ConnectionBroken,
    Event,
    GoAway,
    Message,
    RequestSent,
    SettingsChanged,
)
from trio_sched.etcd_shim.errors import ConnectionLost, EtcdError, again

if TYPE_CHECKING:
    from trio_sched._support.tasks import ServiceNursery
    from trio_sched.etcd_shim.channel._endpoint import ByteStream, Endpoint
    from trio_sched.etcd_shim.channel._settings import ChannelSettings, PingPolicy
    from trio_sched.etcd_shim.channel._statistics import ConnectionStatistics
    from trio_sched.etcd_shim.channel._transport import ClientProtocol

__all__ = ["Connection"]

MAX_EVENTS: Final = 256  # in a tick: three are a call, so that 64 calls that end together fit

# A peer that makes us answer (pings, settings) and does not read is cut off.
MAX_OUTPUT = 32 * 2**20


class Connection:
    """One HTTP/2 connection. See the head of the module.

    Args:
        endpoint: whose member it goes to.
        stream: what carries the bytes.
        protocol: the sans-I/O protocol.
        settings: bounds.
        pings: when to ask a silent peer whether it is there.
        services: where the writer is started.
        on_ready: called once, when the server's first words have come.
        on_silence: called when calls are overdue, each time that this is found.
        sent: how many bytes of the connection preface were sent already.

    Attributes:
        endpoint: as given.
        accepting: whether it takes new calls.
        admission: where a new call waits until it may be sent.
        unanswered: whether calls are overdue, and how many were answered.
    """

    __slots__ = (
        "_before_wait",
        "_calls",
        "_drained",
        "_error",
        "_gathering",
        "_grace",
        "_liveness",
        "_on_ready",
        "_on_silence",
        "_pings",
        "_protocol",
        "_reading",
        "_services",
        "_started_calls",
        "_stream",
        "_unsent",
        "_woken",
        "_write_scope",
        "_writer",
        "_writing",
        "accepting",
        "admission",
        "endpoint",
        "unanswered",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        stream: ByteStream,
        protocol: ClientProtocol,
        settings: ChannelSettings,
        pings: PingPolicy,
        services: ServiceNursery,
        on_ready: Callable[[Connection], None],
        *,
        on_silence: Callable[[Connection], None] | None = None,
        sent: int = 0,
    ) -> None:
        self.endpoint: Endpoint = endpoint
        self._stream = stream
        self._protocol = protocol
        self._services = services
        self._on_ready: Callable[[Connection], None] | None = on_ready
        self._on_silence = on_silence
        self.unanswered: Unanswered = Unanswered()
        now = trio.current_time()
        self._liveness = PeerLiveness(pings, now, now + settings.connect_timeout)
        self._pings = pings
        self._grace = pings.grace  # seconds that writes may still be given
        self._calls: dict[int, CallState] = {}
        self._started_calls = 0
        protocol.start()
        self._unsent = protocol.take_output()[sent:]
        self._reading: trio.CancelScope | None = None
        self._writer = Wakeup()
        self._write_scope: trio.CancelScope | None = None
        self._writing = False
        self._woken = 0  # tasks, by what was read last
        self._gathering = False  # what they send, to send it together
        self._before_wait = BeforeWaitHook.current()
        self._drained: trio.lowlevel.ParkingLot | None = None
        self._error: EtcdError | None = None
        self.accepting: bool = True
        self.admission: Admission = Admission(protocol.max_calls, settings.max_waiting_calls)

    @property
    def error(self) -> EtcdError | None:
        """Why the connection is over; None while it is not."""
        return self._error

    @property
    def awaits_server(self) -> bool:
        """Whether the server is to send something next; for clocks of tests."""
        return self._error is None and (self._liveness.awaits_words or self._protocol.awaits_answer)

    # ---- the service tasks ---------------------------------------------------

    async def run(self) -> EtcdError:
        """Serve until the connection is over; return why it is.

        Cancelled, it closes the connection, and calls under way end with
        `ConnectionLost`.
        """
        self.flush()
        try:
            while self._error is None:
                with trio.CancelScope() as self._reading:
                    self._set_next_check()
                    await self._read()
                self._check(trio.current_time())
        finally:
            self._break(ConnectionLost("the connection was closed"))
            if not self._writing:
                self._protocol.close()
                self._try_to_send()  # GOAWAY, if the kernel has room for it
            self._stream.close()
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
            elif self._protocol.held_back:
                for event in self._protocol.resume():
                    self._take(event)
            else:
                if self._writing:
                    self._writing = False
                    if self._drained is not None:
                        self._drained.unpark_all()
                await self._writer.wait()

    async def _read(self) -> None:
        while self._error is None:
            try:
                data = await self._stream.receive_some()
            except (OSError, trio.BrokenResourceError) as exc:
                self._lose(exc)
                return
            if self._liveness.received(trio.current_time()):
                self._set_next_check()
            events = self._protocol.receive(data) if data else self._protocol.receive_eof()
            if len(events) <= MAX_EVENTS:
                for event in events:
                    self._take(event)
            else:
                await self._take_in_slices(events)
            if not self._started_calls:  # acknowledgements can go with the first one
                self._report_ready()
            elif self._woken and self._stream.tries:
                if not self._gathering:
                    self._gathering = True
                    self._before_wait.call(self._send_gathered)
            else:
                self.flush()
            self._woken = 0

    async def _take_in_slices(self, events: Sequence[Event]) -> None:
        """Take many events, and let others run in between. Not cancelled: none gets lost."""
        for start in range(0, len(events), MAX_EVENTS):
            for event in events[start : start + MAX_EVENTS]:
                self._take(event)
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _send_gathered(self) -> None:
        """Send what comes of a scheduler tick, after the tasks that were just woken have run.

        This is called between two ticks, in which no task may be woken.
        """
        self._gathering = False
        if self._error is not None or self._writing or self._services.closing:
            return
        try:
            self._offer()
        except OSError as exc:
            self._before_wait.run_soon(self._lose, exc)
        else:
            if self._unsent or self._protocol.held_back:
                self._before_wait.run_soon(self.flush)

    def _report_ready(self) -> None:
        if self._on_ready is not None and self._liveness.has_spoken and self._error is None:
            on_ready, self._on_ready = self._on_ready, None
            on_ready(self)

    def _check(self, now: float) -> None:
        """See whether the peer is still there, and whether it answers, if it is time to."""
        if self._error is None and now >= self._liveness.next_check:
            self._check_peer(now)
        if self._error is None and now >= self.unanswered.next_check:
            waiting = (id_ for id_, call in self._calls.items() if not call.streams)
            newest = next(reversed(self._calls), 0)
            if self.unanswered.check(now, next(waiting, None), newest) and self._on_silence:
                self._on_silence(self)

    def _check_peer(self, now: float) -> None:
        verdict = self._liveness.check(now, calls=bool(self._calls))
        if verdict is Verdict.PING:
            self._protocol.ping(b"are you?")
            self.flush()
        elif verdict is Verdict.LOST:
            silent = f"does not answer a ping in {self._pings.timeout} s"
            words = silent if self._liveness.has_spoken else "accepts connections but says nothing"
            self._give_up(ConnectionLost(f"{self.endpoint} {words}"), now)

    def _give_up(self, error: EtcdError, now: float) -> None:
        """Leave a silent peer, at once or when writes have had more time."""
        writes = not all(call.movable or call.abandoned for call in self._calls.values())
        if writes and self._grace:
            self.leave(error)
            self._liveness.wait_longer(now, self._grace)
            self._grace = 0.0
        else:
            self._break(error)

    def _set_next_check(self) -> None:
        if self._reading is not None:
            next_check = min(self._liveness.next_check, self.unanswered.next_check)
            self._reading.deadline = next_check

    # ---- what the reader brings -----------------------------------------------

    def _take(self, event: Event) -> None:
        if isinstance(event, Message):  # a GOAWAY before it may have ended its call already
            if (call := self._calls.get(event.stream_id)) is not None:
                self._take_message(call, event)
        elif isinstance(event, CallEnded):
            if event.stream_id in self._calls:
                self.unanswered.answered += 1
                self._woken += self._forget(event.stream_id).finish(event.error)
        elif isinstance(event, RequestSent):
            if (call := self._calls.get(event.stream_id)) is not None:
                call.sent = True
                call.wake_room()
        elif isinstance(event, SettingsChanged):
            self.admission.set_limit(self._protocol.max_calls)
            self._liveness.has_spoken = True
        elif isinstance(event, GoAway):
            self._go_away(event)
        elif isinstance(event, ConnectionBroken):
            self._break(event.error)

    def _take_message(self, call: CallState, event: Message) -> None:
        if call.sink is None:
            call.messages.append(event.payload)
            self._woken += call.wakeup.notify()
        else:
            call.sink(event.payload)
            self._protocol.consumed(event.stream_id, event.payload)
            self._woken += 1  # most likely

    def _forget(self, stream_id: int) -> CallState:
        call = self._calls.pop(stream_id)
        self.admission.leave()
        if not self.accepting and not self._calls:
            self._break(ConnectionLost("the server sent GOAWAY", processed=False))
        return call

    def _go_away(self, event: GoAway) -> None:
        if event.too_many_pings:
            self._pings.complained()
        self._stop_accepting()
        error = ConnectionLost(
            f"the server sent GOAWAY before it looked at the call ({event.reason!r})",
            processed=False,
        )
        for stream_id in [id_ for id_ in self._calls if id_ > event.last_stream_id]:
            self._protocol.reset(stream_id)
            self._forget(stream_id).finish(again(error))
        if not self._calls:
            self._break(error)

    def retire(self) -> None:
        """Take no new calls; those under way go on, and the last one closes it."""
        self._stop_accepting()
        if not self._calls:
            self._break(ConnectionLost("the connection was retired", processed=False))

    def leave(self, error: EtcdError) -> None:
        """Take no new calls, and end those by `error` that another member may answer.

        Writes under way go on: nothing but their answers says what became of them.
        """
        self._stop_accepting()
        for stream_id, call in tuple(self._calls.items()):
            if not call.movable or call.abandoned:
                continue
            if call.reads_only:
                self._calls[stream_id] = rest = CallState()  # not to be cancelled: etcd issue 14110
                rest.abandoned = True
            else:
                self._protocol.reset(stream_id)
                self._calls.pop(stream_id)
                self.admission.leave()
            call.finish(again(error))
        if not self._calls:
            self._break(error)
        self.flush()

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
        if self._drained is not None:
            self._drained.unpark_all()
        for scope in (self._reading, self._write_scope):
            if scope is not None:
                scope.cancel()

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
        self._started_calls += 1
        if self.unanswered.idle or self._liveness.idle:
            self.unanswered.begin(now := trio.current_time())
            self._liveness.begin(now)
            self._set_next_check()
        return stream_id, call

    def send(self, stream_id: int, call: CallState, payload: bytes, *, end: bool) -> None:
        """Queue a message of a call that has not ended. `flush` sends it."""
        liveness = self._liveness
        if liveness.asked_at is None:
            liveness.asked_at = trio.current_time()
            if liveness.relaxed:
                liveness.asked(liveness.asked_at)
                self._set_next_check()
        call.sent = self._protocol.send(stream_id, payload, end=end)

    def end(self, stream_id: int, call: CallState) -> None:
        """Queue the end of our half of a call. `flush` sends it."""
        call.sent = self._protocol.end(stream_id)

    def consumed(self, stream_id: int, payload: bytes) -> None:
        """Give the window of a message back that was taken."""
        self._protocol.consumed(stream_id, payload)
        if self._protocol.output_size:
            self.flush()

    def cancel(self, stream_id: int) -> None:
        """Reset a call, if it is still open."""
        call = self._calls.get(stream_id)
        if call is not None and not call.abandoned:
            if not call.ended and not call.streams:
                self.unanswered.given_up = True
            self._protocol.reset(stream_id)
            self._forget(stream_id).finish(None)
            self.flush()

    def flush(self) -> None:
        """See to it that what is queued gets sent. Never waits."""
        if self._gathering or self._services.closing:  # `run` sends it, with GOAWAY
            return
        if self._writing or self._error is not None:
            if self._protocol.output_size > MAX_OUTPUT:
                self._break(ConnectionLost(f"{self.endpoint} does not read what we send"))
            return
        if not self._try_to_send():
            self._writing = True
            if self._write_scope is None:
                self._write_scope = self._services.start_soon(self._write)
            else:
                self._writer.notify()

    def _try_to_send(self) -> bool:
        """Offer what is queued to the kernel; False if some of it is left."""
        try:
            self._offer()
        except OSError as exc:
            self._lose(exc)
            return True
        return not (self._unsent or self._protocol.held_back)

    def _offer(self) -> None:
        data = self._unsent + self._protocol.take_output()
        if data:
            sent = self._stream.send_nowait(data)
            self._unsent = data[sent:] if sent < len(data) else b""

    async def wait_drained(self) -> None:
        """Wait until the kernel has taken what is queued. Always a checkpoint."""
        if self._writing and self._error is None:
            if self._drained is None:
                self._drained = trio.lowlevel.ParkingLot()
            await self._drained.park()
        else:
            await trio.lowlevel.checkpoint()

    def statistics(self) -> ConnectionStatistics:
        """Return how the connection does."""
        from trio_sched.etcd_shim.channel import _statistics as s  # noqa: PLC0415 # not at once

        unread = sum(len(message) for call in self._calls.values() for message in call.messages)
        unsent = len(self._unsent) + self._protocol.output_size
        calls = len(self._calls), self.admission.waiting
        return s.ConnectionStatistics(
            self.endpoint.url, *calls, unread, unsent, self._started_calls
        )
