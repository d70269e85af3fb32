"""Whether a member answers calls at all. Pure: the time is an argument.

A member can be alive, acknowledge every ping, and answer nothing: it has lost its quorum, or waits
for a raft leader that is dead. etcd itself says so after seven seconds. So while there are calls,
a connection looks at them each quarter of a second. If not one was answered since the last look,
and one that was under way then still is, the calls are *overdue*, and the member is to be asked by
a small linearizable read. (A call may take long by its own nature; only that read tells the two
apart.)

Calls are numbered as they begin, so one number says which are older than a look; nothing is noted
for each. A call that was given up before the next look counts as one that was not answered.
"""

from __future__ import annotations

from math import inf
from typing import Final

__all__ = ["Unanswered"]

LOOK_INTERVAL: Final = 0.25  # seconds


class Unanswered:
    """Judges the calls of one connection. See the head of the module.

    Attributes:
        next_check: when `check` is to be called next.
        idle: whether there are no checks, and `begin` is to be called with the next call.
        answered: how many calls ended by an answer; to be counted by the connection.
        given_up: whether a call was given up since the last look; to be set by the connection.
    """

    __slots__ = ("_answered", "_newest", "answered", "given_up", "idle", "next_check")

    def __init__(self) -> None:
        self.next_check: float = inf
        self.idle: bool = True
        self.answered: int = 0
        self.given_up: bool = False
        self._answered = 0
        self._newest = 0  # number of the newest call, at the last look

    def begin(self, now: float) -> None:
        """Note that there is a call. Changes `next_check` if it was idle."""
        if not self.idle:
            return
        self.idle = False
        self._answered = self.answered
        self._newest = 0
        self.next_check = now + LOOK_INTERVAL

    def check(self, now: float, oldest: int | None, newest: int) -> bool:
        """Return whether calls are overdue. Changes `next_check`.

        Args:
            now: the time.
            oldest: number of the oldest call under way that is to be answered; None for none.
            newest: number of the newest.
        """
        given_up, self.given_up = self.given_up, False
        answered, self._answered = self.answered != self._answered, self.answered
        waited = oldest is not None and oldest <= self._newest
        self._newest = newest
        if oldest is None and not given_up:
            self.idle = True
            self.next_check = inf
        else:
            self.next_check = now + LOOK_INTERVAL
        return (waited or given_up) and not answered
