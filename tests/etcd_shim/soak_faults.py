"""What is done, by a seed, to the members of an etcd, to the ways there, and to its users."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

import trio

from tests.etcd_shim.soak_proxy import HAProxy
from tests.helpers import PASSWORD
from trio_sched.etcd_shim import Client, EtcdError, open_client
from trio_sched.etcd_shim._versions import known_faults
from trio_sched.etcd_shim.errors import AuthenticationFailed, PermissionDenied, RpcError
from trio_sched.testing import Etcd, FaultyLink, Member

__all__ = ["AFTERMATH", "MAX_PAUSE", "Faults", "Spans"]

Fault: TypeAlias = Callable[[], Awaitable[object]]

MAX_PAUSE = 4.0  # seconds that a member stands still, or a way is cut: less than a lease lives
AFTERMATH = 5.0  # seconds in which what is over may still be the reason of an error
_ATTEMPTS = 20  # of an operator's command, while members come and go


@dataclass
class Spans:
    """Times in which something went on, by trio's clock; ends are infinite while it does."""

    spans: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def span(self) -> Iterator[None]:
        began = trio.current_time()
        self.spans.append((began, inf))
        try:
            yield
        finally:
            self.spans.remove((began, inf))
            self.spans.append((began, trio.current_time() + AFTERMATH))

    def cover(self, moment: float, late: float = 0.0) -> bool:
        return any(first <= moment <= last + late for first, last in self.spans)


class Faults:
    """Made for one etcd of three members, guarded, with the user and the role ``app``.

    Attributes:
        made: how often each was made.
        now: what goes on at this moment.
        stood_still: when a member did not run, which may have been the raft leader.
    """

    def __init__(
        self,
        etcd: Etcd,
        links: list[FaultyLink],
        proxy: HAProxy | None,
        operator: Client,
        compact: Fault,
        seed: int,
        version: str,
    ) -> None:
        self._etcd = etcd
        self._links = links
        self._proxy = proxy
        self._operator = operator
        self._dice = random.Random(seed)
        self._users = 0
        self._wrong_password = Spans()
        self._no_role = Spans()
        self.stood_still = Spans()
        self.made: Counter[str] = Counter()
        self.now: tuple[str, ...] = ()
        of_proxy = [] if proxy is None else [self.restart_proxy, self.reload_proxy]
        # These lose what they have acknowledged, which is no fault of ours.
        loses = any(fault.issue == "etcd#13766" for fault in known_faults(version))
        self._groups: list[list[Fault]] = [
            [*[self.kill][loses:], self.pause, self.stop, self.defragment, self.move_leader],
            [self.cut, self.refuse, self.stall, self.mute, *of_proxy],
            [self.add_user, self.change_password, self.revoke_role, compact],
        ]

    def explain(self, error: EtcdError, late: float) -> bool:
        """Whether an error about permission is due to what was done to the user.

        Args:
            error: it.
            late: for how many seconds it may have been held back.
        """
        now = trio.current_time()
        if isinstance(error, AuthenticationFailed):
            return self._wrong_password.cover(now, late)
        return isinstance(error, PermissionDenied) and self._no_role.cover(now, late)

    def forbids(self) -> bool:
        """Whether the user may do nothing now, or might not until a moment ago."""
        now = trio.current_time()
        return self._wrong_password.cover(now) or self._no_role.cover(now)

    @property
    def words(self) -> str:
        """What goes on, in words."""
        return " and ".join(self.now) or "no fault"

    def reap(self) -> None:
        """Forget processes that have ended."""
        if self._proxy is not None:
            self._proxy.reap()

    async def make(self) -> None:
        """Make one to three faults at once, and take them back."""
        chosen = [
            self._dice.choice(group) for group in self._groups if self._dice.random() < 0.6
        ]  # one of each kind at most, so that a quorum is always there
        self.now = tuple(fault.__name__ for fault in chosen)
        self.made.update(self.now)
        async with trio.open_nursery() as nursery:
            for fault in chosen:
                nursery.start_soon(fault)
        self.now = ()

    # ---- members -------------------------------------------------------------------

    def _member(self) -> Member:
        return self._dice.choice(self._etcd.members)

    async def kill(self) -> None:
        """SIGKILL a member, and start it again."""
        member = self._member()
        with self.stood_still.span():
            member.kill()
            await trio.sleep(self._dice.random())
            await member.start()

    async def pause(self) -> None:
        """Stop a member for longer than the client waits for it."""
        member = self._member()
        with self.stood_still.span():
            member.pause()
            await trio.sleep(self._dice.uniform(0.5, MAX_PAUSE))
            member.resume()
            await member.wait_healthy()

    async def stop(self) -> None:
        """SIGTERM a member, which sends GOAWAY to those that are connected, and start it again."""
        with self.stood_still.span():
            await self._member().restart()

    async def defragment(self) -> None:
        """Have a member defragmented; it serves nothing meanwhile."""
        async with open_client(self._member().endpoint, user="root", password=PASSWORD) as client:
            await self._insist(client.maintenance.defragment)

    async def move_leader(self) -> None:
        """Have the raft leader hand over to another member."""
        leader = await self._etcd.raft_leader()
        ids = [member.id for member in await self._operator.cluster.member_list()]
        async with open_client(leader.endpoint, user="root", password=PASSWORD) as client:
            try:
                own = (await client.status()).member_id
                target = self._dice.choice([each for each in ids if each != own])
                await client.maintenance.move_leader(target)
            except EtcdError:
                self.made["move_leader, refused"] += 1

    # ---- ways ----------------------------------------------------------------------

    async def cut(self) -> None:
        """Close all connections by one way, or by each."""
        for link in self._some_links():
            link.cut()

    def cut_all(self) -> None:
        """Close all connections."""
        for link in self._links:
            link.cut()

    async def refuse(self) -> None:
        """Close them, and each new one, for a while."""
        await self._trouble(FaultyLink.refuse)

    async def stall(self) -> None:
        """Let nothing through for a while."""
        await self._trouble(FaultyLink.stall)

    async def mute(self) -> None:
        """Let no answers through for a while."""
        await self._trouble(FaultyLink.mute)

    def _some_links(self) -> list[FaultyLink]:
        return self._links if self._dice.random() < 0.3 else [self._dice.choice(self._links)]

    async def _trouble(self, make: Callable[[FaultyLink], None]) -> None:
        links = self._some_links()
        for link in links:
            make(link)
        await trio.sleep(self._dice.uniform(0.1, MAX_PAUSE))
        for link in links:
            link.heal()

    async def restart_proxy(self) -> None:
        """Kill HAProxy, and start it again."""
        assert self._proxy is not None
        await self._proxy.restart(self._dice.random())

    async def reload_proxy(self) -> None:
        """Have HAProxy send GOAWAY, with another one in its place."""
        assert self._proxy is not None
        await self._proxy.reload()

    # ---- users ---------------------------------------------------------------------

    async def add_user(self) -> None:
        """Add a user and take it away, which makes each token old."""
        self._users += 1
        name = f"user-{self._users}"
        await self._insist(self._operator.auth.user_add, name, "pw")
        await self._insist(self._operator.auth.user_delete, name)

    async def change_password(self) -> None:
        """Give the client's user another password for a while."""
        with self._wrong_password.span():
            await self._insist(self._operator.auth.user_passwd, "app", "another")
            await trio.sleep(self._dice.random() * 2)
            await self._insist(self._operator.auth.user_passwd, "app", PASSWORD)

    async def revoke_role(self) -> None:
        """Take the client's role away for a while."""
        with self._no_role.span():
            await self._insist(self._operator.auth.user_revoke_role, "app", "app")
            await trio.sleep(self._dice.random() * 2)
            await self._insist(self._operator.auth.user_grant_role, "app", "app")

    async def _insist(self, change: Callable[..., Awaitable[object]], *args: str) -> None:
        """Carry out an operator's command, again if it is not known whether it was."""
        for attempt in range(_ATTEMPTS):
            try:
                await change(*args)
            except RpcError as exc:
                if attempt and _is_done_already(exc):
                    return
            except EtcdError:
                pass
            else:
                return
            await trio.sleep(0.2)
        raise AssertionError(f"an operator could not {change.__name__}")


def _is_done_already(error: RpcError) -> bool:
    """Whether an earlier attempt, whose answer was lost, was carried out."""
    words = ("already exist", "not found", "not granted", "already has")
    return any(each in error.message for each in words)
