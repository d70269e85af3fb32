"""Six commands on a real etcd go through what befalls one, and are whole afterwards.

No room, no permission for a second, a host whose data the strategy cannot bear, a neighbour's
70 MB below the path, another raft leader again and again under load: none of this is about one of
them, so none of them ends, and never is the work doubled.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from textwrap import dedent

import pytest
import trio

from tests.cli.run.run_tools import Run, open_run
from tests.helpers import PASSWORD, guard
from trio_sched import Client, open_client
from trio_sched.etcd_shim.errors import EtcdError, NoSpace
from trio_sched.model.keys import PathKeys
from trio_sched.testing import Etcd, open_etcd

PATH = "/app/jobs"
KEYS = PathKeys(PATH)
HOSTS = [f"host-{number}" for number in range(6)]
MAX_COUNT = 2
TTL = 3
MEGABYTE = b"x" * 1_000_000
NEIGHBOURS = 70  # megabytes
QUOTA = 128 * 2**20  # bytes that an etcd may hold

# Each slot's work holds a lock: two at once would be in the file of those that found it held.
WORK = """
import fcntl, os, pathlib, signal, sys, time
folder, slot = pathlib.Path(sys.argv[1]), os.environ["TRIO_SCHED_SLOT"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open(folder / f"slot-{slot}", "a") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with open(folder / "doubled", "a") as doubled:
            doubled.write(f"{slot}\\n")
    with open(folder / "begun", "a") as begun:
        begun.write(f"{slot}\\n")
    while True:
        time.sleep(3600)
"""

STRATEGY = """
def choose(hosts, options):
    if any("poison" in host.data for host in hosts.values()):
        raise ZeroDivisionError("a host's data")
    return sorted(hosts, key=lambda name: hosts[name].joined_revision)[: options.max_count]
"""


def install_strategy(folder: Path) -> dict[str, str]:
    """Let a strategy be found as if it was installed; return the environment for that."""
    folder.joinpath("cannot_bear.py").write_text(dedent(STRATEGY))
    metadata = folder / "cannot_bear-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: cannot-bear\nVersion: 1.0\n"
    )
    words = "[trio_sched.strategies]\ncannot-bear = cannot_bear:choose\n"
    metadata.joinpath("entry_points.txt").write_text(words)
    return {"PYTHONPATH": str(folder)}


async def as_root(server: Etcd, *arguments: str) -> str:
    done = await server.etcdctl(f"--user=root:{PASSWORD}", *arguments)
    return done.stdout


@asynccontextmanager
async def fleet(server: Etcd, folder: Path) -> AsyncIterator[list[Run]]:
    script = folder / "work.py"
    script.write_text(WORK)
    env = install_strategy(folder)
    options = ["--user", f"app:{PASSWORD}", "-n", str(MAX_COUNT), "--ttl", str(TTL)]
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_run(
                    ",".join(server.endpoints),
                    PATH,
                    *options,
                    "--strategy",
                    "cannot-bear",
                    command=[sys.executable, str(script), str(folder)],
                    name=name,
                    env=env,
                    patience=250,
                )
            )
            for name in HOSTS
        ]


class Watched:
    """What the slots were, at each revision, and a place to wait for what is to be."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._changed = trio.lowlevel.ParkingLot()
        self.most = 0
        self.hosts: frozenset[str] = frozenset()
        self.held: dict[bytes, bytes] = {}
        self.decided: tuple[str, ...] = ()

    async def run(self) -> None:
        async with self._client.follow(f"{PATH}/") as follower:
            while True:
                state = follower.state
                self.held = {k: kv.value for k, kv in state.items() if k.startswith(KEYS.slots)}
                self.hosts = frozenset(
                    KEYS.hostname(key) for key in state if key.startswith(KEYS.exchange)
                )
                decided = state.get(KEYS.scheduled)
                self.decided = tuple(decided.value.decode().split(",")) if decided else ()
                self.most = max(self.most, len(self.held))
                self._changed.unpark_all()
                await follower.receive()

    async def wait_whole(self, *also: str) -> None:
        """Wait until all hosts are there, and those that are chosen hold the slots."""
        while not (
            self.hosts == {*HOSTS, *also}
            and len(self.decided) == MAX_COUNT
            and {value.decode() for value in self.held.values()} == {*self.decided}
        ):
            await self._changed.park()


# ---- what befalls them -----------------------------------------------------------------


async def crowd(_server: Etcd, client: Client) -> None:
    """A neighbour's keys lie below the path, between ours."""
    for number in range(NEIGHBOURS):
        await client.put(f"{PATH}/fleet/exchange/{number}", MEGABYTE)


async def fill(server: Etcd, client: Client) -> None:
    """There is no room until somebody makes some."""
    revision = 0
    try:
        while True:
            revision = (await client.put("/app/heap", MEGABYTE)).revision
    except NoSpace:
        pass
    await trio.sleep(3 * TTL)  # that is what is waited out
    await as_root(server, "compact", str(revision))
    for member in server.members:  # each has tokens of its own
        await as_root(Etcd([member], server._settings), "defrag")
    await as_root(server, "alarm", "disarm")


async def forbid(server: Etcd, _client: Client) -> None:
    """The permission is away for a second."""
    await as_root(server, "role", "revoke-permission", "app", "/app/", "--prefix=true")
    await trio.sleep(1)
    await as_root(server, "role", "grant-permission", "app", "--prefix=true", "readwrite", "/app/")


async def poison(_server: Etcd, client: Client) -> None:
    """A host is there whose data the strategy cannot bear, for longer than any leader tries."""
    async with client.open_lease(10) as lease:
        value = b'{"data":{"poison":true}}'
        await client.put(KEYS.host("poison"), value, lease=lease.id)
        await trio.sleep(10)


async def move(server: Etcd, client: Client) -> None:
    """Another member leads, twenty times, while much is written."""
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            while True:
                with suppress(EtcdError):  # such as "raft proposal dropped"
                    await client.put("/app/load", b"x" * 1000)

        for _ in range(8):
            nursery.start_soon(write)
        status = await as_root(server, "endpoint", "status")
        ids = dict(line.split(", ")[:2] for line in status.splitlines())  # by endpoint
        for _ in range(20):
            leader = (await server.raft_leader()).endpoint
            other = next(each for endpoint, each in ids.items() if endpoint != leader)
            where = (f"--user=root:{PASSWORD}", f"--endpoints={leader}")
            await server.etcdctl(*where, "move-leader", other, check=False)
        nursery.cancel_scope.cancel()


@pytest.mark.timeout(300)
async def test_a_fleet_survives_what_is_not_about_its_hosts(tmp_path: Path) -> None:
    quota: Sequence[str] = (f"--quota-backend-bytes={QUOTA}",)
    async with open_etcd(members=3, extra_args=quota) as server:
        await guard(server)
        async with (
            fleet(server, tmp_path) as runs,
            open_client(*server.endpoints, user="app", password=PASSWORD) as client,
            trio.open_nursery() as nursery,
        ):
            watched = Watched(client)
            nursery.start_soon(watched.run)
            await watched.wait_whole()
            for trouble in (crowd, forbid, poison, move, fill):
                await trouble(server, client)
                with trio.fail_after(60):
                    await watched.wait_whole()
                assert [run.process.returncode for run in runs] == [None] * len(HOSTS), trouble
            nursery.cancel_scope.cancel()
        assert watched.most == MAX_COUNT
        assert tmp_path.joinpath("begun").exists()
        assert not tmp_path.joinpath("doubled").exists()
