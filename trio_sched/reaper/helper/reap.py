"""The reaper: when the process that started it is gone, end its children, then revoke its lease.

Theory of operation
-------------------
It reads words from a pipe until the pipe closes. Only the process that it belongs to, and its
forks without an exec, hold the other end. So it closes when all of them are
gone, in any way, and never while one of them lives, even if stopped. All that it knows are
these instructions:

    endpoint SCHEME HOST PORT       a member, in the order in which they are to be tried
    files CACERT CERT KEY           for https
    user NAME PASSWORD
    hold LEASE SECONDS              a lease that is about to be granted, and its TTL
    release LEASE                   it was revoked by its owner
    taken SLOT MARK_KEY MARK        a slot that is about to be taken, by its key, and its mark
    freed SLOT                      it was released by its owner
    work KEEPER START GROUP ABOVE ABOVE_START CGROUP
                                    a command that runs under a lease, see ``tree.py``
    over KEEPER                     nothing is left of that one
    group PGID                      a process group that runs under the lease; 0 for none
    until SECONDS [KEEPER]          by CLOCK_MONOTONIC, when that group, or work, must have ended
    ping WORD                       to be answered on standard output, as a sign of life
    bye                             all was revoked, or is meant to lapse

Texts are in hex. Each line is written at once and whole.

Then the order matters: first works and group are killed and waited for, then the slots are released
and the lease is revoked, as the next host starts as soon as that is done. As long as something of
a work lives, because we may not signal it or the kernel does not let it end, the lease is renewed:
nothing may begin beside it. If the group cannot be ended, slots and lease are left alone.

While the process lives they are ended only if the moment passes that `until` names. Its owner
does that by itself, and moves the moment with each renewal; unless it is stopped or hangs. Then
we do, and so does the keeper of a work.
"""

from __future__ import annotations

import importlib
import os
import select
import sys
import time

from trio_sched.reaper.helper.cgroups import remove_cgroup
from trio_sched.reaper.helper.groups import kill_group
from trio_sched.reaper.helper.kernel import signal_with_parent
from trio_sched.reaper.helper.light import quiet, signals
from trio_sched.reaper.helper.tree import Work, is_over, kill_work

TYPE_CHECKING = False  # typing's own costs as much as all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_sched.reaper.helper.revoke import Target

__all__ = ["Instructions", "main", "serve"]

_KILL_TIMEOUT = 60.0  # seconds for a group to go that was killed
_ATTEMPT = (0.3, 5.0)  # seconds for a member to answer: at first, and at most
_PAUSE = (0.05, 2.0)  # seconds between two rounds: at first, and at most
_ROUND = (0.02, 0.5)  # seconds between two rounds of killing: at first, and at most
_RENEWALS = 4  # in the TTL of a lease that has to be kept
_LONG = 60_000.0  # milliseconds between two checks of the clock
_MORE = 2.0  # seconds to go on for after the lease should have lapsed


class Instructions:
    """What the reaper was sent.

    Attributes:
        endpoints: scheme, host and port of each member.
        files: of authorities, certificate and key; empty where there is none.
        user: name and password; empty if there is none.
        leases: those that are held, with their TTLs in seconds.
        slots: those that are held: to each key that of its mark, and what is in it.
        group: the process group, or 0.
        until: by the monotonic clock, when the group must have ended.
        works: commands that run, by the ids of their keepers, each with when it must have ended.
        pings: words that are to be answered.
        bye: True if there is nothing left to do.
    """

    def __init__(self) -> None:
        self.endpoints: list[tuple[str, str, int]] = []
        self.files: tuple[str, str, str] = ("", "", "")
        self.user: tuple[str, str] = ("", "")
        self.leases: dict[int, float] = {}
        self.slots: dict[bytes, tuple[bytes, bytes]] = {}
        self.group: int = 0
        self.until: float | None = None
        self.works: dict[int, tuple[Work, float | None]] = {}
        self.pings: list[str] = []
        self.bye: bool = False

    def handle(self, line: bytes) -> None:
        """Apply one line. What it begins with is the name of the method that takes the rest."""
        what, *words = line.decode().split(" ")
        handle = _HANDLERS.get(what)
        if handle is not None:
            handle(self, *words)

    def _endpoint(self, scheme: str, host: str, port: str) -> None:
        self.endpoints.append((_text(scheme), _text(host), int(port)))

    def _files(self, cacert: str, cert: str, key: str) -> None:
        self.files = (_text(cacert), _text(cert), _text(key))

    def _user(self, name: str, password: str) -> None:
        self.user = (_text(name), _text(password))

    def _hold(self, lease: str, seconds: str) -> None:
        self.leases[int(lease)] = float(seconds)

    def _release(self, lease: str) -> None:
        self.leases.pop(int(lease), None)

    def _taken(self, slot: str, mark_key: str, mark: str) -> None:
        self.slots[bytes.fromhex(slot)] = (bytes.fromhex(mark_key), bytes.fromhex(mark))

    def _freed(self, slot: str) -> None:
        self.slots.pop(bytes.fromhex(slot), None)

    def _work(self, *words: str) -> None:
        keeper, start, group, above, above_start = map(int, words[:5])
        work = Work(keeper, start, group, above, above_start, _text(words[5]))
        self.works[keeper] = (work, None)

    def _over(self, keeper: str) -> None:
        self.works.pop(int(keeper), None)

    def _group(self, pgid: str) -> None:
        self.group = int(pgid)
        self.until = self.until if self.group else None

    def _until(self, moment: str, keeper: str = "") -> None:
        if not keeper:
            self.until = float(moment)
        elif int(keeper) in self.works:
            self.works[int(keeper)] = (self.works[int(keeper)][0], float(moment))

    def _ping(self, word: str) -> None:
        self.pings.append(word)

    def _bye(self) -> None:
        self.bye = True

    def overdue(self) -> list[Work]:
        """Return the works that must have ended by now."""
        now = time.monotonic()
        return [work for work, until in self.works.values() if until is not None and until <= now]

    def next_until(self) -> float | None:
        """Return when something must have ended next; None if that is not known."""
        untils = [until for _, until in self.works.values() if until is not None]
        if self.group and self.until is not None:
            untils.append(self.until)
        return min(untils, default=None)


_HANDLERS = {
    name: getattr(Instructions, f"_{name}")
    for name in (
        *("endpoint", "files", "user", "hold", "release", "taken", "freed"),
        *("work", "over", "group", "until", "ping", "bye"),
    )
}


def _text(word: str) -> str:
    return bytes.fromhex(word).decode()


def main() -> None:
    """Serve the pipe that is standard input."""
    _ignore_signals()
    instructions = Instructions()
    serve(instructions, 0)
    if not instructions.bye:
        _end_works(instructions)
        if _end_group(instructions) and instructions.leases:
            _revoke(instructions)
    os._exit(0)  # nothing is left to be tidied up, and it is quicker


def _ignore_signals() -> None:
    """Stay: what stops all of a service signals us, too, but we have to see our owner's end."""
    for number in (signals.SIGHUP, signals.SIGINT, signals.SIGTERM):
        signals.signal(number, signals.SIG_IGN)


def serve(instructions: Instructions, pipe: int) -> None:
    """Apply all lines, until the pipe closes."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    rest = b""
    begun = False
    while not instructions.bye:
        if not poll.poll(_milliseconds(instructions)):
            _end_overdue(instructions)
            continue
        chunk = os.read(pipe, 65536)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            instructions.handle(line)
        _answer(instructions)
        if not begun:
            begun = True
            _warm_up(instructions)


def _answer(instructions: Instructions) -> None:
    """Show that we are alive."""
    for word in instructions.pings:
        with quiet(OSError):  # it is gone
            os.write(1, f"pong {word}\n".encode())
    instructions.pings.clear()


def _end_overdue(instructions: Instructions) -> None:
    """End what should have ended by now: its owner should have done that."""
    for work in instructions.overdue():
        kill_work(work)
    if instructions.until is not None and instructions.until <= time.monotonic():
        instructions.until = None
        _end_group(instructions)


def _warm_up(instructions: Instructions) -> None:
    """Import now, while there is time, what will be needed when there is none."""
    signal_with_parent(signals.SIGCONT)  # if we are stopped then
    importlib.import_module("trio_sched.reaper.helper.revoke")
    if any(scheme == "https" for scheme, _, _ in instructions.endpoints):
        importlib.import_module("ssl")


def _milliseconds(instructions: Instructions) -> float | None:
    """Return how long to wait for the next line; None for ever."""
    until = instructions.next_until()
    if until is None:
        return None
    left = max(0.0, (until - time.monotonic()) * 1000)
    return min(left or _ROUND[0] * 1000, _LONG)


def _end_works(instructions: Instructions) -> None:
    """Kill all works until nothing of them lives, and keep the leases meanwhile."""
    pause, renew_at = _ROUND[0], time.monotonic() + _ROUND[1]
    works = [work for work, _ in instructions.works.values()]
    while works := [work for work in works if not _is_ended(work)]:
        if instructions.leases and time.monotonic() >= renew_at:
            _renew(instructions)
            renew_at = time.monotonic() + min(instructions.leases.values()) / _RENEWALS
        time.sleep(pause)
        pause = min(pause * 2, _ROUND[1])


def _is_ended(work: Work) -> bool:
    """Kill a work; return whether nothing lives of it any more."""
    kill_work(work)
    if not is_over(work):
        return False
    remove_cgroup(work.cgroup)
    return True


def _end_group(instructions: Instructions) -> bool:
    return not instructions.group or kill_group(instructions.group, _KILL_TIMEOUT)


def _revoke(instructions: Instructions) -> None:
    """Try each member in turn, again and again, until the lease must have lapsed."""
    from trio_sched.reaper.helper.revoke import give_back  # noqa: PLC0415 # see _warm_up

    end = time.monotonic() + max(instructions.leases.values()) + _MORE
    slots, leases = dict(instructions.slots), list(instructions.leases)
    attempt, pause = _ATTEMPT[0], _PAUSE[0]

    def ask(who: Target, user: str, password: str, leases: list[int], wait: float) -> list[int]:
        return give_back(slots, who, user, password, leases, wait)

    while leases := _ask(instructions, ask, leases, attempt):
        if time.monotonic() + pause > end:
            return
        time.sleep(pause)
        attempt, pause = min(attempt * 2, _ATTEMPT[1]), min(pause * 2, _PAUSE[1])


def _renew(instructions: Instructions) -> None:
    """Renew all leases, at whichever member does; once, as there is a next time."""
    from trio_sched.reaper.helper.revoke import renew_leases  # noqa: PLC0415 # see _warm_up

    _ask(instructions, renew_leases, list(instructions.leases), 2 * _ATTEMPT[0])


def _ask(
    instructions: Instructions,
    ask: Callable[[Target, str, str, list[int], float], list[int]],
    leases: list[int],
    attempt: float,
) -> list[int]:
    """Ask one member after the other; return the leases for which none has done it."""
    from trio_sched.reaper.helper.revoke import Refused, Target  # noqa: PLC0415 # see _warm_up

    for endpoint in instructions.endpoints:
        try:
            target = Target(*endpoint, *instructions.files)
            leases = ask(target, *instructions.user, leases, attempt)
        except (OSError, Refused):
            continue  # `ssl.SSLError` is an OSError, too
        if not leases:
            break
    return leases


if __name__ == "__main__":
    sys.exit("this is started by trio_sched, see its helper_command()")
