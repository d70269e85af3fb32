"""`trio-sched demo`, run as a person or a program would run it."""

from __future__ import annotations

import html
import importlib.util
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from rich.cells import cell_len
from rich.console import Console

from tests.cli.ops_tools import validate
from tests.places import DOCS
from trio_sched import cli
from trio_sched.cli.demo.board import Board, Event
from trio_sched.cli.demo.command import draw, json_of, svg_of, text_of

COMMAND = [sys.executable, "-m", "trio_sched"]
PATIENCE = 40  # seconds; what the demo promises
WIDTH, HEIGHT = 80, 24  # of a terminal

Json = dict[str, object]

# The demo with one thing put in its place that fails.
DYING_HOST = """
from trio_sched.cli import main
from trio_sched.cli.demo import story
story.HOST_MODULE = "trio_sched.no_such_module"
main()
"""
NO_REAPER = """
from trio_sched.cli import main
from trio_sched.cli.demo import story
story.HOST_MODULE = "tests.cli.demo.host_without_reaper"
main()
"""
NO_TIME = """
import functools
from trio_sched.cli import main
from trio_sched.cli.demo import command as demo
demo.run_demo = functools.partial(demo.run_demo, limit=0.6)
main()
"""


async def run(*command: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run a program to its end; return its exit code and what it wrote."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=os.environ | (env or {}),
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def demo(*args: str, code: str | None = None) -> tuple[int, str, str]:
    command = COMMAND if code is None else [sys.executable, "-c", code]
    return await run(*command, "demo", *args)


def events(text: str, kind: str | None = None) -> list[Json]:
    found: list[Json] = [json.loads(line) for line in text.splitlines()]
    for event in found:
        validate(event, "commands.schema.json#/$defs/demo")
    return [event for event in found if kind in {None, event["event"]}]


def alive(pid: object) -> bool:
    assert isinstance(pid, int)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---- the whole of it ---------------------------------------------------------------------------


async def test_json() -> None:
    began = time.monotonic()
    code, out, err = await demo("--json")
    assert time.monotonic() - began < PATIENCE
    assert (code, err) == (0, ""), out
    (summary,) = events(out, "summary")
    assert events(out)[-1] == summary
    assert summary["ok"] is True
    assert (summary["keys"], summary["leases"]) == (0, 0)
    assert not events(out, "failed")
    measured = [event["seconds"] for event in events(out, "measured")]
    assert len(measured) == len(events(out, "step")) == 6
    assert all(isinstance(seconds, float) and 0 < seconds < 12 for seconds in measured)
    pids = {event["pid"] for event in events(out, "host")}
    assert len(pids) == 5
    assert not any(alive(pid) for pid in pids)
    check_story(events(out))
    check_takeover(events(out))
    check_that_it_fits(events(out))


def check_story(posted: list[Json]) -> None:
    """What happened is what had to happen, by the events alone."""
    states = {(event["host"], event["state"]) for event in posted if event["event"] == "host"}
    assert sum(state == "left" for _, state in states) == 4
    (killed,) = (host for host, state in states if state == "killed")
    at = next(n for n, event in enumerate(posted) if event.get("state") == "killed")
    before = next(event for event in reversed(posted[:at]) if event["event"] == "path")
    assert before["leader"] == killed
    assert isinstance(before["scheduled"], list)
    kept = set(before["scheduled"]) - {killed}
    joined = next(n for n, event in enumerate(posted) if event.get("host") == "host-e")
    after = [event["hosts"] for event in posted[at:joined] if event["event"] == "decision"]
    known = [set(hosts) for hosts in after if isinstance(hosts, list)]
    assert known
    assert all(kept <= hosts for hosts in known)
    assert killed not in known[-1]


def check_takeover(posted: list[Json]) -> None:
    """The host that was killed led and was scheduled, and its lease was not waited for."""
    (killed,) = (event["host"] for event in posted if event.get("state") == "killed")
    measured = [event for event in posted if event["event"] == "measured"]
    (takeover,) = (event for event in measured if event["lease_left"] is not None)
    assert takeover["title"] == f"kill -9 {killed}, the leader"
    seconds, left = takeover["seconds"], takeover["lease_left"]
    assert isinstance(seconds, float)
    assert isinstance(left, int)
    assert seconds < left
    at = next(n for n, event in enumerate(posted) if event.get("state") == "killed")
    paths = [event for event in posted[:at] if event["event"] == "path"]
    scheduled = paths[-1]["scheduled"]
    assert isinstance(scheduled, list)
    assert killed in scheduled


def check_that_it_fits(posted: list[Json]) -> None:
    """In a terminal of 80x24 nothing is wrapped and nothing cut, whatever has happened."""
    board, text = Board(0.0), ""
    for event in posted:
        fields = {name: value for name, value in event.items() if name not in {"event", "t"}}
        assert isinstance(event["t"], float)
        board.post(str(event["event"]), event["t"], **fields)
        text = drawn(board, event["t"])
        lines = text.splitlines()
        assert len(lines) < HEIGHT, "one is left for the prompt"
        assert all(cell_len(line) == WIDTH for line in lines)
        assert re.search(r"│ host +process +state +leads +runs +knows ", text)
        for host in board.hosts.values():
            known = "" if host.chosen is None else f"{', '.join(host.chosen)}  @{host.revision}"
            row = rf"│ {host.name} +{host.pid} +{host.state}.* {re.escape(known)} "
            assert re.search(row, text)
        for step in board.steps:
            words = step.title if step.seconds is None else f"{step.title}  {step.note}"
            assert f" {words} " in text
        assert "for looking, not for use " in text or board.etcd is None
    assert "without its reaper" in text
    assert "All of it came true in " in text
    assert "to the last host's report. " in text


async def test_plain() -> None:
    code, out, err = await demo()
    assert (code, err) == (0, ""), out
    assert "\x1b" not in out
    assert "this etcd is for looking, not for use" in out
    assert re.search(r"== host-\w, scheduled, leaves", out)
    assert re.search(r"kill -9 host-\w, the leader", out)
    assert re.search(r"^ +[\d.]+ +\d+ +s  would .* without its reaper$", out, re.MULTILINE)
    assert "left in etcd: 0 keys, 0 leases" in out
    assert out.endswith("all of it came true\n")


async def test_the_picture_is_of_hosts_that_are_alive(tmp_path: Path) -> None:
    code, out, err = await demo("--json", "--svg", str(tmp_path / "demo.svg"))
    assert (code, err) == (0, ""), out
    check_picture((tmp_path / "demo.svg").read_text())


def test_so_is_the_one_of_the_readme() -> None:
    check_picture(DOCS.joinpath("demo.svg").read_text())


def check_picture(svg: str) -> None:
    """It shows three hosts that joined, two that run, one that leads, and the takeover."""
    words = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    text = html.unescape(" ".join(words)).replace("\xa0", " ")
    assert text.count("joined") == 3
    assert (text.count("●"), text.count("★")) == (2, 1)
    assert re.search(r"kill -9 host-\w, the leader", text)
    assert "without its reaper" in text
    assert "leave " not in text


# ---- when it does not come true ----------------------------------------------------------------


async def test_a_takeover_that_took_the_lease_s_time_is_said() -> None:
    code, out, _ = await demo(code=NO_REAPER)
    assert code == 1
    assert "the reaper was no faster than the lease" in out


async def test_a_host_that_dies_at_its_start() -> None:
    code, out, _ = await demo("--json", code=DYING_HOST)
    assert code == 1
    (failed,) = events(out, "failed")
    assert isinstance(failed["reason"], str)
    assert "ended with exit code 1" in failed["reason"]
    assert "no_such_module" in failed["reason"]
    (summary,) = events(out, "summary")
    assert (summary["ok"], summary["reason"]) == (False, failed["reason"])
    assert not any(alive(event["pid"]) for event in events(out, "host"))


async def test_no_time(tmp_path: Path) -> None:
    code, out, _ = await demo("--svg", str(tmp_path / "demo.svg"), code=NO_TIME)
    assert code == 1
    assert "failed" in (tmp_path / "demo.svg").read_text()
    assert "not over within 0.6 s; was waiting for" in out
    assert "FAILED" in out


async def test_no_etcd() -> None:
    code, out, _ = await demo("--etcd", "/bin/false")
    assert code == 1
    assert "EtcdStartFailed" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_all_of_it(number: signal.Signals) -> None:
    process = await trio.lowlevel.open_process([*COMMAND, "demo", "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    out = b""
    with trio.fail_after(PATIENCE):
        async for chunk in process.stdout:
            if b'"measured"' not in out and b'"measured"' in out + chunk:
                process.send_signal(number)
            out += chunk
        code = await process.wait()
    assert code == 128 + number, out.decode()
    text = out.decode()
    pids = {event["pid"] for event in events(text, "host")}
    assert len(pids) == 4
    assert not any(alive(pid) for pid in pids)
    (etcd,) = events(text, "etcd")
    assert isinstance(etcd["endpoint"], str)
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", int(etcd["endpoint"].rpartition(":")[2]))


# ---- in a terminal -----------------------------------------------------------------------------


@pytest.mark.parametrize("color", [True, False])
async def test_terminal(*, color: bool) -> None:
    """The demo draws in a terminal, in colours without NO_COLOR. It fails here, to be quick."""
    ours, theirs = pty.openpty()
    env = {"TERM": "xterm-256color", "COLUMNS": f"{WIDTH}", "LINES": f"{HEIGHT}"}
    env |= {} if color else {"NO_COLOR": "1"}
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", DYING_HOST, "demo"], stdout=theirs, env=inherited | env
    )
    os.close(theirs)
    screen = bytearray()
    async with trio.lowlevel.FdStream(ours) as terminal:
        with trio.fail_after(PATIENCE):
            try:
                async for chunk in terminal:
                    screen += chunk
            except (OSError, trio.BrokenResourceError):
                pass  # how a terminal shows that the other side has closed it
            assert await process.wait() == 1
    text = screen.decode()
    assert "trio-sched demo" in text
    assert "no_such_module" in text
    assert re.search(r"leads\W.*runs\W.*knows\W", text)
    assert bool(re.search(r"\x1b\[[\d;]*3[0-7]m", text)) is color


# ---- the pieces --------------------------------------------------------------------------------


NO_LEASE = {"lease_left": None}
PATH = {"pool": ("a", "b"), "leader": "a", "scheduled": ("a",), "keys": 6, "leases": 3}


def full_board() -> tuple[Board, list[Event]]:
    """A board on which everything has happened once."""
    board, posted = Board(100.0), list[Event]()
    board.listeners.append(posted.append)
    board.post("etcd", 100.1, endpoint="http://127.0.0.1:1", version="3.5.1", path="/demo")
    board.post("step", 100.2, title="two hosts join")
    for pid, name in enumerate("ab", start=7):
        board.post("host", 100.3, host=name, pid=pid, state="starting")
        board.post("host", 100.4, host=name, pid=pid, state="joining")
        board.post("host", 100.5, host=name, pid=pid, state="joined")
        board.post("decision", 100.6, host=name, hosts=["a"], revision=5, leader="a")
    board.post("path", 100.7, **PATH)
    board.post("measured", 100.8, title="two hosts join", seconds=0.25, note="a note", **NO_LEASE)
    return board, posted


def test_the_board_knows_when_all_agree() -> None:
    board, _ = full_board()
    assert board.agreed == ("a",)
    board.post("decision", 100.9, host="b", hosts=["b"], revision=6, leader="a")
    assert board.agreed is None
    board.post("decision", 101.0, host="a", hosts=["b"], revision=6, leader="a")
    assert board.agreed is None
    board.post("path", 101.1, **PATH | {"scheduled": ("b",)})
    assert board.agreed == ("b",)
    assert board.last_report(100.5) == pytest.approx(0.5)
    board.post("host", 101.2, host="b", pid=8, state="leaving")
    assert board.agreed is None


def test_the_board_says_nothing_when_nothing_has_changed() -> None:
    board, posted = full_board()
    count = len(posted)
    board.post("path", 101.0, **PATH)
    assert len(posted) == count


def test_only_the_first_failure_counts() -> None:
    board, posted = full_board()
    board.post("failed", 101.0, reason="one")
    board.post("failed", 101.0, reason="two")
    assert board.failure == "one"
    assert [event.kind for event in posted].count("failed") == 1


def test_lines() -> None:
    board, posted = full_board()
    board.post("failed", 101.0, reason="no luck")
    board.post("summary", 102.0)
    text = "".join(text_of(event, board) for event in posted)
    assert "b knows: a (revision 5)" in text
    assert "pool: a, b | leader: a | scheduled: a" in text
    assert "FAILED: no luck" in text
    assert len(text.splitlines()) == len(posted) + 4


def test_json_lines() -> None:
    _, posted = full_board()
    text = "".join(map(json_of, posted))
    assert [event["event"] for event in events(text)] == [event.kind for event in posted]


def drawn(board: Board, now: float = 103.0) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, record=True)
    console.print(draw(board, now))
    return console.export_text()


def test_screen() -> None:
    board, _ = full_board()
    assert "0.250 s two hosts join" in drawn(board)
    board.post("step", 101.0, title="the next")
    assert "2.0 s the next" in drawn(board)
    board.post("host", 101.0, host="b", pid=8, state="killed")
    assert "killed, in pool" in drawn(board)
    board.post("failed", 102.0, reason="no luck")
    board.post("summary", 102.0)
    assert "failed: no luck" in drawn(board)


def test_picture() -> None:
    board, _ = full_board()
    board.post("summary", 102.0)
    picture = svg_of(board)
    assert "true" in picture
    assert "font-face" not in picture


# ---- the command -------------------------------------------------------------------------------


def test_without_click(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "click" else real(name)
    )
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


async def test_version_and_help() -> None:
    code, out, _ = await run(*COMMAND, "--version")
    assert (code, out.split()[0]) == (0, "trio-sched")
    code, out, _ = await run(*COMMAND, "demo", "--help")
    assert code == 0
    assert "--json" in out


async def test_unknown_option() -> None:
    code, _, err = await demo("--nonsense")
    assert code == 2
    assert "--nonsense" in err
