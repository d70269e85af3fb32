"""Asking now and then whether this host is healthy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

__all__ = ["NOT_YET", "HealthCheck", "HealthWatch"]

HealthCheck = Callable[[], Awaitable[bool]]

NOT_YET: Final = "its health was not checked yet"
"""Why a host with a check is not healthy until that has passed."""


class HealthWatch:
    """Asks a health check now and then.

    Args:
        check: the check; it may fail, and it may take too long.
        interval: seconds from the beginning of one check to that of the next, and the longest
            that one may take.
        note: is given why the host is not healthy, None if it is, each time that this changes.
    """

    def __init__(
        self, check: HealthCheck, interval: float, note: Callable[[str | None], None]
    ) -> None:
        self._check = check
        self._interval = interval
        self._note = note

    async def run(self) -> None:
        """Check now and then, until cancelled."""
        known: str | None = NOT_YET
        while True:
            began = trio.current_time()
            unhealthy = await self._ask()
            if unhealthy != known:
                known = unhealthy
                self._note(unhealthy)
            await trio.sleep_until(began + self._interval)

    async def _ask(self) -> str | None:
        """Return why this host is not healthy; None if it is."""
        with trio.move_on_after(self._interval):
            try:
                return None if await self._check() else "its health check says no"
            except Exception as exc:  # noqa: BLE001 # whatever it is, it is the reason
                return f"its health check raised {type(exc).__name__}: {exc}"
        return f"its health check took longer than {self._interval:g} s"
