"""How many hosts of one client join at a time.

A join costs a dozen messages and their work. Where a thousand begin at once, none is done before
the first leases lapse: they are renewed late, lost, and all begin again. So they take turns: what
is begun is finished, and what has joined is renewed in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trio_sched.host.per_client import PerClient

if TYPE_CHECKING:
    from trio_sched.etcd_shim import Client

__all__ = ["Turn", "Turns", "turns_of"]

_AT_ONCE: Final = 32
_LONGEST: Final = 1.0  # seconds; one that takes longer waits for something, and holds up no other


class Turn:
    """The right to join. End it when that is done, or has to wait for something else."""

    def __init__(self, turns: Turns) -> None:
        self.began: float = trio.current_time()
        self._turns = turns

    def end(self) -> None:
        """Let the next one begin. It may have ended before."""
        self._turns.end(self)


class Turns:
    """Turns to join, for the hosts of one client, in the order in which they ask."""

    def __init__(self) -> None:
        self._taken: dict[Turn, None] = {}  # the oldest first
        self._door = trio.Lock()  # only who is next looks how long the oldest has taken
        self._ended = trio.Event()

    async def take(self) -> Turn:
        """Wait for a turn. A checkpoint; cancelled, none is taken."""
        async with self._door:
            while len(self._taken) >= _AT_ONCE:
                oldest = next(iter(self._taken))
                with trio.move_on_at(oldest.began + _LONGEST):
                    await self._ended.wait()
                    continue
                self.end(oldest)
        turn = Turn(self)
        self._taken[turn] = None
        return turn

    def end(self, turn: Turn) -> None:
        """Note that a turn is over."""
        if turn in self._taken:
            del self._taken[turn]
            self._ended.set()
            self._ended = trio.Event()


_turns: Final = PerClient(Turns)


def turns_of(client: Client) -> Turns:
    """Return the turns of a client's hosts."""
    return _turns.of(client)
