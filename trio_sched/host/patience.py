"""Waiting out what is not about this host, and saying so once: by the table of `policy`.

It is waited out by a backoff with a cap, and said once when it begins and once when it is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

from trio_sched.etcd_shim._about import TRANSIENT
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim.errors import EtcdError
from trio_sched.host.policy import Then, Where, outcome

__all__ = ["Patience", "Wait"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MAX_DELAY: Final = 1.0  # seconds between two attempts of one call


class Patience:
    """Waits out what is not about this host.

    Args:
        say: takes a sentence when a trouble begins, and one when it is over.

        where: it is waited.

    Attributes:
        where: as given, or what became of it.
    """

    def __init__(
        self, say: Callable[[str], None] = lambda _: None, where: Where = Where.JOINING
    ) -> None:
        self._say = say
        self.where = where
        self._troubles: Counter[str] = Counter()  # each with how many calls wait because of it
        self._since: dict[str, float] = {}
        self._words = ""

    @property
    def trouble(self) -> str | None:
        """What is waited out now, in etcd's words; None if nothing is."""
        return self._words if self._troubles.total() else None

    def bears(self, error: BaseException) -> bool:
        """Return whether an error is to be waited out."""
        return outcome(error, self.where) is Then.WAIT

    async def insist(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Call ``fn(*args)`` until it does not fail by what is to be waited out.

        For what may be done twice. It is as patient as the scope that it runs in.
        """
        wait = Wait(self)
        try:
            while True:
                try:
                    return await fn(*args)
                except EtcdError as exc:
                    await wait.out(exc)
        finally:
            wait.end()

    def begin(self, error: EtcdError) -> str:
        """Note that one more call waits because of an error; return what it is counted as."""
        kind = type(error).__name__
        self._words = str(error)
        self._troubles[kind] += 1
        if self._troubles[kind] == 1:
            self._since[kind] = trio.current_time()
            if not isinstance(error, TRANSIENT):
                self._say(f"etcd refuses, and is asked again and again: {error}")
        return kind

    def end(self, kind: str, *, transient: bool) -> None:
        """Note that a call waits no more."""
        self._troubles[kind] -= 1
        if not self._troubles[kind]:
            del self._troubles[kind]
            seconds = trio.current_time() - self._since.pop(kind)
            if not transient:
                self._say(f"etcd refuses no more ({kind}), after {seconds:.1f} s")


class Wait:
    """What one caller remembers between its attempts."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._backoff = Backoff(cap=_MAX_DELAY)
        self._kind: str | None = None
        self._transient = True

    async def out(self, error: EtcdError) -> None:
        """Wait before the next attempt, or raise `error` if that would be no use."""
        if not self._patience.bears(error):
            raise error
        if type(error).__name__ != self._kind:
            self.end()
            self._transient = isinstance(error, TRANSIENT)
            self._kind = self._patience.begin(error)
        await trio.sleep(self._backoff.next())

    def end(self) -> None:
        """Note that it is over: an attempt has worked, or there will be none."""
        if self._kind is not None:
            kind, self._kind = self._kind, None
            self._patience.end(kind, transient=self._transient)

    def worked(self) -> None:
        """Note that an attempt has worked, for one who goes on."""
        self.end()
        self._backoff.reset()
