"""Statistics as families of metrics, by OpenMetrics' rules for names, types and units.

https://prometheus.io/docs/specs/om/open_metrics_spec/: a counter's samples end in ``_total``, a
family with a unit ends in it, and all samples of a family stand together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf, isfinite
from typing import NamedTuple, TypeAlias

from trio_sched.etcd_shim import ChannelStatistics
from trio_sched.host.result import ResultStatistics

__all__ = ["CLIENTS", "HOSTS", "Family", "HostNumbers", "Kind", "Sample", "families_of"]

Labels: TypeAlias = Mapping[str, str]


class Kind(Enum):
    """What a family is, in OpenMetrics' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Sample(NamedTuple):
    """One number, or for a histogram its buckets.

    Attributes:
        labels: by which it differs from the others of its family.
        value: the number; the sum of a histogram.
        buckets: how many were up to each bound, the last one infinity; only of a histogram.
    """

    labels: Labels
    value: float
    buckets: Mapping[float, int] | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Samples of one kind under one name.

    Attributes:
        name: without what a kind adds to it, such as ``_total``.
        kind: what they are.
        help: what they mean, in a sentence.
        unit: in which they are; empty for none. The name ends in it.
        samples: at least one.
    """

    name: str
    kind: Kind
    help: str
    unit: str
    samples: Sequence[Sample]


class HostNumbers(NamedTuple):
    """What is known of one host at one moment.

    Attributes:
        path: that it has joined.
        hostname: its name.
        statistics: what it has counted.
        now: that moment, by trio's clock.
    """

    path: str
    hostname: str
    statistics: ResultStatistics
    now: float


_HostReader: TypeAlias = Callable[[ResultStatistics, float], float | Mapping[str, int] | None]
_ClientReader: TypeAlias = Callable[[ChannelStatistics], float]


class HostMetric(NamedTuple):
    """How a family of hosts is read; `label` is that of a mapping's keys."""

    name: str
    kind: Kind
    help: str
    read: _HostReader
    unit: str = ""
    label: str = ""


class ClientMetric(NamedTuple):
    """How a family of clients is read."""

    name: str
    kind: Kind
    help: str
    read: _ClientReader


def _age(s: ResultStatistics, now: float) -> float | None:
    return max(0.0, now - s.renewed_at) if isfinite(s.renewed_at) else None


_C, _G = Kind.COUNTER, Kind.GAUGE

HOSTS: tuple[HostMetric, ...] = (
    HostMetric(
        "trio_sched_scheduled", _G, "1 while this host may act on being chosen, else 0.",
        lambda s, now: now < s.deadline,
    ),
    HostMetric(
        "trio_sched_ready", _G, "1 while its session is certain to live and its decision is fresh.",
        lambda s, now: now < s.valid_until,
    ),
    HostMetric("trio_sched_leading", _G, "1 while this host leads.", lambda s, _: s.leading),
    HostMetric(
        "trio_sched_trouble", _G, "1 while etcd refuses what this host asks of it.",
        lambda s, _: s.trouble is not None,
    ),
    HostMetric("trio_sched_sessions", _C, "Sessions that were begun.", lambda s, _: s.sessions),
    HostMetric(
        "trio_sched_session_losses", _C, "Sessions that were lost, by cause.",
        lambda s, _: s.losses, label="cause",
    ),
    HostMetric(
        "trio_sched_renewals", _C, "Renewals of the session's lease that etcd acknowledged.",
        lambda s, _: s.renewals,
    ),
    HostMetric(
        "trio_sched_renewal_age_seconds", _G,
        "Time since the newest acknowledged renewal, or the grant, was sent.",
        _age, unit="seconds",
    ),
    HostMetric(
        "trio_sched_decisions", _C, "Decisions that this host has learned.",
        lambda s, _: s.decisions,
    ),
    HostMetric(
        "trio_sched_healed", _C, "Reads that showed what no watch had brought.",
        lambda s, _: s.healed,
    ),
    HostMetric(
        "trio_sched_slot_held", _G, "1 while this host holds a slot.", lambda s, _: s.holds_slot
    ),
    HostMetric(
        "trio_sched_slot_waited_for", _G, "1 while this host is chosen and waits for a slot.",
        lambda s, _: s.waits_for_slot,
    ),
    HostMetric(
        "trio_sched_works_ended", _C, "Pieces of work that have ended, by cause.",
        lambda s, _: s.works, label="cause",
    ),
    HostMetric(
        "trio_sched_owed_deletions", _G, "Slots whose work has ended that etcd still holds.",
        lambda s, _: s.owed_deletions,
    ),
)  # fmt: skip

WRITES = ("trio_sched_decision_write_seconds", "Time from an event to the decision due to it.")

CLIENTS: tuple[ClientMetric, ...] = (
    ClientMetric(
        "trio_sched_etcd_calls", _C, "Calls that were asked for; streams are not counted.",
        lambda s: s.calls,
    ),
    ClientMetric("trio_sched_etcd_retries", _C, "Calls made again.", lambda s: s.retries),
    ClientMetric(
        "trio_sched_etcd_connects", _C, "Connections that were made.", lambda s: s.connects
    ),
    ClientMetric(
        "trio_sched_etcd_reconnections", _C, "Connections that were made after the first.",
        lambda s: max(0, s.connects - 1),
    ),
    ClientMetric(
        "trio_sched_etcd_watch_events", _C, "Events that watches have brought.",
        lambda s: s.watch_events,
    ),
    ClientMetric(
        "trio_sched_etcd_connected", _G, "1 while a connection takes new calls.",
        lambda s: s.endpoint is not None,
    ),
    ClientMetric(
        "trio_sched_etcd_open_calls", _G, "Calls under way, streams included.",
        lambda s: sum(c.open_calls for c in s.connections),
    ),
)  # fmt: skip


def families_of(
    hosts: Iterable[HostNumbers], clients: Iterable[tuple[Labels, ChannelStatistics]]
) -> list[Family]:
    """Return all families that have a sample.

    Args:
        hosts: what is known of them.
        clients: with the labels by which they differ.
    """
    hosts, clients = [*hosts], [*clients]
    found = [
        Family(metric.name, metric.kind, metric.help, metric.unit, _host_samples(metric, hosts))
        for metric in HOSTS
    ]
    writes = [
        Sample(_labels(host), host.statistics.write_seconds, host.statistics.write_buckets)
        for host in hosts
        if host.statistics.write_buckets
    ]
    found.append(Family(WRITES[0], Kind.HISTOGRAM, WRITES[1], "seconds", writes))
    found += [
        Family(
            metric.name, metric.kind, metric.help, "",
            [Sample(labels, float(metric.read(numbers))) for labels, numbers in clients],
        )
        for metric in CLIENTS
    ]  # fmt: skip
    return [family for family in found if family.samples]


def _labels(host: HostNumbers) -> dict[str, str]:
    return {"path": host.path, "host": host.hostname}


def _host_samples(metric: HostMetric, hosts: Iterable[HostNumbers]) -> list[Sample]:
    samples: list[Sample] = []
    for host in hosts:
        value = metric.read(host.statistics, host.now)
        labels = _labels(host)
        if isinstance(value, Mapping):
            samples += [
                Sample(labels | {metric.label: key}, float(number))
                for key, number in sorted(value.items())
            ]
        elif value is not None and value < inf:
            samples.append(Sample(labels, float(value)))
    return samples
