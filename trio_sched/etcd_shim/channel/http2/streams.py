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
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_sched.etcd_shim.channel.http2.responses import Progress

if TYPE_CHECKING:
    from trio_sched.etcd_shim.channel.http2.messages import MessageDecoder

__all__ = ["Stream"]


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
        progress: how far the answer is.
        decoder: of messages that came in parts; made when the first one does.
    """

    __slots__ = (
        "decoder",
        "end_queued",
        "half_closed",
        "outgoing",
        "partial",
        "progress",
        "receive_window",
        "send_window",
        "unacknowledged",
        "waiting",
    )

    def __init__(self, send_window: int, receive_window: int) -> None:
        self.send_window: int = send_window
        self.receive_window: int = receive_window
        self.unacknowledged: int = 0
        self.waiting: int = 0
        self.partial: int = 0
        self.outgoing: bytes | memoryview = b""
        self.end_queued: bool = False
        self.half_closed: bool = False
        self.progress: Progress = Progress.NO_HEAD
        self.decoder: MessageDecoder | None = None
