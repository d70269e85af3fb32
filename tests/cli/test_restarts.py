"""What the commands show while etcd is away, and when it is back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from tests.cli.memory_tools import connect_to
from tests.cli.ops_tools import validate
from tests.cli.test_operations import until_line, watching
from tests.host.test_patience import in_no_time
from trio_sched import open_client, schedule
from trio_sched.cli.output import NoAnswer, within
from trio_sched.cli.view.silence import Silence, wait_for_etcd
from trio_sched.cli.view.status import _status
from trio_sched.cli.view.watch import _watch
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import open_etcd

PATH = "/jobs"


@asynccontextmanager
async def running(work: Callable[[], Any]) -> AsyncIterator[None]:
    """Do it in the background, for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        yield
        nursery.cancel_scope.cancel()


# ---- watch -------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [10, 60, 3600])
@in_no_time
async def test_f42_watch_goes_on_over_a_restart_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    etcd = MemoryEtcd()
    (member,) = etcd.cluster.members
    connection = connect_to(etcd, monkeypatch)
    async with etcd.open_client() as client, running(partial(_watch, PATH, connection, "table", 9)):
        await trio.sleep(30)
        shown = capsys.readouterr()
        assert (shown.out.count("\n"), shown.err) == (1, ""), "it is quiet, and all is well"
        etcd.cluster.stop(member)
        await trio.sleep(seconds)
        shown = capsys.readouterr()
        assert shown.err.count("etcd does not answer, since ") == 1
        (line,) = shown.out.splitlines()
        assert "as of 6 s ago; no leader; pool empty" in line
        etcd.cluster.start(member)
        await client.put(f"{PATH}/scheduled", "after")
        await trio.sleep(10)
        shown = capsys.readouterr()
        assert shown.err.count("\n") == shown.err.count("etcd answers again, after ") == 1
        assert "s ago" not in shown.out
        assert "scheduled after" in shown.out


@in_no_time
async def test_f42_watch_as_json_says_how_old_each_document_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    etcd = MemoryEtcd()
    (member,) = etcd.cluster.members
    connection = connect_to(etcd, monkeypatch)

    def printed() -> list[Any]:
        documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for document in documents:
            validate(document)
        return documents

    async with etcd.open_client(), running(partial(_watch, PATH, connection, "json", 9)):
        await trio.sleep(1)
        (first,) = printed()
        assert first["age"] < 2
        etcd.cluster.pause(member)
        await trio.sleep(60)
        (old,) = printed()
        assert 6 <= old["age"] < 8
        assert old["decision"] == first["decision"]
        etcd.cluster.resume(member)
        await trio.sleep(10)
        again = printed()
        assert again
        assert all(document["age"] < 3 for document in again)


@pytest.mark.parametrize("trouble", ["isolated", "forbidden"])
@in_no_time
async def test_f42_watch_goes_on_over_what_etcd_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    etcd = MemoryEtcd()
    (member,) = etcd.cluster.members
    connection = connect_to(etcd, monkeypatch)
    async with etcd.open_client(), running(partial(_watch, PATH, connection, "table", 9)):
        await trio.sleep(1)
        if trouble == "isolated":
            etcd.cluster.isolate(member)
        else:
            etcd.cluster.refusals.forbidden.add(b"/jobs/")
        await trio.sleep(60)
        assert "does not answer, since" in capsys.readouterr().err
        etcd.cluster.rejoin(member)
        etcd.cluster.refusals.forbidden.clear()
        await trio.sleep(10)
        assert "answers again" in capsys.readouterr().err


async def test_f42_watch_lives_through_a_restart_of_a_real_etcd() -> None:
    """Its only member is killed, and starts again on the same data."""
    async with open_etcd() as server:
        (member,) = server.members
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        async with watching(server.endpoint, PATH, "-o", "json", **pipes) as process:
            await until_line(process, bool)
            member.kill()
            await member.wait_ended()
            old = await until_line(process, bool)
            assert json.loads(old)["age"] >= 6
            await member.start()
            async with open_client(server.endpoint) as client, schedule(client, PATH, "host-a"):
                line = await until_line(process, lambda line: json.loads(line)["pool"])
                assert json.loads(line)["age"] < 6
            assert process.stderr is not None
            said = ""
            while "etcd answers again" not in said:
                said += (await process.stderr.receive_some()).decode()
            assert said.count("\n") == 2
            assert said.count("etcd does not answer, since") == 1


# ---- status --wait -------------------------------------------------------------------------


@in_no_time
async def test_f42_status_waits_for_etcd_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    etcd = MemoryEtcd()
    (member,) = etcd.cluster.members
    connection = connect_to(etcd, monkeypatch)
    async with etcd.open_client() as client:
        await client.put(f"{PATH}/exchange/a", "TODO")
        etcd.cluster.stop(member)
        async with running(partial(_status, PATH, connection, "json", 10, 300)):
            await trio.sleep(60)
            shown = capsys.readouterr()
            assert shown.out == ""
            assert shown.err.count("\n") == shown.err.count("etcd does not answer, since") == 1
            etcd.cluster.start(member)
            await trio.sleep(10)
            shown = capsys.readouterr()
            assert json.loads(shown.out)["age"] < 6
            assert shown.err.count("\n") == shown.err.count("etcd answers again") == 1


@in_no_time
async def test_f42_status_waits_for_no_longer_than_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    etcd = MemoryEtcd()
    (member,) = etcd.cluster.members
    connection = connect_to(etcd, monkeypatch)
    async with etcd.open_client():
        etcd.cluster.pause(member)
        with pytest.raises(NoAnswer):
            await _status(PATH, connection, "json", 10, 300)
        assert trio.current_time() == pytest.approx(300, abs=1)


@in_no_time
async def test_f42_status_that_is_answered_at_once_says_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def read() -> str:
        await trio.lowlevel.checkpoint()
        return "read"

    assert await within(10, partial(wait_for_etcd, read)) == "read"
    assert capsys.readouterr().err == ""


@in_no_time
async def test_f42_a_short_silence_is_not_worth_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answered_at = trio.current_time()
    silence = Silence(lambda: answered_at)
    async with running(silence.report):
        for _ in range(10):
            await trio.sleep(5)
            assert silence.words() == ""
            answered_at = trio.current_time()
    assert capsys.readouterr().err == ""
