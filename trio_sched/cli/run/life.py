"""What ``trio-sched run`` does: join, wait, and run the child whenever it is this host's turn.

Who ends what: a *loss* cancels the work, and the work ends the child before the slot is freed. A
*signal* is passed on to the child if there is one, and ends the rest if there is none. A child that
ends *by itself* ends everything, unless it is to be started again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType

import trio

from trio_sched._support.tasks import open_plain_nursery
from trio_sched.cli.connect import Connection
from trio_sched.cli.exits import Exit
from trio_sched.cli.reporter import Reporter
from trio_sched.cli.run.child import RunChild, shell_code, start_child
from trio_sched.cli.run.host_options import HostSettings, health_check_of
from trio_sched.cli.run.pages import open_pages
from trio_sched.cli.run.signals import handled_signals
from trio_sched.cli.run.ticks import TickSettings, run_at_ticks
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.exceptions import SlotLost
from trio_sched.host.once import TickOutcome
from trio_sched.host.patience import Patience
from trio_sched.host.policy import Where
from trio_sched.host.result import Result
from trio_sched.host.slot import Slot
from trio_sched.model.roster import Roster
from trio_sched.reaper.helper.kernel import adopt_orphans
from trio_sched.reaper.owner import Reaper, open_reaper
from trio_sched.scheduler import schedule
from trio_sched.serving.address import Address

__all__ = ["RunSettings", "run_command"]

_NO_WAIT = 1.0  # seconds for the leader to decide, with --no-wait
_LAST_MOMENT = 0.2  # seconds before the deadline at which nothing must be left of the child
_STEADY = 10.0  # seconds: a child that ran for less is started again after a pause
_MAX_VARIABLE = 100_000  # bytes; Linux takes 128 KiB in one variable
_NOTHING: Mapping[str, str] = MappingProxyType({})
_LEAVE = 5.0  # seconds that leaving may take when etcd does not answer


@dataclass(frozen=True)
class RunSettings:
    """The options of ``trio-sched run``, checked.

    Attributes:
        path: what the hosts share.
        command: the program and its arguments.
        connection: to etcd.
        hostname: the name of this host.
        max_count: how many run at most.
        strategy: how hosts are chosen.
        ttl: of the session, in seconds.
        grace: seconds between asking the child to end and killing it.
        takeover_pause: seconds before a slot is taken that went with its lease.
        wait: seconds to be scheduled in, the first time; None for ever.
        no_wait: end unless it is scheduled at once.
        once: end with the child, even if it was ended by a loss.
        restart: start the child again, even if it ended by itself.
        on_lost: the signal that asks the child to end.
        reaper: revoke the lease if this process is killed.
        ticks: when it is due; None if it is to run all the time.
        http: where to serve what is to know of this host; None for nowhere.
        metrics: where to serve metrics alone.
        host: what this host says of itself.
    """

    path: str
    command: tuple[str, ...]
    connection: Connection
    hostname: str
    max_count: int
    strategy: str
    ttl: int
    grace: float
    takeover_pause: float
    wait: float | None
    no_wait: bool
    once: bool
    restart: bool
    on_lost: signal.Signals
    reaper: bool
    ticks: TickSettings | None = None
    http: Address | None = None
    metrics: Address | None = None
    host: HostSettings = field(default_factory=HostSettings)


async def run_command(settings: RunSettings, reporter: Reporter) -> int:
    """Do all of it; return the exit code.

    Raises:
        TrioSchedError: etcd, or the strategy, does not let us go on.
        CannotRun: the command was not found, or may not be run.
        CannotListen: at what `http` or `metrics` says.
    """
    life = _Life(settings, reporter, adopts=adopt_orphans())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, no process can be waited for
    async with open_plain_nursery() as nursery:
        await nursery.start(life.handle_signals)
        if reporter.notifier is not None:
            nursery.start_soon(reporter.notifier.keep_alive)
        code = await life.whole()
        nursery.cancel_scope.cancel()
    return code


class _Life:
    """From joining to leaving."""

    def __init__(self, settings: RunSettings, reporter: Reporter, *, adopts: bool) -> None:
        self._settings = settings
        self._adopts = adopts
        self._reporter = reporter
        self._scope = trio.CancelScope()
        self._child: RunChild | None = None
        self._early: list[signal.Signals] | None = None  # what came while the child starts
        self._ending = False  # a signal that was passed on asks for the end
        self._code: int | None = None

    async def whole(self) -> int:
        """Live it; return the exit code."""
        settings = self._settings
        names = {"TRIO_SCHED_PATH": settings.path, "TRIO_SCHED_HOSTNAME": settings.hostname}
        with self._scope:
            if settings.wait is not None:
                self._scope.deadline = trio.current_time() + settings.wait
            async with (
                open_pages(settings.http, settings.metrics, self._reporter) as about,
                settings.connection.open() as client,
                open_reaper(client) if settings.reaper else nullcontext() as reaper,
                schedule(
                    client,
                    settings.path,
                    settings.hostname,
                    strategy=settings.strategy,
                    max_count=settings.max_count,
                    session_ttl=settings.ttl,
                    shutdown_timeout=min(settings.ttl, _LEAVE),
                    takeover_pause=settings.takeover_pause,
                    reaper=False if reaper is None else reaper,
                    health_check=health_check_of(settings.host.health, names, self._reporter),
                    **settings.host.options,
                ) as result,
            ):
                self._joined()
                with about(result):
                    async with open_plain_nursery() as nursery:
                        nursery.start_soon(self._report_decisions, result)
                        await self._do_what_is_due(result, reaper)
        if self._code is None:
            self._finish(Exit.NOT_SCHEDULED, "not scheduled in time")
        assert self._code is not None
        self._reporter.event("exit", code=self._code)
        return self._code

    def _joined(self) -> None:
        settings = self._settings
        self._reporter.event("joined", path=settings.path, hostname=settings.hostname)
        if settings.no_wait:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + _NO_WAIT)

    async def _report_decisions(self, result: Result) -> None:
        async for hosts in result:
            self._reporter.event(
                "decision", hosts=list(hosts), leader=hosts.leader, revision=hosts.revision
            )

    def _finish(self, code: int, why: str = "") -> None:
        """Note the exit code, the first one, and end all that is going on."""
        if self._code is None:
            self._code = code
            if why:
                self._reporter.error(why, code)
            if self._reporter.notifier is not None:
                self._reporter.notifier.note("stopping", {})
        self._scope.cancel()

    # ---- signals -------------------------------------------------------------------

    async def handle_signals(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Pass signals on to the child, or end if there is none."""
        with trio.open_signal_receiver(*handled_signals(), signal.SIGCONT) as numbers:
            task_status.started()
            async for number in numbers:
                self._take_signal(signal.Signals(number))

    def _take_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGCONT:
            if self._child is not None:
                self._child.resume()
            return
        if self._early is not None:
            self._early.append(number)
            return
        self._reporter.event("signal", signal=number.name, passed_on=self._child is not None)
        if self._child is None:
            self._finish(128 + number)
            return
        self._child.send(number)
        # SIGHUP may mean "read your configuration again". If it ends the child, that shows.
        self._ending = self._ending or number != signal.SIGHUP

    def _take_from_terminal(self, what: str, number: int) -> None:
        """Do what the terminal of the child asks for: end, for a Ctrl-C, or stop, for a Ctrl-Z."""
        name = signal.Signals(number).name
        if what == "signal":
            self._reporter.event("signal", signal=name, passed_on=True)  # by the terminal
            self._ending = self._ending or number != signal.SIGHUP
            return
        self._reporter.event("stopped", signal=name)
        if number == signal.SIGTSTP:  # else it goes on when we are in the foreground
            os.killpg(0, signal.SIGTSTP)
            if self._child is not None:
                self._child.resume()

    # ---- the child -----------------------------------------------------------------

    async def _do_what_is_due(self, result: Result, reaper: Reaper | None) -> None:
        settings = self._settings
        if settings.ticks is None:
            await self._take_turns(result, reaper)
            return

        async def work(slot: Slot, name: str) -> int | None:
            code = await self._work(slot, result, reaper, {"TRIO_SCHED_TICK": name})
            if code is not None and (self._ending or code == 128 + signal.SIGHUP):
                self._finish(code)
                return None if code else 0  # else it may not be done, as it was ended
            return code

        await run_at_ticks(result, settings.ticks, settings.grace, work, self._note_tick)

    def _note_tick(self, outcome: TickOutcome[int | None]) -> None:
        """Say what came of a tick; with ``--once``, it is the end."""
        self._scope.deadline = inf  # this was in time
        tick, once = outcome.tick, self._settings.once
        if tick is None:
            self._reporter.event("tick", name=outcome.name, state="left out")
        else:
            known = {"token": tick.token, "attempt": tick.attempt, "code": tick.code}
            self._reporter.event(
                "tick", name=tick.name, state=tick.state, host=tick.host, ran=outcome.ran, **known
            )
        if once and tick is not None and tick.state == "crashed":
            self._finish(Exit.LOST, f"{tick.name} is given up: its hosts were lost")
        elif once:
            self._finish(outcome.value or 0)

    async def _take_turns(self, result: Result, reaper: Reaper | None) -> None:
        """Run the child, again and again if it is to be restarted."""
        backoff = Backoff(first=0.1, cap=_STEADY)

        async def work(slot: Slot) -> int | None:
            return await self._work(slot, result, reaper)

        while True:
            began = trio.current_time()
            code = await result.run_while_scheduled(work, grace=self._settings.grace)
            if code is None:
                continue  # lost
            hung_up = code == 128 + signal.SIGHUP
            if self._ending or hung_up or not self._settings.restart:
                self._finish(code)
            if trio.current_time() - began > _STEADY:
                backoff.reset()
            await trio.sleep(backoff.next())

    async def _work(
        self, slot: Slot, result: Result, reaper: Reaper | None, more: Mapping[str, str] = _NOTHING
    ) -> int | None:
        """Run the child under a slot; return its exit code, unless it is lost before.

        Cancelled means lost; so does a child that ended after its time, as the reaper
        ends it if we cannot.
        """
        try:
            roster = await Patience(where=Where.WORKING).insist(slot.read_roster)
        except SlotLost:
            return None
        environment = {**self._environment(slot, roster, result), **more}
        child = await self._start(slot, environment, reaper)
        self._scope.deadline = inf  # this was in time
        self._reporter.event(
            "started",
            pid=child.pid,
            slot=slot.index,
            token=slot.token,
            hosts=_names(result),
            deadline=_monotonic(slot.deadline),
        )
        code: int | None = None
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(child.follow, lambda: slot.deadline)
                code = shell_code(await child.wait(self._take_from_terminal))
                nursery.cancel_scope.shield = True  # from here on, no loss can change what it did
                nursery.cancel_scope.cancel()
            if trio.current_time() >= slot.deadline:
                code = None
        finally:
            with trio.CancelScope(shield=True):
                await self._end(child, slot, code, result)
        return code

    async def _start(self, slot: Slot, env: dict[str, str], reaper: Reaper | None) -> RunChild:
        """Start the child; signals that come meanwhile are for it, if it runs."""
        command, self._early = self._settings.command, []
        try:
            child = await start_child(command, env, reaper, slot.deadline, adopts=self._adopts)
            self._child = child
        finally:
            early, self._early = self._early, None
            for number in early:
                self._take_signal(number)
        return child

    def _why_lost(self, slot: Slot, result: Result) -> str:
        """Return in a word why the right to run is lost."""
        if slot.lost:
            return "slot_lost"
        if not slot.session_alive:
            return "session_lost"
        named = self._settings.hostname in _names(result)
        return "deadline" if named and not self._scope.cancel_called else "handed_over"

    async def _end(self, child: RunChild, slot: Slot, code: int | None, result: Result) -> None:
        """End what is left of the child, and say what came of it."""
        lost = code is None
        if lost:
            self._reporter.event(
                "lost",
                signal=self._settings.on_lost.name,
                deadline=_monotonic(slot.deadline),
                why=self._why_lost(slot, result),
                hosts=_names(result),
            )
        at_most = trio.current_time() + self._settings.grace
        last_moment = min(_LAST_MOMENT, self._settings.grace / 4)
        killed = await child.end(
            self._settings.on_lost,
            lambda: -inf if slot.lost else min(at_most, slot.deadline - last_moment),
            at_once=slot.lost,
        )
        if code is None:
            code = child.exit_code
        self._child = None
        self._reporter.event("ended", pid=child.pid, code=code, lost=lost, killed=killed)
        if lost and self._ending:
            self._finish(code)
        elif lost and self._ends_when_lost and not self._scope.cancel_called:
            self._finish(Exit.LOST, "lost the right to run; the command was ended")

    @property
    def _ends_when_lost(self) -> bool:
        return self._settings.once and self._settings.ticks is None  # a tick goes on elsewhere

    def _environment(self, slot: Slot, roster: Roster, result: Result) -> dict[str, str]:
        return os.environ | {
            "TRIO_SCHED_PATH": self._settings.path,
            "TRIO_SCHED_HOSTNAME": self._settings.hostname,
            "TRIO_SCHED_SLOT": str(slot.index),
            "TRIO_SCHED_TOKEN": str(slot.token),
            "TRIO_SCHED_ROSTER": _variable(str(roster)),
            "TRIO_SCHED_HOSTS": _variable(",".join(_names(result))),
            "TRIO_SCHED_DEADLINE": f"{_monotonic(slot.deadline):.3f}",
            "ETCD_LOCK_KEY": slot.key.decode(),
            "ETCD_LOCK_REV": str(slot.token),
        }


def _names(result: Result) -> Sequence[str]:
    return [] if result.newest is None else list(result.newest)


def _variable(text: str) -> str:
    r"""Return what others have written as a variable can hold it; nothing if it is too long.

    It is UTF-8 there, whatever this machine's locale says, and NUL is written as ``\x00``.
    """
    found = text.replace("\0", r"\x00").encode(errors="backslashreplace")
    return os.fsdecode(found) if len(found) <= _MAX_VARIABLE else ""


def _monotonic(moment: float) -> float:
    """Return what CLOCK_MONOTONIC, which all processes share, says at a moment of trio's."""
    return round(time.monotonic() + moment - trio.current_time(), 3)
