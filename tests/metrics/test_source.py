"""Metrics of live hosts, in any thread, for as long as they are wanted."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import trio

from tests.places import DOCS
from trio_sched import open_client, schedule
from trio_sched.metrics import Family, Metrics, openmetrics


def values(metrics: Metrics) -> dict[str, float]:
    found: list[Family] = metrics.families()
    return {family.name: family.samples[0].value for family in found}


async def test_a_live_host(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        metrics = Metrics()
        assert metrics.families() == []
        with metrics.watching(result, client):
            await result.wait_scheduled()
            found = values(metrics)
            assert found["trio_sched_scheduled"] == found["trio_sched_leading"] == 1
            assert found["trio_sched_sessions"] == found["trio_sched_decisions"] == 1
            assert found["trio_sched_etcd_calls"] > 1
            calls = next(f for f in metrics.families() if f.name == "trio_sched_etcd_calls")
            assert len(calls.samples) == 1  # the host's client is the one that was given
            assert found["trio_sched_renewal_age_seconds"] >= 0
        assert metrics.families() == []


async def test_belief_is_that_of_the_result(endpoint: str, path: str) -> None:
    metrics = Metrics()
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with metrics.watching(result):
            await result.wait_scheduled()
            await result.shutdown()
            assert not result.scheduled
            found = values(metrics)
            assert found["trio_sched_scheduled"] == found["trio_sched_ready"] == 0


async def test_no_number_is_there_twice(endpoint: str, path: str) -> None:
    """A scrape that holds a sample twice is refused as a whole."""
    metrics = Metrics()
    async with open_client(endpoint) as client:
        other = client.namespace(path)
        async with schedule(client, path, "a") as result, schedule(other, path, "a") as last:
            with metrics.watching(result, result), metrics.watching(last), metrics.watching(last):
                lines = openmetrics(metrics.families()).splitlines()
                named = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
                assert len(named) == len(set(named))
            with metrics.watching(result):
                assert values(metrics)["trio_sched_sessions"] == 1
            assert metrics.families() == []


async def test_another_thread_may_ask(endpoint: str, path: str) -> None:
    metrics = Metrics()
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with metrics.watching(result):
            await result.wait_scheduled()
            found = await trio.to_thread.run_sync(values, metrics)
            assert found["trio_sched_scheduled"] == 1


async def test_the_example_of_the_page(endpoint: str, path: str) -> None:
    page = DOCS.joinpath("metrics.md").read_text()
    example, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        names: dict[str, Any] = {"result": result}
        exec(example, names)  # ours
    assert "trio_sched_sessions_total{" in names["text"]


async def test_what_is_no_source_is_refused() -> None:  # noqa: ASYNC124 # Trio has to run
    with pytest.raises(TypeError, match="not of 'x'"), Metrics().watching("x"):  # type: ignore[arg-type] # that is it
        pass


@pytest.mark.parametrize("module", ["trio_sched.metrics", "trio_sched.scheduler"])
def test_neither_library_is_imported_unless_it_is_used(module: str) -> None:
    words = f"import sys, {module}; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", words], check=True, capture_output=True, text=True)
    assert "opentelemetry" not in done.stdout
    assert "prometheus_client" not in done.stdout
