"""Metrics and spans for OpenTelemetry; its API comes with ``pip install 'trio-sched[otel]'``.

Only the API is used: which SDK takes them, and where it sends them, is the program's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

import trio
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    get_tracer,
)

from trio_sched._support.tracing import Attributes, set_tracer
from trio_sched.metrics.families import CLIENTS, HOSTS, Kind
from trio_sched.metrics.source import Metrics

__all__ = ["observe_metrics", "tracing"]

_SCOPE: Final = "trio_sched"
_WRITES: Final = "trio_sched_decision_write_seconds"


def observe_metrics(metrics: Metrics, provider: MeterProvider | None = None) -> None:
    """Create an instrument for each family of `metrics`, which reads it when it is asked to.

    The instruments have OpenTelemetry's kind of names: dots, and neither units nor ``_total``,
    which its exporters add. The histogram of decisions comes as its count and its sum, as there
    is no histogram that can be read.

    Args:
        metrics: what to give. OpenTelemetry has no way to take instruments back; so leave its
            `watching` block, and they give nothing more.
        provider: of meters; None for the global one.
    """
    meter = get_meter(_SCOPE, meter_provider=provider)
    for metric in HOSTS:
        unit = "s" if metric.unit else "{item}"
        _create(meter, metrics, metric.name, metric.kind, metric.help, unit)
    for one in CLIENTS:
        _create(meter, metrics, one.name, one.kind, one.help, "{item}")
    for name, read, unit in (
        ("trio_sched.decision.writes", partial(_writes, metrics), "{decision}"),
        ("trio_sched.decision.write_time", partial(_write_time, metrics), "s"),
    ):
        words = "Decisions that this host has written, and how long they took."
        meter.create_observable_counter(name, [read], unit=unit, description=words)


def _create(meter: Meter, metrics: Metrics, name: str, kind: Kind, words: str, unit: str) -> None:
    read = partial(_observe, metrics, name)
    dotted = _dotted(name)
    if kind is Kind.COUNTER:
        meter.create_observable_counter(dotted, [read], unit=unit, description=words)
    else:
        meter.create_observable_gauge(dotted, [read], unit=unit, description=words)


def _dotted(name: str) -> str:
    """Return a name as OpenTelemetry has them, without the unit."""
    rest = name.removeprefix("trio_sched_").removesuffix("_seconds")
    return f"trio_sched.etcd.{rest[5:]}" if rest.startswith("etcd_") else f"trio_sched.{rest}"


def _observe(metrics: Metrics, name: str, _options: CallbackOptions) -> Iterable[Observation]:
    for family in metrics.families():
        if family.name == name:
            for sample in family.samples:
                yield Observation(sample.value, dict(sample.labels))


def _writes(metrics: Metrics, _options: CallbackOptions) -> Iterable[Observation]:
    for family in metrics.families():
        if family.name == _WRITES:
            for sample in family.samples:
                yield Observation(max((sample.buckets or {0: 0}).values()), dict(sample.labels))


def _write_time(metrics: Metrics, options: CallbackOptions) -> Iterable[Observation]:
    return _observe(metrics, _WRITES, options)


@contextmanager
def tracing(provider: TracerProvider | None = None) -> Iterator[None]:
    """Make spans in this block, and in all tasks that are started in it.

    ``with tracing(): async with open_client(…)``. There is a span for each join
    (``trio_sched.join``), each decision that is written (``trio_sched.decision``), each piece of
    work (``trio_sched.work``), in which your own spans are, and each unary call to etcd, named
    as its method. One that fails has its error; one that is cancelled ends as it is.

    Args:
        provider: of tracers; None for the global one.
    """
    tracer = get_tracer(_SCOPE, tracer_provider=provider)
    with set_tracer(partial(_span, tracer)):
        yield


def _span(tracer: Tracer, name: str, attributes: Attributes) -> AbstractContextManager[object]:
    return _spanning(tracer, name, attributes)


@contextmanager
def _spanning(tracer: Tracer, name: str, attributes: Attributes) -> Iterator[None]:
    service, slash, method = name.partition("/")
    if slash:
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    with tracer.start_as_current_span(
        name,
        kind=SpanKind.CLIENT if slash else SpanKind.INTERNAL,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except trio.Cancelled:
            span.set_attribute("trio_sched.cancelled", True)  # noqa: FBT003 # a value
            raise
        except Exception as exc:
            span.record_exception(exc)
            span.set_status(Status(StatusCode.ERROR, type(exc).__name__))
            raise
