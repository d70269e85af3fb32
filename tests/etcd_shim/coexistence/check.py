"""Import us and other etcd clients in one process, in every order.

Run by ``nox -s coexist``, which installs the other clients; pytest does not collect it. All of
them describe etcd's messages to protobuf, which keeps one pool of descriptors for each process and
refuses two definitions of one name.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

OURS = """\
import trio_sched
from trio_sched.etcd_shim._pb import messages_pb2, services_grpc
assert services_grpc.KVStub
assert messages_pb2.PutRequest.FromString(b"\\n\\x01k\\x12\\x01v").value == b"v"
"""
IMPORTS = {"trio_sched": OURS, "aetcd": "import aetcd\n", "etcd3aio": "import etcd3aio\n"}


def orders() -> list[tuple[str, ...]]:
    """Us with one other, or with all of those that get along with each other, in every order."""
    others = [name for name in IMPORTS if name != "trio_sched" and works((name,))]
    assert others, "none of the other clients can be imported alone: nothing would be shown"
    groups: list[tuple[str, ...]] = [("trio_sched", other) for other in others]
    if works(tuple(others)):  # those of today fail together, for the very reason above
        groups.append(("trio_sched", *others))
    return [order for group in groups for order in itertools.permutations(group)]


def works(names: tuple[str, ...]) -> bool:
    code = "".join(IMPORTS[name] for name in names)
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    say("ok  " if process.returncode == 0 else "FAIL", ", ".join(names))
    if process.returncode:
        say(process.stderr.strip().rpartition("\n")[2])
    return process.returncode == 0


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201 - a program run by hand speaks on stdout


def main() -> int:
    results = [works(order) for order in orders()]
    say(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
