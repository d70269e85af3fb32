"""Snapshots of a channel and its connections."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ChannelStatistics", "ConnectionStatistics"]


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
