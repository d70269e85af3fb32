"""`trio-sched run` in a terminal: F54, on a pty."""

from __future__ import annotations

import os
import pty
import shlex
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.cli.run.run_tools import COMMAND
from tests.reaper.process_tools import ended_with_block, eventually
from trio_sched.reaper.child import NO_CGROUP

PATIENCE = 40  # seconds; far more than anything here takes
# Makes the terminal on its standard input its own, runs a program in it, and shows its end. It
# stays, as the end of a session takes away what has not been read of its terminal yet.
IN_TERMINAL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
pid = os.fork()
if not pid:
    os.execvp(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGINT, signal.SIG_IGN)
_, status = os.waitpid(pid, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
print("code", os.waitstatus_to_exitcode(status), flush=True)
signal.pause()
"""
IN_GROUPS = {NO_CGROUP: "1", "TERM": "dumb"}
BASH = ["bash", "--norc", "--noprofile", "-i"]
READ = ["sh", "-c", "echo rea''dy; read x; echo got $x"]  # an echo of the words is no "ready"


class Terminal:
    """A program in a terminal, and the one that sits before it."""

    def __init__(self, process: trio.Process, screen: int) -> None:
        self.process = process
        self._screen = trio.lowlevel.FdStream(screen)
        self._shown = b""

    @property
    def settings(self) -> list[object]:
        """What the terminal does with what is typed."""
        return termios.tcgetattr(self._screen.fileno())

    async def type(self, text: str) -> None:
        await self._screen.send_all(text.encode())

    async def until(self, text: str) -> str:
        """Wait until a text is shown; return all up to it, which is not found again."""
        while text.encode() not in self._shown:
            try:
                self._shown += await self._screen.receive_some()
            except trio.Cancelled:
                print(f"{text!r} is not shown, but {self._shown!r}")  # noqa: T201 # if a test fails
                raise
        before, _, self._shown = self._shown.partition(text.encode())
        return before.decode()

    async def until_sh_reads(self) -> None:
        """Wait until a shell that we have started has the terminal, and waits for a line.

        A Ctrl-Z that comes while the terminal is being handed over to a command that was stopped,
        as it wanted to read, may be lost: what continues a process takes it away (signal(7)).
        """
        await eventually(self._sh_reads)

    def _sh_reads(self) -> bool:
        try:
            group = os.tcgetpgrp(self._screen.fileno())
            pid, name, rest = Path(f"/proc/{group}/stat").read_text().split(" ", 2)
        except OSError:
            return False
        return (int(pid), name, rest[:1]) == (group, "(sh)", "S")

    def close(self) -> None:
        self._screen.close()


@asynccontextmanager
async def open_terminal(
    *command: str,
    env: Mapping[str, str] = IN_GROUPS,
    size: tuple[int, int] = (0, 0),
    program: str = IN_TERMINAL,
) -> AsyncIterator[Terminal]:
    """Run a command in a terminal of so many lines and columns; 0 if it does not say."""
    screen, keyboard = pty.openpty()
    termios.tcsetwinsize(screen, size)
    try:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", program, *command],
            stdin=keyboard,
            stdout=keyboard,
            stderr=keyboard,
            env=os.environ | {"PS1": "$ "} | dict(env),
        )
    finally:
        os.close(keyboard)
    terminal = Terminal(process, screen)
    try:
        async with ended_with_block(process, PATIENCE):
            yield terminal
    finally:
        terminal.close()


def run(endpoint: str, path: str, *options: str, command: list[str]) -> list[str]:
    """The words of a command line."""
    return [*COMMAND, path, "--endpoints", endpoint, "--hostname", "host", *options, "--", *command]


async def test_f54_a_command_reads_from_the_terminal(endpoint: str, path: str) -> None:
    async with open_terminal(*run(endpoint, path, command=READ)) as terminal:
        await terminal.until("ready")
        await terminal.type("a line\n")
        await terminal.until("got a line")
        await terminal.until("code 0")


async def test_f54_one_ctrl_c_ends_what_reads(endpoint: str, path: str) -> None:
    async with open_terminal(*run(endpoint, path, "--restart", command=READ)) as terminal:
        await terminal.until("ready")
        await terminal.type("a line\n")
        await terminal.until("got a line")
        await terminal.until("ready")  # it has been started again
        await terminal.until_sh_reads()
        await terminal.type("\x03")
        await terminal.until("code 130")


async def test_f54_one_ctrl_c_ends_what_does_not_read(endpoint: str, path: str) -> None:
    command = ["sh", "-c", "trap 'echo trapped; exit 0' INT; echo ready; sleep 300 & wait"]
    async with open_terminal(*run(endpoint, path, "--restart", command=command)) as terminal:
        await terminal.until("ready")
        await terminal.type("\x03")
        await terminal.until("trapped")
        await terminal.until("code 0")


async def test_f54_a_ctrl_c_that_the_command_has_taken_is_the_end_too(
    endpoint: str, path: str
) -> None:
    """It has the terminal, so we do not hear of it ourselves; and its exit code says nothing."""
    words = "trap 'echo trapped; exit 0' INT; read x; echo got $x; sleep 300 & wait"
    command = ["sh", "-c", words]
    async with open_terminal(*run(endpoint, path, "--restart", command=command)) as terminal:
        await terminal.type("a line\n")
        await terminal.until("got a line")
        await terminal.type("\x03")
        await terminal.until("trapped")
        await terminal.until("code 0")


async def test_f54_the_terminal_is_given_back(endpoint: str, path: str) -> None:
    """To a script that goes on after us, in the group that we are in."""
    once = shlex.join(run(endpoint, path, command=READ))
    async with open_terminal("sh", "-c", f"{once}; read y; echo then $y") as terminal:
        await terminal.until("ready")
        await terminal.type("a\n")
        await terminal.until("got a")
        await terminal.type("b\n")
        await terminal.until("then b")
        await terminal.until("code 0")


async def test_f54_ctrl_z_and_the_foreground_again(endpoint: str, path: str) -> None:
    """By a shell with job control: it gets its terminal back, and the command gets it again."""
    words = shlex.join(run(endpoint, path, "--ttl", "60", command=READ))
    async with open_terminal(*BASH) as terminal:
        await terminal.until("$ ")
        await terminal.type(f"{words}\n")
        await terminal.until("ready")
        await terminal.type("first")  # the line is not complete yet
        await terminal.until_sh_reads()
        await terminal.type("\x1a")
        await terminal.until("Stopped")
        await terminal.until("$ ")
        await terminal.type("echo $((6 * 7))\n")
        await terminal.until("\n42")
        await terminal.type("fg\n")
        await terminal.type("second\n")
        await terminal.until("\ngot ")
        await terminal.type("echo $((60 * 7))\n")
        await terminal.until("\n420")
        await terminal.type("exit\n")
        await terminal.until("code 0")


async def test_f54_in_the_background_it_waits_for_the_foreground(endpoint: str, path: str) -> None:
    words = shlex.join(run(endpoint, path, "--ttl", "60", command=READ))
    async with open_terminal(*BASH) as terminal:
        await terminal.until("$ ")
        await terminal.type(f"{words} &\n")
        await terminal.until("ready")
        await terminal.type("echo $((6 * 7))\n")
        await terminal.until("\n42")
        await terminal.type("fg\n")
        await terminal.until("trio_sched run")
        await terminal.type("a line\n")
        await terminal.until("\ngot a line")
        await terminal.type("exit\n")
        await terminal.until("code 0")


async def test_f54_in_the_background_it_ends_when_asked_to(endpoint: str, path: str) -> None:
    words = shlex.join(run(endpoint, path, "--ttl", "60", command=READ))
    async with open_terminal(*BASH) as terminal:
        await terminal.until("$ ")
        await terminal.type(f"{words} &\n")
        await terminal.until("ready")
        await terminal.type("kill %1; wait %1; echo code $?\n")
        await terminal.until("\ncode 143")
        await terminal.type("exit\n")
        await terminal.until("code 0")


async def test_f54_a_pager_at_the_end_of_a_pipe_keeps_the_terminal(
    endpoint: str, path: str
) -> None:
    words = shlex.join(run(endpoint, path, command=["sh", "-c", "echo ready; sleep 0.5; echo x"]))
    pager = "while read x; do echo page $x; done; read y < /dev/tty; echo typed $y"
    async with open_terminal(*BASH) as terminal:
        await terminal.until("$ ")
        await terminal.type(f"{words} | sh -c '{pager}'\n")
        await terminal.until("\npage x")
        await terminal.type("a key\n")
        await terminal.until("\ntyped a key")
        await terminal.type("exit\n")
        await terminal.until("code 0")
