"""What is refused as mistyped, and what is not carried out while decisions are paused."""

from __future__ import annotations

import pytest
import trio

from tests.cli.ops_tools import Done, ops, validate
from tests.helpers import until
from tests.host.test_publishing import until_state
from trio_sched import Control, observe, open_client, schedule
from trio_sched.etcd_shim import Put
from trio_sched.model.keys import PathKeys
from trio_sched.model.records import DecisionRecord, HostData, Options, encode_host


async def keys_below(endpoint: str, path: str) -> list[bytes]:
    async with open_client(endpoint) as client:
        return [kv.key for kv in await client.get_prefix(path)]


@pytest.mark.parametrize(
    "command",
    [("drain", "host-a"), ("undrain", "host-a"), ("pause",), ("resume",), ("set-count", "2"),
     ("set-count", "none"), ("evict", "host-a")],
)  # fmt: skip
async def test_f61_a_mistyped_path_is_refused_and_leaves_no_key(
    endpoint: str, path: str, command: tuple[str, ...]
) -> None:
    name, *rest = command
    done = await ops(endpoint, name, path, *rest)
    assert (done.code, done.out, done.err.count("\n")) == (68, "", 1)
    assert path in done.err
    assert await keys_below(endpoint, path) == []
    if name != "evict":
        assert "--absent-ok" in done.err
        done = await ops(endpoint, name, path, *rest, "--absent-ok")
        assert (done.code, done.err) == (0, "")
        assert await keys_below(endpoint, path) == [PathKeys(path).control]
    async with open_client(endpoint) as client:
        await client.delete_prefix(path)


@pytest.mark.parametrize("command", ["drain", "undrain", "evict"])
async def test_f61_a_mistyped_host_is_refused_and_leaves_no_key(
    endpoint: str, path: str, command: str
) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "host-a") as result:
        await until(result, "host-a")
        done = await ops(endpoint, command, path, "host-aa", "--wait", "60")
        assert (done.code, done.out, done.err.count("\n")) == (68, "", 1)
        assert "'host-aa'" in done.err
        assert await Control(client, path).read() == await Control(client, f"{path}x").read()
    assert await keys_below(endpoint, path) == []


async def test_f61_what_was_wanted_of_an_absent_host_can_be_taken_back(
    endpoint: str, path: str
) -> None:
    """Nor is a path mistyped whose hosts have all left since something was wanted of it."""
    async with open_client(endpoint) as client:
        async with schedule(client, path, "host-a") as result:
            await until(result, "host-a")
            allowed = await ops(endpoint, "drain", path, "host-x", "--absent-ok")
            assert allowed.code == 0
        for command in (("undrain", "host-x"), ("pause",), ("resume",), ("set-count", "none")):
            name, *rest = command
            assert (await ops(endpoint, name, path, *rest)).code == 0
        assert not (await Control(client, path).read()).drained
        await client.delete_prefix(path)


async def test_f61_a_drain_while_the_path_is_paused_is_not_carried_out(
    endpoint: str, path: str
) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "host-a") as a,
        schedule(client, path, "host-b"),
        trio.open_nursery() as nursery,
    ):
        await until(a, "host-a")
        assert (await ops(endpoint, "pause", path)).code == 0
        drain = ("drain", path, "host-a")
        done = await ops(endpoint, *drain, "--wait", "0.3")
        assert done.code == 75
        assert f"trio-sched resume {path}" in done.out
        document = (await ops(endpoint, *drain, "--wait", "0.3", "-o", "json")).json
        validate(document, "commands.schema.json#/$defs/steering")
        assert document["outcome"] == "paused"
        evict = await ops(endpoint, "evict", path, "host-a", "--wait", "0.3")
        assert evict.code == 75
        waited = await ops(endpoint, "drain", path, "host-b", "--wait", "0.3")
        assert waited.code == 0, "it is not chosen, so nothing runs there"
        assert (await ops(endpoint, "undrain", path, "host-b", "--wait", "0.3")).code == 0

        found: list[Done] = []

        async def drain_patiently() -> None:
            found.append(await ops(endpoint, *drain, "--wait", "30"))
            nursery.cancel_scope.cancel()

        before = (await Control(client, path).read()).revision
        nursery.start_soon(drain_patiently)
        async with observe(client, path, pool=True) as seen:
            await until_state(seen, lambda state: state.control.revision > before)
        assert not found
        await Control(client, path).resume()
    assert found[0].code == 0
    async with open_client(endpoint) as client:
        await client.delete_prefix(path)


async def test_f61_a_host_that_holds_a_slot_is_there_and_drained_only_when_that_is_free(
    endpoint: str, path: str
) -> None:
    """As a process that is frozen, and whose key an operator has deleted."""
    slot = PathKeys(path).slot(0)
    drain = ("drain", path, "host-a", "--wait", "0.3")
    async with open_client(endpoint) as client:
        await client.put(slot, "host-a")
        for command in (drain, (*drain, "--absent-ok")):
            done = await ops(endpoint, *command)
            assert (done.code, done.err) == (75, ""), "no host has joined, and it runs"
        async with schedule(client, path, "host-b") as b:
            await until(b, "host-b")
            document = (await ops(endpoint, *drain, "-o", "json")).json
            validate(document, "commands.schema.json#/$defs/steering")
            assert document["outcome"] == "still-running"
            evict = await ops(endpoint, "evict", path, "host-a", "--wait", "0.3")
            assert evict.code == 68, "it has not joined"
            await client.delete(slot)
            assert (await ops(endpoint, *drain, "--absent-ok")).code == 0
        await client.delete_prefix(f"{path}/")


@pytest.mark.parametrize("command", ["drain", "evict"])
async def test_f61_a_host_that_is_chosen_is_not_drained_though_its_leader_knows(
    endpoint: str, path: str, command: str
) -> None:
    """As in the moment between the end of a pause and the leader's next decision."""
    keys, later = PathKeys(path), 10**9
    options = Options(1).as_json()
    host = encode_host(Options(1), HostData(), "")
    async with open_client(endpoint) as client:
        lease = (await client.lease_grant(60)).id
        record = DecisionRecord(
            {"host-a": lease}, "host-a", 1, "", {**options, "control": {"revision": later}}
        )
        await client.txn(
            [],
            [
                Put(keys.host("host-a"), host, lease),
                Put(keys.candidate(lease), "host-a", lease),
                Put(keys.scheduled, "host-a", lease),
                Put(keys.record, record.encode(), lease),
            ],
        )
        done = await ops(endpoint, command, path, "host-a", "--wait", "0.3")
        assert done.code == 75
        assert "has not decided so" in done.out
        await client.delete_prefix(f"{path}/")
        await client.lease_revoke(lease)
