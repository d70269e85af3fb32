"""Spans of what is done, for those who asked for them; next to nothing for all others.

A tracer is set for a block, and holds for all tasks that are started in it. Nothing here knows
of OpenTelemetry: see ``trio_sched.metrics.otel``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Final, Protocol, TypeAlias

__all__ = ["Attributes", "Tracer", "set_tracer", "span", "span_of_call"]

Attributes: TypeAlias = Mapping[str, str | int]


class Tracer(Protocol):
    """Makes spans."""

    def __call__(self, name: str, attributes: Attributes) -> AbstractContextManager[object]:
        """Return a block that is a span: it begins and ends with it, and fails as it does."""


_NOTHING: Final = nullcontext()
_tracer: ContextVar[Tracer | None] = ContextVar("trio_sched_tracer", default=None)


def span_of_call(method: object) -> AbstractContextManager[object]:
    """Return a block that is the span of a call, if spans are wanted, named as the method is."""
    if _tracer.get() is None:
        return _NOTHING
    return span(getattr(method, "name", "call").lstrip("/"))


def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:
    """Return a block that is a span, if spans are wanted; its attributes' names get a prefix."""
    tracer = _tracer.get()
    if tracer is None:
        return _NOTHING
    return tracer(name, {f"trio_sched.{key}": value for key, value in attributes.items()})


@contextmanager
def set_tracer(tracer: Tracer) -> Iterator[None]:
    """Have spans made in this block, and in the tasks that are started in it."""
    token = _tracer.set(tracer)
    try:
        yield
    finally:
        _tracer.reset(token)
