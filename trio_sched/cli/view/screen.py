"""A picture that is drawn in place, on a terminal whose keys are read one by one.

While it is shown a terminal passes each key on, and echoes none. Whatever ends or stops us puts its
settings back first: a return, an exception, a cancellation, and signals whose default action would
end or stop us at once. After SIGKILL and SIGSTOP, which no process notices, a shell does it.

In the background we leave the terminal alone, as it is another's: nothing is drawn, and no key
read, which would stop us. That we are in the foreground again is no event, so it is asked for.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
from contextlib import suppress
from typing import Any, Final

import trio
from rich.console import Console, RenderableType
from rich.live import Live

from trio_sched.cli.view.keys import KeyParser

__all__ = ["Screen", "has_keys"]

_ASKED: Final = 0.3  # seconds between two looks whether we are in the foreground
_KEYS: Final = termios.ICANON | termios.ECHO  # what is off while keys are read
_LOCAL: Final = 3  # where `tcgetattr` has these
_CHARACTERS: Final = 6  # and where the special characters
_ENDING: Final = (signal.SIGTSTP, signal.SIGHUP, signal.SIGQUIT)  # others end us as they always do


def has_keys() -> bool:
    """Return whether keys can be read: from a terminal, by the thread that gets signals."""
    return sys.stdin.isatty() and threading.current_thread() is threading.main_thread()


class Screen:
    """Shows a picture, and reads keys.

    Args:
        picture: what is shown.
        console: where.
    """

    def __init__(self, picture: RenderableType, console: Console) -> None:
        self._picture = picture
        self._console = console
        self._keyboard = sys.stdin.fileno()
        self._parser = KeyParser()
        self._live: Live | None = None
        self._before: list[Any] | None = None

    def refresh(self) -> None:
        """Draw it anew, if it is shown."""
        if self._live is not None:
            self._live.refresh()

    def show(self) -> None:
        """Draw it, below what is there; not in the background."""
        if self._live is not None or not self._in_foreground:
            return
        self._before = termios.tcgetattr(self._keyboard)
        quiet = termios.tcgetattr(self._keyboard)
        quiet[_LOCAL] &= ~_KEYS
        quiet[_CHARACTERS][termios.VMIN], quiet[_CHARACTERS][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keyboard, termios.TCSANOW, quiet)
        on_screen = sys.stderr.isatty()  # what goes to a file stays out of the picture
        self._live = Live(
            self._picture, console=self._console, auto_refresh=False, redirect_stderr=on_screen
        )
        self._live.start(refresh=True)

    def hide(self) -> None:
        """Let the last picture stay, and put the terminal's settings back."""
        live, before, self._live, self._before = self._live, self._before, None, None
        try:
            if live is not None:
                live.stop()
        finally:
            if before is not None and self._in_foreground:
                with suppress(termios.error):  # it is gone
                    termios.tcsetattr(self._keyboard, termios.TCSANOW, before)

    async def read_keys(self) -> list[str]:
        """Wait until something is typed in the foreground; return the keys, or none at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._keyboard)
            if self._live is not None and self._in_foreground:
                # If we were stopped, a shell may have been before us; a read must not block.
                events = self._poll()
                data = os.read(self._keyboard, 1024) if events & select.POLLIN else b""
                keys = self._parser.feed(data)
                if keys or (events and not data):
                    return keys
            else:
                await trio.sleep(_ASKED)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Show it until cancelled; hide it before a signal stops or ends us.

        Signals are followed before the settings are changed, and until they are back.
        """
        ours = [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]
        with trio.open_signal_receiver(signal.SIGCONT, *ours) as numbers:
            try:
                self.show()
                task_status.started()
                async for number in numbers:
                    self._handle(signal.Signals(number))
                    while not self._in_foreground:  # noqa: ASYNC110 # there is no event
                        await trio.sleep(_ASKED)
                    self.show()
                    self.refresh()
            finally:
                self.hide()

    def _handle(self, number: signal.Signals) -> None:
        if number != signal.SIGCONT:
            with suppress(OSError):  # the terminal may be gone
                self.hide()
            _act(number)
        elif not self._has_settings:
            self.hide()

    @property
    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._keyboard) == os.getpgrp()
        except OSError:  # the terminal of another session, which knows no background
            return True

    def _poll(self) -> int:
        poll = select.poll()
        poll.register(self._keyboard, select.POLLIN)
        return sum(events for _, events in poll.poll(0))

    @property
    def _has_settings(self) -> bool:
        try:
            return not termios.tcgetattr(self._keyboard)[_LOCAL] & _KEYS
        except termios.error:  # it is gone
            return True


def _act(number: signal.Signals) -> None:
    """Let a signal do what it does to a process that does not handle it."""
    ours = signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    signal.signal(number, ours)  # we were continued, or a group without a shell is not stopped
