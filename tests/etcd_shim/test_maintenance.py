"""Members, as they are looked after: on a real etcd."""

from __future__ import annotations

import os
import stat
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from trio_sched.etcd_shim import open_client
from trio_sched.etcd_shim.errors import (
    Compacted,
    EtcdError,
    FutureRevision,
    NoSpace,
    RevisionCompacted,
    RpcError,
)
from trio_sched.testing import Etcd, open_etcd


def names(folder: Path) -> list[str]:
    return [found.name for found in folder.iterdir()]


async def test_compaction(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client:
        first = (await client.put(path, "1")).revision
        second = (await client.put(path, "2")).revision
        assert (await client.get(path, revision=first)).value == b"1"
        await client.compact(second, physical=True)
        with pytest.raises(RevisionCompacted):
            await client.get(path, revision=first)
        async with client.watch(path, start_revision=first) as watcher:
            with pytest.raises(Compacted) as caught:
                await watcher.receive()
            assert caught.value.revision >= second
        with pytest.raises(RevisionCompacted):
            await client.compact(first)
        with pytest.raises(FutureRevision):
            await client.compact(second + 10**9)


async def test_the_whole_status(etcd: Etcd) -> None:
    async with open_client(etcd.endpoint) as client:
        status = await client.maintenance.status()
        assert status == await client.status() or status.revision
        assert status.version.startswith(f"{etcd.version[0]}.{etcd.version[1]}.")
        assert status.leader_id == status.member_id
        assert 0 < status.db_size_in_use <= status.db_size
        assert not status.learner
        assert status.cluster_id
        assert status.raft_term
        assert status.raft_index >= status.raft_applied_index > 0
        header = (await client.get("a")).header
        assert (header.cluster_id, header.member_id) == (status.cluster_id, status.member_id)


async def test_defragment_and_hash(path: str) -> None:
    async with open_etcd() as server, open_client(server.endpoint) as client:
        for number in range(50):
            await client.put(f"{path}/{number}", "x" * 100_000)
        await client.delete_prefix(path)
        revision = (await client.put(path, "last")).revision
        before = await client.maintenance.hash_kv(revision)
        await client.compact(revision, physical=True)
        large = await client.status()
        await client.maintenance.defragment()
        small = await client.status()
        assert small.db_size < large.db_size
        after = await client.maintenance.hash_kv()
        assert after.revision == before.revision == revision
        assert after.compact_revision == revision
        with pytest.raises(FutureRevision):
            await client.maintenance.hash_kv(revision + 1000)


async def test_alarms_are_listed_and_disarmed(path: str) -> None:
    async with (
        open_etcd(extra_args=["--quota-backend-bytes=200000"]) as server,
        open_client(server.endpoint) as client,
    ):
        assert await client.maintenance.alarm_list() == ()
        with pytest.raises(NoSpace):
            while True:
                await client.put(path, "x" * 100_000)
        (alarm,) = await client.maintenance.alarm_list()
        assert alarm.type == "NOSPACE"
        assert alarm.member_id == (await client.status()).member_id
        assert await client.maintenance.alarm_disarm() == (alarm,)
        assert await client.maintenance.alarm_list() == ()


async def test_a_snapshot_is_what_etcdctl_restores(tmp_path: Path, path: str) -> None:
    file, folder = tmp_path / "snapshot.db", tmp_path / "restored"
    async with open_etcd() as server, open_client(server.endpoint) as client:
        for number in range(30):
            await client.put(f"{path}/{number}", os.urandom(50_000))
        revision = (await client.put(path, "kept")).revision
        size = await client.maintenance.snapshot_save(file)
        assert file.stat().st_size == size
        assert names(tmp_path) == [file.name]
        tool = server.executable.with_name("etcdctl")
        environment = {**os.environ, "ETCDCTL_API": "3"}
        done = await trio.run_process(
            [tool, "snapshot", "status", str(file), "--write-out=json"],
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert f'"revision":{revision}'.encode() in done.stdout
        await trio.run_process(
            [tool, "snapshot", "restore", str(file), f"--data-dir={folder}"],
            capture_stdout=True,
            capture_stderr=True,
            env=environment,
        )
    assert (folder / "member").is_dir()


async def test_a_snapshot_is_private_and_whole_whoever_else_makes_one(
    endpoint: str, path: str, tmp_path: Path
) -> None:
    file = tmp_path / "snapshot.db"
    sizes: set[int] = set()
    async with open_client(endpoint) as client:

        async def save() -> None:
            await client.put(path, os.urandom(100_000))
            sizes.add(await client.maintenance.snapshot_save(file))

        file.touch(0o644)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(save)
    assert names(tmp_path) == [file.name]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stat().st_size in sizes
    value = file.read_bytes()
    assert sha256(value[:-32]).digest() == value[-32:]


async def test_a_snapshot_that_is_broken_off_leaves_no_file(tmp_path: Path, path: str) -> None:
    async with open_etcd() as server, open_client(server.endpoint) as client:
        for number in range(20):
            await client.put(f"{path}/{number}", os.urandom(100_000))
        async with client.maintenance.open_snapshot() as parts:
            assert await parts.__anext__()
            server.members[0].kill()
            with pytest.raises(EtcdError):
                async for _ in parts:
                    pass
        with pytest.raises(EtcdError):
            await client.maintenance.snapshot_save(tmp_path / "snapshot.db")
        assert names(tmp_path) == []
        with pytest.raises(OSError, match="absent"):
            await client.maintenance.snapshot_save(tmp_path / "absent" / "snapshot.db")


async def test_the_leader_is_moved() -> None:
    async with open_etcd(members=3) as server:
        leader = await server.raft_leader()
        async with open_client(leader.endpoint) as client:
            status = await client.status()
            members = await client.cluster.member_list()
            other = next(member for member in members if member.id != status.member_id)
            await client.maintenance.move_leader(other.id)
            assert (await client.status()).leader_id == other.id
            with pytest.raises(RpcError, match="not leader"):
                await client.maintenance.move_leader(status.member_id)


async def test_bad_arguments_are_told_at_once() -> None:
    async with open_client("http://127.0.0.1:1") as client:
        with pytest.raises(TypeError):
            await client.maintenance.hash_kv("1")  # type: ignore[arg-type] # what is tested
        with pytest.raises(ValueError, match="revision"):
            await client.maintenance.hash_kv(-1)
        with pytest.raises(ValueError, match="member_id"):
            await client.maintenance.move_leader(0)
        with pytest.raises(TypeError, match="name of a file"):
            await client.maintenance.snapshot_save(5)  # type: ignore[arg-type] # what is tested
        assert client.statistics().connects == 0


async def test_a_snapshot_takes_the_place_of_no_device_nor_folder(
    endpoint: str, tmp_path: Path
) -> None:
    """A device such as /dev/null would be gone for all; a FIFO stands for one."""
    fifo, folder = tmp_path / "fifo", tmp_path / "folder"
    os.mkfifo(fifo)
    folder.mkdir()
    async with open_client(endpoint) as client:
        with pytest.raises(FileExistsError, match="no regular file"):
            await client.maintenance.snapshot_save(fifo)
        with pytest.raises(IsADirectoryError):
            await client.maintenance.snapshot_save(folder)
        for name in ("", "."):
            with pytest.raises(ValueError, match="must be the name of a file"):
                await client.maintenance.snapshot_save(name)
        assert client.statistics().connects == 0
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert folder.is_dir()
