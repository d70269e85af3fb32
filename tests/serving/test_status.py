"""What a host believes, over HTTP, by the rules of its `Result`; on a real etcd."""

from __future__ import annotations

import re

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.cli.ops_tools import validate
from tests.places import DOCS, TESTS
from tests.serving.http_tools import ask
from trio_sched import open_client, schedule
from trio_sched.serving import CannotListen, serve_status
from trio_sched.testing import open_etcd, open_faulty_link

PAGE = DOCS.joinpath("health.md").read_text()


async def test_a_host_that_is_scheduled_and_one_that_is_not(endpoint: str, path: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as a,
        schedule(client, path, "b") as b,
        serve_status(a) as at_a,
        serve_status(b) as at_b,
    ):
        await a.wait_scheduled()
        await b.next()
        for page, there, elsewhere in (
            ("/healthz", 200, 200),
            ("/readyz", 200, 200),
            ("/scheduled", 200, 503),
            ("/status", 200, 200),
            ("/metrics", 200, 200),
            ("/", 404, 404),
        ):
            assert (await ask(at_a, page)).status == there, page
            assert (await ask(at_b, page, "HEAD")).status == elsewhere, page
        document = (await ask(at_b, "/status")).document
        validate(document)
        assert document["decision"]["hosts"] == ["a"]
        assert document["this_host"] == {
            "name": "b",
            "scheduled": False,
            "leading": False,
            "waits_for_etcd": False,
        }
        text = (await ask(at_a, "/metrics")).text
        families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call] # it has no types
        names = {family.name for family in families}
        assert {"trio_sched_scheduled", "trio_sched_sessions", "trio_sched_etcd_calls"} <= names


async def test_after_the_host_has_left_nothing_is_claimed(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await result.wait_scheduled()
        async with serve_status(result) as address:
            await result.shutdown()
            assert (await ask(address, "/healthz")).status == 200
            assert (await ask(address, "/readyz")).status == 503
            assert (await ask(address, "/scheduled")).status == 503


async def test_when_etcd_falls_silent_belief_ends_with_the_deadline(path: str) -> None:
    """By the same clock as the result: what it no longer believes, no page claims."""
    async with (
        open_etcd() as etcd,
        open_faulty_link(etcd.endpoint) as link,
        open_client(link.endpoint) as client,
        schedule(client, path, "a", session_ttl=2, shutdown_timeout=0.2) as result,
        serve_status(result) as address,
    ):
        await result.wait_scheduled()
        assert (await ask(address, "/scheduled")).status == 200
        link.stall()
        await result.wait_unscheduled()
        assert (await ask(address, "/scheduled")).status == 503
        assert (await ask(address, "/readyz")).status == 503
        assert (await ask(address, "/healthz")).status == 200
        answer = await ask(address, "/status")
        assert answer.status == 503
        assert answer.document == {"error": "etcd does not answer"}
        validate(answer.document, "commands.schema.json#/$defs/status_error")
        link.heal()


async def test_many_who_ask_for_the_status_are_served_by_one_read(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        await result.wait_scheduled()
        async with serve_status(result) as address:
            before = client.statistics().calls
            async with trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(ask, address, "/status")
            assert client.statistics().calls - before < 15


@pytest.mark.parametrize("where", ["0", "127.1:0"])
async def test_a_page_of_another_site_learns_nothing(endpoint: str, path: str, where: str) -> None:
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        serve_status(result, where) as address,
    ):
        for page in ("/status", "/metrics"):
            assert (await ask(address, page, host=address)).status == 200
            answer = await ask(address, page, host="evil.example")
            assert answer.status == 421
            assert path not in answer.text
            absolute = f"http://evil.example{page}"  # what it names counts, and not Host
            assert (await ask(address, absolute, host=address)).status == 421
            absolute = f"http://{address}{page}"
            assert (await ask(address, absolute, host="evil.example")).status == 200
        assert (await ask(address, "/healthz", host="evil.example")).status == 200


async def test_no_secret_is_shown(endpoint: str, path: str) -> None:
    _, _, authority = endpoint.rpartition("/")
    async with (
        open_client(endpoint) as client,
        schedule(client, path, "a") as result,
        serve_status(result) as address,
    ):
        for page in ("/healthz", "/readyz", "/scheduled", "/status", "/metrics"):
            assert authority not in (await ask(address, page)).text


def test_every_test_that_the_page_names_exists() -> None:
    there = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"\btest_\w+", PAGE))
    assert len(named) > 5
    assert not named - there


async def test_bad_addresses(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with pytest.raises(ValueError, match="an address must be"):
            async with serve_status(result, "x"):
                pass
        async with serve_status(result) as address:
            with pytest.raises(CannotListen, match="in use"):
                async with serve_status(result, address):
                    pass
