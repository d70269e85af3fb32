"""prometheus_client takes the metrics, and says the same as our own text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from trio_sched import open_client, schedule
from trio_sched.metrics import Metrics, openmetrics
from trio_sched.metrics.prometheus import MetricsCollector

_MOVES = "trio_sched_renewal_age_seconds"


def samples(text: str) -> dict[tuple[str, str], float]:
    families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call] # it has no types
    return {
        (s.name, repr(sorted(s.labels.items()))): s.value
        for family in families
        for s in family.samples
        if family.name != _MOVES
    }


async def test_a_registry_gives_what_we_give(endpoint: str, path: str) -> None:
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        metrics, registry = Metrics(), CollectorRegistry()
        registry.register(MetricsCollector(metrics))
        with metrics.watching(result):
            await result.wait_scheduled()
            await result.run_while_scheduled(nothing)
            text = generate_latest(registry)  # type: ignore[no-untyped-call] # likewise
            theirs = samples(text.decode())
            ours = samples(openmetrics(metrics.families()))
        assert theirs == ours
        assert len(ours) > 25
        labels = repr(sorted({"path": path, "host": "a", "cause": "returned"}.items()))
        assert ours["trio_sched_works_ended_total", labels] == 1


async def nothing(_slot: object) -> None:
    """Work that is done at once."""
