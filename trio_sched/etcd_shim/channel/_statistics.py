"""Snapshots of a channel and its connections."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ChannelStatistics", "ConnectionStatistics", "EndpointStatistics"]


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
class EndpointStatistics:
    """A member that new calls do not go to.

    Attributes:
        endpoint: its URL, with its address if the URL holds a name.
        reason: why not, in plain words.
    """

    endpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A snapshot of a channel.

    Attributes:
        connections: those that are open; more than one while calls on an older
            one are finished.
        connects: how many were made in all.
        endpoint: URL of the member that new calls go to, with its address if the URL holds a
            name; None if we are not connected.
        unused: the other members, each with the reason.
        calls: how many were asked for; one that was made again counts once, and streams do not.
        retries: how often one was made again.
        watch_events: how many events watches have brought.
    """

    connections: tuple[ConnectionStatistics, ...]
    connects: int
    endpoint: str | None = None
    unused: tuple[EndpointStatistics, ...] = ()
    calls: int = 0
    retries: int = 0
    watch_events: int = 0
