"""Options of a channel. Times in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from trio_sched._support.arguments import check_int, check_seconds, check_text

__all__ = ["ChannelSettings", "Credentials", "PingPolicy"]


class PingPolicy:
    """When to ask a peer that says nothing whether it is still there.

    etcd closes connections that ping more often than each five seconds, or
    without an open call. One policy is shared by a channel's connections, so
    what one of them learns counts for the next.

    Attributes:
        gap: at least this long between two pings.
        interval: ping a peer that has been silent for this long.
        patience: ping a peer that has been silent for this long after something
            was sent to it; etcd acknowledges requests at once.
        timeout: a peer that says nothing for this long after a ping is left: calls that
            may be made twice, watches and renewals go elsewhere.
        grace: a write that is under way then is given so much longer, as nothing but its
            answer says whether it was carried out.
    """

    def __init__(
        self,
        *,
        gap: float = 5.0,
        interval: float = 10.0,
        patience: float = 0.5,
        timeout: float = 1.5,
        grace: float = 2.0,
    ) -> None:
        self.gap: float = check_seconds("gap", gap, zero=True)
        self.interval: float = check_seconds("interval", interval)
        self.patience: float = check_seconds("patience", patience, zero=True)
        self.timeout: float = check_seconds("timeout", timeout)
        self.grace: float = check_seconds("grace", grace, zero=True)

    def complained(self) -> None:
        """Ping half as often, as the server said that it was too much."""
        self.gap *= 2
        self.interval *= 2


@dataclass(frozen=True)
class Credentials:
    """Who we are to etcd. The password is in no repr."""

    user: str
    password: str

    def __post_init__(self) -> None:
        check_text("user", self.user, least=1)
        check_text("password", self.password)

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, password=…)"


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """Bounds of a channel.

    Attributes:
        connect_timeout: for connecting to one endpoint, up to its first words.
        stagger: how long to wait for one endpoint before the next is tried, too.
        max_message_size: the largest message accepted.
        max_waiting_calls: how many calls may wait until the server takes more.
        probe_timeout: how long a member whose calls are overdue may take for a small read.
        restart_patience: how long after we were connected last a call waits for members that
            refuse connections, as one that restarts does.
    """

    connect_timeout: float = 5.0
    stagger: float = 0.25
    max_message_size: int = 64 * 2**20
    max_waiting_calls: int = 1_000_000
    probe_timeout: float = 0.5
    restart_patience: float = 5.0

    def __post_init__(self) -> None:
        check_seconds("connect_timeout", self.connect_timeout)
        check_int("max_message_size", self.max_message_size, 1)
