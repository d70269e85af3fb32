"""Members of an etcd in memory: one store between them, and what can happen to each.

Theory of operation
-------------------
There is no raft. The members share one store, and what raft is for is decided by rules: there is
a raft leader as long as more than half of the members run and reach each other; when it goes,
another is elected after an election timeout or two, and all leases begin their time anew. What
needs a quorum waits at a member that has none, and fails in the end by etcd's words. A member
that is cut off still answers serializable reads, of what it had seen; its watches stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message
from grpclib.const import Status

from trio_sched.etcd_shim._pb import messages_pb2 as pb
from trio_sched.etcd_shim.errors import RpcError, rpc_error
from trio_sched.simulation.memory_leases import Leases
from trio_sched.simulation.memory_requests import Refusals, answer_request, needs_quorum
from trio_sched.simulation.memory_server import ServerSession
from trio_sched.simulation.memory_store import Commit, Snapshot, Store
from trio_sched.simulation.memory_watches import Watch, WatchIndex
from trio_sched.simulation.timeline import Timeline

__all__ = ["Cluster", "Member"]

_Answer: TypeAlias = Callable[[Message | RpcError], None]

_CLUSTER_ID: Final = 0xE7CD
_ELECTION: Final = 1.0  # seconds: the shortest election timeout
_REQUEST_TIMEOUT: Final = 7.0  # seconds: five, and two election timeouts
_NO_LEADER_TIMEOUT: Final = 3.0  # seconds after which streams that ask for a leader end
_SLOW_WATCH: Final = 0.1  # seconds that a watch waits at most which begins in the past
_LEASE_CHECK: Final = 0.5  # seconds between two checks of a lease that cannot end now


class Member:
    """An etcd server.

    Attributes:
        name: of it; its URL is ``http://NAME:2379``.
        number: its place among the members; also its id.
        up: whether it runs.
        connected: whether it reaches the other members.
        paused: whether its process is stopped, and takes nothing.
        sessions: its connections.
        watches: those that are synced.
        misses_next: whether they will not get the next commit that is for one of them
            (etcd issue 18089).
    """

    def __init__(self, cluster: Cluster, number: int) -> None:
        self._cluster = cluster
        self.number = number
        self.name: str = f"member-{number}"
        self.up: bool = True
        self.connected: bool = True
        self.paused: bool = False
        self.sessions: dict[ServerSession, None] = {}
        self.watches: WatchIndex = WatchIndex()
        self.misses_next: bool = False
        self._unseen: list[Commit] = []  # while it is cut off
        self._seen: Store | None = None  # what it has, while it is cut off
        self._waiting: dict[int, tuple[str, Message, _Answer]] = {}
        self._numbers = 0

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://{self.name}:2379"

    @property
    def well(self) -> bool:
        """Whether it can be one of a quorum."""
        return self.up and self.connected and not self.paused

    @property
    def serves(self) -> bool:
        """Whether it knows a leader."""
        return self.well and self._cluster.leader is not None

    # ---- what its connections ask ------------------------------------------------

    @property
    def _store(self) -> Store:
        return self._seen or self._cluster.store

    @property
    def revision(self) -> int:
        """The last revision that it has seen."""
        return self._store.revision

    @property
    def compacted_revision(self) -> int:
        """Below which history is gone."""
        return self._store.compacted_revision

    def commits_from(self, revision: int) -> Iterator[Commit]:
        """Return what happened from a revision on, as far as it has seen it."""
        return self._store.commits_from(revision)

    def later(self, action: Callable[[], None]) -> None:
        """Do something at its next round, in a tenth of a second at most."""
        cluster = self._cluster
        cluster.timeline.after(cluster.chance.uniform(0.0, _SLOW_WATCH), action)

    def each_progress(self, action: Callable[[], bool]) -> None:
        """Do something at each interval of progress, until it returns False."""
        cluster = self._cluster

        def act() -> None:
            if action():
                cluster.timeline.after(cluster.progress_interval, act)

        cluster.timeline.after(cluster.progress_interval, act)

    def refuse_watch(self, request: pb.WatchCreateRequest) -> str:
        """Return why a watch may not be; empty if it may."""
        return self._cluster.refusals.of_watch(request)

    def forget_watch(self, watch: Watch) -> None:
        """Give a watch nothing more."""
        self.watches.discard(watch)

    def handle(
        self, method: str, request: Message, answer: _Answer, *, needs_leader: bool = False
    ) -> None:
        """Carry out a request, now or later, and give its answer, if there is one."""
        if needs_leader and not self.serves:
            answer(_no_leader())
        elif needs_quorum(method, request) and not (self.serves and self._cluster.writable):
            self._wait(method, request, answer)
        else:
            self._cluster.refusals.count(method)
            answer(self._answer(method, request))

    def _wait(self, method: str, request: Message, answer: _Answer) -> None:
        self._numbers += 1
        self._waiting[self._numbers] = method, request, answer
        self._cluster.timeline.after(_REQUEST_TIMEOUT, self._give_up, self._numbers)

    def _give_up(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return
        method, request, answer = waiting
        answer(rpc_error(Status.UNAVAILABLE, "etcdserver: request timed out"))
        if self.serves:  # its disk stalls: what was proposed will be carried out
            self._numbers += 1
            self._waiting[self._numbers] = method, request, lambda _: None

    def carry_on(self) -> None:
        """Carry out what has waited for a quorum."""
        if not (self.serves and self._cluster.writable):
            return
        waiting, self._waiting = self._waiting, {}
        for method, request, answer in waiting.values():
            answer(self._answer(method, request))

    def _answer(self, method: str, request: Message) -> Any:  # any message, or an error
        cluster = self._cluster
        try:
            cluster.refusals.check(method, request)
            reply = answer_request(self._store, method, request, cluster.timeline.now)
        except RpcError as exc:
            return exc
        if isinstance(request, pb.LeaseGrantRequest):
            cluster.mind(request.id)
        reply.header.CopyFrom(self.header(reply.header.revision))
        if isinstance(reply, pb.StatusResponse):
            leader = cluster.leader if self.serves else None
            reply.leader = 0 if leader is None else leader.number
            reply.raft_term = cluster.term
            reply.errors.extend(self._errors())
        return reply

    def _errors(self) -> Iterator[str]:
        """Say what is wrong, as etcd does in its status."""
        if not self.serves:
            yield "etcdserver: no leader"
        if self._cluster.refusals.no_space:
            yield f"memberID:{self.number} alarm:NOSPACE "

    def header(self, revision: int) -> pb.ResponseHeader:
        """Return how an answer begins."""
        return pb.ResponseHeader(
            cluster_id=_CLUSTER_ID,
            member_id=self.number,
            revision=revision,
            raft_term=self._cluster.term,
        )

    # ---- what happens to it ------------------------------------------------------

    def see(self, commit: Commit) -> None:
        """Take a commit in, and give it to the watches."""
        if self.misses_next and self.watches.want(commit):
            self.misses_next = False
        elif self._seen is not None:
            self._unseen.append(commit)
        elif self.up:
            self._notify(commit)

    def _notify(self, commit: Commit) -> None:
        self.watches.notify(commit, self.header(commit[0]))

    def cut_off(self) -> None:
        """See no commits from now on."""
        if self._seen is None:
            self._seen = Store(lambda _: None, Leases())
            self._seen.restore(self._cluster.store.snapshot())

    def catch_up(self) -> None:
        """See the commits that were made meanwhile."""
        self._seen = None
        unseen, self._unseen = self._unseen, []
        for commit in unseen:
            self._notify(commit)

    def drop_all(self) -> None:
        """End all connections, and forget what waited."""
        self._waiting.clear()
        for session in [*self.sessions]:
            session.cut()
        self.watches = WatchIndex()

    def end_streams(self) -> None:
        """End the streams that asked for a leader, if there is none still."""
        if not self.serves and not self.paused:
            for session in [*self.sessions]:
                session.end_streams(_no_leader())


class Cluster:
    """The members, and their store.

    Args:
        members: how many there are.
        chance: for what takes a random time.
        progress_interval: seconds between two words about an idle watch's progress.

    Attributes:
        timeline: what is still to happen.
        chance: as given.
        progress_interval: as given.
        store: what they hold.
        members: all of them.
        leader: the raft leader; None while there is none.
        term: how many leaders there have been.
        refusals: what is refused though it makes sense.
        listeners: called with each commit.
        expiry_delay: seconds that an expired lease still lives, at most.
        writable: whether what is proposed is carried out now; else the disk stalls.
    """

    def __init__(
        self, members: int = 1, *, chance: Random | None = None, progress_interval: float = 600.0
    ) -> None:
        self.timeline: Timeline = Timeline()
        self.chance: Random = chance or Random(0)  # noqa: S311 # the same in each run is the point
        self.progress_interval = progress_interval
        self.store: Store = Store(self._see, Leases())
        self.members: list[Member] = [Member(self, number) for number in range(1, members + 1)]
        self.leader: Member | None = self.members[0]
        self.term: int = 2
        self.refusals: Refusals = Refusals()
        self.listeners: list[Callable[[Commit], None]] = []
        self.expiry_delay: float = 0.0
        self.writable: bool = True
        self._electing = False

    def _see(self, commit: Commit) -> None:
        for listener in self.listeners:
            listener(commit)
        for member in self.members:
            member.see(commit)

    # ---- leases ------------------------------------------------------------------

    def mind(self, lease: int) -> None:
        """See to it that a lease ends when it has lapsed."""
        state = self.store.leases.find(lease)
        self.timeline.at(self._ends(state.expiry), self._check_lease, state.id)

    def _ends(self, expiry: float) -> float:
        late = self.chance.uniform(0.0, self.expiry_delay) if self.expiry_delay else 0.0
        return expiry + late

    def _check_lease(self, lease: int) -> None:
        if lease not in self.store.leases:
            return
        expiry = self.store.leases.find(lease).expiry
        if self.leader is None or not self.writable:
            self.timeline.after(_LEASE_CHECK, self._check_lease, lease)
        elif expiry > self.timeline.now:
            self.timeline.at(self._ends(expiry), self._check_lease, lease)
        else:
            self.store.end_lease(lease)

    def expire(self, lease: int) -> None:
        """Take a lease away although it was renewed (etcd issue 15247); nothing if it is gone."""
        if lease in self.store.leases:
            self.store.end_lease(lease)

    # ---- members -----------------------------------------------------------------

    def stop(self, member: Member) -> None:
        """End a member's process."""
        if member.up:
            member.up = False
            member.drop_all()
            self._check_leader()

    def start(self, member: Member) -> None:
        """Start a member that was stopped."""
        if not member.up:
            member.up = True
            member.catch_up()
            self._check_leader()

    def isolate(self, member: Member) -> None:
        """Let a member not reach the others; clients still reach it."""
        if member.connected:
            member.connected = False
            member.cut_off()
            self._check_leader()

    def rejoin(self, member: Member) -> None:
        """Let a member reach the others again."""
        if not member.connected:
            member.connected = True
            member.catch_up()
            self._check_leader()

    def pause(self, member: Member) -> None:
        """Stop a member's process (SIGSTOP): it takes and sends nothing, and nothing is lost."""
        if not member.paused:
            member.paused = True
            member.cut_off()
            self._check_leader()

    def resume(self, member: Member) -> None:
        """Let a member's process go on."""
        if member.paused:
            member.paused = False
            member.catch_up()
            self._check_leader()
            for session in [*member.sessions]:
                session.wake()

    def move_leader(self, member: Member) -> None:
        """Make a member the raft leader."""
        if member.well and self.leader is not None:
            self._elected(member)

    def _check_leader(self) -> None:
        """See whether there is a quorum, and whether its leader is one of it."""
        well = [member for member in self.members if member.well]
        if self.leader is not None and (not self.leader.well or not self._is_quorum(well)):
            self.leader = None
        for member in self.members:
            if not member.serves:
                self.timeline.after(_NO_LEADER_TIMEOUT, member.end_streams)
        if self.leader is None and self._is_quorum(well):
            if not self._electing:
                self._electing = True
                delay = self.chance.uniform(_ELECTION, 2 * _ELECTION)
                self.timeline.after(delay, self._elect)
        else:
            self._carry_on()

    def _is_quorum(self, well: list[Member]) -> bool:
        return 2 * len(well) > len(self.members)

    def _elect(self) -> None:
        self._electing = False
        well = [member for member in self.members if member.well]
        if self.leader is None and self._is_quorum(well):
            self._elected(self.chance.choice(well))

    def _elected(self, member: Member) -> None:
        self.leader = member
        self.term += 1
        self.store.leases.extend(self.timeline.now)
        self._carry_on()

    def _carry_on(self) -> None:
        for member in self.members:
            member.carry_on()

    # ---- the store ---------------------------------------------------------------

    def stall(self, seconds: float) -> None:
        """Let nothing that is proposed be carried out for a while, as a slow disk does."""
        self.writable = False
        self.timeline.after(seconds, self._go_on)

    def _go_on(self) -> None:
        self.writable = True
        self._carry_on()

    def restore(self, snapshot: Snapshot) -> None:
        """Stop all members, and start them on what a snapshot holds."""
        for member in self.members:
            member.drop_all()
            member.catch_up()
        self.term += 1
        self.store.restore(snapshot)
        self.store.leases.extend(self.timeline.now)
        for lease in self.store.leases:
            self.timeline.at(self._ends(lease.expiry), self._check_lease, lease.id)


def _no_leader() -> RpcError:
    return rpc_error(Status.UNAVAILABLE, "etcdserver: no leader")
