"""Trio as a guest of asyncio's loop, and calls from one to the other.

Theory of operation
-------------------
`Guest` runs Trio beside one loop, in its thread. It begins with the first block that needs it and
ends with the last. What asyncio code asks for runs as a task of Trio's: `Guest.call` hands it over
and waits. An asyncio task that is cancelled meanwhile cancels that task, and waits until it has
ended, as Trio's tasks do: so nothing goes on behind its back, and clean-up has its time.

`Block` does that for a block: a task of Trio's enters it, and leaves it when asyncio's code does.
If the block fails while asyncio's code is inside, that code is cancelled, and the failure leaves
the block, as it would in Trio; as `asyncio.timeout` does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from types import TracebackType
from typing import Any, Final, Generic, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

import trio

__all__ = ["Block", "Guest", "current_guest", "wait_out"]

T = TypeVar("T")
P = TypeVar("P")
Ts = TypeVarTuple("Ts")

_LEFT: Final = "the client's block was left"

_guests: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Guest]] = WeakKeyDictionary()


async def wait_out(future: asyncio.Future[T]) -> T:
    """Wait for a future that comes soon, even if cancelled meanwhile; that takes effect then."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as exc:
            if not future.done():
                cancelled = exc
        except BaseException:  # noqa: BLE001 # it is the future's, and raised below
            break
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # it has been seen
        raise cancelled
    return future.result()


class Guest:
    """Trio beside one loop. See the head of the module."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._stop = trio.Event()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._begun: asyncio.Future[None] = loop.create_future()
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self.stopping: bool = False
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=self._note_end,
            host_uses_signal_set_wakeup_fd=True,
            restrict_keyboard_interrupt_to_checkpoints=True,
        )

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self._begun.set_result(None)
            while not self._stop.is_set():
                try:
                    await self._stop.wait()
                except KeyboardInterrupt:  # where the loop has no handler of its own, Trio has one
                    self._loop.call_soon(_interrupt)

    def _note_end(self, outcome: object) -> None:
        self._ended.set_result(None)
        if _is_interrupt(getattr(outcome, "error", None)):
            self._loop.call_soon(_interrupt)

    async def enter(self) -> None:
        """Use it; `leave` ends that."""
        self._users += 1
        try:
            await wait_out(self._begun)
        except asyncio.CancelledError:
            await self.leave()  # noqa: ASYNC102 # asyncio's, which waits it out
            raise

    async def leave(self) -> None:
        """Use it no more. The last one to do so waits until it has ended."""
        self._users -= 1
        if not self._users:
            self.stopping = True
            self.run_soon(self._stop.set)
            try:
                await wait_out(self._ended)
            finally:
                if _guests.get(self._loop) is self:
                    del _guests[self._loop]

    async def wait_ended(self) -> None:
        """Wait until it has ended."""
        await asyncio.shield(self._ended)

    def check_usable(self) -> None:
        """Refuse what was opened in another loop, or before the last block was left.

        Raises:
            RuntimeError: it was.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "what trio_sched.aio has opened can be used in the loop that it was opened in only"
            )
        if self._ended.done():
            raise RuntimeError(_LEFT)

    def run_soon(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Have Trio call ``fn(*args)`` in a moment."""
        assert self._token is not None
        try:
            self._token.run_sync_soon(fn, *args)
        except trio.RunFinishedError:
            raise RuntimeError(_LEFT) from None

    def start_soon(
        self, fn: Callable[[], Awaitable[object]], refuse: Callable[[Exception], object]
    ) -> None:
        """Have Trio run a task in a moment; it must not fail. `refuse` is called if Trio ends.

        The task has the context variables of who calls this.
        """
        context = copy_context()

        def start() -> None:
            assert self._nursery is not None
            try:
                context.run(self._nursery.start_soon, fn)
            except RuntimeError:  # the nursery is closed
                refuse(RuntimeError(_LEFT))

        self.run_soon(start)

    async def call(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        keep: Callable[[T], object] = lambda _: None,
    ) -> T:
        """Run ``fn(*args)`` in Trio, and return what it returns.

        Cancelled, it is cancelled there, and its end is waited for. If it has come to a result
        all the same, `keep` is given that.

        Raises:
            RuntimeError: another loop runs here, or the last block was left.
        """
        self.check_usable()
        scope = trio.CancelScope()
        done: asyncio.Future[T] = self._loop.create_future()

        async def run() -> None:
            try:
                with scope:
                    done.set_result(await fn(*args))
                if not done.done():
                    done.cancel()
            except trio.Cancelled:
                done.cancel()  # all of it is being ended
                raise
            except BaseException as exc:  # noqa: BLE001 # raised to who waits
                done.set_exception(exc)

        self.start_soon(run, done.set_exception)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not done.done():
                self.run_soon(scope.cancel)
                await _settled(done)  # noqa: ASYNC102 # asyncio's, which waits it out
            if not done.cancelled() and done.exception() is None:
                keep(done.result())
            raise

    async def run_in_asyncio(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run asyncio's ``fn(*args)`` for a task of Trio's, which calls this; return its result.

        Cancelled, its task is cancelled, and its end is waited for.
        """
        ended = trio.Event()
        tasks: list[asyncio.Task[T]] = []

        async def run() -> T:
            return await fn(*args)

        def begin() -> None:
            task = self._loop.create_task(run())
            task.add_done_callback(lambda _: self.run_soon(ended.set))
            tasks.append(task)

        # By the loop, as a task may begin to run where it is made (`asyncio.eager_task_factory`).
        handle = self._loop.call_soon(begin)
        try:
            await ended.wait()
        except trio.Cancelled:
            handle.cancel()
            if not tasks:
                raise
            tasks[0].cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()
            if tasks[0].cancelled() or tasks[0].exception() is None:
                raise
        (task,) = tasks
        if task.cancelled():  # by itself, or by others of asyncio's
            raise asyncio.CancelledError
        return task.result()


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether it is a KeyboardInterrupt, or a group with one."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


def _interrupt() -> None:
    """Leave the loop's run, as Ctrl-C does without us."""
    raise KeyboardInterrupt


async def _settled(done: asyncio.Future[Any]) -> None:
    """Wait until a call is over, whatever comes, and whatever came of it."""
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            continue
    if not done.cancelled():
        done.exception()  # it has been seen


async def current_guest(needed: Guest | None = None) -> Guest:
    """Return the guest of the running loop, entered; it begins if there is none.

    Args:
        needed: that it has to be, as what is used was opened in it; None for any.

    Raises:
        RuntimeError: Trio runs in this thread already, by itself; or it is another guest's thread.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        words = "trio_sched.aio is for programs of asyncio; in those of Trio, use trio_sched itself"
        raise RuntimeError(words) from None
    if needed is not None:
        needed.check_usable()
    while (guest := _guests.get(loop)) is not None and guest.stopping:
        await guest.wait_ended()
        if _guests.get(loop) is guest:
            del _guests[loop]
    if guest is None:
        guest = _guests[loop] = Guest(loop)
    await guest.enter()
    return guest


class Block(AbstractAsyncContextManager[T], Generic[P, T]):
    """A block of Trio's, for asyncio's code.

    Args:
        open_: returns Trio's block.
        wrap: returns what the body gets, from what the block gives.
        within: the guest in which what is used was opened; None if nothing was.
    """

    def __init__(
        self,
        open_: Callable[[], AbstractAsyncContextManager[P]],
        wrap: Callable[[Guest, P], T],
        within: Guest | None = None,
    ) -> None:
        self._open = open_
        self._wrap = wrap
        self._within = within
        self._leave = trio.Event()
        self._scope = trio.CancelScope()
        self._inside: asyncio.Task[object] | None = None
        self._failing = False
        self._cancelling = 0  # how often the body's task was cancelled before

    async def __aenter__(self) -> T:
        """Enter the block. Raises what entering it raises."""
        self._guest = await current_guest(self._within)
        loop = asyncio.get_running_loop()
        self._entered: asyncio.Future[P] = loop.create_future()
        self._over: asyncio.Future[BaseException | None] = loop.create_future()
        self._guest.start_soon(self._live, self._refuse)
        try:
            product = await asyncio.shield(self._entered)
        except BaseException:
            self._guest.run_soon(self._scope.cancel)
            try:
                await wait_out(self._over)  # noqa: ASYNC102 # asyncio's, which waits it out
            finally:
                await self._guest.leave()  # noqa: ASYNC102 # asyncio's, which waits it out
            raise
        self._inside = inside = asyncio.current_task()
        self._cancelling = 0 if inside is None else inside.cancelling()
        return self._wrap(self._guest, product)

    def _refuse(self, error: Exception) -> None:
        self._entered.set_exception(error)
        self._over.set_result(error)

    async def _live(self) -> None:
        """Enter the block, and leave it when that is asked for; in Trio."""
        failure: BaseException | None = None
        try:
            with self._scope:
                async with self._open() as product:
                    self._entered.set_result(product)
                    await self._leave.wait()
        except trio.Cancelled:
            failure = asyncio.CancelledError()
            raise
        except BaseException as exc:  # noqa: BLE001 # raised to who is in the block
            failure = exc
        finally:
            if not self._entered.done():
                if failure is None:
                    self._entered.cancel()
                else:
                    self._entered.set_exception(failure)
            elif failure is not None and self._inside is not None and not self._leave.is_set():
                self._failing = self._inside.cancel()
            self._over.set_result(failure)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Leave the block, also if cancelled meanwhile; that is bounded by the block itself."""
        inside, self._inside = self._inside, None
        self._guest.run_soon(self._leave.set)
        try:
            failure = await wait_out(self._over)  # noqa: ASYNC102 # asyncio's, which waits it out
        finally:
            await self._guest.leave()  # noqa: ASYNC102 # asyncio's, which waits it out
        is_ours = False
        if self._failing and inside is not None:
            only_we = inside.uncancel() <= self._cancelling  # or others have cancelled it, too
            is_ours = only_we and isinstance(exc, asyncio.CancelledError)
        if failure is not None and (exc is None or is_ours):
            raise failure
        return None
