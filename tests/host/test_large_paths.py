"""Nothing has a largest size by accident: pools, decisions, and others' keys between ours."""

from __future__ import annotations

import logging

import pytest
import trio

from tests.helpers import until
from trio_sched import Client, Control, observe, open_client, schedule
from trio_sched.etcd_shim._pages import PAGE_SIZE
from trio_sched.etcd_shim.errors import MessageTooLarge
from trio_sched.host import leading
from trio_sched.host.reads import read_path
from trio_sched.model.keys import PathKeys
from trio_sched.simulation import MemoryEtcd
from trio_sched.testing import open_etcd

PATH = "/jobs"
KEYS = PathKeys(PATH)
NEIGHBOURS = ("/aaa/exchange/x", "/control/election/y", "/foo/exchange/z", "/scheduled-x/control")


class Words(logging.Handler):
    """What was said, and a place to wait for more of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.changed = trio.lowlevel.ParkingLot()
        self.logger = logging.Logger("test")  # noqa: LOG001 # one of its own
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.changed.unpark_all()

    async def wait(self, words: str) -> None:
        while not any(words in line for line in self.lines):
            await self.changed.park()


async def put_hosts(client: Client, number: int, size: int = 4) -> None:
    for each in range(number):
        await client.put(KEYS.host(f"host-{each:05}"), "x" * size)


async def test_f64_a_neighbours_keys_below_our_path_are_not_read() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:

        async def trouble(number: int) -> None:
            for name in NEIGHBOURS:
                await client.put(f"{PATH}{name}{number}", "not ours")

        await trouble(1)
        async with (
            schedule(client, PATH, "a") as result,
            observe(client, PATH, pool=True, reconcile=1.0) as states,
        ):
            await until(result, "a")
            await trouble(2)
            await Control(client, PATH).set_count(3)
            async for state in states:
                if state.control.max_count == 3:
                    break
            assert [*state.pool] == ["a"]
            assert [each.name for each in state.candidates] == ["a"]
            for covered in (KEYS.leading, KEYS.everything, KEYS.decision):
                found = await read_path(client, KEYS, covered)
                assert not [kv for kv in found if kv.value == b"not ours"]


async def test_f64_a_pool_of_several_pages_is_chosen_from() -> None:
    etcd = MemoryEtcd()
    async with etcd.open_client() as client:
        await put_hosts(client, 2 * PAGE_SIZE + 1)
        async with schedule(client, PATH, "a", strategy="alpha", max_count=2 * PAGE_SIZE) as result:
            hosts = await result.next()
            assert len(hosts) == 2 * PAGE_SIZE
            await client.delete(KEYS.host("host-00000"))
            async for hosts in result:
                if "host-00000" not in hosts:
                    break
            assert len(hosts) == 2 * PAGE_SIZE


async def test_f64_a_pool_larger_than_a_message_is_joined_and_led(endpoint: str, path: str) -> None:
    """The joining transaction has its answer refused, and has taken place."""
    keys = PathKeys(path)
    async with open_client(endpoint, max_message_size=100_000) as client:
        for number in range(30):
            await client.put(keys.host(f"host-{number:02}"), "x" * 10_000)
        with pytest.raises(MessageTooLarge):
            await client.get_prefix(keys.exchange)
        async with schedule(client, path, "a", strategy="alpha", max_count=31) as result:
            assert len(await result.next()) == 31
            async with observe(client, path, pool=True) as states:
                assert len((await states.next()).pool) == 31


async def test_f64_a_decision_over_etcds_limit_is_not_sent_and_the_old_one_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leading, "_MAX_SIZE", 1000)
    etcd, words = MemoryEtcd(), Words()
    async with etcd.open_client() as client:
        async with schedule(client, PATH, "a", logger=words.logger) as result:
            await until(result, "a")
            control = Control(client, PATH)
            await put_hosts(client, 50)
            before = await client.get(KEYS.scheduled)
            await control.set_count(50)
            await words.wait("until max_count is lowered")
            assert "larger than a request to etcd may be" in str(result.statistics().trouble)
            assert (await client.get(KEYS.scheduled)).kv == before.kv
            assert result.scheduled
            await control.set_count(2)
            await words.wait("(RequestTooLarge), after")
            assert len(await result.next()) == 2
            assert result.statistics().trouble is None


async def test_f64_a_decision_that_etcd_finds_too_large_is_waited_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its limit may be lower than what we think."""
    monkeypatch.setattr(leading, "_MAX_SIZE", 10**9)
    etcd, words = MemoryEtcd(), Words()
    async with etcd.open_client() as client:
        async with schedule(client, PATH, "a", logger=words.logger) as result:
            await until(result, "a")
            for number in range(100):
                await client.put(KEYS.host(f"{number:03}-{'x' * 20_000}"), "")
            await Control(client, PATH).set_count(101)
            await words.wait("until max_count is lowered")
            assert result.newest == ("a",)
            await Control(client, PATH).set_count(1)
            await words.wait("(RequestTooLarge), after")
            assert result.statistics().sessions == 1


async def test_f64_a_real_etcd_that_takes_small_requests_only_keeps_the_old_decision() -> None:
    words = Words()
    async with (
        open_etcd(extra_args=("--max-request-bytes=4096",)) as server,
        open_client(server.endpoint) as client,
        schedule(client, PATH, "a", logger=words.logger) as result,
    ):
        await until(result, "a")
        await put_hosts(client, 300)
        await Control(client, PATH).set_count(300)
        await words.wait("until max_count is lowered")
        assert result.newest == ("a",)
        assert result.scheduled
        await Control(client, PATH).set_count(2)
        await words.wait("(RequestTooLarge), after")
        assert result.statistics().sessions == 1


async def test_f64_a_key_of_our_name_that_is_too_large_is_an_error_and_no_loop(
    endpoint: str, path: str
) -> None:
    """The join is refused by what it reads each time, so it has not taken place."""
    async with open_client(endpoint) as other, open_client(endpoint, max_message_size=10_000) as us:
        async with other.open_lease(10) as lease:
            await other.put(PathKeys(path).host("a"), "x" * 20_000, lease=lease.id)
            with trio.fail_after(5), pytest.raises(MessageTooLarge):
                async with schedule(us, path, "a"):
                    raise AssertionError("entered")
