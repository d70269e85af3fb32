"""OpenMetrics' text format, version 1.0.0: what a scrape of ``/metrics`` gets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Final

from trio_sched.metrics.families import Family, Kind, Sample

__all__ = ["CONTENT_TYPE", "openmetrics"]

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def openmetrics(families: Iterable[Family]) -> str:
    """Return families as text, its last line included."""
    lines = [line for family in families for line in _lines(family)]
    return "\n".join([*lines, "# EOF", ""])


def _lines(family: Family) -> Iterator[str]:
    yield f"# TYPE {family.name} {family.kind.value}"
    if family.unit:
        yield f"# UNIT {family.name} {family.unit}"
    yield f"# HELP {family.name} {family.help.translate(_ESCAPES)}"
    for sample in family.samples:
        if family.kind is Kind.HISTOGRAM:
            yield from _histogram(family.name, sample)
        else:
            suffix = "_total" if family.kind is Kind.COUNTER else ""
            yield f"{family.name}{suffix}{_labels(sample.labels)} {_number(sample.value)}"


def _histogram(name: str, sample: Sample) -> Iterator[str]:
    buckets = sample.buckets or {inf: 0}
    for bound, count in buckets.items():
        labels = {**sample.labels, "le": _number(bound)}
        yield f"{name}_bucket{_labels(labels)} {count}"
    yield f"{name}_count{_labels(sample.labels)} {buckets[inf]}"
    yield f"{name}_sum{_labels(sample.labels)} {_number(sample.value)}"


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_text(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _text(value: str) -> str:
    """Escape a label's value; what is no UTF-8, a host's name may have as surrogates."""
    return value.translate(_ESCAPES).encode(errors="replace").decode()


def _number(value: float) -> str:
    return "+Inf" if value == inf else repr(float(value))
