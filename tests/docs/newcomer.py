"""Does what the README and the tutorial say, word by word.

``python -m tests.docs.newcomer FOLDER``, as `nox -s newcomer` does, with a folder that holds but
a copy of what git knows. The commands that install it are the tutorial's own, so all that is
typed afterwards runs on what they made; and etcd is where the pages say. What is printed is
compared by the rules of `terminals`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import trio

from tests.docs.terminals import ENDPOINT, Block, Reader, blocks, fits, open_reader
from tests.helpers import listens

__all__ = ["be_new", "environment"]

_PATIENCE = 300  # seconds for all but installing it
_PORT = 2379


def environment(checkout: Path) -> dict[str, str]:
    """Of a terminal in which the tutorial's environment is active, and nothing of ours is."""
    ours = ("PYTHON", "VIRTUAL_ENV", "ETCDCTL_", "TRIO_SCHED_", "COVERAGE_", "PIP_REQUIRE")
    found = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return found | {"PATH": f"{checkout}/.venv/tutorial/bin:{os.environ['PATH']}"}


def _install(checkout: Path) -> None:
    tutorial = (checkout / "docs" / "tutorial.md").read_text()
    found = re.search(r"^```sh\n(.*?)^```", tutorial, re.DOTALL | re.MULTILINE)
    assert found is not None
    env = environment(checkout)
    subprocess.run(["bash", "-euc", found[1]], cwd=checkout, env=env, check=True)


async def _follow_readme(readme: str, folder: Path, env: Mapping[str, str]) -> None:
    """Run its program, which is in a file, and its commands; compare what the program prints."""
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^```text\n(host.*?)^```", readme, re.DOTALL | re.MULTILINE)
    (folder / "three_hosts.py").write_text(code)
    printed = await _run("python three_hosts.py", folder, env)
    names = re.compile(r"\bhost-\w")
    for one, other in zip(shown.splitlines(), printed.splitlines(), strict=True):
        assert fits(names.sub("host", one), names.sub("host", other)), (one, other)
    (commands,) = re.findall(r"^```sh\n(trio-sched run .*?)^```", readme, re.DOTALL | re.MULTILINE)
    for command in commands.splitlines():
        print(command, "->", (await _run(command, folder, env)).strip())


async def _run(command: str, folder: Path, env: Mapping[str, str]) -> str:
    done = await trio.run_process(["bash", "-c", command], cwd=folder, env=env, capture_stdout=True)
    return done.stdout.decode()


async def be_new(folder: Path) -> None:
    """Do all of it, in a folder with a copy of the source in ``checkout``.

    Raises:
        RuntimeError: something is at etcd's port already.
        AssertionError: what is printed is not what a page shows.
    """
    checkout = folder / "checkout"
    env, empty = environment(checkout), folder / "empty"
    if await listens(_PORT):
        raise RuntimeError(f"something listens on port {_PORT}, where the pages have an etcd")
    await trio.to_thread.run_sync(_install, checkout)
    empty.mkdir()
    with trio.fail_after(_PATIENCE):
        async with open_reader(empty, ENDPOINT) as reader:
            await _follow(reader, checkout, env)


async def _follow(reader: Reader, checkout: Path, env: Mapping[str, str]) -> None:
    reader.environment = env
    steps = blocks((checkout / "docs" / "tutorial.md").read_text())
    server, *others = steps
    assert server.terminal == "etcd"
    await _do(reader, server)
    while not await listens(_PORT):  # noqa: ASYNC110 # a foreign process gives no event
        await trio.sleep(0.05)
    for block in others:
        await _do(reader, block)
    await _follow_readme((checkout / "README.md").read_text(), reader.folder, env)


async def _do(reader: Reader, block: Block) -> None:
    print(f"--- {block.caption}\n{block.text}", end="", flush=True)
    await reader.do(block)


if __name__ == "__main__":
    trio.run(be_new, Path(sys.argv[1]).resolve())
    print("all is as the pages say")
