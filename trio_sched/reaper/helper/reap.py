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
    group PGID                      a process group that runs under the lease; 0 for none
    until SECONDS                   by CLOCK_MONOTONIC, when that group must have ended
    bye                             all was revoked, or is meant to lapse

Texts are in hex. Each line is written at once and whole.

Then the order matters: first the group is killed and waited for, then the slots are released and
the lease is revoked, as the next host starts as soon as that is done. If the group cannot be
ended, the slots and the lease are left alone.

While the process lives the group is ended only if the moment passes that `until` names. Its owner
does that by itself, and moves the moment with each renewal; unless it is stopped or hangs. Then
nothing else could end the group before the lease lapses.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import time

from trio_sched.reaper.helper.groups import kill_group

__all__ = ["Instructions", "main", "serve"]

_KILL_TIMEOUT = 60.0  # seconds for a group to go that was killed
_ATTEMPT = (0.3, 5.0)  # seconds for a member to answer: at first, and at most
_PAUSE = (0.05, 2.0)  # seconds between two rounds: at first, and at most
_LONG = 60_000.0  # milliseconds between two checks of the clock
_MORE = 2.0  # seconds to go on for after the lease should have lapsed


class Instructions:
    """What the reaper was instructions.

    Attributes:
        endpoints: scheme, host and port of each member.
        files: of authorities, certificate and key; empty where there is none.
        user: name and password; empty if there is none.
        leases: those that are held, with their TTLs in seconds.
        slots: those that are held: to each key that of its mark, and what is in it.
        group: the process group, or 0.
        until: by the monotonic clock, when the group must have ended.
        bye: True if there is nothing left to do.
    """

    def __init__(self) -> None:
        self.endpoints: list[tuple[str, str, int]] = []
        self.files = ("", "", "")
        self.user = ("", "")
        self.leases: dict[int, float] = {}
        self.slots: dict[bytes, tuple[bytes, bytes]] = {}
        self.group = 0
        self.until: float | None = None
        self.bye = False

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

    def _group(self, pgid: str) -> None:
        self.group = int(pgid)
        self.until = self.until if self.group else None

    def _until(self, moment: str) -> None:
        self.until = float(moment)

    def _bye(self) -> None:
        self.bye = True


_HANDLERS = {
    name: getattr(Instructions, f"_{name}")
    for name in (
        *("endpoint", "files", "user", "hold", "release"),
        *("taken", "freed", "group", "until", "bye"),
    )
}


def _text(word: str) -> str:
    return bytes.fromhex(word).decode()


def main() -> None:
    """Serve the pipe that is standard input."""
    _ignore_signals()
    instructions = Instructions()
    serve(instructions, 0)
    if not instructions.bye and _end_group(instructions) and instructions.leases:
        _revoke(instructions)
    os._exit(0)  # nothing is left to be tidied up, and it is quicker


def _ignore_signals() -> None:
    """Stay: what stops all of a service signals us, too, but we have to see our owner's end."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def serve(instructions: Instructions, pipe: int) -> None:
    """Apply all lines, until the pipe closes."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    rest = b""
    begun = False
    while not instructions.bye:
        if not poll.poll(_milliseconds(instructions)):
            _end_overdue_group(instructions)
            continue
        chunk = os.read(pipe, 65536)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            instructions.handle(line)
        if not begun:
            begun = True
            _warm_up(instructions)


def _end_overdue_group(instructions: Instructions) -> None:
    """End the group if its time is up: its owner should have done that by now."""
    if instructions.until is not None and instructions.until <= time.monotonic():
        instructions.until = None
        _end_group(instructions)


def _warm_up(instructions: Instructions) -> None:
    """Import now, while there is time, what will be needed when there is none."""
    importlib.import_module("trio_sched.reaper.helper.revoke")
    if any(scheme == "https" for scheme, _, _ in instructions.endpoints):
        importlib.import_module("ssl")


def _milliseconds(instructions: Instructions) -> float | None:
    """Return how long to wait for the next line; None for ever."""
    if instructions.until is None or not instructions.group:
        return None
    return min(max(0.0, (instructions.until - time.monotonic()) * 1000), _LONG)


def _end_group(instructions: Instructions) -> bool:
    return not instructions.group or kill_group(instructions.group, _KILL_TIMEOUT)


def _revoke(instructions: Instructions) -> None:
    """Try each member in turn, again and again, until the lease must have lapsed."""
    from trio_sched.reaper.helper.revoke import Refused, Target, give_back  # noqa: PLC0415 # see _warm_up

    end = time.monotonic() + max(instructions.leases.values()) + _MORE
    slots, leases = dict(instructions.slots), list(instructions.leases)
    attempt, pause = _ATTEMPT[0], _PAUSE[0]
    while leases:
        for endpoint in instructions.endpoints:
            try:
                give_back(
                    Target(*endpoint, *instructions.files),
                    *instructions.user,
                    slots,
                    leases,
                    attempt,
                )
            except (OSError, Refused):
                continue  # `ssl.SSLError` is an OSError, too
            if not leases:
                return
        if time.monotonic() + pause > end:
            return
        time.sleep(pause)
        attempt, pause = min(attempt * 2, _ATTEMPT[1]), min(pause * 2, _PAUSE[1])


if __name__ == "__main__":
    sys.exit("this is started by trio_sched, see its helper_command()")
