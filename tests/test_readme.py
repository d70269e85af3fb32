"""The README is true: its example runs, and says what it would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parent.parent.joinpath("README.md").read_text()


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return str(code)


async def test_the_example_runs(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example(), "README.md", "exec"), names)  # ours
    await names["main"](endpoint, "host-a")
    assert capsys.readouterr().out == "host-a chose host-a\nthis host is one of them\n"


def test_the_example_is_short() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 15


def test_the_options_are_those_of_schedule() -> None:
    import inspect  # noqa: PLC0415

    from trio_sched import schedule  # noqa: PLC0415

    told = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`.*?) \|", README, re.MULTILINE)))
    )
    real = set(inspect.signature(schedule).parameters) - {"client", "path", "hostname"}
    assert told == real
