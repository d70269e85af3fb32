"""The operators' commands that need no etcd: help, usage, strategies, simulate, completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import pytest
from click.shell_completion import get_completion_class

from tests.cli.ops_tools import COMMAND, EXAMPLES, compare, offline, transcript, validate
from trio_sched.cli.group import _COMMANDS, command
from trio_sched.model.records import Host
from trio_sched.strategies import Strategy, StrategyOptions, register

TRACE = """{"max_count": 1, "events": [
  {"at": 0, "join": "a", "zone": "x"}, {"at": 1, "join": "b", "zone": "y"},
  {"at": 30, "fail": "a"}, {"at": 55, "join": "c"}, {"at": 60, "drain": "b"},
  {"at": 80, "pause": true}, {"at": 85, "leave": "c"}, {"at": 100, "resume": true}]}"""


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "trace.json"
    file.write_text(TRACE)
    return str(file)


# ---- help and usage ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", _COMMANDS)
def test_each_command_has_help(name: str) -> None:
    done = offline([name, "--help"])
    assert done.code == 0
    if name != "demo":
        assert "Examples:" in done.out
    if name not in {"demo", "run", "strategies", "completion", "simulate"}:
        assert "Exit codes:" in done.out
    assert all(len(line) <= 100 for line in done.out.splitlines())


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_help_names_the_environment(name: str) -> None:
    """Of each option about etcd, wherever there is one."""
    words = " ".join(offline([name, "--help"]).out.split())
    for option in ("ENDPOINTS", "USER", "PASSWORD", "CACERT", "CERT", "KEY"):
        named = f"env var: TRIO_SCHED_{option}, ETCDCTL_{option}" in words
        assert named == ("--cacert" in words)


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_list_of_commands_says_what_they_say(name: str) -> None:
    """It is shown without importing them."""
    found = command.get_command(click.Context(command), name)
    assert found is not None
    assert found.get_short_help_str(200) == _COMMANDS[name][1]


def test_the_list_of_commands() -> None:
    done = offline(["--help"])
    assert [
        line.split()[0] for line in done.out.partition("Commands:")[2].strip().splitlines()
    ] == [*_COMMANDS]


WRONG = [
    (["--bogus"], "No such option"),
    (["nope"], "No such command 'nope'; see `trio-sched --help`"),
    (["status"], "Missing argument 'PATH'; see `trio-sched status --help`"),
    (["status", "jobs"], "must start with '/'"),
    (["status", "/p", "-o", "yaml"], "'table', 'json'"),
    (["status", "/p", "--timeout", "0"], "0"),
    (["status", "/p", "--endpoints", "ftp://x"], "--endpoints"),
    (["drain", "/p", "a,b"], "must not hold ','"),
    (["set-count", "/p", "0"], "1 or more"),
    (["set-count", "/p", "²"], "1 or more"),
    (["set-count", "/p", "many"], "'none'"),
    (["set-count", "/p", "1000001"], "at most 1000000"),
    (["set-count", "/p", "9" * 5000], "at most 1000000"),
    (["set-count", "/p", "0" * 5000], "1 or more"),
    (["run", "/p", "-n", "1000001", "--", "x"], "1000000"),
    (["run", "/p", "--ttl", "3000000001", "--", "x"], "3000000000"),
    (["run", "/p", "--grace", "nan", "--", "x"], "seconds"),
    (["run", "/p", "--wait", "nan", "--", "x"], "seconds"),
    (["run", "/p", "--takeover-pause", "nan", "--", "x"], "seconds"),
    (["run", "/p", "--user", "\udcff:x", "--", "x"], "--user: user cannot be encoded"),
    (["status", "/p", "--user", "x:\udcff"], "--user: password cannot be encoded"),
    (["status", "/p", "--at", str(2**63)], str(2**63 - 1)),
    (["ticks", "/p", "-n", str(2**63)], str(2**63 - 1)),
    (["status", "/p", "--timeout", "nan"], "seconds"),
    (["status", "/p", "--wait", "nan"], "seconds"),
    (["drain", "/p", "a", "--wait", "NaN"], "seconds"),
    (["decide", "--dry-run", "/p", "-n", "1000001"], "1000000"),
    (["decide", "/p"], "give --dry-run"),
    (["decide", "--dry-run"], "give PATH, or --from FILE"),
    (["decide", "--dry-run", "/p", "--strategy", "zz"], "known are 'alpha'"),
    (["decide", "--dry-run", "--from", "/dev/null"], "'/dev/null'"),
    (["simulate", "/dev/null"], "'/dev/null'"),
    (["simulate", "/no/such/file"], "No such file"),
    (["completion", "tcsh"], "'bash', 'zsh', 'fish'"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_f72_wrong_usage_is_one_line(arguments: list[str], words: str) -> None:
    done = offline(arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
    assert done.err.startswith("trio-sched: ")
    assert words in done.err
    assert "--help`" in done.err


def test_without_anything_the_help_is_shown() -> None:
    done = offline([])
    assert "Commands:" in done.out + done.err


# ---- strategies --------------------------------------------------------------------------------


def test_strategies() -> None:
    compare("strategies.txt", transcript(offline(["strategies"]), "/none"))


def test_strategies_of_others() -> None:
    def by_hand(hosts: Mapping[str, Host], _options: StrategyOptions) -> Sequence[str]:
        """Takes what is there.

        And more.
        """
        return [*hosts][:1]

    class Silent(Strategy):
        name = "silent"

        def schedule(self, hosts: Mapping[str, Host], options: StrategyOptions) -> Sequence[str]:
            return [*hosts][: options.max_count]

    def broken() -> Strategy:
        raise ImportError("no module of that name")

    for name, strategy in (("by-hand", by_hand), ("silent", Silent), ("broken", broken)):
        register(name, strategy)
    done = offline(["strategies", "-o", "json"])
    validate(done.json, "commands.schema.json#/$defs/strategies")
    about = {item["name"]: item["about"] for item in done.json}
    assert about["by-hand"] == "Takes what is there."
    assert about["silent"] == "says nothing about itself"
    assert about["broken"] == "cannot be used: ImportError: no module of that name"
    assert "rr" in about


# ---- decide, from a file -----------------------------------------------------------------------


def test_deciding_from_what_status_printed(tmp_path: Path) -> None:
    document = {
        "path": "/jobs/x",
        "pool": [{"name": "a", "zone": "x"}, {"name": "b", "zone": "x"}, {"name": "c"}],
        "decision": {"hosts": ["a", "b"], "revision": 7},
    }
    file = tmp_path / "before.json"
    file.write_text(json.dumps(document))
    arguments = ["decide", "--dry-run", "--from", str(file), "-n", "2"]
    compare("decide-from.txt", transcript(offline(arguments), str(file)))
    spread = offline([*arguments, "--strategy", "spread", "-o", "json"])
    validate(spread.json, "commands.schema.json#/$defs/decide")
    assert spread.json["would_be"] == ["a", "c"]
    assert spread.json["changes"] is True
    lots = [
        offline(["decide", "--dry-run", "--from", str(file), path, "--strategy", "rendezvous"])
        for path in ("/a", "/b", "/c", "/d", "/e")
    ]
    assert len({done.out.split("would be")[1].split()[0] for done in lots}) > 1, "PATH counts"


def test_deciding_from_the_example_of_status(tmp_path: Path) -> None:
    text = (EXAMPLES / "status.json").read_text()
    for word, number in ((r'"revision N"', "9"), (r'"TTL"', "9"), (r'"PATH"', '"/p"')):
        text = text.replace(word, number)
    for at in range(1, 20):
        text = text.replace(f'"revision {at}"', str(at)).replace(f'"lease {at}"', f'"{at:x}"')
    file = tmp_path / "status.json"
    file.write_text(text)
    done = offline(["decide", "--dry-run", "--from", str(file), "-o", "json"])
    assert done.json["now"] == done.json["would_be"] == ["host-a", "host-b"]


def test_a_leader_with_a_strategy_that_is_not_known_here(tmp_path: Path) -> None:
    document = {
        "pool": [{"name": "a", "lease": "1", "options": {"strategy": "mine", "max_count": 1}}],
        "candidates": [{"name": "a", "lease": "1"}],
    }
    file = tmp_path / "status.json"
    file.write_text(json.dumps(document))
    arguments = ["decide", "--dry-run", "--from", str(file)]
    done = offline(arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "give --strategy" in done.err

    def broken(_hosts: Mapping[str, Host], _options: StrategyOptions) -> Sequence[str]:
        return ["nobody"]

    register("mine", broken)
    done = offline(arguments)
    assert (done.code, done.err.count("\n")) == (70, 1)
    assert "choose another --strategy" in done.err


# ---- simulate ----------------------------------------------------------------------------------


def test_simulating(trace: str, tmp_path: Path) -> None:
    svg = tmp_path / "chart.svg"
    done = offline(["simulate", trace, "--strategy", "spread", "-n", "2", "--svg", str(svg)])
    compare("simulate.txt", done.out)
    root = ET.fromstring(svg.read_text())
    texts = ["".join(element.itertext()) for element in root.iter()]
    assert {"a", "b", "c"} <= set(texts)
    as_json = offline(["simulate", trace, "-o", "json"])
    validate(as_json.json, "commands.schema.json#/$defs/simulate")
    assert as_json.json["max_count"] == 1
    assert offline(["simulate", trace]).out != done.out


def test_simulating_from_standard_input() -> None:
    ended = subprocess.run(
        [*COMMAND, "simulate", "-"],
        input=TRACE,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert ended.stdout.isascii(), "that terminal has nothing else"
    assert "#" in ended.stdout


# ---- completion --------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell: str, tmp_path: Path) -> None:
    done = offline(["completion", shell])
    assert done.code == 0
    assert f"_TRIO_SCHED_COMPLETE={shell}_complete" in done.out
    program = shutil.which(shell)
    if program is not None:
        file = tmp_path / "script"
        file.write_text(done.out)
        subprocess.run([program, "-n", file], check=True, timeout=30)


def test_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "trio-sched"
    arguments = " ".join(f"'{word}'" for word in COMMAND)
    program.write_text(f'#!/bin/sh\nexec {arguments} "$@"\n')
    program.chmod(0o755)
    bash = """
        eval "$(trio-sched completion bash)"
        COMP_WORDS=(trio-sched decide --dry-run --strategy r); COMP_CWORD=4
        _trio_sched_completion trio-sched
        echo "${COMPREPLY[@]}"
    """
    ended = subprocess.run(
        ["bash", "-c", bash],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ended.stdout.split() == ["random", "rendezvous", "rr"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("trio-sched un", "undrain"), ("trio-sched drain --no-", "--no-wait")],
)
def test_what_fish_gets(words: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", words.rsplit(maxsplit=1)[-1])
    found: Any = get_completion_class("fish")
    completed = found(command, {}, "trio-sched", "_TRIO_SCHED_COMPLETE").complete()
    assert expected in completed


def test_the_command_without_click(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['click'] = None\n"
        "import importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'click' else found(name)\n"
        "from trio_sched.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30,
    )
    assert ended.returncode == 2
    assert "pip install" in ended.stderr
