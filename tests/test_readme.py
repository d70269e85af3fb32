"""The README is true: its example runs, and prints what it says."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

import trio

from tests.places import ROOT

README = ROOT.joinpath("README.md").read_text()
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return str(code)


async def test_the_example_runs(endpoint: str, tmp_path: Path) -> None:
    """One host works, is killed, and another one does; the reaper leaves nothing."""
    file = tmp_path / "three_hosts.py"
    file.write_text(example())
    env = os.environ | {"ETCDCTL_ENDPOINTS": endpoint, "PYTHONPATH": str(ROOT)}
    done = await trio.run_process([sys.executable, file], capture_stdout=True, env=env)
    found = re.fullmatch(
        r"(host-\w) works, with token (\d+)\n(host-\w) is killed\n"
        r"(host-\w) works, with token (\d+)\n",
        done.stdout.decode(),
    )
    assert found is not None, done.stdout
    first, token, killed, second, next_token = found.groups()
    assert first == killed != second
    assert int(token) < int(next_token)
    (shown,) = re.findall(r"^```text\n(host.*?)```", README, re.DOTALL | re.MULTILINE)
    assert re.sub(r"\w+$|host-\w", "", shown, flags=re.MULTILINE) == re.sub(
        r"\w+$|host-\w", "", done.stdout.decode(), flags=re.MULTILINE
    )


def test_the_first_commands_need_nothing_of_the_system_but_python() -> None:
    # Where pip refuses the system's Python (PEP 668), as on Debian 12, only an environment works.
    commands = [line for text in SHELL[:2] for line in text.splitlines()]
    assert len(commands) == 2
    for command in commands:
        made, *steps = command.split(" && ")
        found = re.fullmatch(r"python3 -m venv (\.venv/\w+)", made)
        assert found is not None
        assert steps
        assert all(step.startswith(f"{found[1]}/bin/") for step in steps)


def test_ci_runs_the_first_commands_as_they_stand() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert "grep -E '^python3 -m venv ' README.md" in ci
    assert len(re.findall("^python3 -m venv ", README, re.MULTILINE)) == 2


async def test_the_commands_run(endpoint: str) -> None:
    (block,) = [text for text in SHELL if text.startswith("trio-sched run")]
    scripts = sysconfig.get_path("scripts")
    env = os.environ | {"ETCDCTL_ENDPOINTS": endpoint, "PATH": f"{scripts}:{os.environ['PATH']}"}
    for line in block.splitlines():
        done = await trio.run_process(["sh", "-c", line], capture_stdout=True, env=env)
        assert re.fullmatch(
            rb"slot 0, token \d+\n|two of .*\n|one at .*\n|once an .*\n", done.stdout
        )


def test_the_example_is_short() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 38


def test_the_options_are_those_of_schedule() -> None:
    import inspect  # noqa: PLC0415

    from trio_sched import schedule  # noqa: PLC0415

    named = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`.*?) \|", README, re.MULTILINE)))
    )
    real = set(inspect.signature(schedule).parameters) - {"client", "path", "hostname"}
    assert named == real
