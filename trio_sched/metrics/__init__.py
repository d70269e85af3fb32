"""Metrics of hosts and clients: from what they count anyway, read when it is asked for.

`Metrics` gathers them; ``trio_sched.metrics.prometheus`` gives them to ``prometheus_client``,
``trio_sched.metrics.otel`` to OpenTelemetry, which gets spans, too. Neither is imported here.
"""

from trio_sched.metrics.families import Family as Family, Kind as Kind, Sample as Sample
from trio_sched.metrics.source import Metrics as Metrics
from trio_sched.metrics.text import CONTENT_TYPE as CONTENT_TYPE, openmetrics as openmetrics

__all__ = ["CONTENT_TYPE", "Family", "Kind", "Metrics", "Sample", "openmetrics"]
