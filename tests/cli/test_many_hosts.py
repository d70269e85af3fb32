"""`trio-sched status` of 300 hosts: a line for each at 80 columns, and a pager for all of them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.text import Text

from tests.cli.fleet_tools import HOSTS, SCHEDULED, name_of, open_fleet
from tests.cli.ops_tools import COMMAND, STRANGE, ops
from tests.cli.run.test_terminal import Terminal, open_terminal
from tests.reaper.process_tools import eventually
from trio_sched.cli.view.fitting import Names, clip, share
from trio_sched.cli.view.selection import SHOWN

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
SIZE = (24, 80)
ROW = re.compile(r"h(\d{3})\.")
# A pager that says what it was given, and then waits for a line.
PAGER = """
import sys
text = sys.stdin.read()
print("paged", text.count("\\n"), "lines", flush=True)
open("/dev/tty").readline()
print("pager ended", flush=True)
"""


def environment(endpoint: str) -> dict[str, str]:
    """The environment of a command in a terminal with colours; its size is the terminal's."""
    return {"ETCDCTL_ENDPOINTS": endpoint, "TERM": "xterm-256color"}


def words(path: str, *options: str, env: Mapping[str, str | None] | None = None) -> list[str]:
    """The words of ``trio-sched status``, with nothing that changes its output by chance."""
    unset = {**dict.fromkeys(STRANGE[:-1]), "PAGER": None, "LESS": None, **(env or {})}
    given = [f"{name}={value}" for name, value in unset.items() if value is not None]
    taken = [word for name, value in unset.items() if value is None for word in ("-u", name)]
    return ["env", *taken, *given, *COMMAND, "status", path, *options]


def pager(text: str = PAGER) -> str:
    return shlex.join([sys.executable, "-c", text])


def lines_of(shown: str) -> list[str]:
    """Return it without colours, and without the blanks that fill a table up."""
    return [line.rstrip() for line in ESCAPES.sub("", shown).replace("\r", "").split("\n")]


async def shown_by(terminal: Terminal) -> list[str]:
    """What a command shows that asks for nothing."""
    return lines_of(await terminal.until("code 0"))


@pytest.mark.parametrize("size", [(24, 80), (60, 132), (10, 40)])
async def test_each_host_has_one_line(endpoint: str, path: str, size: tuple[int, int]) -> None:
    async with open_fleet(endpoint, path):
        command = words(path, "--all", "--no-pager")
        async with open_terminal(*command, env=environment(endpoint), size=size) as terminal:
            lines = await shown_by(terminal)
    assert max(map(cell_len, lines)) <= size[1]
    (heading,) = [at for at, line in enumerate(lines) if line.startswith("HOST ")]
    rows = lines[heading + 1 : heading + 1 + HOSTS]
    assert [int(found[1]) for line in rows if (found := ROW.match(line))] == [*range(HOSTS)]
    assert lines[heading + 1 + HOSTS].startswith("more in ")
    if size[1] < 80:
        return
    assert "drained" in rows[270]
    assert "unavailable" in rows[250]
    assert re.search(r"its disk is fu.*…", rows[250]), "what is cut has an ellipsis"
    (scheduled,) = [line for line in lines if line.startswith("scheduled  ")]
    found = re.fullmatch(r"scheduled  (.*, )… and (\d+) more \(revision \d+\)", scheduled)
    assert found is not None, scheduled
    assert found[1].count(", ") + int(found[2]) == SCHEDULED
    while not lines[-1]:
        lines.pop()
    warnings = [at for at, line in enumerate(lines) if re.match(r"(warning|note) ", line)]
    assert warnings
    assert max(b - a for a, b in zip(warnings, [*warnings[1:], len(lines)], strict=True)) <= 3


async def test_wide_shows_all_there_is(endpoint: str, path: str) -> None:
    async with open_fleet(endpoint, path):
        command = words(path, "--wide", "--no-pager", "--filter", name_of(250))
        async with open_terminal(*command, env=environment(endpoint), size=SIZE) as terminal:
            lines = await shown_by(terminal)
    assert max(map(cell_len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "as somebody has to see to it at once" in text
    assert "priority 8" in text
    assert "x" * 60 in text.replace(" ", "")
    assert "…" not in text


async def test_without_a_terminal_lines_are_as_long_as_they_are(endpoint: str, path: str) -> None:
    """And no pager is asked."""
    async with open_fleet(endpoint, path):
        env = {"PAGER": pager(), "COLUMNS": "80"}
        shown = await ops(endpoint, "status", path, "--all", env=env, as_process=True)
    rows = [line for line in shown.out.splitlines() if ROW.match(line)]
    assert len(rows) == HOSTS
    assert all("x" * 60 in row for row in rows)
    assert "…" not in shown.out


# ---- the pager -----------------------------------------------------------------------------


async def test_a_pager_gets_what_is_longer_than_the_terminal(endpoint: str, path: str) -> None:
    async with open_fleet(endpoint, path):
        command = words(path, "--all", env={"PAGER": pager()})
        async with open_terminal(*command, env=environment(endpoint), size=SIZE) as terminal:
            before = terminal.settings
            await terminal.until("paged ")
            assert int(await terminal.until(" lines")) > HOSTS
            await terminal.type("\x03")  # Ctrl-C is the pager's; this one ends by it
            await terminal.until("code 0")
            assert terminal.settings == before


@pytest.mark.parametrize(
    ("options", "env", "size"),
    [
        (["--no-pager"], {"PAGER": pager()}, SIZE),
        ([], {"PAGER": pager()}, (400, 80)),  # all of it is seen at once
        ([], {"PAGER": pager(), "TERM": "dumb"}, SIZE),
        ([], {"PAGER": ""}, SIZE),
        ([], {"PAGER": "cat"}, SIZE),
        ([], {"PAGER": "'a quotation mark is missing"}, SIZE),
        ([], {"PAGER": "/no/such/pager"}, SIZE),
        ([], {"PATH": "/no/such/folder"}, SIZE),  # no less, either
    ],
)
async def test_no_pager(
    endpoint: str, path: str, options: list[str], env: dict[str, str], size: tuple[int, int]
) -> None:
    async with open_fleet(endpoint, path):
        command = words(path, *options, env=env)
        async with open_terminal(*command, env=environment(endpoint), size=size) as terminal:
            lines = await shown_by(terminal)
    assert not any(line.startswith("paged ") for line in lines)
    assert len([line for line in lines if ROW.match(line)]) == SHOWN


async def test_no_pager_if_what_is_typed_is_for_another(endpoint: str, path: str) -> None:
    """As in ``ssh host trio-sched status`` without a terminal, or in a loop that reads."""
    async with open_fleet(endpoint, path):
        command = shlex.join(words(path, env={"PAGER": pager()})) + " </dev/null"
        env = environment(endpoint)
        async with open_terminal("sh", "-c", command, env=env, size=SIZE) as terminal:
            lines = await shown_by(terminal)
    assert not any(line.startswith("paged ") for line in lines)


@pytest.mark.skipif(shutil.which("less") is None, reason="there is no less")
@pytest.mark.parametrize("env", [{}, {"PAGER": "less"}])
async def test_less(endpoint: str, path: str, env: dict[str, str]) -> None:
    async with open_fleet(endpoint, path):
        command = words(path, "--all", env=env)
        async with open_terminal(*command, env=environment(endpoint), size=SIZE) as terminal:
            before = terminal.settings
            first = await terminal.until("\n:")
            assert "\x1b[32m" in first, "colours are shown"
            assert "\x1b[?1049h" not in first, "the text stays there"
            assert "ESC" not in first
            await terminal.type("G")
            await terminal.until("(END)")
            await terminal.type("q")
            await terminal.until("code 0")
            assert terminal.settings == before


@pytest.mark.skipif(shutil.which("less") is None, reason="there is no less")
async def test_less_is_ended_with_us(endpoint: str, path: str) -> None:
    async with open_fleet(endpoint, path):
        command = words(path, "--all")
        async with open_terminal(*command, env=environment(endpoint), size=SIZE) as terminal:
            before = terminal.settings
            await terminal.until("\n:")
            os.kill(child_of(terminal.process.pid), signal.SIGTERM)
            await terminal.until(f"code {128 + signal.SIGTERM}")
            await eventually(lambda: terminal.settings == before)


def child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


# ---- the pieces ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "text"), [(9, "hosts"), (5, "hosts"), (4, "hos…"), (1, "…"), (0, "")]
)
def test_clipping(width: int, text: str) -> None:
    assert clip(Text("hosts"), width, "…").plain == text


def test_clipping_counts_cells_and_has_the_letters_of_the_terminal() -> None:
    assert cell_len(clip(Text("主机主机主机"), 6, "…").plain) <= 6
    assert clip(Text("a long name"), 8, "...").plain == "a lon..."


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [([3, 4], 10, [3, 4]), ([3, 40], 10, [3, 7]), ([9, 9], 10, [5, 5]), ([5, 5], 0, [0, 0])],
)
def test_room_is_shared(wanted: list[int], room: int, given: list[int]) -> None:
    assert share(wanted, room) == given


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (30, "a, bb, ccc (revision 1)"),
        (23, "a, bb, ccc (revision 1)"),
        (100, "a, bb, ccc (revision 1)"),
        (22, "… and 3 more (revisio…"),
        (27, "a, bb, ccc (revision 1)"),
        (10, "… and 3 m…"),
    ],
)
def test_names_that_fit(width: int, text: str) -> None:
    assert Names(["a", "bb", "ccc"], " (revision 1)").fit(width, "…").plain == text


def test_some_names_fit() -> None:
    long = Names(["a-host-with-a-long-name", "b"], " (revision 1)")
    assert long.fit(35, "…").plain == "a-host-…, … and 1 more (revision 1)"
    assert long.fit(34, "…").plain == "… and 2 more (revision 1)"
    fit = Names([f"host-{at}" for at in range(9)]).fit(32, "…").plain
    assert fit == "host-0, host-1, … and 7 more"
    assert Names([]).fit(9, "…").plain == "none"
