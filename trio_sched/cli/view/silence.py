"""What is said while etcd does not answer: since when, how old what is shown is, and the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import click
import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.etcd_shim._backoff import retry_transient

__all__ = ["OLD", "Silence", "wait_for_etcd"]

T = TypeVar("T")

OLD: Final = 6.0  # seconds after which what is shown is old, and something is wrong
_ASKED: Final = 1.0  # seconds between two looks at the clock


class Silence:
    """Tells how long etcd has not answered.

    Args:
        answered_at: returns when it answered last, by trio's clock.
        after: seconds after which that is worth a word.
    """

    def __init__(self, answered_at: Callable[[], float], after: float = OLD) -> None:
        self._answered_at = answered_at
        self._after = after
        self._since: float | None = None  # when it answered last, if that it is silent was said

    @property
    def age(self) -> float:
        """Seconds since etcd answered last."""
        return max(trio.current_time() - self._answered_at(), 0.0)

    def words(self) -> str:
        """Return for how long etcd has not answered; empty if it does."""
        age = self.age
        if age < self._after:
            return ""
        return f"etcd has not answered for {age:.0f} s; what is shown is the last that is known"

    def look(self) -> bool:
        """Say it on standard error if it began, or ended, since the last look; return whether."""
        age = self.age
        if (age >= self._after) == (self._since is not None):
            return False
        if self._since is None:
            self._since = self._answered_at()
            since = datetime.now(UTC) - timedelta(seconds=age)
            _say(f"etcd does not answer, since {since:%H:%M:%S} UTC; it is asked again and again")
        else:
            seconds = self._answered_at() - self._since
            self._since = None
            _say(f"etcd answers again, after {seconds:.0f} s")
        return True

    async def report(self, show: Callable[[], None] = lambda: None) -> None:
        """Look again and again, until cancelled.

        Args:
            show: shows what is known anew, whenever something was said.
        """
        while True:
            await trio.sleep(_ASKED)
            if self.look():
                show()


async def wait_for_etcd(read: Callable[[], Awaitable[T]]) -> T:
    """Return what `read` reads, as soon as etcd answers; and say so while it does not.

    It is as patient as the scope that it runs in.

    Raises:
        EtcdError: etcd refuses.
    """
    answered_at = trio.current_time()
    silence = Silence(lambda: answered_at, 2 * _ASKED)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(silence.report)
        found = await retry_transient(read)
        nursery.cancel_scope.cancel()
    answered_at = trio.current_time()
    silence.look()
    return found


def _say(words: str) -> None:
    click.echo(f"trio-sched: {words}", err=True)
