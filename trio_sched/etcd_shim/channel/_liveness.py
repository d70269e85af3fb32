"""Whether a peer that says nothing is still there. Pure: the time is an argument.

A connection can die without a word: a host that was switched off, a cable, a
stopped process whose kernel still takes our bytes. So a connection checks its
peer now and then, at the times that a `PeerLiveness` asks for:

- Until its first words have come, once, when the time for them is over.
- While there are no calls, never. The next call begins the checks.
- While there are calls, when the peer will have been silent for too long, unless it speaks
  before; it is to be pinged then. What is sent meanwhile makes that sooner, see `asked`. An
  answer changes no time: a check that comes too soon sets the next one.
- After a ping, when the time for an answer is over, and then once more at once:
  if our own process was stopped, the answer may be waiting in the kernel, and
  gets a last chance to be read. Whatever the peer says is an answer.
"""

from __future__ import annotations

import enum
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trio_sched.etcd_shim.channel._settings import PingPolicy

__all__ = ["PeerLiveness", "Verdict"]

LAST_CHECK_DELAY: Final = 0.001  # seconds: enough to read what the kernel has already


class Verdict(enum.Enum):
    """What is to be done about a peer."""

    WAIT = "wait"
    PING = "ping it"
    LOST = "give it up"


class PeerLiveness:
    """Judges one peer's silence. See the head of the module.

    Args:
        pings: how patient to be; may change meanwhile.
        now: the time.
        first_words_by: when the peer's first words are due.

    Attributes:
        next_check: when `check` is to be called; later calls of the other methods
            can change it.
        has_spoken: whether the peer has said its first words.
        idle: whether there are no checks, and `begin` has something to do.
        asked_at: when something was sent first that the peer should acknowledge
            and has not yet; to be set by the sender.
        relaxed: whether the next check is for a peer that was asked nothing, so that `asked` has
            something to do.
    """

    __slots__ = (
        "_chances",
        "_pinged_at",
        "_pings",
        "_received_at",
        "asked_at",
        "has_spoken",
        "idle",
        "next_check",
        "relaxed",
    )

    def __init__(self, pings: PingPolicy, now: float, first_words_by: float) -> None:
        self._pings = pings
        self._received_at = now
        self.asked_at: float | None = None
        self._pinged_at = -inf
        self._chances = 0  # checks that are left to a peer that was pinged
        self.idle = True
        self.relaxed = False
        self.next_check = first_words_by
        self.has_spoken = False

    @property
    def awaits_words(self) -> bool:
        """Whether the peer is to speak next: for the first time, after a request or a ping."""
        return not self.has_spoken or self.asked_at is not None or self._chances > 0

    def begin(self, now: float) -> bool:
        """Note that there is a call; return whether that changes `next_check`."""
        if not self.idle or not self.has_spoken:
            return False
        self.idle = self.relaxed = False
        self.next_check = now + self._pings.patience
        return True

    def asked(self, now: float) -> None:
        """Note that something was sent while `relaxed`. Changes `next_check`."""
        self.relaxed = False
        self.next_check = min(self.next_check, now + self._pings.patience)

    def received(self, now: float) -> bool:
        """Note that the peer has sent something; return whether that changes `next_check`."""
        self._received_at = now
        self.asked_at = None
        if not self._chances:
            return False
        self._chances = 0
        self.next_check = now + self._pings.patience
        return True

    def wait_longer(self, now: float, seconds: float) -> None:
        """Give a peer that was found lost some more time. Changes `next_check`."""
        self._chances = 1
        self.next_check = now + seconds

    def check(self, now: float, *, calls: bool) -> Verdict:
        """Judge the peer. Changes `next_check`.

        Args:
            now: the time.
            calls: whether there are calls under way.
        """
        if not self.has_spoken:
            return Verdict.LOST
        if self._chances:
            self._chances -= 1
            self.next_check = now + LAST_CHECK_DELAY
            return Verdict.WAIT if self._chances else Verdict.LOST
        if not calls:
            self.idle = True
            self.next_check = inf
            return Verdict.WAIT
        self.next_check = self._suspicious_at()
        self.relaxed = self.asked_at is None and self.next_check > now
        if self.next_check > now:
            return Verdict.WAIT
        self._pinged_at = now
        self._chances = 2
        self.next_check = now + self._pings.timeout
        return Verdict.PING

    def _suspicious_at(self) -> float:
        """Return when the peer has been silent for too long, if it says nothing before."""
        pings = self._pings
        silent = self._received_at + pings.interval
        if self.asked_at is not None:
            silent = min(silent, self.asked_at + pings.patience)
        return max(silent, self._pinged_at + pings.gap)
