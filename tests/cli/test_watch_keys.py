"""`trio-sched watch` on a terminal: keys scroll and sort, and the terminal's settings come back."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.fleet_tools import HOSTS, Fleet, open_fleet
from tests.cli.ops_tools import COMMAND, STRANGE
from tests.cli.run.test_terminal import BASH, Terminal, open_terminal
from tests.reaper.process_tools import eventually
from trio_sched.cli.view.keys import KeyParser
from trio_sched.cli.view.scrolling import HELP, Scroll
from trio_sched.cli.view.selection import MATTERS, SHOWN, SORTS

SIZE = (24, 80)
# As IN_TERMINAL, but with a group of its own for the command, as a shell with job control has it;
# and it leaves the settings as the command has left them. It says which these are.
JOB = """
import fcntl, os, resource, signal, sys, termios
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def say(*words):
    settings = termios.tcgetattr(0)
    print(*words, "as before" if settings == before else "changed", flush=True)
def to_front(group):
    os.tcsetpgrp(0, group)
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
before = termios.tcgetattr(0)
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    to_front(os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    to_front(os.getpgrp())
    if not os.WIFSTOPPED(status):
        break
    say("stopped")
    answer = sys.stdin.readline().strip()
    if answer == "fg":
        to_front(pid)
    if answer == "kill":
        os.killpg(pid, signal.SIGTERM)
    os.killpg(pid, signal.SIGCONT)
    if answer == "bg":
        assert sys.stdin.readline().strip() == "fg"
        to_front(pid)
say("ended", os.waitstatus_to_exitcode(status))
signal.pause()
"""


def words(path: str) -> list[str]:
    unset = [word for name in STRANGE[:-1] for word in ("-u", name)]
    return ["env", *unset, *COMMAND, "watch", path]


def environment(endpoint: str) -> dict[str, str]:
    return {"ETCDCTL_ENDPOINTS": endpoint, "TERM": "xterm-256color"}


@asynccontextmanager
async def watching(
    endpoint: str, path: str, *command: str, program: str | None = None
) -> AsyncIterator[tuple[Terminal, Fleet]]:
    """Watch a path of 300 hosts."""
    more = {} if program is None else {"program": program}
    env = environment(endpoint)
    async with (
        open_fleet(endpoint, path) as fleet,
        open_terminal(*(command or words(path)), env=env, size=SIZE, **more) as terminal,
    ):
        yield terminal, fleet


async def lines_shown(terminal: Terminal) -> tuple[int, int, int]:
    """Wait until the line that says which lines are shown; return the first, the last, and all."""
    await terminal.until("lines ")
    found = re.fullmatch(r"(\d+)-(\d+) of (\d+)", await terminal.until(","))
    assert found is not None
    return int(found[1]), int(found[2]), int(found[3])


async def until_line(terminal: Terminal, first: int) -> None:
    while (await lines_shown(terminal))[0] != first:  # it is drawn each second
        pass


async def test_keys_scroll(endpoint: str, path: str) -> None:
    async with watching(endpoint, path) as (terminal, _):
        first, last, total = await lines_shown(terminal)
        assert (first, last) == (1, SIZE[0] - 2)
        assert total > HOSTS
        page = last - 1
        for keys, line in (
            ("\x1b[B", 2), ("\x1b[6~", 2 + page), ("\x1b[5~", 2), ("\x1bOA", 1), ("\x1b[A", 1),
            ("\x1b[F", total - last + 1), ("\x1b[B", total - last + 1), ("k", total - last),
            ("\x1b[H", 1), ("jjj", 4), (" ", 4 + page), ("b", 4), ("G", total - last + 1),
            ("\x1b[1~", 1), ("\x1b[4~", total - last + 1), ("g", 1),
        ):  # fmt: skip
            await terminal.type(keys)
            await until_line(terminal, line)
        await terminal.type("q")
        await terminal.until("code 0")


async def test_all_hosts_are_reached(endpoint: str, path: str) -> None:
    async with watching(endpoint, path) as (terminal, _):
        _, room, total = await lines_shown(terminal)
        seen: set[str] = set()
        for at in range(1, total, room - 1):
            first = min(at, total - room + 1)
            text = ""
            while f"lines {first}-" not in text:
                await terminal.type("\x1b[6~" if at > 1 and not text else "")
                text = await terminal.until(", by ")
            seen |= set(re.findall(r"\bh\d{3}(?=\.)", text.rpartition("HOST ")[2]))
        assert {f"h{at:03}" for at in range(HOSTS)} <= seen
        await terminal.type("q")
        await terminal.until("code 0")


async def test_keys_sort(endpoint: str, path: str) -> None:
    async with watching(endpoint, path) as (terminal, _):
        await terminal.until(f"by {MATTERS}; ")
        for sort in (*SORTS, MATTERS):
            await terminal.type("s")
            await terminal.until(f"by {sort}; ")
        await terminal.type("\x1b[F")
        await terminal.type("s")
        await terminal.until("by name; ")
        await terminal.type("q")
        await terminal.until("code 0")


async def test_help_and_the_wide_view(endpoint: str, path: str) -> None:
    async with watching(endpoint, path) as (terminal, _):
        await terminal.until("? helps")
        await terminal.type("?")
        for _, what in HELP:
            await terminal.until(what[:30])
        await terminal.type("s")  # any key goes back, and does nothing else
        await terminal.until("scheduled")
        await terminal.until(f"by {MATTERS}; ")
        await terminal.type("w")
        while (await lines_shown(terminal))[2] < 5 * HOSTS:  # there is a paragraph for each
            pass
        await terminal.type("q")
        await terminal.until("code 0")


async def test_changes_are_shown_where_one_has_scrolled_to(endpoint: str, path: str) -> None:
    async with watching(endpoint, path) as (terminal, fleet):
        *_, total = await lines_shown(terminal)
        await terminal.type("s")
        await terminal.until("by name; ")
        await terminal.type("G")
        await until_line(terminal, total - SIZE[0] + 3)
        await terminal.type("\x1b[5~" * 2)
        await fleet.change(255, reason="broken just now")
        await terminal.until("broken just")
        await terminal.type("q")
        await terminal.until("code 0")


# ---- the terminal's settings -------------------------------------------------------------------


def takes_keys(terminal: Terminal) -> bool:
    local = terminal.settings[3]
    assert isinstance(local, int)
    return not local & (termios.ICANON | termios.ECHO)


def child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


@pytest.mark.parametrize(
    ("ends_by", "code"),
    [
        ("q", 0),
        ("\x03", 128 + signal.SIGINT),
        ("\x1c", -signal.SIGQUIT),
        (signal.SIGINT, 128 + signal.SIGINT),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, -signal.SIGHUP),
        (signal.SIGQUIT, -signal.SIGQUIT),
    ],
)
async def test_settings_come_back_whatever_ends_it(
    endpoint: str, path: str, ends_by: str | signal.Signals, code: int
) -> None:
    async with watching(endpoint, path, program=JOB) as (terminal, _):
        await lines_shown(terminal)
        assert takes_keys(terminal)
        if isinstance(ends_by, str):
            await terminal.type(ends_by)
        else:
            os.kill(child_of(terminal.process.pid), ends_by)
        shown = await terminal.until(f"ended {code} as before")
        assert shown.rindex("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor is shown again"


# As `python -m trio_sched`, with a view that fails when it is drawn for the third time.
FAILS = """
import sys
from trio_sched.cli.view import watch
from trio_sched.cli.group import command
drawn, times = watch.status_view, []
def status_view(*args, **options):
    times.append(1)
    if len(times) == 3:
        raise ZeroDivisionError
    return drawn(*args, **options)
watch.status_view = status_view
command(sys.argv[1:])
"""


async def test_settings_come_back_after_an_exception(endpoint: str, path: str) -> None:
    command = [sys.executable, "-c", FAILS, "watch", path]
    async with watching(endpoint, path, *command, program=JOB) as (terminal, _):
        await terminal.until("ZeroDivisionError")
        await terminal.until("ended 1 as before")


async def test_settings_come_back_if_the_first_picture_fails(endpoint: str, path: str) -> None:
    command = [sys.executable, "-c", FAILS.replace("== 3", "== 1"), "watch", path]
    async with watching(endpoint, path, *command, program=JOB) as (terminal, _):
        await terminal.until("ended 1 as before")


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
async def test_ctrl_z_and_fg(endpoint: str, path: str, number: signal.Signals) -> None:
    async with watching(endpoint, path, program=JOB) as (terminal, _):
        for sort in ("name", "age"):
            await lines_shown(terminal)
            if number == signal.SIGTSTP:
                await terminal.type("\x1a")
                await terminal.until("stopped as before")
            else:
                os.kill(child_of(terminal.process.pid), number)
                await terminal.until("stopped changed")  # no process notices that it comes
            await terminal.type("fg\n")
            await lines_shown(terminal)
            assert takes_keys(terminal)
            await terminal.type("s")
            await terminal.until(f"by {sort}; ")
        await terminal.type("q")
        await terminal.until("ended 0 as before")


async def test_it_ends_in_the_background_and_leaves_the_terminal_alone(
    endpoint: str, path: str
) -> None:
    async with watching(endpoint, path, program=JOB) as (terminal, _):
        await lines_shown(terminal)
        await terminal.type("\x1a")
        await terminal.until("stopped as before")
        await terminal.type("kill\n")
        shown = await terminal.until(f"ended {128 + signal.SIGTERM} as before")
        assert "lines " not in shown


async def test_in_the_background_nothing_is_drawn(endpoint: str, path: str) -> None:
    async with watching(endpoint, path, program=JOB) as (terminal, fleet):
        await lines_shown(terminal)
        await terminal.type("\x1a")
        await terminal.until("stopped as before")
        await terminal.type("bg\n")
        for at in range(5):
            await fleet.change(at, zone="elsewhere")
        await terminal.type("fg\n")
        before = await terminal.until("lines ")
        assert before.count("path ") == 1, "it is drawn once, when it is in the foreground"
        await terminal.type("q")
        await terminal.until("ended 0 as before")


async def test_ctrl_z_where_no_shell_would_continue_it(endpoint: str, path: str) -> None:
    """As by ``ssh -t host trio-sched watch``: the kernel does not stop it, and it goes on."""
    async with watching(endpoint, path) as (terminal, _):
        await lines_shown(terminal)
        await terminal.type("\x1a")
        await terminal.type("s")
        await terminal.until("by name; ")
        assert takes_keys(terminal)
        await terminal.type("q")
        await terminal.until("code 0")


async def test_ctrl_z_and_fg_in_a_shell(endpoint: str, path: str) -> None:
    async with watching(endpoint, path, *BASH) as (terminal, _):
        await terminal.until("$ ")
        await terminal.type(f"{shlex.join(words(path))}\n")
        await lines_shown(terminal)
        await terminal.type("\x1a")
        await terminal.until("Stopped")
        await terminal.until("$ ")
        await terminal.type("echo $((6 * 7))\n")
        await terminal.until("42\r\n")
        await terminal.type("fg\n")
        await terminal.type("s")
        await terminal.until("by name; ")
        await terminal.type("q")
        await terminal.until("$ ")
        await terminal.type("echo $((60 * 7))\n")
        await terminal.until("420\r\n")
        await terminal.type("exit\n")
        await terminal.until("code 0")


async def test_what_is_typed_for_another_is_not_read(endpoint: str, path: str) -> None:
    """Standard input is no terminal: it is drawn in place, and no key does anything."""
    command = ["sh", "-c", f"exec {shlex.join(words(path))} </dev/null"]
    async with watching(endpoint, path, *command) as (terminal, _):
        before = terminal.settings
        await terminal.until("lines more, for which this terminal is not high enough")
        assert terminal.settings == before
        await terminal.type("\x03")
        await terminal.until("code 130")


async def test_the_terminal_goes_away(endpoint: str, path: str) -> None:
    async with watching(endpoint, path) as (terminal, _):
        await lines_shown(terminal)
        child = child_of(terminal.process.pid)
        terminal.close()
        await eventually(lambda: not Path(f"/proc/{child}").exists() or ended(child))


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


# ---- the pieces --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"s", ["s"]),
        (b"\x1b[A\x1bOB\x1b[5~\x1b[6~", ["up", "down", "page up", "page down"]),
        (b"\x1b[H\x1bOH\x1b[1~\x1b[7~", ["home"] * 4),
        (b"\x1b[F\x1bOF\x1b[4~\x1b[8~", ["end"] * 4),
        (b"\x1b[1;5A\x1b[15~\x1bOPq", ["q"]),  # Ctrl-up, F5, F1
        (b"\x1bq", ["q"]),  # Alt-q, or ESC before it
        (b"\x1b\x1b[A", ["up"]),
        (b"\xc3\xa4q", ["\ufffd", "\ufffd", "q"]),
    ],
)
def test_keys_of_what_is_sent(data: bytes, keys: list[str]) -> None:
    assert KeyParser().feed(data) == keys
    parser = KeyParser()
    assert [key for at in range(len(data)) for key in parser.feed(data[at : at + 1])] == keys


def test_an_endless_sequence_is_not_kept() -> None:
    parser = KeyParser()
    parser.feed(b"\x1b[")
    for _ in range(1000):
        parser.feed(b"1")
    assert len(parser._rest) < 40
    assert parser.feed(b"xq")[-1] == "q"


def test_scrolling_stays_within_what_there_is() -> None:
    scroll = Scroll()
    assert scroll.window(5, 10) == slice(0, 5)
    scroll.press("end", 3)
    assert scroll.window(5, 10) == slice(0, 5)
    assert scroll.window(100, 10) == slice(0, 10)
    scroll.press("end", 3)
    assert scroll.window(100, 10) == slice(90, 100)
    assert scroll.window(50, 10) == slice(40, 50), "half of it is gone"
    assert scroll.window(50, 0) == slice(40, 41)
    scroll.press("page up", 3)  # a terminal of one line
    assert scroll.window(50, 1) == slice(39, 40)
    scroll.press("x", 3)
    assert scroll.window(50, 1) == slice(39, 40)


def test_small_paths_are_sorted_by_name_until_s_is_pressed() -> None:
    scroll = Scroll()
    assert (scroll.sort(SHOWN), scroll.sort(SHOWN + 1)) == ("name", MATTERS)
    scroll.press("s", 3)
    assert scroll.selection(3).sort == "age"
    assert scroll.selection(3).everything
