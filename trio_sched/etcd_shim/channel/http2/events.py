"""What a connection reports: in gRPC's terms, not HTTP/2's.

So a sequence of events does not depend on how the bytes were split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from trio_sched.etcd_shim.errors import EtcdError

__all__ = [
    "CallEnded",
    "ConnectionBroken",
    "Event",
    "GoAway",
    "Message",
    "RequestSent",
    "SettingsChanged",
]


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


@dataclass(slots=True)
class RequestSent:
    """All that a call wanted to send has found room in the windows."""

    stream_id: int


@dataclass(slots=True)
class SettingsChanged:
    """The server said how many calls it takes at once, among others."""


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


Event: TypeAlias = Message | CallEnded | RequestSent | SettingsChanged | GoAway | ConnectionBroken
