"""One stream: how far its answer has got, and its two windows.

Theory of operation
-------------------
Of the states of RFC 9113, 5.1, a client that is never pushed anything sees four.
A stream is *idle* until we open it; ids go up, so those above the last one are
idle, and even ones always. It is *open* until our half has ended, *half-closed
(local)* after that, and *closed* once the server's half has ended, or either side
has reset it: we never go on sending to a server that has answered. Streams that
are open or half-closed have a `Stream`; closed ones leave nothing behind, since
what comes for them late is dropped, whichever way they were closed.

What a header block does to a call depends on whether the head has come, what the
block is, and whether it ends the stream: `STEPS` says what, for all of them.
"""

from __future__ import annotations

import enum
from itertools import product
from typing import TYPE_CHECKING, Final

from trio_sched.etcd_shim.channel.http2.responses import BlockKind

if TYPE_CHECKING:
    from trio_sched.etcd_shim.channel.http2.messages import MessageDecoder

__all__ = ["STEPS", "Step", "Stream"]


class Step(enum.Enum):
    """What a header block does to a call."""

    IGNORE = "nothing"
    BEGIN = "the answer begins"
    FINISH = "the call ends by its gRPC status"
    REJECT = "the call ends, as it is no gRPC answer"
    NO_STATUS = "the call ends without a gRPC status"
    MALFORMED = "the call ends by a stream error"  # RFC 9113, 8.1.1


def _steps() -> dict[tuple[bool, BlockKind, bool], Step]:
    """Return the step for each state (has the head come?), block, and END_STREAM or not."""
    table = dict.fromkeys(product((False, True), BlockKind, (False, True)), Step.MALFORMED)
    table[False, BlockKind.INFORMATIONAL, False] = Step.IGNORE  # 8.1: it must not end the stream
    table[False, BlockKind.HEAD, False] = Step.BEGIN
    table[False, BlockKind.HEAD, True] = Step.NO_STATUS
    table[True, BlockKind.TRAILERS, True] = Step.FINISH  # 8.1: trailers end the stream
    for end in (False, True):
        table[False, BlockKind.STATUS, end] = Step.FINISH
        table[False, BlockKind.NOT_GRPC, end] = Step.REJECT
    return table


STEPS: Final = _steps()


class Stream:
    """A stream that is open or half-closed (local).

    Attributes:
        send_window: how much we may send (RFC 9113, 6.9.1); below 0 after SETTINGS (6.9.2).
        receive_window: how much the server may send, as far as it knows.
        unacknowledged: of what it has sent, not yet said to be consumed.
        waiting: messages reported and not yet consumed.
        partial: bytes of an incomplete message that are acknowledged already.
        outgoing: what the windows had no room for.
        end_queued: our half ends after `outgoing`.
        half_closed: our half has ended.
        has_head: the head of the answer has come.
        decoder: of messages that came in parts; made when the first one does.
    """

    __slots__ = (
        "decoder",
        "end_queued",
        "half_closed",
        "has_head",
        "outgoing",
        "partial",
        "receive_window",
        "send_window",
        "unacknowledged",
        "waiting",
    )

    def __init__(self, send_window: int, receive_window: int) -> None:
        self.send_window = send_window
        self.receive_window = receive_window
        self.unacknowledged = 0
        self.waiting = 0
        self.partial = 0
        self.outgoing: bytes | memoryview = b""
        self.end_queued = False
        self.half_closed = False
        self.has_head = False
        self.decoder: MessageDecoder | None = None
