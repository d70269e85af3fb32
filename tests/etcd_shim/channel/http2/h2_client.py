"""The oracle: a gRPC client on h2's own client connection, with no care for cost.

It takes one frame at a time, so that the events before a bad one are known. What it knows of gRPC,
`classify` and the cutting of messages, it shares with the client under test.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import h2.events as h2e
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error, StreamClosedError, StreamIDTooLowError
from h2.settings import SettingCodes, Settings
from hpack import HPACKError
from hyperframe.exceptions import HyperframeError

from trio_sched.etcd_shim.channel.http2.messages import MessageDecoder, encode_message
from trio_sched.etcd_shim.channel.http2.responses import BlockKind, classify

__all__ = ["Fault", "H2Client", "Seen"]

Seen = tuple[object, ...]

PRIORITY, SETTINGS, WINDOW_UPDATE = 2, 4, 8
LARGEST = 16_384


class Fault(Exception):
    """h2 ends the connection.

    Attributes:
        late: since a frame came for a stream that is closed, and h2 does not know how.
    """

    def __init__(self, reason: object, *, late: bool = False) -> None:
        super().__init__(repr(reason))
        self.late = late


class _Call:
    def __init__(self, limit: int) -> None:
        self.decoder = MessageDecoder(limit)
        self.outgoing = b""
        self.end_queued = self.half_closed = False


class H2Client:
    """A client; it does what it is asked, and reports what it sees."""

    def __init__(self, limit: int, call_window: int, connection_window: int) -> None:
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        ours = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: call_window}
        self.h2.local_settings = Settings(client=True, initial_values=ours)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(connection_window - 65_535)
        self.limit = limit
        self.calls: dict[int, _Call] = {}
        self.blocked: dict[int, None] = {}
        self.input = b""
        self.began = False
        self.last = 2**31 - 1

    # ---- what it is asked ------------------------------------------------------

    def open(self, headers: Any) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, list(headers))
        self.calls[stream_id] = _Call(self.limit)
        return stream_id

    def send(self, stream_id: int, payload: bytes, *, end: bool) -> bool:
        call = self.calls[stream_id]
        call.outgoing += encode_message(payload)
        call.end_queued = end
        return self.push(stream_id, call)

    def end(self, stream_id: int) -> bool:
        call = self.calls[stream_id]
        call.end_queued = True
        return self.push(stream_id, call)

    def reset(self, stream_id: int) -> None:
        if self.calls.pop(stream_id, None) is not None:
            self.blocked.pop(stream_id, None)
            self.h2.reset_stream(stream_id, ErrorCodes.CANCEL)

    def push(self, stream_id: int, call: _Call) -> bool:
        while call.outgoing:
            if not self.push_frame(stream_id, call):
                self.blocked[stream_id] = None
                return False
        if call.end_queued and not call.half_closed:
            call.half_closed = True
            self.h2.end_stream(stream_id)
        return True

    def push_frame(self, stream_id: int, call: _Call) -> bool:
        room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
        if room <= 0:
            return False
        part, call.outgoing = call.outgoing[:room], call.outgoing[room:]
        call.half_closed = call.end_queued and not call.outgoing
        self.h2.send_data(stream_id, part, end_stream=call.half_closed)
        return True

    def push_blocked(self, seen: list[Seen]) -> None:
        moved = True
        while moved:
            moved = False
            for stream_id in tuple(self.blocked):
                call = self.calls[stream_id]
                moved |= self.push_frame(stream_id, call)
                if not call.outgoing:
                    self.push_again(stream_id, seen)

    def push_again(self, stream_id: int, seen: list[Seen]) -> None:
        call = self.calls.get(stream_id)
        if call is not None and stream_id in self.blocked and self.push(stream_id, call):
            del self.blocked[stream_id]
            seen.append(("sent", stream_id))

    # ---- what it sees ------------------------------------------------------------

    def receive(self, data: bytes, seen: list[Seen]) -> None:
        """Take bytes, and add what they mean to `seen`.

        Raises:
            Fault: h2 has ended the connection.
        """
        self.input += data
        while len(self.input) >= 4:
            length = int.from_bytes(self.input[:3])
            if length > LARGEST or (not self.began and self.input[3] != SETTINGS):
                raise Fault("too long, or not SETTINGS")
            if len(self.input) < 9 + length:
                return
            frame, self.input = self.input[: 9 + length], self.input[9 + length :]
            self.began = True
            stream_id = int.from_bytes(frame[5:9]) & 0x7FFFFFFF
            opened = stream_id & 1 and stream_id <= self.h2.highest_outbound_stream_id
            late = bool(opened and stream_id not in self.calls)
            if frame[3] == PRIORITY and stream_id:
                continue  # it means nothing any more: RFC 9113, 5.3.2
            if frame[3] == WINDOW_UPDATE and length == 4:  # hyperframe heeds a reserved bit
                frame = frame[:9] + (int.from_bytes(frame[9:]) & 0x7FFFFFFF).to_bytes(4)
            if frame[3] == SETTINGS:  # h2 forgets closed streams when it counts the open ones,
                assert self.h2.open_outbound_streams >= 0  # and moves the windows of all others
            try:
                events = self.h2.receive_data(frame)
            except (StreamClosedError, StreamIDTooLowError) as exc:
                raise Fault(exc, late=True) from exc
            except (H2Error, HPACKError, HyperframeError) as exc:
                raise Fault((exc, frame), late=late) from exc
            for event in events:
                self.take(event, seen)

    def take(self, event: Any, seen: list[Seen]) -> None:
        call = self.calls.get(getattr(event, "stream_id", 0))
        match event:
            case h2e.ConnectionTerminated():
                self.last = min(self.last, event.last_stream_id or 0)  # it must not rise: 6.8
                code = int(event.error_code or 0)
                seen.append(("goaway", self.last, code, event.additional_data or b""))
            case h2e.RemoteSettingsChanged():
                seen.append(("settings",))
                self.push_blocked(seen)
            case h2e.WindowUpdated(stream_id=0):
                self.push_blocked(seen)
            case h2e.WindowUpdated():
                self.push_again(event.stream_id or 0, seen)
            case h2e.DataReceived():
                self.take_data(event, call, seen)
            case h2e.ResponseReceived() | h2e.TrailersReceived() if call is not None:
                self.take_block(event, seen)
            case h2e.StreamEnded() if call is not None:
                self.finish(event.stream_id, "RemoteProtocolError", seen, reset=False)
            case h2e.StreamReset() if call is not None:
                del self.calls[event.stream_id]
                self.blocked.pop(event.stream_id, None)
                late = event.remote_reset  # else h2 has found a fault of the stream
                kind = "ConnectionLost" if late else "RemoteProtocolError"
                seen.append(("ended", event.stream_id, kind))

    def take_data(self, event: Any, call: _Call | None, seen: list[Seen]) -> None:
        self.h2.increment_flow_control_window(event.flow_controlled_length or 1)
        if call is None:
            return
        seen += [("message", event.stream_id, each) for each in call.decoder.feed(event.data)]
        if call.decoder.error is not None:
            kind = type(call.decoder.error).__name__
            self.finish(event.stream_id, kind, seen, reset=True)

    def take_block(self, event: Any, seen: list[Seen]) -> None:
        stream_id, ends = event.stream_id, event.stream_ended is not None
        fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        block = classify(fields)
        trailers = isinstance(event, h2e.TrailersReceived)
        error = block.error
        if block.kind is BlockKind.INVALID or trailers != (block.kind is BlockKind.TRAILERS):
            kind = "RemoteProtocolError"
        elif block.kind is BlockKind.HEAD:
            return
        elif error is None and self.calls[stream_id].decoder.partial:
            kind = "RemoteProtocolError"  # within a message
        else:
            kind = type(error).__name__ if error is not None else ""
        self.finish(stream_id, kind, seen, reset=not ends)

    def finish(self, stream_id: int, kind: str, seen: list[Seen], *, reset: bool) -> None:
        call = self.calls.pop(stream_id)
        self.blocked.pop(stream_id, None)
        if reset or not call.half_closed:
            with suppress(StreamClosedError):  # both sides have ended it: nothing to reset
                self.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        seen.append(("ended", stream_id, kind))
