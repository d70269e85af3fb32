"""What the pure half of a connection reports: gRPC's words, not HTTP/2's.

So a sequence of events does not depend on how the bytes were split, and another
implementation of the pure half can take the place of the one on h2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trio_sched.etcd_shim.errors import EtcdError

__all__ = [
    "CallEnded",
    "ConnectionBroken",
    "Event",
    "GoAway",
    "Headers",
    "Message",
    "Metadata",
    "Pong",
    "RequestSent",
    "SettingsChanged",
]

Metadata: TypeAlias = Sequence[tuple[bytes, bytes]]


@dataclass(slots=True)
class Headers:
    """The server accepted a call; its initial metadata."""

    stream_id: int
    metadata: Metadata


@dataclass(slots=True)
class Message:
    """A whole message of a call, still encoded."""

    stream_id: int
    payload: bytes


@dataclass(slots=True)
class CallEnded:
    """A call is over: without an error if its gRPC status was OK."""

    stream_id: int
    error: EtcdError | None
    metadata: Metadata = ()


@dataclass(slots=True)
class RequestSent:
    """All that a call wanted to send has found room in the windows."""

    stream_id: int


@dataclass(slots=True)
class SettingsChanged:
    """The server said how many calls it takes at once, among others."""


@dataclass(slots=True)
class Pong:
    """The answer to a ping of ours."""

    payload: bytes


@dataclass(slots=True)
class GoAway:
    """The server takes no new calls; those up to `last_stream_id` go on."""

    last_stream_id: int
    error_code: int
    reason: bytes

    @property
    def too_many_pings(self) -> bool:
        """True if the server complains of our pings."""
        return self.reason == b"too_many_pings"


@dataclass(slots=True)
class ConnectionBroken:
    """The connection cannot go on. Always the last event."""

    error: EtcdError


Event: TypeAlias = (
    Headers | Message | CallEnded | RequestSent | SettingsChanged | Pong | GoAway | ConnectionBroken
)
