"""Metrics for ``prometheus_client``; it comes with ``pip install 'trio-sched[metrics]'``."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trio_sched.metrics.families import Family, Kind
from trio_sched.metrics.source import Metrics

__all__ = ["MetricsCollector"]


class MetricsCollector(Collector):
    """Gives `Metrics` to a registry: ``REGISTRY.register(MetricsCollector(metrics))``.

    Args:
        metrics: what to give.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        """Return nothing: which families there are shows when they are collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return all there is to know now. In any thread."""
        return map(_metric, self._metrics.families())


def _metric(family: Family) -> Metric:
    names = list(dict.fromkeys(name for sample in family.samples for name in sample.labels))
    values = [[sample.labels[name] for name in names] for sample in family.samples]
    pairs = zip(values, family.samples, strict=True)
    if family.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(family.name, family.help, labels=names, unit=family.unit)
        for labels, sample in pairs:
            buckets = [
                (_bound(bound), float(count)) for bound, count in (sample.buckets or {}).items()
            ]
            histogram.add_metric(labels, buckets, sample.value)
        return histogram
    kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=names, unit=family.unit)
    for labels, sample in pairs:
        metric.add_metric(labels, sample.value)
    return metric


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(bound)
