"""The leader, as a pure state machine: events in, intents out.

No trio, no clock, no I/O: its driver posts to a `LeaderMachine` what has
happened, and carries out what it returns. What is promised, and what the driver
has to promise in turn, is in the theory of operation at the head of the source.
"""

# Theory of operation
# ===================
#
# One machine lives as long as the host has joined the path. Between `Elected` and
# `Deposed` it leads: it knows the pool and the stored decision, asks the strategy,
# and wants a write whenever what is stored is not what the strategy chose.
#
#             Elected             Snapshot              WriteDecision
#   FOLLOWING ───────▶ LOADING ─────────────▶ LEADING ◀──────────────▶ WRITING
#       ▲                 ▲                    ▲    │    WriteDone        │ │
#       │ Deposed         │          TimerFired│    │foreign              │ │
#       │ (from any)      │                    │    ▼    WriteRefused     │ │
#       │                 │                   YIELDING ◀──────────────────┘ │
#       │                 └───────────────── WriteLost ─────────────────────┘
#       └── FAILED ◀── LEADING, when the strategy breaks its rules; only a new
#                      Elected leads out of it (to LOADING), or Deposed
#
# `handle` runs each event of a batch through the table at the end of the class. A
# handler changes what is known and returns the next state. Only when the batch is
# used up, and only in LEADING, and only if something changed, is the strategy
# asked: once. So a burst costs one evaluation, and a change during a write waits
# for its end. Nothing in an event's path depends on the size of the pool.
#
# Late events. An event that a state has no use for is late, not wrong: `_late` is
# its handler, and changes nothing. Events that are useful but old are known by their
# revisions. Of each host that changed since the last snapshot we remember the
# revision of the newest event, also if the host has gone (a tombstone); what is not
# newer is ignored, and so is whatever is not newer than the snapshot, which is why
# each snapshot prunes that memory. A Snapshot may come at any time, not only when
# asked for: it then heals whatever the watch has swallowed.
#
# Ours or foreign. A stored decision is ours if its record carries our name and our
# fence. Every other change of `scheduled` that is newer than what we know is a
# foreign write, a deletion too. Our own write's echo may come before the answer to
# the write; so in WRITING what the watch says is held until the answer is there,
# and is then compared with it. A change that leaves `scheduled` as it is but takes
# our record away is foreign as well: else two could fight over `decision` without
# end.
#
# A fight. After a foreign write the machine yields: it lets a timer run before it
# takes the key back, and each further time twice as long, up to a limit, so writes
# per second are bounded whatever the other side does. Pool events wait as well. Once
# the key is ours again the same timer counts the quiet; when it fires, the fight is
# over and the next foreign write finds the shortest delay again, and a new warning.
#
# Once a decision of ours was stored in this term, the next one starts from that, not from
# what a foreigner stored since; a new leader, who has none yet, starts from what it finds.
#
# The first write. A new leader's first write is made even if the choice stays the
# same: it moves both keys to the new leader's decision lease and fence.
#
# Operators. What they want comes with a Snapshot or as ControlChanged, and is applied in
# `decide`. It is among the options that are recorded, so a change of it is written even
# if the choice stays the same; by that, operators learn that the leader knows.
#
# What the driver promises
# - Snapshot: pool and stored decision read at one revision, from a read that is
#   linearizable and was begun after the intent; later pool events follow it.
# - Exactly one of WriteDone, WriteRefused, WriteLost for each WriteDecision, none of
#   them from before the last Elected; or it fills in their `fence`, which makes late
#   ones harmless.
# - A timer that was replaced does not fire any more.

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from trio_sched.exceptions import StrategyError
from trio_sched.leader.choice import Choice, CurrentDecision, decide, order_of
from trio_sched.leader.events import (
    ControlChanged,
    DecisionChanged,
    Deposed,
    Elected,
    Event,
    Fail,
    HostJoined,
    HostLeft,
    Intent,
    LoadSnapshot,
    Snapshot,
    StartTimer,
    TimerFired,
    Warn,
    WriteDecision,
    WriteDone,
    WriteLost,
    WriteRefused,
)
from trio_sched.leader.pool import Pool
from trio_sched.leader.reasons import (
    foreign_write,
    options_difference,
    why_asserted,
    why_written,
)
from trio_sched.model.records import DecisionRecord, Hosts
from trio_sched.model.stored_decision import StoredDecision
from trio_sched.strategies import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_sched.model.control_state import ControlState
    from trio_sched.model.records import Host, Options

__all__ = [
    "ControlChanged",
    "DecisionChanged",
    "Deposed",
    "Elected",
    "Event",
    "Fail",
    "HostJoined",
    "HostLeft",
    "Intent",
    "LeaderMachine",
    "LoadSnapshot",
    "Snapshot",
    "StartTimer",
    "State",
    "TimerFired",
    "Warn",
    "WriteDecision",
    "WriteDone",
    "WriteLost",
    "WriteRefused",
]

_FIRST_DELAY = 0.1  # seconds until the first foreign write of a fight is answered
_MAX_DELAY = 10.0  # seconds; the doubling ends here
_QUIET_PERIOD = 10.0  # seconds without a foreign write that end a fight
_MAX_DIFFERENCES = 32  # distinct warnings about options for each election

_EVENTS: tuple[type[Event], ...] = get_args(Event)  # the columns of the table


class State(Enum):
    """What a leader is doing; see the theory of operation."""

    FOLLOWING = "following"
    LOADING = "loading"
    LEADING = "leading"
    WRITING = "writing"
    YIELDING = "yielding"
    FAILED = "failed"


class LeaderMachine:
    """Decides what the leader of a path does.

    Args:
        hostname: our own name.
        path: the path that the hosts share.
        options: what decisions are made with while we lead.
        strategy: decides which hosts to choose.
    """

    def __init__(self, *, hostname: str, path: str, options: Options, strategy: Strategy) -> None:
        self._hostname = hostname
        self._path = path
        self._options = options
        self._shown = options.as_json()
        self._strategy = strategy
        self._state = State.FOLLOWING
        self._forget()

    def _forget(self) -> None:
        self._fence: int | None = None
        self._pool = Pool(self._strategy, self._options, self._path)
        self._floor = 0  # revision of the newest snapshot
        self._revisions: dict[str, int] = {}  # of each host's newest event above the floor
        self._stored: StoredDecision | None = None
        self._held: StoredDecision | None = (
            None  # newest that the watch said while we could not use it
        )
        self._control_at = 0  # revision of the newest word of operators
        self._record: DecisionRecord | None = None  # being written, or written last
        self._own: DecisionRecord | None = None  # ours that was stored last
        self._written = 0  # revision of our last write that is known to have landed
        self._dirty = False
        self._backoff = 0.0  # seconds; 0 if there is no fight
        self._due = False  # whether the time to take the key back came in this batch
        self._delay: float | None = None  # of the timer to be started by this batch
        self._ticking = False  # whether a timer that was started may fire
        self._differences: set[str] = set()
        self._intents: list[Intent] = []

    @property
    def state(self) -> State:
        """What the machine is doing."""
        return self._state

    @property
    def fence(self) -> int | None:
        """Create_revision of our election key; None unless elected."""
        return self._fence

    @property
    def pool(self) -> Mapping[str, Host]:
        """The hosts that live, by name, as far as is known; a read-only live view."""
        return self._pool.hosts

    @property
    def stored(self) -> StoredDecision | None:
        """The newest stored decision that is known; None until it was loaded."""
        return self._stored

    def handle(self, *events: Event) -> list[Intent]:
        """Take in a batch of events, oldest first, and return what to do about it.

        However many events there are, the strategy is asked at most once (once more if
        an eviction left it with too few), and at most one write is wanted.

        Raises:
            TypeError: one of them is no event; nothing has changed then.
        """
        for event in events:
            if type(event) not in _EVENTS:
                raise TypeError(f"not an event of LeaderMachine: {event!r}")
        for event in events:
            self._state = self._TABLE[self._state][type(event)](self, event)
        if self._state is State.LEADING and self._dirty:
            self._state = self._evaluate()
        return self._conclude()

    def _conclude(self) -> list[Intent]:
        self._due = False
        if self._state is State.LEADING and self._backoff and not self._ticking:
            self._delay = _QUIET_PERIOD
        if self._delay is not None:
            self._intents.append(StartTimer(self._delay))
            self._delay, self._ticking = None, True
        intents, self._intents = self._intents, []
        return intents

    # Election

    def _start(self, event: Elected) -> State:
        if self._fence is not None and event.fence <= self._fence:
            return self._state  # of an election that we know, or one before it
        self._forget()
        self._fence = event.fence
        self._intents.append(LoadSnapshot(event.fence))
        return State.LOADING

    def _stop(self, _event: Deposed) -> State:
        self._forget()
        return State.FOLLOWING

    def _late(self, _event: Event) -> State:
        return self._state

    # The pool

    def _load(self, event: Snapshot) -> State:
        if event.revision < max(self._floor, self._fence or 0):
            return self._state  # read for an earlier election
        self._merge(event)
        self._dirty = True
        if self._stored is None:
            self._stored = event.stored
        held, self._held = self._held, None
        return self._learn(_newer(event.stored, held), State.LEADING)

    def _heal(self, event: Snapshot) -> State:
        if event.revision > self._floor:
            self._merge(event)
        return self._learn(event.stored, self._state)

    def _heal_later(self, event: Snapshot) -> State:
        if event.revision > self._floor:
            self._merge(event)
        self._held = _newer(event.stored, self._held)
        return self._state

    def _merge(self, snapshot: Snapshot) -> None:
        self._floor = snapshot.revision
        self._revisions = {
            name: revision
            for name, revision in self._revisions.items()
            if revision > snapshot.revision
        }
        pool = {host.name: host for host in snapshot.hosts if host.name not in self._revisions}
        known = self._pool.hosts
        pool.update((name, known[name]) for name in self._revisions if name in known)
        self._dirty |= pool != known
        self._pool.replace(pool)
        if snapshot.control is not None:
            self._apply_control(snapshot.control, snapshot.revision)
        for host in pool.values():
            self._compare_options(host)

    def _steer(self, event: ControlChanged) -> State:
        self._apply_control(event.control, event.revision)
        return self._state

    def _apply_control(self, control: ControlState, revision: int) -> None:
        if revision > self._control_at:
            self._control_at = revision
            known = self._pool.control
            self._dirty |= (control, control.revision) != (known, known.revision)
            self._pool.steer(control)

    def _joined(self, event: HostJoined) -> State:
        if self._is_newer(event.host.name, event.revision):
            self._dirty |= event.host.is_news(self._pool.hosts.get(event.host.name))
            self._pool.put(event.host)
            self._compare_options(event.host)
        return self._state

    def _left(self, event: HostLeft) -> State:
        if self._is_newer(event.name, event.revision) and event.name in self._pool.hosts:
            self._pool.remove(event.name)
            self._dirty = True
        return self._state

    def _is_newer(self, name: str, revision: int) -> bool:
        if revision <= self._revisions.get(name, self._floor):
            return False
        self._revisions[name] = revision
        return True

    def _compare_options(self, host: Host) -> None:
        if not host.options or len(self._differences) >= _MAX_DIFFERENCES:
            return
        difference = options_difference(self._path, host, self._shown)
        if difference is not None and difference.message not in self._differences:
            self._differences.add(difference.message)
            self._intents.append(difference)

    # The stored decision

    def _hold(self, event: DecisionChanged) -> State:
        self._held = _newer(event.stored, self._held)
        return self._state

    def _changed(self, event: DecisionChanged) -> State:
        return self._learn(event.stored, self._state)

    def _learn(self, new: StoredDecision, state: State) -> State:
        """Take in what is stored; return `state`, or YIELDING if a foreigner wrote it."""
        known = self._known
        if new.revision <= known.revision or 0 < new.mod_revision < self._newest_write:
            return state
        self._stored = new
        ours = self._is_ours(new)
        if ours:
            self._own = new.record
        if ours or (new.mod_revision == known.mod_revision and new.record == known.record):
            self._dirty |= new.record != known.record or order_of(new) != order_of(known)
            return state
        return self._yield(new)

    @property
    def _known(self) -> StoredDecision:
        assert self._stored is not None  # in every state whose handlers ask for it
        return self._stored

    @property
    def _newest_write(self) -> int:
        return max(self._known.mod_revision, self._written)

    def _is_ours(self, stored: StoredDecision) -> bool:
        record = stored.record
        return record is not None and (record.leader, record.fence) == (self._hostname, self._fence)

    def _yield(self, foreign: StoredDecision) -> State:
        if self._due or self._state is State.YIELDING:
            # More writes neither hasten the timer nor put off what it was waiting for.
            return State.LEADING if self._due else State.YIELDING
        if not self._backoff:
            self._intents.append(foreign_write(self._path, foreign))
        self._backoff = min(max(2 * self._backoff, _FIRST_DELAY), _MAX_DELAY)
        self._delay, self._ticking = self._backoff, False
        return State.YIELDING

    def _fire(self, _event: TimerFired) -> State:
        if not self._ticking:
            return self._state
        self._ticking = False
        if self._state is State.YIELDING:
            self._dirty = self._due = True
            return State.LEADING
        self._backoff = 0.0  # it was quiet for long enough
        return self._state

    # Writes

    def _done(self, event: WriteDone) -> State:
        if not self._answers(event) or event.revision <= self._known.revision:
            return self._state  # our write can only land above what it was based on
        assert self._record is not None
        hosts = tuple(Hosts(self._record.hosts))
        self._written, self._own = event.revision, self._record
        self._stored = StoredDecision(
            hosts, event.revision if hosts else 0, event.revision, record=self._record
        )
        return self._learn_held(State.LEADING)

    def _refused(self, event: WriteRefused) -> State:
        if not self._answers(event):
            return self._state
        if event.fenced:
            return self._stop(Deposed())
        self._held = _newer(event.stored, self._held)
        before = self._known
        state = self._learn_held(State.LEADING)
        if self._known.mod_revision != before.mod_revision and self._is_ours(self._known):
            self._dirty = True  # a write of ours that was lost has landed after all
            return state
        return self._yield(event.stored) if state is State.LEADING else state

    def _learn_held(self, state: State) -> State:
        held, self._held = self._held, None
        return state if held is None else self._learn(held, state)

    def _lost(self, event: WriteLost) -> State:
        if not self._answers(event):
            return self._state
        assert self._fence is not None
        self._intents.append(LoadSnapshot(self._fence))
        return State.LOADING

    def _answers(self, event: WriteDone | WriteRefused | WriteLost) -> bool:
        return event.fence is None or event.fence == self._fence

    # Evaluation

    def _evaluate(self) -> State:
        current = CurrentDecision.of(self._own, self._known)
        try:
            choice = decide(self._pool, current)
        except StrategyError as error:
            self._intents.append(Fail(error))
            return State.FAILED
        self._dirty = False
        return State.LEADING if self._is_stored(choice) else self._write(choice)

    def _is_stored(self, choice: Choice) -> bool:
        stored, record = self._known, self._known.record
        if record is None:
            return not self._pool.hosts and not stored.mod_revision
        return (
            self._record is not None  # the first write after an election is always made
            and self._is_ours(stored)
            and list(record.hosts.items()) == list(choice.hosts.items())
            and set(stored.hosts) == set(choice.hosts)
            and dict(record.options) == choice.options
        )

    def _write(self, choice: Choice) -> State:
        assert self._fence is not None
        self._record = DecisionRecord(
            choice.hosts, self._hostname, self._fence, self._reason(choice), choice.options
        )
        self._intents.append(WriteDecision(self._fence, self._known.mod_revision, self._record))
        return State.WRITING

    def _reason(self, choice: Choice) -> str:
        stored = self._known
        if stored.record is None or not self._is_ours(stored) or self._record is None:
            return why_asserted(choice, again=bool(self._backoff))
        return why_written(stored.record, stored.mod_revision, choice, self._pool.hosts)

    # The table: for each state, what to do with each event. A handler returns the
    # next state. The columns are those of _EVENTS.
    # fmt: off
    _ROWS: ClassVar[Mapping[State, tuple[Callable[[Any, Any], State], ...]]] = {
        # Elected Deposed Snapshot   Joined   Left   Changed   Control  Done   Refused  Lost   Timer
        State.FOLLOWING: (
          _start, _late, _late,      _late, _late, _late,    _late,    _late, _late, _late, _late),
        State.LOADING: (
          _start, _stop, _load,      _joined, _left, _hold,    _steer, _late, _late, _late, _fire),
        State.LEADING: (
          _start, _stop, _heal,      _joined, _left, _changed, _steer, _late, _late, _late, _fire),
        State.WRITING: (
          _start, _stop, _heal_later, _joined, _left, _hold, _steer, _done, _refused, _lost, _fire),
        State.YIELDING: (
          _start, _stop, _heal,      _joined, _left, _changed, _steer, _late, _late, _late, _fire),
        State.FAILED: (
          _start, _stop, _late,      _late, _late, _late,    _late,    _late, _late, _late, _late),
    }
    # fmt: on
    _TABLE: ClassVar[Mapping[State, Mapping[type[Event], Callable[[Any, Any], State]]]] = {
        state: dict(zip(_EVENTS, row, strict=True)) for state, row in _ROWS.items()
    }


def _newer(one: StoredDecision, other: StoredDecision | None) -> StoredDecision:
    return one if other is None or one.revision >= other.revision else other
