"""Checks of arguments: a wrong one is told by the call that it is given to. Pure.

Each check returns what it was given, and raises TypeError for a value of a wrong type, or
ValueError for one that is out of bounds, in words that say what is allowed. They come before
anything is sent or changed, so a bad argument harms nobody else.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Collection, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, TypeVar

from trio_sched._support.text import clip

__all__ = [
    "MAX_INT64",
    "MIN_INT64",
    "blocking_value",
    "check_async",
    "check_blocking",
    "check_bool",
    "check_bools",
    "check_callable",
    "check_choice",
    "check_instance",
    "check_int",
    "check_number",
    "check_seconds",
    "check_text",
    "check_tuple",
    "shown",
]

T = TypeVar("T")

MIN_INT64: Final = -(2**63)
MAX_INT64: Final = 2**63 - 1

_MAX_FLOAT: Final = sys.float_info.max
_MAX_SHOWN: Final = 80  # characters


def shown(value: object) -> str:
    """Return a value for a message, in a few words whatever it is."""
    if isinstance(value, (bytes, str)):
        value = value[:_MAX_SHOWN]  # the rest of one of megabytes need not be escaped
    try:
        return clip(repr(value), _MAX_SHOWN)
    except Exception:  # noqa: BLE001 # such as a number of more digits than Python agrees to print
        return f"a value of type {type(value).__name__}"


def check_int(name: str, value: int, least: int = MIN_INT64, most: int = MAX_INT64) -> int:
    """Return a whole number between two bounds; by default, one that etcd can hold."""
    if type(value) is int and least <= value <= most:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, a whole number, not {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {shown(value)}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, not {shown(value)}")
    return value


def check_bool(name: str, value: bool) -> bool:  # noqa: FBT001 # it is about one
    """Return True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, True or False, not {shown(value)}")
    return value


def check_bools(**values: bool) -> None:
    """Check several of them, by their names."""
    for name, value in values.items():
        check_bool(name, value)


def check_number(name: str, value: float) -> float:
    """Return a number, infinite ones too; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {shown(value)}")
    if value != value:  # noqa: PLR0124 # NaN
        raise ValueError(f"{name} must be a number of seconds, not NaN")
    return value


def check_seconds(
    name: str, value: float, *, zero: bool = False, most: float = _MAX_FLOAT
) -> float:
    """Return a number of seconds that is finite, and more than 0; or `zero`, and 0 or more."""
    check_number(name, value)
    if 0 < value <= most or (zero and value == 0):
        return value
    bound = "0 or more" if zero else "more than 0"
    limit = "finite" if most == _MAX_FLOAT else f"at most {most:g}"
    raise ValueError(f"{name} must be {bound} seconds, and {limit}, not {shown(value)}")


def check_text(name: str, value: str, *, least: int = 0, most: int | None = None) -> str:
    """Return a text that can be encoded as UTF-8. The text is in no message.

    Args:
        name: what it is.
        value: the text.
        least: how many characters at least.
        most: how many bytes at most, as UTF-8; None for any number.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if len(value) < least:
        raise ValueError(f"{name} must not be empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} cannot be encoded as UTF-8: it has half of a surrogate pair"
        ) from None
    if most is not None and size > most:
        raise ValueError(f"{name} must be at most {most} bytes as UTF-8, not {size}")
    return value


def check_choice(name: str, value: T, choices: Collection[object]) -> T:
    """Return one of several texts."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {list(choices)}, not {shown(value)}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, not {shown(value)}")
    return value


def check_instance(name: str, value: T, kinds: type | tuple[type, ...], words: str) -> T:
    """Return an object of a class. `words` say what is allowed."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {words}, not {shown(value)}")
    return value


def check_tuple(name: str, values: Sequence[T], kinds: type | tuple[type, ...], words: str) -> None:
    """Check that this is a sequence, and not a text, of objects of some classes."""
    is_usual = type(values) is list or type(values) is tuple  # which is quickly seen
    if not is_usual and (isinstance(values, (str, bytes)) or not isinstance(values, Sequence)):
        raise TypeError(f"{name} must be a list or tuple of {words}, not {shown(values)}")
    for value in values:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} must hold {words} only, not {shown(value)}")


def check_async(name: str, fn: object) -> None:
    """Check that this can be called, and is no function that is known not to be async.

    A plain function is refused. A lambda, a decorated function, or an object that can be called
    may return what can be awaited: that shows when it is called.
    """
    if not callable(fn) or _is_plain(fn):
        raise TypeError(f"{name} must be an async function, not {shown(fn)}")


def check_callable(name: str, fn: object) -> None:
    """Check that this can be called."""
    if not callable(fn):
        raise TypeError(f"{name} must be a function, not {shown(fn)}")


def check_blocking(name: str, fn: object) -> None:
    """Check that this can be called, and is no function that is known to be async.

    Of what else can be called, such as a lambda, that shows when it is: see `blocking_value`.
    """
    check_callable(name, fn)
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
        raise TypeError(f"{name} must not be async, as {shown(fn)} is")


def blocking_value(name: str, value: T) -> T:
    """Return what a function has returned, unless that has to be awaited.

    Raises:
        TypeError: it has to be, so the function has not done anything yet.
    """
    if not inspect.isawaitable(value):
        return value
    if inspect.iscoroutine(value):
        value.close()  # it is known now that it is not awaited
    raise TypeError(f"{name} must not be async, but it has returned {shown(value)}")


def _is_plain(fn: Any) -> bool:
    """Return whether calling this is known to give nothing that can be awaited."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        return not hasattr(fn, "__await__")
    if not isinstance(fn, (FunctionType, MethodType, BuiltinFunctionType)):
        return False
    may_wrap = hasattr(fn, "__wrapped__") or fn.__name__ == "<lambda>"
    return not may_wrap and not inspect.iscoroutinefunction(fn)
