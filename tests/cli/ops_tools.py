"""The operators' commands as processes, and their output compared with what is committed.

``TRIO_SCHED_UPDATE_EXAMPLES=1`` writes the examples anew, instead of comparing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import jsonschema
import referencing
import trio
from click.testing import CliRunner

from tests.places import DOCS
from trio_sched.cli.group import command

__all__ = ["Done", "compare", "offline", "ops", "plain_text", "same_json", "transcript", "validate"]

COMMAND = [sys.executable, "-m", "trio_sched"]
PROGRAM = "trio-sched"
PATIENCE = 40  # seconds; far more than anything here takes
EXAMPLES = Path(__file__).parent / "examples"
UPDATE = bool(os.environ.get("TRIO_SCHED_UPDATE_EXAMPLES"))
STRANGE = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM")  # what changes the output


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(endpoint: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in STRANGE}
    kept = {name: value for name, value in kept.items() if not name.startswith("ETCDCTL_")}
    return kept | {"ETCDCTL_ENDPOINTS": endpoint} | dict(more or {})


async def ops(
    endpoint: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    as_process: bool = False,
) -> Done:
    """Run a command to its end; in a thread, unless a process shows more."""
    with trio.fail_after(PATIENCE):
        if as_process:
            return await _process(arguments, environment(endpoint, env))
        async with _one_at_a_time():  # it takes the place of sys.stdout
            return await trio.to_thread.run_sync(offline, arguments, environment(endpoint, env))


def offline(arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Done:
    """Run a command in this thread."""
    unset: dict[str, str | None] = dict.fromkeys(STRANGE)
    ended = _runner().invoke(command, arguments, "", unset | dict(env or {}), prog_name=PROGRAM)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return Done(tuple(arguments), ended.exit_code, ended.stdout, ended.stderr)


def _runner() -> CliRunner:
    """What runs a command, with standard error by itself: Click 8.1 has to be asked for that."""
    asked: dict[str, Any] = {"mix_stderr": False}
    return CliRunner(**(asked if "mix_stderr" in signature(CliRunner).parameters else {}))


async def _process(arguments: Sequence[str], env: Mapping[str, str]) -> Done:
    ended = await trio.run_process(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=env,
    )
    return Done(tuple(arguments), ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@asynccontextmanager
async def _one_at_a_time() -> AsyncIterator[None]:
    try:
        lock = _lock.get()
    except LookupError:
        _lock.set(lock := trio.Lock())
    async with lock:
        yield


_lock: trio.lowlevel.RunVar[trio.Lock] = trio.lowlevel.RunVar("one command at a time")


# ---- what is the same each time --------------------------------------------------------------


def plain_text(text: str, path: str) -> str:
    """Take out of a text what is another each time."""
    for pattern, stands in (
        (r"(?m)^etcd +\d.*\n(?: .*\n)*", ""),  # known faults of the etcd that is here
        (re.escape(path) + r"\b", "PATH"),
        (r"\b[0-9a-f]{10,16}\b", "LEASE"),
        (r"\b(revision|fence) \d+", r"\1 N"),
        (r"\b\d+s ago", "Ns ago"),
        (r"(?<=  )\d+s\b", "Ns"),
        (r"(?m)^( *\d+  \S+ +)\d+(  LEASE)", r"\1N\2"),
        (r" {2,}", "  "),
    ):
        text = re.sub(pattern, stands, text)
    return text


def transcript(done: Done, path: str) -> str:
    """A command and what it said, as in a terminal."""
    words = [f"'{word}'" if " " in word else word for word in done.arguments]
    ended = f"exit code {done.code}\n" if done.code else ""
    return plain_text(f"$ trio-sched {' '.join(words)}\n{done.out}{done.err}{ended}", path)


REVISIONS = ("revision", "fence", "token", "joined_revision", "evicted")


def same_json(document: Any, path: str) -> Any:
    """Take out of a document what is another each time; the order of revisions stays.

    The revision of the whole is no part of that order, as other tests go on as well.
    """
    leases: dict[str, str] = {}
    found = sorted(_revisions(document, top=True))
    ranks = {number: f"revision {at}" for at, number in enumerate(found, 1)} | {0: 0}

    def walk(value: Any, key: str, depth: int) -> Any:
        if isinstance(value, dict):
            return {
                name: walk(inner, name, depth + 1)
                for name, inner in value.items()
                if depth or name != "etcd"  # the one that is here
            }
        if isinstance(value, list):
            return [walk(inner, key, depth + 1) for inner in value]
        return leaf(value, key, depth)

    def leaf(value: Any, key: str, depth: int) -> Any:
        if key in REVISIONS and isinstance(value, int):
            return "revision N" if depth == 1 and key == "revision" else ranks[value]
        if key == "lease" and value != "0":
            return leases.setdefault(value, f"lease {len(leases) + 1}")
        if key in {"when", "since", "ttl", "age"} and value is not None:
            return key.upper()
        return plain_text(value, path) if isinstance(value, str) else value

    return walk(document, "", 0)


def _revisions(value: Any, *, top: bool = False) -> set[int]:
    found: set[int] = set()
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in REVISIONS and isinstance(inner, int) and inner:
                found |= set() if top and name == "revision" else {inner}
            else:
                found |= _revisions(inner)
    elif isinstance(value, list):
        for inner in value:
            found |= _revisions(inner)
    return found


def compare(name: str, found: str | Any) -> None:
    """Compare what was found with an example: text with ``.txt``, anything else as JSON."""
    text = found if isinstance(found, str) else json.dumps(found, indent=2) + "\n"
    file = EXAMPLES / name
    if UPDATE:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), f"{name}: TRIO_SCHED_UPDATE_EXAMPLES=1 writes it anew"


# ---- the schemas -----------------------------------------------------------------------------


@cache
def _registry() -> Any:
    files = ("status.schema.json", "commands.schema.json")
    resources = {}
    for file in files:
        schema = json.loads((DOCS / file).read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        resources[file] = referencing.Resource.from_contents(_strict(schema))
    return referencing.Registry().with_resources(resources.items())


def _strict(schema: Any) -> Any:
    """Let objects have no fields that are not described: what we print must be."""
    if isinstance(schema, list):
        return [_strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(inner) for name, inner in schema.items()}
    if isinstance(made.get("properties"), dict) and "required" in made and "anyOf" not in made:
        made.setdefault("additionalProperties", False)
    return made


def validate(document: Any, reference: str = "status.schema.json") -> None:
    """Check a document by a schema in ``docs/``."""
    jsonschema.Draft202012Validator({"$ref": reference}, registry=_registry()).validate(document)
