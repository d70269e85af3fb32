"""Ctrl-C in the moment in which something is taken out of a queue."""

from __future__ import annotations

from queue import SimpleQueue

__all__ = ["Interrupted"]


class Interrupted(SimpleQueue[object]):
    """A queue whose reader is interrupted as soon as there is something."""

    def get(self, block: bool = True, timeout: float | None = None) -> object:  # noqa: FBT002 # a queue's
        """Wait, and raise."""
        super().get(block, timeout)
        raise KeyboardInterrupt
