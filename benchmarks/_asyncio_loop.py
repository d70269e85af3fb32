"""Asyncio as a `Loop`. Not in `_peer`, since a client for Trio must not pay for the import."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from _peer import Signal

__all__ = ["Asyncio"]

T = TypeVar("T")


class Asyncio:
    """Python's own. The same loop for each `run`, as grpc keeps the first that it sees."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main` to its end."""
        return self._runner.run(main())

    async def together(self, tasks: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run all at once, to the end of the last."""
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task())

    def signal(self) -> Signal:
        """Return a new one."""
        return asyncio.Event()
