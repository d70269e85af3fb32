"""``run --http`` and ``run --metrics``, of real processes."""

from __future__ import annotations

import re
import shutil

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.cli.ops_tools import validate
from tests.cli.run.run_tools import Run, done, open_run
from tests.places import DOCS
from tests.serving.http_tools import ask


async def address_of(run: Run) -> str:
    return str((await run.event("serving"))["address"])


async def test_a_load_balancer_finds_the_host_that_runs(endpoint: str, path: str) -> None:
    options = ("--http", "0")
    async with (
        open_run(endpoint, path, *options, name="a", command=["sleep", "300"]) as a,
    ):
        at_a = await address_of(a)
        assert at_a.startswith("127.0.0.1:")
        await a.event("started")
        async with open_run(endpoint, path, *options, name="b", command=["sleep", "300"]) as b:
            at_b = await address_of(b)
            await b.event("decision")
            assert (await ask(at_a, "/scheduled")).status == 200
            assert (await ask(at_b, "/scheduled")).status == 503
            assert (await ask(at_b, "/readyz")).status == 200
            document = (await ask(at_b, "/status")).document
            validate(document)
            assert document["slots"][0]["host"] == "a"
            a.process.terminate()
            await b.event("started")
            assert (await ask(at_b, "/scheduled")).status == 200


async def test_it_answers_before_it_has_joined(path: str) -> None:
    """A probe must not find a process dead that waits for its turn to join."""
    # An address that takes the connection and says nothing.
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        silent = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        async with open_run(silent, path, "--http", "0", command=["true"]) as run:
            address = await address_of(run)
            assert (await ask(address, "/healthz")).status == 200
            assert (await ask(address, "/readyz")).text == "it has not joined\n"
            assert (await ask(address, "/scheduled")).status == 503
            assert (await ask(address, "/status")).status == 503
            assert (await ask(address, "/metrics")).text == "# EOF\n"


async def test_the_command_of_the_page(endpoint: str, path: str) -> None:
    """Its second line, at the port that is free here."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    page = DOCS.joinpath("health.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    first, second = block.splitlines()
    options = re.fullmatch(r"trio-sched run /jobs/web (--http) 8008 -- web-server &", first)
    assert options is not None
    async with open_run(endpoint, path, options[1], "0", command=["sleep", "300"]) as run:
        address = await address_of(run)
        await run.event("started")
        line = second.replace("127.0.0.1:8008", address)
        shown = await trio.run_process(["sh", "-c", line], capture_stdout=True)
        assert shown.stdout == b"200\n"


async def test_metrics_alone(endpoint: str, path: str) -> None:
    options = ("--metrics", "localhost:0")
    async with open_run(endpoint, path, *options, command=["sleep", "300"]) as run:
        address = await address_of(run)
        await run.event("started")
        assert (await ask(address, "/status")).status == 404
        text = (await ask(address, "/metrics")).text
        families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call] # it has no types
        values = {s.name: s.value for family in families for s in family.samples}
        assert values["trio_sched_slot_held"] == values["trio_sched_scheduled"] == 1


async def test_an_address_that_is_taken_is_said(endpoint: str, path: str) -> None:
    async with open_run(endpoint, path, "--http", "0", command=["sleep", "300"]) as run:
        address = await address_of(run)
        arguments = ("--endpoints", endpoint, path, "--http", address, "--", "true")
        code, _, err = await done(*arguments)
        assert code == 2
        assert err == f"trio-sched: cannot listen at {address}: Address already in use\n"


@pytest.mark.parametrize("option", ["--http", "--metrics"])
async def test_a_bad_address_is_wrong_usage(option: str) -> None:
    code, _, err = await done("/x", option, "x:y", "--", "true")
    assert code == 2
    assert "an address must be PORT, HOST:PORT or [ADDRESS]:PORT" in err
