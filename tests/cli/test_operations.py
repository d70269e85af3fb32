"""The operators' commands on a real etcd, as processes; their output is in ``examples/``."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from tests.cli.ops_tools import (
    COMMAND,
    PATIENCE,
    Done,
    compare,
    environment,
    ops,
    same_json,
    transcript,
    validate,
)
from tests.etcd_shim.test_auth import open_guarded
from tests.helpers import PASSWORD
from tests.host.go_host import open_go_host
from tests.host.test_publishing import until_state
from tests.reaper.process_tools import ended_with_block
from trio_sched import Client, PathObservation, PathState, Result, observe, open_client, schedule
from trio_sched.cli.common import read_ttls
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import Options, encode_host

BY = ("--by", "anna@desk")


async def work(_slot: object) -> None:
    await trio.sleep_forever()


def all_places_are_held(state: PathState) -> bool:
    """Whether as many are chosen as can be, and each of them has its slot."""
    if state.record is None:
        return False
    places = state.record.options["max_count"]
    assert isinstance(places, int)
    holders = {slot.name for slot in state.slots.values()}
    return len(state.hosts) == min(places, len(state.pool)) and holders == set(state.hosts)


@asynccontextmanager
async def working(
    client: Client, seen: PathObservation, path: str, name: str, **options: Any
) -> AsyncIterator[Result]:
    """A host that works whenever it is scheduled; entered when its slot, if due, is taken."""
    async with schedule(client, path, name, **options) as result, trio.open_nursery() as nursery:
        nursery.start_soon(result.run_while_scheduled, work)
        await until_state(seen, lambda state: name in state.pool and all_places_are_held(state))
        yield result
        nursery.cancel_scope.cancel()


async def forget(client: Client, path: str) -> None:
    await client.delete(PathKeys(path).control)


async def test_status_members_and_decide(endpoint: str, path: str) -> None:
    async def ill() -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async with (
        open_client(endpoint) as client,
        observe(client, path, pool=True) as seen,
        working(client, seen, path, "host-a", max_count=2, zone="north", data={"rack": 7}),
        working(client, seen, path, "host-b", max_count=2, weight=2.5, priority=1),
        schedule(client, path, "host-c", strategy="alpha", zone="south"),
        schedule(client, path, "host-d", max_count=2, health_check=ill),
    ):
        is_ill = "its health check says no"
        await until_state(
            seen,
            lambda state: "host-d" in state.pool and state.pool["host-d"].reason == is_ill,
        )
        drained = await ops(endpoint, "drain", path, "host-c", "--why", "new disk", *BY)
        assert drained.code == 0, drained.err
        for name, command in (
            ("status", ("status", path)),
            ("members", ("members", path)),
            ("decide", ("decide", "--dry-run", path, "--strategy", "priority", "-n", "1")),
        ):
            done = await ops(endpoint, *command, as_process=True)
            compare(f"{name}.txt", transcript(done, path))
        document = (await ops(endpoint, "status", path, "-o", "json")).json
        validate(document)
        compare("status.json", same_json(document, path))
        lines = await ops(endpoint, "members", path, "-o", "json")
        dry = await ops(endpoint, *command, "-o", "json")
        hosts = [json.loads(line) for line in lines.out.splitlines()]
        without_ttls = [{**host, "ttl": None} for host in hosts]
        assert without_ttls == [{**host, "ttl": None} for host in document["pool"]]
        for host in hosts:
            validate(host, "commands.schema.json#/$defs/members")
        validate(dry.json, "commands.schema.json#/$defs/decide")
        compare("decide.json", same_json(dry.json, path))
        await forget(client, path)


async def test_steering(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        observe(client, path, pool=True) as seen,
        working(client, seen, path, "host-a"),
        working(client, seen, path, "host-b"),
        working(client, seen, path, "host-c"),
    ):
        said = ""
        for command in (
            ("drain", path, "host-a", "--why", "new disk"),
            ("evict", path, "host-b"),
            ("undrain", path, "host-a"),
            ("pause", path, "--why", "network works"),
            ("evict", path, "host-c", "--no-wait"),
            ("set-count", path, "2"),
            ("resume", path),
            ("set-count", path, "none"),
            ("drain", path, "host-x"),
            ("drain", path, "host-x", "--absent-ok"),
            ("evict", path, "nobody"),
        ):
            said += transcript(await ops(endpoint, *command, *BY), path)
        compare("steering.txt", said)
        done = await ops(endpoint, "pause", path, "-o", "json", *BY)
        validate(done.json, "commands.schema.json#/$defs/steering")
        compare("pause.json", same_json(done.json, path))
        by_default = await ops(endpoint, "pause", path, "-o", "json")
        assert "@" in by_default.json["control"]["notes"]["paused"]["by"]
        await forget(client, path)


async def test_a_path_without_hosts(endpoint: str, path: str) -> None:
    commands = (
        ("status", path),
        ("members", path),
        ("drain", path, "host-a", *BY),
        ("drain", path, "host-a", "--absent-ok", *BY),
        ("undrain", path, "host-a", *BY),
    )
    compare("no-hosts.txt", "".join([transcript(await ops(endpoint, *c), path) for c in commands]))
    async with open_client(endpoint) as client:
        await forget(client, path)


async def test_a_go_leader_is_told_of(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, open_go_host(client, path, "go-a") as go:
        await go.until("go-a")
        async with schedule(client, path, "host-b") as result:
            await result.next()
            drain = await ops(endpoint, "drain", path, "go-a", *BY)
            status = await ops(endpoint, "status", path)
            decide = await ops(endpoint, "decide", "--dry-run", path)
            as_json = await ops(endpoint, "status", path, "-o", "json")
        assert drain.code == 75
        compare("go.txt", "".join(transcript(done, path) for done in (drain, status, decide)))
        validate(as_json.json)
        assert as_json.json["leader"]["ignores_control"] is True
        await forget(client, path)


async def test_a_wish_that_is_not_carried_out(endpoint: str, path: str) -> None:
    keys = PathKeys(path)
    async with open_client(endpoint) as client:
        await client.put(keys.host("host-a"), encode_host(Options()))
        no_leader = await ops(endpoint, "pause", path, "--wait", "0.1", *BY)
        await client.put(keys.candidate(0), "host-a")  # one that does not answer
        no_answer = await ops(endpoint, "resume", path, "--wait", "0.1", *BY)
        as_json = await ops(endpoint, "resume", path, "--wait", "0.1", "-o", "json")
        await client.delete_prefix(f"{path}/")
    assert (no_leader.code, no_answer.code, as_json.code) == (75, 75, 75)
    compare(
        "not-carried-out.txt", "".join(transcript(done, path) for done in (no_leader, no_answer))
    )
    assert (as_json.json["outcome"], as_json.json["decision"]) == ("not-yet", None)
    validate(as_json.json, "commands.schema.json#/$defs/steering")


async def test_draining_waits_until_the_work_has_ended(endpoint: str, path: str) -> None:
    may_end = trio.Event()

    async def stubborn(_slot: object) -> None:
        with trio.CancelScope(shield=True):
            await may_end.wait()

    async with (
        open_client(endpoint) as client,
        observe(client, path, pool=True) as seen,
        schedule(client, path, "host-a") as a,
        schedule(client, path, "host-b"),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(a.run_while_scheduled, stubborn)
        await until_state(seen, lambda state: state.slots)
        drain = ("drain", path, "host-a", *BY)
        too_soon = await ops(endpoint, *drain, "--wait", "0.3")
        assert too_soon.code == 75
        assert "still held its slot" in too_soon.out
        done: list[Done] = []

        async def drain_patiently() -> None:
            done.append(await ops(endpoint, *drain, "--wait", "30"))
            nursery.cancel_scope.cancel()

        nursery.start_soon(drain_patiently)
        before = seen.newest.control.revision
        await until_state(seen, lambda state: state.control.revision > before)
        assert not done
        may_end.set()
    assert done[0].code == 0
    async with open_client(endpoint) as client:
        await forget(client, path)


async def test_ttls_of_leases_that_are_gone(endpoint: str) -> None:
    async with open_client(endpoint) as client, client.open_lease(30) as lease:
        ttls = await read_ttls(client, [lease.id, 0x7E57, 0])
    assert ttls.keys() == {lease.id, 0x7E57}
    assert ttls[0x7E57] is None
    assert 0 < (ttls[lease.id] or 0) <= 30


# ---- errors ------------------------------------------------------------------------------------


async def test_without_etcd_or_permission(path: str) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, silent, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        commands = (
            ("status", path),
            ("watch", path),
            ("pause", path),
            ("decide", "--dry-run", path),
        )
        for command in commands:
            done = await ops(f"127.0.0.1:{port}", *command, "--timeout", "0.2")
            assert (done.code, done.out, done.err.count("\n")) == (69, "", 1), done
            assert "--timeout" in done.err
        nursery.cancel_scope.cancel()
    done = await ops("127.0.0.1:1", "status", path, as_process=True)
    assert (done.code, done.out, done.err.count("\n")) == (69, "", 1)
    assert "--endpoints" in done.err


async def test_f15_with_users() -> None:
    async with open_guarded() as server:
        env = {"ETCDCTL_USER": f"app:{PASSWORD}"}
        assert (await ops(server.endpoint, "status", "/app/x", env=env)).code == 66, "it may look"
        assert (await ops(server.endpoint, "ls", "/app", env=env)).code == 0
        for command in (("status", "/other"), ("watch", "/other"), ("pause", "/other")):
            done = await ops(server.endpoint, *command, env=env)
            assert (done.code, done.err.count("\n")) == (77, 1), done
            assert "grant it" in done.err


# ---- watch -------------------------------------------------------------------------------------


@asynccontextmanager
async def watching(endpoint: str, *arguments: str, **options: Any) -> AsyncIterator[trio.Process]:
    """`watch` as a process that does not outlive the block."""
    process = await trio.lowlevel.open_process(
        [*COMMAND, "watch", *arguments], env=environment(endpoint, {"TERM": "xterm"}), **options
    )
    async with ended_with_block(process, PATIENCE):
        yield process


async def until_line(process: trio.Process, true: Callable[[str], object]) -> str:
    assert process.stdout is not None
    buffer = b""
    async for chunk in process.stdout:
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if true(line.decode()):
                return line.decode()
    raise AssertionError("it ended")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_watching_as_json_lines(endpoint: str, path: str, number: signal.Signals) -> None:
    async with (
        open_client(endpoint) as client,
        watching(endpoint, path, "-o", "json", stdout=subprocess.PIPE) as process,
    ):
        first = json.loads(await until_line(process, bool))
        validate(first)
        assert first["pool"] == []
        async with schedule(client, path, "host-a"):
            line = await until_line(process, lambda line: json.loads(line)["decision"])
            document = json.loads(line)
            validate(document)
            assert document["decision"]["hosts"] == ["host-a"]
            assert document["pool"][0]["ttl"] is None
        await until_line(process, lambda line: json.loads(line)["pool"] == [])
        process.send_signal(number)
        assert await process.wait() == 128 + number


async def test_watching_goes_on_for_longer_than_the_timeout(endpoint: str, path: str) -> None:
    out = {"stdout": subprocess.PIPE}
    async with (
        open_client(endpoint) as client,
        watching(endpoint, path, "-o", "json", "--timeout", "2", **out) as process,
    ):
        await until_line(process, bool)
        await trio.sleep(2.5)  # the time itself is what it is about
        async with schedule(client, path, "host-a"):
            await until_line(process, lambda line: json.loads(line)["pool"])


async def test_watching_as_lines_until_nobody_reads(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        watching(endpoint, path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        await until_line(process, lambda line: line.endswith("pool empty; scheduled none"))
        assert process.stdout is not None
        assert process.stderr is not None
        async with schedule(client, path, "host-a") as result:
            await until_line(process, lambda line: "leader host-a; pool host-a" in line)
            await process.stdout.aclose()
            await result.update(zone="x")
            await process.wait()
        assert b"".join([chunk async for chunk in process.stderr]) == b""


async def test_watching_on_a_terminal(endpoint: str, path: str) -> None:
    ours, theirs = pty.openpty()
    async with open_client(endpoint) as client, trio.lowlevel.FdStream(ours) as terminal:
        async with watching(endpoint, path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            shown = b""

            async def until_shown(what: bytes) -> None:
                nonlocal shown
                while what not in shown:
                    shown += await terminal.receive_some()

            await until_shown(b"none")
            async with schedule(client, path, "host-a", data={"rack": "<7>"}):
                await until_shown(b'{"rack": "<7>"}')
                await until_shown(b"\x1b[32mhost-a")  # it is scheduled, in colour
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError, trio.BrokenResourceError):
                await until_shown(b"\x1b[?25h")  # the cursor is shown again
            assert await process.wait() == 130
    assert b"\x1b[?25h" in shown
