"""What the clock on the wall says, for people. Nothing is ever decided by it."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["wall_time"]


def wall_time() -> str:
    """Return the time in ISO 8601, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
