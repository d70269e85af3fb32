"""What `status` says of etcd itself."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import trio
from grpclib.const import Status

from tests.cli.memory_tools import connect_to
from tests.cli.ops_tools import ops, validate
from tests.host.test_patience import in_no_time
from trio_sched import open_client
from trio_sched.cli.connect import Connection
from trio_sched.cli.view.status import _status
from trio_sched.cli.view.trouble import _of_alarm, troubles_of
from trio_sched.etcd_shim.errors import NoSpace, PermissionDenied
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import open_etcd

PATH = "/jobs"


def all_is_well(_etcd: MemoryEtcd) -> None:
    pass


def full(etcd: MemoryEtcd) -> None:
    etcd.cluster.refusals.no_space = True


def one_stopped(etcd: MemoryEtcd) -> None:
    etcd.cluster.stop(etcd.cluster.members[2])


def one_cut_off(etcd: MemoryEtcd) -> None:
    etcd.cluster.isolate(etcd.cluster.members[2])


def one_paused(etcd: MemoryEtcd) -> None:
    etcd.cluster.pause(etcd.cluster.members[2])


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (all_is_well, []),
        (full, ["alarm NOSPACE of etcd's member"]),
        (one_stopped, ["http://member-3:2379 does not answer: cannot connect"]),
        (one_cut_off, ["http://member-3:2379 has no leader"]),
        (one_paused, ["http://member-3:2379 has not answered within 2 s"]),
    ],
)
@in_no_time
async def test_status_says_what_is_wrong_with_etcd(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    happens: Callable[[MemoryEtcd], None],
    words: list[str],
) -> None:
    etcd = MemoryEtcd(members=3)
    connection = connect_to(etcd, monkeypatch)
    async with etcd.open_client() as client:
        await client.put(f"{PATH}/exchange/a", "TODO")
        await trio.sleep(10)
        happens(etcd)
        await trio.sleep(10)
        assert await _status(PATH, connection, "json", 10, None) == 0
        document = json.loads(capsys.readouterr().out)
        validate(document)
        found = sorted({line[: len(words[0])] for line in document["trouble"]} if words else [])
        assert found == words
        assert document["trouble"] or not words
        assert await _status(PATH, connection, "table", 10, None) == 0
        shown = capsys.readouterr().out
        assert all(f"  {line}" in shown for line in words)
        assert ("\ntrouble  " in shown) == bool(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("memberID:255 alarm:NOSPACE ", "alarm NOSPACE of etcd's member ff: its database is full"),
        ("memberID:10 alarm:CORRUPT ", "alarm CORRUPT of etcd's member a: its data are not"),
        ("memberID:10 alarm:NEW ", "alarm NEW of etcd's member a: see `etcdctl alarm list`"),
        ("something else ", "something else"),
    ],
)
def test_what_an_alarm_means(words: str, said: str) -> None:
    assert _of_alarm(words).startswith(said)


@in_no_time
async def test_who_may_not_ask_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    etcd = MemoryEtcd()
    connection = connect_to(etcd, monkeypatch)
    async with etcd.open_client() as client:

        async def status() -> None:
            await trio.lowlevel.checkpoint()
            raise PermissionDenied(Status.PERMISSION_DENIED, "no")

        monkeypatch.setattr(client, "status", status)
        assert await troubles_of(connection, client) == []


async def test_a_real_etcd_without_space_is_in_trouble() -> None:
    """Its quota is a mebibyte and a half; status goes on, and says what to do."""
    async with open_etcd(extra_args=["--quota-backend-bytes", "200000"]) as server:
        async with open_client(server.endpoint) as client:
            assert await troubles_of(Connection((server.endpoint,)), client) == []
            await client.put(f"{PATH}/exchange/a", "TODO")
            with pytest.raises(NoSpace):
                while True:
                    await client.put("/big", b"x" * 100_000)
        done = await ops(server.endpoint, "status", PATH)
        assert done.code == 0
        assert "trouble    alarm NOSPACE of etcd's member " in done.out
        assert "etcdctl alarm disarm" in done.out


async def test_a_version_with_known_faults_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    etcd = MemoryEtcd()
    connection = connect_to(etcd, monkeypatch)
    monkeypatch.setattr("trio_sched.simulation.memory_requests.VERSION", "3.5.2")
    async with etcd.open_client() as client:
        await client.put(f"{PATH}/exchange/a", "TODO")
        assert await _status(PATH, connection, "json", 10, None) == 0
        document = json.loads(capsys.readouterr().out)
        validate(document)
        (version,) = document["etcd"]
        assert version["version"] == "3.5.2"
        issues = [fault["issue"] for fault in version["known_faults"]]
        assert issues == ["etcd#13766", "etcd#15247", "etcd#17529"]
        assert document["trouble"] == []
        assert await _status(PATH, connection, "table", 10, None) == 0
        shown = capsys.readouterr().out
        assert "etcd       3.5.2: it may lose or corrupt data" in shown
        assert "etcd#15247" in shown
