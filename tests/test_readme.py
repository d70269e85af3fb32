"""The README is true: its example runs, and prints what it says."""

from __future__ import annotations

import os
import re
import sysconfig
from typing import Any

import pytest
import trio

from tests.places import ROOT

README = ROOT.joinpath("README.md").read_text()
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return str(code)


async def test_the_example_runs(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example(), "README.md", "exec"), names)  # ours
    await names["main"](endpoint, "host-a")
    assert capsys.readouterr().out == "host-a chose host-a\nthis host is one of them\n"


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
    assert len([line for line in example().splitlines() if line.strip()]) <= 15


def test_the_options_are_those_of_schedule() -> None:
    import inspect  # noqa: PLC0415

    from trio_sched import schedule  # noqa: PLC0415

    named = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`.*?) \|", README, re.MULTILINE)))
    )
    real = set(inspect.signature(schedule).parameters) - {"client", "path", "hostname"}
    assert named == real
