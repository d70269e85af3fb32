"""Does what a page says, in the terminals that it names, and compares what is printed.

A page's code blocks have captions. One that is a file's name is written into that file; with ", one
line" after it, it replaces the line of the file that begins as it does. "terminal NAME" is what is
typed there, after ``$``, and what is printed; a block without ``$`` goes on where the last one of
its terminal ended. ``^C`` is Ctrl-C.

What may differ: numbers, times, hexadecimal ids, how wide a gap is, what ``…`` stands for, and
endpoints. In what only looks, a line that is ``…`` stands for any number of lines. A number of
four digits or more that a page types is the one that was printed where it shows it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.cli.run.run_tools import Lines
from tests.places import ROOT

__all__ = ["Block", "Reader", "blocks", "environment", "fits", "open_reader"]

ENDPOINT = "http://127.0.0.1:2379"  # on all pages
# Commands that only look: a reader who is faster than a host looks again.
_LOOKS = re.compile(r"trio-sched (status|members|history|ls)\b")
_WARNING = re.compile(r"etcd \S+ has known faults: ")
_BLOCK = re.compile(
    r"^```\{code-block\} (?P<language>\w+)\n:caption: (?P<caption>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_ID = r"[0-9a-f]{12,16}"
_TIME = r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00"


@dataclass(frozen=True)
class Block:
    """A code block with a caption."""

    language: str
    caption: str
    text: str

    @property
    def terminal(self) -> str | None:
        """The name of the terminal that it shows; None if it is a file."""
        found = re.match(r"terminal (\w+)", self.caption)
        return found[1] if found else None


def blocks(page: str) -> list[Block]:
    """Return the code blocks that have captions."""
    return [Block(*found.group("language", "caption", "text")) for found in _BLOCK.finditer(page)]


def _pattern(shown: str) -> re.Pattern[str]:
    """What a line that is printed has to match; its groups are the numbers."""
    parts = []
    for word in re.split(rf"(…|{_TIME}|\b{_ID}\b|(?<![\w.]){_NUMBER}|\s+)", shown.strip()):
        if word == "…":
            parts.append(".*")
        elif re.fullmatch(_NUMBER, word):
            parts.append(rf"({_NUMBER})")
        elif kind := next((each for each in (_TIME, _ID) if re.fullmatch(each, word)), None):
            parts.append(kind)
        else:
            parts.append(r"\s+" if word.isspace() else re.escape(word))
    return re.compile("".join(parts))


def fits(shown: str, printed: str) -> bool:
    """Whether a line that was printed is the one that is shown, as far as it has to be."""
    return _pattern(shown).fullmatch(printed.strip()) is not None


@dataclass
class Reader:
    """Someone who types what the page says.

    Attributes:
        folder: where it is done.
        environment: of all that is started.
        endpoint: of the etcd that is used.
    """

    folder: Path
    environment: Mapping[str, str]
    endpoint: str = ENDPOINT
    last_look: list[str] = field(default_factory=list)
    _started: list[trio.Process] = field(default_factory=list)
    _running: dict[str, tuple[trio.Process, Lines]] = field(default_factory=dict)
    _numbers: dict[str, str] = field(default_factory=dict)  # as shown, and as printed

    async def do(self, block: Block) -> None:
        """Write the file, or type what the block says and compare what is printed."""
        text = block.text.replace(ENDPOINT, self.endpoint)
        if block.terminal is None:
            name, _, what = block.caption.partition(", ")
            self._write(self.folder / name, text, part=bool(what))
            return
        for command, output in _typed(text):
            if command is None:
                await self._expect(block.terminal, output)
            elif command == "^C":
                await self._interrupt(block.terminal, output)
            elif _LOOKS.search(command):
                await self._look(command, output)
            else:
                await self._start(block.terminal, command)
                await self._expect(block.terminal, output)

    async def end(self) -> None:
        """End all that runs."""
        for process in self._started:
            with suppress(ProcessLookupError):  # its group is gone, too
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def _write(self, file: Path, text: str, *, part: bool) -> None:
        if part:
            lines = file.read_text().splitlines(keepends=True)
            (new,) = text.splitlines(keepends=True)
            first = re.match(r"\s*(?:async )?\w+ \w+", new)
            assert first is not None
            (old,) = (line for line in lines if line.startswith(first[0]))
            text = "".join(new if line is old else line for line in lines)
        file.write_text(text)

    def _actual(self, command: str) -> str:
        """The command with the numbers of this run."""
        return re.sub(r"\b\d{4,}\b", lambda found: self._numbers.get(found[0], found[0]), command)

    async def _start(self, terminal: str, command: str) -> None:
        """Type a command, once the one before it has ended."""
        if terminal in self._running:
            process, lines = self._running[terminal]
            assert await _line(lines) is None, f"{terminal} has printed more than is shown"
            assert await process.wait() in {0, -signal.SIGKILL}
        process = await trio.lowlevel.open_process(
            ["bash", "-o", "pipefail", "-c", _replaced(self._actual(command))],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        self._started.append(process)
        self._running[terminal] = process, Lines(process.stdout)

    async def _expect(self, terminal: str, output: list[str]) -> None:
        """Read what is shown."""
        for shown in output:
            line = await _line(self._running[terminal][1])
            assert line is not None, f"{terminal} has ended, and does not print: {shown}"
            self._compare(shown, line)

    def _compare(self, shown: str, line: str) -> None:
        found = _pattern(shown).fullmatch(line.strip())
        assert found is not None, f"shown:\n{shown}\nprinted:\n{line}"
        numbers = re.findall(rf"(?<![\w.]){_NUMBER}", re.sub(rf"{_TIME}|\b{_ID}\b", "", shown))
        self._numbers.update(zip(numbers, found.groups(), strict=True))

    async def _interrupt(self, terminal: str, output: list[str]) -> None:
        process, lines = self._running.pop(terminal)
        process.send_signal(signal.SIGINT)
        for shown in output:
            line = await _line(lines)
            assert line is not None, f"{terminal} has ended, and does not print: {shown}"
            self._compare(shown, line)
        assert await _line(lines) is None, f"{terminal} has printed more than is shown"
        await process.wait()

    async def _look(self, command: str, output: list[str]) -> None:
        """Look until it is as shown; the test's timeout is the bound."""
        while True:
            done = await trio.run_process(
                ["bash", "-c", self._actual(command)],
                cwd=self.folder,
                env=dict(self.environment),
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
            printed = done.stdout.decode().splitlines()
            self.last_look = printed
            if _all_fit(output, printed):
                return
            await trio.sleep(0.05)  # of foreign processes


async def _line(lines: Lines) -> str | None:
    """The next line but for a warning about the etcd of the wheel; None at the end."""
    while (line := await lines.read()) is not None and _WARNING.match(line):
        pass
    return line


def _all_fit(shown: list[str], printed: list[str]) -> bool:
    """Whether all lines fit; one that is ``…`` stands for any number of them."""
    if not shown:
        return not printed
    if shown[0] == "…":
        rests = (printed[number:] for number in range(len(printed) + 1))
        return any(_all_fit(shown[1:], rest) for rest in rests)
    return bool(printed) and fits(shown[0], printed[0]) and _all_fit(shown[1:], printed[1:])


@asynccontextmanager
async def open_reader(folder: Path, endpoint: str = ENDPOINT) -> AsyncIterator[Reader]:
    """Let what was started end with the block."""
    reader = Reader(folder, environment(endpoint), endpoint)
    try:
        yield reader
    finally:
        with trio.CancelScope(shield=True):
            await reader.end()


def _replaced(command: str) -> str:
    """Let the process be the command itself, where it is one, so that a signal reaches it."""
    return command if re.search(r"[|;&]", command) else f"exec {command}"


def _typed(text: str) -> Iterator[tuple[str | None, list[str]]]:
    """Each command of a block, or ``^C``, with what is printed; first what no command precedes."""
    command: str | None = None
    output: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ ") or line == "^C":
            if command is not None or output:
                yield command, output
            command, output = line.removeprefix("$ "), []
        else:
            output.append(line)
    yield command, output


def environment(endpoint: str) -> dict[str, str]:
    """Of a reader who uses this checkout, with the Python that runs the tests."""
    scripts = sysconfig.get_path("scripts")
    found = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return found | {
        "PATH": f"{Path(sys.executable).parent}:{scripts}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ETCDCTL_ENDPOINTS": endpoint,
    }
