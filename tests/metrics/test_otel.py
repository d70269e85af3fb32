"""OpenTelemetry's SDK, in memory, sees the metrics and the spans."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from trio_sched import Slot, open_client, schedule
from trio_sched.etcd_shim import EtcdError
from trio_sched.metrics import Metrics
from trio_sched.metrics.otel import observe_metrics, tracing


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


def read(reader: InMemoryMetricReader) -> dict[str, float]:
    data: Any = reader.get_metrics_data()
    return {
        metric.name: point.value
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


async def test_a_reader_sees_the_metrics(endpoint: str, path: str) -> None:
    reader = InMemoryMetricReader()
    metrics = Metrics()
    observe_metrics(metrics, MeterProvider([reader]))
    async with open_client(endpoint) as client, schedule(client, path, "a") as result:
        with metrics.watching(result):
            await result.wait_scheduled()
            found = await trio.to_thread.run_sync(read, reader)
            assert found["trio_sched.scheduled"] == 1
            assert found["trio_sched.decision.writes"] == 1
            assert found["trio_sched.decision.write_time"] > 0
            assert found["trio_sched.renewal_age"] >= 0
            assert found["trio_sched.etcd.calls"] > 1
    assert "trio_sched.scheduled" not in read(reader)


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


async def test_an_exporter_sees_the_spans(
    endpoint: str, path: str, exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("ours")

    async def work(slot: Slot) -> int:  # noqa: ASYNC124 # work is async
        with tracer.start_as_current_span("ours"):
            return slot.token

    with tracing(provider):
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            token = await result.run_while_scheduled(work)
    (join,) = named(exporter, "trio_sched.join")
    (decision,) = named(exporter, "trio_sched.decision")
    (worked,) = named(exporter, "trio_sched.work")
    (ours,) = named(exporter, "ours")
    assert join.attributes is not None
    assert dict(join.attributes) == {"trio_sched.path": path, "trio_sched.host": "a"}
    assert decision.attributes is not None
    assert decision.attributes["trio_sched.hosts"] == 1
    assert worked.attributes is not None
    assert worked.attributes["trio_sched.token"] == token
    assert worked.context is not None
    assert ours.parent is not None
    assert ours.parent.span_id == worked.context.span_id
    calls = named(exporter, "etcdserverpb.KV/Txn")
    assert calls
    assert join.context is not None
    assert any(c.parent and c.parent.span_id == join.context.span_id for c in calls)
    assert calls[0].attributes is not None
    assert calls[0].attributes["rpc.method"] == "Txn"


async def test_a_span_that_fails_has_its_error(
    endpoint: str, path: str, exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    with tracing(provider):
        async with open_client(endpoint) as client:
            with pytest.raises(EtcdError):
                await client.lease_revoke(7)
    del path
    (span,) = named(exporter, "etcdserverpb.Lease/LeaseRevoke")
    assert span.status.status_code is StatusCode.ERROR
    assert span.events[0].name == "exception"


async def test_a_span_that_is_cancelled_is_no_failure(
    endpoint: str, path: str, exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async def work(_slot: Slot) -> None:
        scope.cancel()
        await trio.sleep_forever()

    with tracing(provider), trio.CancelScope() as scope:
        async with open_client(endpoint) as client, schedule(client, path, "a") as result:
            await result.run_while_scheduled(work)
    (span,) = named(exporter, "trio_sched.work")
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["trio_sched.cancelled"] is True


async def test_outside_of_the_block_there_are_none(
    endpoint: str, path: str, exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    with tracing(provider):
        pass
    async with open_client(endpoint) as client:
        await client.get(path)
    assert not exporter.get_finished_spans()
