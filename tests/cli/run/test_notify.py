"""What systemd is sent, by a socket that listens; and what of it reaches the command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.run.run_tools import done, open_run
from tests.places import DOCS, TESTS
from trio_sched.cli.run.notify import Notifier

PAGE = DOCS.joinpath("systemd.md").read_text()
SHOW = ["sh", "-c", 'echo "${NOTIFY_SOCKET-} ${WATCHDOG_USEC-} ${WATCHDOG_PID-}"']


class Listener:
    """Stands for systemd."""

    def __init__(self, address: str, bound: trio.socket.SocketType) -> None:
        self.address = address
        self._socket = bound

    async def lines(self) -> list[str]:
        """The next message."""
        return (await self._socket.recv(65536)).decode().split("\n")

    async def wait_for(self, *beginnings: str) -> list[str]:
        """The next message that has a line beginning so."""
        while True:
            lines = await self.lines()
            if any(line.startswith(beginnings) for line in lines):
                return lines


@asynccontextmanager
async def open_listener(address: str) -> AsyncIterator[Listener]:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        await bound.bind(address.replace("@", "\0", 1))
        yield Listener(address, bound)


@pytest.fixture(params=["in the file system", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    abstract = f"@trio-sched-{os.getpid()}-{tmp_path.name}"
    return abstract if request.param == "abstract" else str(tmp_path / "s")


async def test_what_is_sent(endpoint: str, path: str, address: str) -> None:
    env = {"NOTIFY_SOCKET": address}
    async with (
        open_listener(address) as listener,
        open_run(endpoint, path, command=["sleep", "300"], env=env) as run,
    ):
        assert await listener.lines() == ["READY=1", f"STATUS=waits for {path} as host"]
        (line,) = await listener.wait_for("STATUS=runs")
        await run.event("started")
        assert line == f"STATUS=runs {path} as host: pid {run.child}, slot 0"
        run.send(signal.SIGTERM)
        (line,) = await listener.wait_for("STATUS=waits")
        assert line.endswith("the last command: 143")
        assert await listener.lines() == ["STOPPING=1", "STATUS=leaves"]
        assert await run.code() == 143


async def test_signs_of_life_come_from_the_loop_that_renews(
    endpoint: str, path: str, address: str
) -> None:
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}
    async with (
        open_listener(address) as listener,
        open_run(endpoint, path, command=["sleep", "300"], env=env) as run,
    ):
        await run.event("started")
        for _ in range(3):
            assert await listener.wait_for("WATCHDOG") == ["WATCHDOG=1"]


async def test_signs_of_life_are_given_twice_as_often_as_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    del autojump_clock
    sent: list[float] = []
    notifier = Notifier(str(tmp_path / "s"), 10)
    monkeypatch.setattr(notifier, "send", lambda *_: sent.append(trio.current_time()))
    with trio.move_on_after(35):
        await notifier.keep_alive()
    assert [round(at - sent[0]) for at in sent] == [0, 10, 20, 30]


async def test_the_command_has_nothing_of_the_socket(endpoint: str, path: str) -> None:
    env = {"NOTIFY_SOCKET": "@none", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    arguments = ("-q", "--endpoints", endpoint, path)
    assert await done(*arguments, "--", *SHOW, env=env) == (0, "  \n", "")
    found = await done(*arguments, "--notify-child", "--", *SHOW, env=env)
    assert found == (0, "@none 1000000 \n", "")


@pytest.mark.parametrize("address", ["/no/such/socket", "vsock:2:1", "relative", ""])
async def test_a_socket_that_is_not_there_is_passed_over(
    endpoint: str, path: str, address: str
) -> None:
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"}
    assert (await done("-q", "--endpoints", endpoint, path, "--", "true", env=env))[0] == 0


async def test_a_socket_that_takes_nothing_is_passed_over(tmp_path: Path) -> None:
    async with open_listener(str(tmp_path / "s")) as listener:
        notifier = Notifier(listener.address)
        for _ in range(10_000):  # more than the kernel keeps
            notifier.send("x" * 1000)
        assert await listener.lines() == ["x" * 1000]


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_when_signs_of_life_are_due(environment: dict[str, str], interval: float | None) -> None:
    assert Notifier.take(environment).interval == interval
    assert not environment


async def test_a_status_is_one_line(tmp_path: Path) -> None:
    async with open_listener(str(tmp_path / "s")) as listener:
        notifier = Notifier(listener.address)
        notifier.note("joined", {"path": "/p", "hostname": "a"})
        await listener.lines()
        notifier.note("decision", {"hosts": ["x\nREADY=1\x1b"] * 400})
        (line,) = await listener.lines()
        assert line.startswith("STATUS=")
        assert line.isprintable()
        assert len(line) < 500


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    (unit,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "mailer.service"
    file.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", unit))
    checked = subprocess.run(
        [program, "verify", "--man=no", str(file)], check=False, capture_output=True, text=True
    )
    said = [line for line in checked.stderr.splitlines() if "mailer.service" in line]
    assert not said
    assert checked.returncode == 0 or "mailer" not in checked.stderr


def test_the_unit_is_one_of_ours() -> None:
    """Its options are those of `run`."""
    (line,) = re.findall(r"^ExecStart=/usr/bin/trio-sched (.*)$", PAGE, re.MULTILINE)
    words = line.partition(" -- ")[0].split()
    from trio_sched.cli.run.command import run  # noqa: PLC0415 # it brings all of it

    known = {name for parameter in run.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_every_test_that_the_page_names_exists() -> None:
    there = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"\btest_\w+", PAGE))
    assert len(named) > 2
    assert not named - there
