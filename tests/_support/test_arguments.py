"""What the checks of arguments take, and the words in which they refuse the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import inf, nan
from unittest.mock import AsyncMock

import pytest
import trio

from trio_sched._support.arguments import (
    MAX_INT64,
    MIN_INT64,
    check_async,
    check_bool,
    check_choice,
    check_instance,
    check_int,
    check_number,
    check_seconds,
    check_text,
    check_tuple,
    shown,
)


class Mine(int):
    """A whole number of a class of its own."""


class Job:
    """Has functions of all kinds."""

    async def work(self) -> bool:
        return True

    def plain(self) -> bool:
        return True

    async def __call__(self) -> bool:
        return True


async def work(*_: object) -> bool:
    await trio.lowlevel.checkpoint()
    return True


def plain(*_: object) -> bool:
    return True


@functools.wraps(plain)
async def in_a_thread(*args: object) -> bool:
    return await trio.to_thread.run_sync(plain, *args)


@functools.wraps(work)
def decorated(*args: object) -> object:
    return work(*args)


def test_f72_what_is_allowed_is_returned_as_it_is() -> None:
    for number in (0, -1, MIN_INT64, MAX_INT64, Mine(5)):
        assert check_int("n", number) is number
    assert check_int("n", 1, 1, 1) == 1
    assert check_number("n", -inf) == -inf
    for seconds in (1, 0.5, 1e-9, 1e300):
        assert check_seconds("s", seconds) == seconds
    assert check_seconds("s", 0, zero=True) == 0
    assert check_text("t", "") == ""
    assert check_text("t", "ü", least=1, most=2) == "ü"
    check_tuple("l", [1, "x"], (int, str), "numbers")
    check_tuple("l", (), int, "numbers")


@pytest.mark.parametrize(
    ("check", "error", "words"),
    [
        (
            lambda: check_int("n", value=True),
            TypeError,
            "n must be an int, a whole number, not True",
        ),
        (lambda: check_int("n", 0, 1), ValueError, "n must be 1 or more, not 0"),
        (lambda: check_int("n", 9, 1, 5), ValueError, "n must be at most 5, not 9"),
        (lambda: check_int("n", Mine(9), 1, 5), ValueError, "n must be at most 5, not 9"),
        (lambda: check_int("n", 10**5000), ValueError, "not a value of type int"),
        (lambda: check_bool("b", 1), TypeError, "b must be a bool, True or False, not 1"),  # type: ignore[arg-type] # wrong on purpose
        (lambda: check_number("n", nan), ValueError, "not NaN"),
        (lambda: check_seconds("s", 0), ValueError, "more than 0 seconds, and finite, not 0"),
        (lambda: check_seconds("s", inf), ValueError, "more than 0 seconds, and finite, not inf"),
        (lambda: check_seconds("s", 10**400), ValueError, "finite"),
        (lambda: check_seconds("s", 6, zero=True, most=5), ValueError, "0 or more .* at most 5"),
        (lambda: check_text("t", "\ud800"), ValueError, "t cannot be encoded as UTF-8"),
        (lambda: check_text("t", "", least=1), ValueError, "t must not be empty"),
        (lambda: check_text("t", "ü", most=1), ValueError, "at most 1 bytes as UTF-8, not 2"),
        (lambda: check_choice("c", "z", ["x", "y"]), ValueError, "one of .'x', 'y'., not 'z'"),
        (lambda: check_choice("c", [], ["x"]), TypeError, "c must be one of"),
        (lambda: check_instance("i", 5, str, "a text"), TypeError, "i must be a text, not 5"),
        (lambda: check_tuple("l", "x", str, "texts"), TypeError, "a list or tuple of texts"),
        (lambda: check_tuple("l", [5], str, "texts"), TypeError, "hold texts only, not 5"),
    ],
)
def test_f72_the_words_say_what_is_allowed(
    check: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check()


@pytest.mark.parametrize(
    "fn",
    [
        work,
        Job().work,
        Job(),
        functools.partial(work, 1),
        in_a_thread,
        decorated,
        lambda: work(),  # noqa: PLW0108 # that it is a lambda is the point
        AsyncMock(),
        trio.Event().wait,
    ],
)
def test_f72_whatever_may_be_async_is_taken(fn: object) -> None:
    check_async("fn", fn)


@pytest.mark.parametrize(
    "fn", [plain, Job().plain, Job, functools.partial(plain, 1), print, "x".upper, 5, None]
)
def test_f72_a_plain_function_is_refused_where_an_async_one_is_due(fn: object) -> None:
    with pytest.raises(TypeError, match="fn must be an async function, not"):
        check_async("fn", fn)


def test_f72_what_is_large_or_odd_is_shown_in_a_few_words() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    assert len(shown("\ud800" * 10**6)) <= 80
    assert len(shown(b"x" * 10**6)) <= 80
    assert len(shown([0] * 10**6)) <= 80
    assert shown(Odd()) == "a value of type Odd"
