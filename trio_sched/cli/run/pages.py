"""What ``trio-sched run`` shows over HTTP: ``--http`` and ``--metrics``.

What serves it is imported only where it is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import TYPE_CHECKING, TypeAlias

from trio_sched.cli.reporter import Reporter
from trio_sched.host.result import Result

if TYPE_CHECKING:
    from trio_sched.serving.address import Address

__all__ = ["About", "open_pages"]

About: TypeAlias = Callable[[Result], AbstractContextManager[None]]


def _nothing(_result: Result) -> AbstractContextManager[None]:
    return nullcontext()


@asynccontextmanager
async def open_pages(
    http: Address | None, metrics: Address | None, reporter: Reporter
) -> AsyncIterator[About]:
    """Serve what is asked for, and report where.

    It gives what shows a host, as long as the block that this returns lasts.

    Raises:
        CannotListen: the system does not let us listen there.
    """
    where = http or metrics
    if where is None:
        yield _nothing
        return
    from trio_sched.metrics.source import Metrics  # noqa: PLC0415 # see the head
    from trio_sched.serving.server import open_server  # noqa: PLC0415
    from trio_sched.serving.status import MetricsPage, StatusPages  # noqa: PLC0415

    numbers = Metrics()
    pages = StatusPages(numbers, where)

    @contextmanager
    def about(result: Result) -> Iterator[None]:
        pages.result = result
        try:
            with numbers.watching(result):
                yield
        finally:
            pages.result = None

    async with AsyncExitStack() as stack:
        if http is not None:
            pages.where = found = await stack.enter_async_context(open_server(http, pages))
            reporter.event("serving", what="http", address=str(found))
        if metrics is not None:
            page = MetricsPage(numbers, metrics)
            page.where = found = await stack.enter_async_context(open_server(metrics, page))
            reporter.event("serving", what="metrics", address=str(found))
        yield about
