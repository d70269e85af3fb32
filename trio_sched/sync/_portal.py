"""Trio in a thread of its own, and calls into it from blocking code.

Theory of operation
-------------------
A `Portal` is a thread that runs Trio until it is closed. `Portal.call` runs a task there and blocks
until it has ended. An exception in the thread that waits, such as a KeyboardInterrupt, cancels the
task, and its end is waited for; so nothing goes on behind its back. A fork copies the memory but
not the thread: in the child, each call is an error at once.

When the interpreter ends, what is open still is left, as far as that is possible in some seconds:
later the thread does not run any more, and who waits for it, such as a generator that is thrown
away then, would wait for ever.

`Block` does that for a block: a task in the thread enters it, and leaves it when ``with`` does.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import Final, Generic, TypeVar, TypeVarTuple

import trio

_LEFT: Final = "the client's block was left"
_FORKED: Final = "what trio_sched.sync has opened cannot be used after a fork: open it anew there"
_EXIT_TIMEOUT: Final = 10.0  # seconds for leaving what is open when the interpreter ends

__all__ = ["Block", "Portal", "Running", "waited"]

T = TypeVar("T")
P = TypeVar("P")
Ts = TypeVarTuple("Ts")


class Portal:
    """A thread that runs Trio. See the head of the module.

    Attributes:
        is_exiting: whether the interpreter ends, and the thread has, or cannot be waited for.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._blocks: list[tuple[trio.CancelScope, trio.Event]] = []
        self.is_exiting: bool = False
        self._begun: Future[None] = Future()
        self._stop = trio.Event()
        self._thread = threading.Thread(target=self._run, name="trio_sched.sync", daemon=True)
        self._thread.start()
        self._begun.result()
        atexit.register(self._exit)

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as exc:
            if not self._begun.done():
                self._begun.set_exception(exc)
            raise

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self._begun.set_result(None)
            await self._stop.wait()

    def close(self) -> None:
        """End the thread; nothing may be open any more."""
        atexit.unregister(self._exit)
        if not self.is_exiting:
            self.run_soon(self._stop.set)
            self._thread.join()

    def _exit(self) -> None:
        """Leave what is open: the interpreter ends."""
        if self.is_inherited:
            return
        self.start_soon(self._leave_all, lambda _: None)
        self._thread.join(_EXIT_TIMEOUT)
        self.is_exiting = True

    async def _leave_all(self) -> None:
        """Leave all blocks, the innermost first; then end."""
        while self._blocks:
            scope, left = self._blocks[-1]
            scope.cancel()
            await left.wait()
        self._nursery.cancel_scope.cancel()

    @contextmanager
    def open_block(self, scope: trio.CancelScope) -> Iterator[None]:
        """Be the body of a block of Trio's; `scope` leaves it."""
        block = (scope, trio.Event())
        self._blocks.append(block)
        try:
            yield
        finally:
            self._blocks.remove(block)
            block[1].set()

    @property
    def is_inherited(self) -> bool:
        """Whether it is another process's, from before a fork."""
        return os.getpid() != self._pid

    def run_soon(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Have the thread call ``fn(*args)`` in a moment.

        Raises:
            RuntimeError: this is another process, after a fork; or it is closed.
        """
        if self.is_inherited:
            raise RuntimeError(_FORKED)
        if self.is_exiting:
            raise RuntimeError(_LEFT)
        try:
            self._token.run_sync_soon(fn, *args)
        except trio.RunFinishedError:
            raise RuntimeError(_LEFT) from None

    def start_soon(
        self, fn: Callable[[], Awaitable[object]], refuse: Callable[[Exception], object]
    ) -> None:
        """Have the thread run a task; it must not fail. `refuse` is called if it is ending.

        The task has the context variables of who calls this.
        """
        context = copy_context()

        def start() -> None:
            try:
                context.run(self._nursery.start_soon, fn)
            except RuntimeError:  # the nursery is closed
                refuse(RuntimeError(_LEFT))

        self.run_soon(start)

    def ask(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return what ``fn(*args)`` returns in the thread; it does not wait there."""

        async def run() -> T:
            await trio.lowlevel.checkpoint()
            return fn(*args)

        return self.call(run)

    def call(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run ``fn(*args)`` in the thread, block until it has ended, and return its result.

        Raises:
            RuntimeError: this is another process, after a fork; or the thread itself.
        """
        return self.begin(fn, *args).wait()

    def begin(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Running[T]:
        """Begin to run ``fn(*args)`` in the thread. Raises as `call` does."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a call that blocks cannot be made in the thread that runs Trio")
        running: Running[T] = Running(self)
        self.start_soon(lambda: running.run(fn, *args), running.refuse)
        return running


class Running(Generic[T]):
    """A task in the thread, which another thread waits for."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._scope = trio.CancelScope()
        self._done: Future[T] = Future()

    async def run(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> None:
        """Be the task."""
        try:
            with self._scope:
                self._done.set_result(await fn(*args))
            if not self._done.done():
                self._done.set_exception(CancelledError())
        except trio.Cancelled:
            self._done.set_exception(CancelledError())
            raise
        except BaseException as exc:  # noqa: BLE001 # raised to who waits
            self._done.set_exception(exc)

    def refuse(self, error: Exception) -> None:
        """Note that it cannot begin."""
        self._done.set_exception(error)

    def cancel(self) -> None:
        """Cancel it, and block until it has ended."""
        self._portal.run_soon(self._scope.cancel)
        self._done.exception()  # waits

    def wait(self) -> T:
        """Block until it has ended; an exception here, as of a signal, cancels it before."""
        return waited(self._done, self.cancel)


def waited(done: Future[T], cancel: Callable[[], None]) -> T:
    """Block until a future is done; an exception here, as of a signal, calls `cancel` before."""
    try:
        return done.result()
    except BaseException:
        if not done.done():
            cancel()
        raise


class Block(AbstractContextManager[T], Generic[P, T]):
    """A block of Trio's, for blocking code.

    Args:
        portal: where it runs.
        open_: returns Trio's block.
        wrap: returns what the body gets, from what the block gives.
        owns: whether to close the portal at the end.
    """

    def __init__(
        self,
        portal: Callable[[], Portal],
        open_: Callable[[], AbstractAsyncContextManager[P]],
        wrap: Callable[[Portal, P], T],
        *,
        owns: bool = False,
    ) -> None:
        self._make = portal
        self._open = open_
        self._wrap = wrap
        self._owns = owns
        self._leave = trio.Event()
        self._scope = trio.CancelScope()

    def __enter__(self) -> T:
        """Enter the block. Raises what entering it raises."""
        self._portal = self._make()
        self._entered: Future[P] = Future()
        self._over: Future[BaseException | None] = Future()
        try:
            self._portal.start_soon(self._live, self._refuse)
            return self._wrap(self._portal, waited(self._entered, self._cancel))
        except BaseException:
            self._end()
            raise

    async def _live(self) -> None:
        """Enter the block, and leave it when that is asked for; in the thread."""
        failure: BaseException | None = None
        try:
            with self._portal.open_block(self._scope), self._scope:
                async with self._open() as product:
                    self._entered.set_result(product)
                    await self._leave.wait()
        except trio.Cancelled:
            failure = CancelledError()
            raise
        except BaseException as exc:  # noqa: BLE001 # raised to who is in the block
            failure = exc
        finally:
            if not self._entered.done():
                self._entered.set_exception(failure or CancelledError())
            self._over.set_result(failure)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Leave the block; that is bounded by the block itself.

        After a fork, what the body has raised goes on: the block is the parent's.

        Raises:
            TrioSchedError: what the block failed by, if the body did not raise.
        """
        if exc is not None and self._portal.is_inherited:
            return None
        failure = self._end()
        if failure is not None and exc is None:
            raise failure
        return None

    def _refuse(self, error: Exception) -> None:
        self._entered.set_exception(error)
        self._over.set_result(error)

    def _cancel(self) -> None:
        self._portal.run_soon(self._scope.cancel)
        self._over.exception()  # waits

    def _end(self) -> BaseException | None:
        """Leave Trio's block, and the thread, whatever interrupts that."""
        if self._portal.is_exiting:  # it was left, or cannot be
            return None
        self._portal.run_soon(self._leave.set)
        try:
            return waited(self._over, self._cancel)
        finally:
            if self._owns:
                self._portal.close()
