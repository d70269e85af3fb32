"""Talking to systemd, by sd_notify(3) and sd_watchdog_enabled(3): what we do, and that we live.

The socket is ours: a command that said READY or WATCHDOG in our place would hide that we hang.
Nothing that systemd does not take is waited for, or is an error.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final

import trio

from trio_sched._support.text import clip, list_names, plain

__all__ = ["Notifier"]

_OURS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_MAX_STATUS: Final = 300  # letters
_MAX_NAMES: Final = 5


class Notifier:
    """Says what `run` does to who has started us, if that is systemd. Made by `take`.

    Args:
        address: of the socket; None for none.
        interval: seconds between two signs of life; None if none is asked for.
    """

    def __init__(self, address: str | None = None, interval: float | None = None) -> None:
        self._address = address
        self.interval: float | None = interval
        self._about = ""
        self._running = False

    @classmethod
    def take(cls, environment: MutableMapping[str, str], *, keep: bool = False) -> Notifier:
        """Take what is ours out of the environment.

        Args:
            environment: that commands are given.
            keep: whether to leave it for the command all the same; but not the id of our process.
        """
        found = {name: environment[name] for name in _OURS if name in environment}
        for name in found:
            if not keep or name == "WATCHDOG_PID":
                del environment[name]
        return cls(found.get("NOTIFY_SOCKET") or None, _interval(found))

    def note(self, event: str, fields: Mapping[str, Any]) -> None:
        """Say what has happened; events are those of `Reporter.event`, and ``stopping``."""
        match event:
            case "joined":
                self._about = f"{fields['path']} as {fields['hostname']}"
                self.send("READY=1", f"STATUS=waits for {self._about}")
            case "decision":
                names = list_names(fields["hosts"], _MAX_NAMES) or "no host"
                self._status(f"{names} chosen for {self._about}", unless_running=True)
            case "started":
                self._running = True
                self._status(f"runs {self._about}: pid {fields['pid']}, slot {fields['slot']}")
            case "lost":
                self._status(f"ends the command of {self._about}")
            case "ended":
                self._running = False
                self._status(f"waits for {self._about}; the last command: {fields['code']}")
            case "stopping":
                self.send("STOPPING=1", "STATUS=leaves")

    def _status(self, words: str, *, unless_running: bool = False) -> None:
        if not (unless_running and self._running):
            self.send(f"STATUS={plain(clip(words, _MAX_STATUS))}")

    def send(self, *lines: str) -> None:
        """Send lines, if there is a socket that takes them at once."""
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with suppress(OSError), socket.socket(socket.AF_UNIX, flags) as ours:
            ours.sendto("\n".join(lines).encode(errors="replace"), address)

    async def keep_alive(self) -> None:
        """Give signs of life, from the loop that renews: when it hangs, there are none."""
        while self.interval is not None:
            self.send("WATCHDOG=1")
            await trio.sleep(self.interval)


def _interval(found: Mapping[str, str]) -> float | None:
    """Return half the time that systemd waits for a sign of life, in seconds."""
    try:
        microseconds = int(found["WATCHDOG_USEC"])
        is_meant = int(found.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except (KeyError, ValueError):
        return None
    return microseconds / 2e6 if is_meant and microseconds > 0 else None
