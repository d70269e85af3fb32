"""Task patterns: which exception leaves, which task outlives which, and which is woken."""

from __future__ import annotations

import signal

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_sched._support.tasks import (
    ServiceNursery,
    Wakeup,
    open_plain_nursery,
    open_service_nursery,
    run_shielded,
)


async def fail(error: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def fail_after(event: trio.Event, error: BaseException) -> None:
    await event.wait()
    raise error


async def fail_when_cancelled(error: BaseException) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


# ---- a service nursery: lives ------------------------------------------------------------


def test_f27_ctrl_c_as_a_block_is_being_left_waits_until_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its nursery stays open, which Trio cannot bear."""
    cancel = ServiceNursery.cancel

    def interrupted(services: ServiceNursery) -> None:
        if not services.closing:
            signal.raise_signal(signal.SIGINT)
        cancel(services)

    async def main() -> None:
        async with open_service_nursery() as services:
            services.start_soon(trio.sleep_forever)

    monkeypatch.setattr(ServiceNursery, "cancel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


async def test_services_end_with_the_block() -> None:
    ended: list[str] = []

    async def serve(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    async with open_service_nursery() as services:
        services.start_soon(serve, "a")
        services.start_soon(serve, "b")
        await wait_all_tasks_blocked()
        assert not services.closing
    assert sorted(ended) == ["a", "b"]
    assert services.closing


async def test_services_outlive_a_body_that_is_cancelled() -> None:
    served: list[str] = []
    send, receive = trio.open_memory_channel[str](0)

    async def serve() -> None:
        while True:
            served.append(await receive.receive())

    with trio.CancelScope() as scope:
        async with open_service_nursery() as services:
            services.start_soon(serve)
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await send.send("clean-up")
                    await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert served == ["clean-up"]


async def test_one_service_is_ended_by_its_scope() -> None:
    async with open_service_nursery() as services:
        ended = services.start_soon(trio.sleep_forever)
        other = services.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()
        ended.cancel()
        await wait_all_tasks_blocked()
        assert ended.cancelled_caught
        assert not other.cancel_called
        assert services._scopes == {other}


async def test_service_that_ends_by_itself_ends_nothing_else() -> None:
    async with open_service_nursery() as services:
        services.start_soon(trio.lowlevel.checkpoint)
        await wait_all_tasks_blocked()
        await trio.lowlevel.checkpoint()
        assert services._scopes == set()


async def test_service_that_is_started_while_the_block_is_left_does_not_run_on() -> None:
    reached: list[str] = []

    async def late() -> None:
        reached.append("began")
        await trio.sleep_forever()
        reached.append("never")

    async def serve() -> None:
        try:
            await trio.sleep_forever()
        finally:
            services.start_soon(late)

    async with open_service_nursery() as services:
        services.start_soon(serve)
        await wait_all_tasks_blocked()
    assert reached == ["began"]


# ---- a service nursery: which exception leaves ------------------------------------------------


@pytest.mark.parametrize("cause", [None, KeyError("cause")])
async def test_exception_of_the_body_leaves_as_it_was_raised(cause: Exception | None) -> None:
    error = ValueError("body")
    with pytest.raises(ValueError) as caught:
        async with open_service_nursery() as services:
            services.start_soon(trio.sleep_forever)
            raise error from cause
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None


async def test_context_of_the_body_is_kept() -> None:
    first, second = KeyError("first"), ValueError("second")
    with pytest.raises(ValueError) as caught:
        async with open_service_nursery():
            try:
                raise first
            except KeyError:
                raise second  # noqa: B904 # its context is what is looked at
    assert caught.value is second
    assert second.__context__ is first


async def test_group_of_the_body_leaves_as_it_was_raised() -> None:
    group = ExceptionGroup("body", [ValueError("one"), KeyError("two")])
    with pytest.raises(ExceptionGroup) as caught:  # noqa: ASYNC401 # it is the very one
        async with open_service_nursery():
            raise group
    assert caught.value is group


async def test_service_that_crashes_cancels_the_body() -> None:
    error = ValueError("service")
    reached: list[str] = []
    with pytest.raises(ValueError) as caught:
        async with open_service_nursery() as services:
            services.start_soon(trio.sleep_forever)
            services.start_soon(fail, error)
            try:
                await trio.sleep_forever()
            finally:
                reached.append("cancelled")
    assert caught.value is error
    assert reached == ["cancelled"]


async def test_body_tells_more_than_a_service_that_crashes_because_of_it() -> None:
    error = ValueError("body")
    with pytest.raises(ValueError) as caught:
        async with open_service_nursery() as services:
            services.start_soon(fail_when_cancelled, KeyError("service"))
            await wait_all_tasks_blocked()
            raise error
    assert caught.value is error


# Run by `trio.run` itself: pytest-trio takes a group of `Cancelled` for its own, and passes.


@pytest.mark.parametrize("children", [0, 1, 2])
def test_f35_service_that_crashes_while_the_body_is_a_nursery(children: int) -> None:
    async def main() -> None:
        async with open_service_nursery() as services, trio.open_nursery() as nursery:
            for _ in range(children):
                nursery.start_soon(trio.sleep_forever)
            services.start_soon(fail, ValueError("of the service"))
            await trio.sleep_forever()

    with pytest.raises(ValueError, match="of the service"):
        trio.run(main)


def test_f35_service_that_crashes_while_the_body_gathers_its_cancellations() -> None:
    async def main() -> None:
        async with open_service_nursery() as services:
            services.start_soon(fail, ValueError("of the service"))
            try:
                await trio.sleep_forever()
            except trio.Cancelled as exc:
                inner = BaseExceptionGroup("inner", [exc])
                raise BaseExceptionGroup("outer", [exc, inner]) from None

    with pytest.raises(ValueError, match="of the service"):
        trio.run(main)


async def test_f35_body_that_fails_in_a_group_as_it_is_cancelled_tells_more() -> None:
    # Beside it a Cancelled may be in the group, which depends on the trio.
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: ASYNC401
        async with open_service_nursery() as services, trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled, ValueError("of the body"))
            services.start_soon(fail, ValueError("of the service"))
            await trio.sleep_forever()
    assert raised.group_contains(ValueError, match="of the body")


async def test_f35_group_of_cancelled_is_swallowed_by_the_scope_that_cancelled_it() -> None:
    with trio.CancelScope() as scope:
        async with open_service_nursery() as services, trio.open_nursery() as nursery:
            services.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught


async def test_service_that_crashes_after_the_body_was_done() -> None:
    error = KeyError("service")
    with pytest.raises(KeyError) as caught:
        async with open_service_nursery() as services:
            services.start_soon(fail_when_cancelled, error)
            await wait_all_tasks_blocked()
    assert caught.value is error


async def test_service_that_crashes_tells_more_than_an_outer_cancellation() -> None:
    error = KeyError("service")
    with trio.CancelScope() as scope, pytest.raises(KeyError) as caught:
        async with open_service_nursery() as services:
            services.start_soon(fail_when_cancelled, error)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert caught.value is error


async def test_outer_cancellation_is_nothing_but_that() -> None:
    with trio.CancelScope() as scope:
        async with open_service_nursery() as services:
            services.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.parametrize("body", [None, ValueError("body")])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_keyboard_interrupt_goes_first(
    kind: type[BaseException], body: Exception | None
) -> None:
    interrupt = kind()
    with pytest.raises(kind) as caught:
        async with open_service_nursery() as services:
            services.start_soon(fail_when_cancelled, KeyError("service"))
            services.start_soon(fail_when_cancelled, interrupt)
            await wait_all_tasks_blocked()
            if body is not None:
                raise body
    assert caught.value is interrupt


async def test_keyboard_interrupt_in_the_body() -> None:
    interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        async with open_service_nursery() as services:
            services.start_soon(fail_when_cancelled, KeyError("service"))
            await wait_all_tasks_blocked()
            raise interrupt
    assert caught.value is interrupt


# ---- a plain nursery ------------------------------------------------------------------------


async def test_plain_nursery_raises_no_groups() -> None:
    error = ValueError("task")
    with pytest.raises(ValueError) as caught:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(fail, error)
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert caught.value is error


async def test_plain_nursery_lets_the_body_through() -> None:
    error = ValueError("body")
    with pytest.raises(ValueError) as caught:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error
    assert caught.value is error


async def test_plain_nursery_picks_out_of_nested_groups() -> None:
    interrupt = KeyboardInterrupt()
    group = BaseExceptionGroup("", [ValueError(), BaseExceptionGroup("", [interrupt])])
    with pytest.raises(KeyboardInterrupt) as caught:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(fail, group)
    assert caught.value is interrupt


async def test_plain_nursery_that_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


# ---- run_shielded -------------------------------------------------------------------------------


async def test_finish_returns_what_the_function_does() -> None:
    async def add(a: int, b: int) -> int:
        await trio.lowlevel.checkpoint()
        return a + b

    assert await run_shielded(1, add, 2, 3) == 5


async def test_finish_raises_what_the_function_does() -> None:
    error = ValueError("inside")
    with pytest.raises(ValueError) as caught:
        await run_shielded(1, fail, error)
    assert caught.value is error


async def test_finish_completes_though_cancelled() -> None:
    may_end, ended = trio.Event(), trio.Event()

    async def work() -> None:
        await may_end.wait()
        await trio.lowlevel.checkpoint()
        ended.set()

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def caller() -> None:
            with scope:
                await run_shielded(60, work)

        nursery.start_soon(caller)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert not ended.is_set()
        may_end.set()
    assert ended.is_set()
    assert scope.cancelled_caught  # the cancellation takes effect afterwards


async def test_finish_raises_the_error_rather_than_the_cancellation() -> None:
    may_fail, error = trio.Event(), ValueError("inside")
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def caller() -> None:
            with scope, pytest.raises(ValueError) as caught:
                await run_shielded(60, fail_after, may_fail, error)
            assert caught.value is error

        nursery.start_soon(caller)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        may_fail.set()


async def test_finish_is_bounded_by_its_grace(autojump_clock: MockClock) -> None:
    assert trio.lowlevel.current_clock() is autojump_clock
    with trio.move_on_after(10) as scope:
        await run_shielded(5, trio.sleep_forever)
    assert scope.cancelled_caught
    assert trio.current_time() == 15


async def test_finish_has_all_the_time_as_long_as_nobody_cancels(
    autojump_clock: MockClock,
) -> None:
    assert trio.lowlevel.current_clock() is autojump_clock
    await run_shielded(5, trio.sleep, 1000)
    assert trio.current_time() == 1000


async def test_finish_does_not_begin_when_cancelled_already() -> None:
    begun: list[bool] = []

    async def work() -> None:
        begun.append(True)
        await trio.lowlevel.checkpoint()

    with trio.CancelScope() as scope:
        scope.cancel()
        await run_shielded(5, work)
    assert scope.cancelled_caught
    assert begun == []


async def test_finish_is_a_checkpoint() -> None:
    async def work() -> None:
        pass

    with assert_checkpoints():
        await run_shielded(5, work)


# ---- wakeup -------------------------------------------------------------------------------------


async def test_doorbell_wakes_the_one_who_waits() -> None:
    wakeup = Wakeup()
    woken: list[bool] = []

    async def wait() -> None:
        with assert_checkpoints():
            await wakeup.wait()
        woken.append(True)

    async with trio.open_nursery() as nursery:
        assert not wakeup.notify()  # no task is there, and nothing is remembered
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert woken == []
        assert wakeup.notify()
        assert not wakeup.notify()
    assert woken == [True]


async def test_doorbell_takes_one_waiter_only() -> None:
    wakeup = Wakeup()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeup.wait)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await wakeup.wait()
        wakeup.notify()  # the first is not disturbed


async def test_doorbell_forgets_a_waiter_that_is_cancelled() -> None:
    wakeup = Wakeup()
    with trio.CancelScope() as scope:
        scope.cancel()
        await wakeup.wait()
    assert scope.cancelled_caught
    assert not wakeup.notify()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeup.wait)
        await wait_all_tasks_blocked()
        assert wakeup.notify()
