"""What one host's life has come to, in numbers: counted as it happens, read by ``statistics()``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from math import inf
from typing import Final

import trio

from trio_sched.etcd_shim.errors import EtcdError, RevisionWentBack

__all__ = ["WRITE_BUCKETS", "HostCounts", "cause_of_loss"]

WRITE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: the upper bounds of how long it took from an event to the written decision."""

# Beginnings of why a session was lost, as they are given to `mark_lost` and `give_up`.
_CAUSES: Final = {
    "no renewal was acknowledged": "no_renewal",
    "its deadline has passed": "deadline",
    "the lease was revoked": "lease_gone",
    "its key": "key_gone",  # or keys
    "its candidate key": "key_gone",
    "for a TTL there was no proof": "no_proof",
    "the slot": "key_gone",
    "it is not certain that ": "in_doubt",  # how many paths of a host were left
}


def cause_of_loss(reason: str, error: BaseException | None = None) -> str:
    """Return in one word why a session was lost.

    Args:
        reason: in plain words.
        error: what it was lost by.
    """
    if isinstance(error, RevisionWentBack):
        return "store_went_back"
    found = next((cause for words, cause in _CAUSES.items() if reason.startswith(words)), None)
    return found or ("refused" if isinstance(error, EtcdError) else "other")


class HostCounts:
    """Counts of one host's life on a path.

    Attributes:
        losses: how many sessions were lost, by cause.
        renewals: how many were acknowledged, in sessions before the present one.
        works: how many pieces of work have ended, by cause.
        waiting: whether it waits for a slot.
        writes: for each of `WRITE_BUCKETS`, and beyond, how many decisions took so long.
        write_seconds: how long all of them took.
    """

    __slots__ = (
        "_since",
        "losses",
        "renewals",
        "waiting",
        "works",
        "write_seconds",
        "writes",
    )

    def __init__(self) -> None:
        self.losses: dict[str, int] = {}
        self.renewals: int = 0
        self.works: dict[str, int] = {}
        self.waiting: bool = False
        self.writes: list[int] = [0] * (len(WRITE_BUCKETS) + 1)
        self.write_seconds: float = 0.0
        self._since = inf  # by trio's clock; of the first event that nothing was written for yet

    def note_loss(self, reason: str, error: BaseException) -> None:
        """A session was lost."""
        cause = cause_of_loss(reason, error)
        self.losses[cause] = self.losses.get(cause, 0) + 1

    def note_event(self) -> None:
        """Something has happened that the leader has to look at."""
        self._since = min(self._since, trio.current_time())

    def note_settled(self) -> None:
        """What has happened needs no decision."""
        self._since = inf

    def note_written(self) -> None:
        """A decision was written."""
        seconds = max(0.0, trio.current_time() - self._since) if self._since < inf else 0.0
        self._since = inf
        self.writes[bisect_left(WRITE_BUCKETS, seconds)] += 1
        self.write_seconds += seconds

    def write_buckets(self) -> dict[float, int]:
        """Return how many decisions took up to so many seconds."""
        return dict(zip((*WRITE_BUCKETS, inf), accumulate(self.writes), strict=True))

    @contextmanager
    def waits(self) -> Iterator[None]:
        """It waits for a slot."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    @contextmanager
    def works_on(self, why: Callable[[], str]) -> Iterator[None]:
        """Count a piece of work by what ends it; `why` it was cancelled, if it was."""
        cause = "returned"
        try:
            yield
        except trio.Cancelled:
            cause = why()
            raise
        except BaseException:
            cause = "raised"
            raise
        finally:
            self.works[cause] = self.works.get(cause, 0) + 1
