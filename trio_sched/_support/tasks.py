"""Task patterns that the rest is built on.

*Service tasks* outlive the body that uses them. A connection's reader and
writer, or a lease's renewals, are needed by the clean-up that a cancellation
starts; were they cancelled with the body, the revoke in its ``finally`` would
find no connection. So each runs in a shielded scope of its own, and is
cancelled when the block is left, after the body has ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar, TypeVarTuple

import trio

__all__ = [
    "ServiceBlock",
    "ServiceNursery",
    "Wakeup",
    "check_in_trio",
    "open_plain_nursery",
    "open_service_nursery",
    "run_shielded",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def check_in_trio() -> None:
    """Raise RuntimeError if this is not called by a task of Trio's."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        words = (
            "this needs Trio: run it by trio.run(), or use trio_sched.aio in programs of asyncio"
        )
        raise RuntimeError(words) from None


class Wakeup:
    """One task waits, another notifies it. Nothing is remembered.

    So the task that waits checks first whether there is anything to do, and the
    one that notifies has made something to do before. Cheaper than an event that
    would have to be made anew for each wait.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait for the next `notify`. A checkpoint, even if that comes at once.

        Raises:
            trio.BusyResourceError: another task is waiting already.
        """
        if self._task is not None:
            raise trio.BusyResourceError("another task is waiting already")
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def notify(self) -> bool:
        """Wake the task that waits; return whether one did."""
        task = self._task
        if task is None:
            return False
        self._task = None
        trio.lowlevel.reschedule(task)
        return True


class ServiceNursery:
    """Starts tasks that no outer cancellation reaches. See the module's head.

    Entered once, with ``async with``. One exception leaves the block, never a
    group: the body's own as it was raised, unless it is only the echo of a task's
    failure (``Cancelled``, or a group of nothing else, as a nursery in the body
    raises one); then the first failure of a task.
    ``KeyboardInterrupt`` and the like go first.
    """

    __slots__ = ("_closing", "_manager", "_nursery", "_scopes")

    _nursery: trio.Nursery

    def __init__(self) -> None:
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._scopes: set[trio.CancelScope] = set()
        self._closing = False

    @trio.lowlevel.enable_ki_protection  # as of `__aexit__`
    async def __aenter__(self) -> Self:
        if self._manager is not None:
            raise RuntimeError("this block was entered already")
        check_in_trio()
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    @trio.lowlevel.enable_ki_protection  # Trio's nurseries have it, and this may not leave one open
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._manager is not None
        self.cancel()
        try:
            return await self._manager.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 # a nursery's
        except BaseException as raised:  # noqa: BLE001 # chosen from and raised below
            failure = _choose(raised, exc)
        if failure is exc and self._nursery.cancel_scope.cancel_called:
            failure = _without_cancelled(failure)
        if failure is exc:
            return False
        context = failure.__context__
        try:
            raise failure
        finally:
            failure.__context__ = context  # `exc` is being handled, but is not its context

    @property
    def closing(self) -> bool:
        """True from the moment at which the block is being left."""
        return self._closing

    def start_soon(
        self, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts, name: str | None = None
    ) -> trio.CancelScope:
        """Run ``fn(*args)`` as a service task; return the scope that ends it.

        An exception of the task cancels the body, and leaves the block.
        """
        scope = trio.CancelScope(shield=True)
        if self._closing:
            scope.cancel()
        self._scopes.add(scope)
        self._nursery.start_soon(self._serve, scope, fn, args, name=name or fn)
        return scope

    async def _serve(
        self, scope: trio.CancelScope, fn: Callable[[*Ts], Awaitable[object]], args: tuple[*Ts]
    ) -> None:
        try:
            with scope:
                await fn(*args)
        finally:
            self._scopes.discard(scope)

    def cancel(self) -> None:
        """End all tasks, and those still to come."""
        self._closing = True
        for scope in self._scopes:
            scope.cancel()


class ServiceBlock(Generic[T]):
    """A block that gives its body something that works by service tasks.

    A class, as a generator in between would cost each block as much as a task.

    Args:
        services: where the tasks are started; not entered yet.
        product: what the body gets.
        first: a task that runs from the beginning; None for none.
    """

    __slots__ = ("_first", "_product", "_services")

    def __init__(
        self,
        services: ServiceNursery,
        product: T,
        first: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._services = services
        self._product = product
        self._first = first

    async def __aenter__(self) -> T:
        await self._services.__aenter__()
        if self._first is not None:
            self._services.start_soon(self._first)
        return self._product

    def cancel(self) -> None:
        """End its tasks now, while the body still runs: what it gave is as closed from then on."""
        self._services.cancel()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._services.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 # a nursery's


def open_service_nursery() -> ServiceNursery:
    """Open a nursery whose tasks end after the body, whatever ends the body."""
    return ServiceNursery()


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery out of which one exception comes, never a group."""
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseException as exc:  # noqa: BLE001 # chosen from and raised below
        failure = _choose(exc, None)
    if failure is not None:
        raise failure


def _choose(raised: BaseException, body: BaseException | None) -> BaseException:
    """Pick the one exception that says what happened."""
    leaves = _leaves(raised)
    for exc in leaves:
        if not isinstance(exc, (Exception, trio.Cancelled, GeneratorExit)):
            return exc
    of_tasks = _not_in(leaves, body)
    if body is not None and not _is_echo(body, of_tasks):
        return body
    for exc in (*of_tasks, *leaves):
        if not isinstance(exc, trio.Cancelled):
            return exc
    return body if body is not None else leaves[0]


def _is_echo(body: BaseException, failures: Collection[BaseException]) -> bool:
    """Return whether a body ended only because it was cancelled, or by copies of a failure.

    What waits in a nursery of the body is given copies of what has failed.
    """
    is_group = isinstance(body, BaseExceptionGroup)
    return all(
        isinstance(exc, trio.Cancelled) or (is_group and any(_is_copy(exc, of) for of in failures))
        for exc in _leaves(body)
    )


def _is_copy(exc: BaseException, of: BaseException) -> bool:
    """Return whether an exception says exactly what another one says."""
    return (
        type(exc) is type(of) and exc.args == of.args and exc.__cause__ is of.__cause__
    ) and _attributes(exc) == _attributes(of)


def _attributes(exc: BaseException) -> dict[str, object]:
    return {name: value for name, value in vars(exc).items() if name != "__notes__"}


def _not_in(leaves: Iterable[BaseException], body: BaseException | None) -> list[BaseException]:
    """Return those that are not of the body."""
    of_body = set() if body is None else {id(exc) for exc in _leaves(body)}
    return [exc for exc in leaves if id(exc) not in of_body]


def _without_cancelled(exc: BaseException) -> BaseException:
    """Return a group without what it has only because the block was cancelled."""
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    _, rest = exc.split(trio.Cancelled)
    return exc if rest is None or len(_leaves(rest)) == len(_leaves(exc)) else rest


def _leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in _leaves(inner)]
    return [exc]


async def run_shielded(grace: float, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run ``fn(*args)`` to its end even if cancelled meanwhile, within bounds.

    For a request that must not be abandoned half-way, as it would not be known then
    whether it was carried out. A cancellation from outside takes effect as soon
    as `fn` has ended, or `grace` seconds later, when `fn` is cancelled.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    scope = trio.CancelScope(shield=True)
    waiting = trio.CancelScope()
    results: list[T] = []

    async def run() -> None:
        try:
            with scope:
                results.append(await fn(*args))
        finally:
            waiting.cancel()

    async with open_plain_nursery() as nursery:
        nursery.start_soon(run)
        try:
            with waiting:
                await trio.sleep_forever()
        finally:
            scope.deadline = min(scope.deadline, trio.current_time() + grace)
    return results[0]
