"""How long to wait before trying again: capped, doubled, jittered."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """A series of delays, each a random part of a limit that doubles.

    At least half of the limit is waited, so that nothing spins; the other half
    is random, so that many who failed together do not come back together.

    Args:
        first: the first limit, in seconds.
        cap: the highest limit, in seconds.
        rng: source of randomness.
    """

    def __init__(
        self, first: float = 0.05, cap: float = 5.0, rng: random.Random | None = None
    ) -> None:
        self._first = first
        self._cap = cap
        self._limit = first
        self._rng = rng or random.Random()  # noqa: S311 # jitter is no secret

    def next(self) -> float:
        """Return the next delay, in seconds."""
        limit = self._limit
        self._limit = min(limit * 2, self._cap)
        return limit * (0.5 + self._rng.random() / 2)

    def reset(self) -> None:
        """Begin anew, as something has worked."""
        self._limit = self._first
