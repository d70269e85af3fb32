"""Arguments of wrong types and sizes, for the tables of who must refuse them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import Any, Final

__all__ = [
    "ASYNC",
    "CHOICE",
    "COUNT",
    "FLAG",
    "INT64",
    "KEY",
    "NAME",
    "OBJECT",
    "POSITIVE",
    "RANGE_END",
    "SECONDS",
    "SEQUENCE",
    "TEXT",
    "Call",
    "Values",
    "or_none",
]

Values = Sequence[object]


class Odd:
    """Nothing that anybody wants, and its repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def plain(*_: object) -> bool:
    return True


def generator() -> Any:
    yield True


async def async_generator() -> Any:  # noqa: ASYNC124,ASYNC900 # nobody is to run it
    yield True


HUGE: Final = 10**5000  # Python does not even print it
OBJECT: Final[Values] = (None, 5, 1.5, True, "x", b"x", [], {}, Odd(), Odd)
FLAG: Final[Values] = (None, 0, 1, 1.5, "x", "", b"", [], Odd())
_NO_INT: Final[Values] = (None, True, False, 1.5, nan, "x", "5", b"5", [], Odd())
INT64: Final[Values] = (*_NO_INT, 2**63, -(2**63) - 1, HUGE, -HUGE)
COUNT: Final[Values] = (*INT64, -1)
POSITIVE: Final[Values] = (*COUNT, 0)
SECONDS: Final[Values] = (None, True, "1", b"1", [], Odd(), 0, -1.0, nan, inf, -inf, HUGE)
TEXT: Final[Values] = (None, 5, 1.5, True, b"x", [], Odd(), "\ud800")
NAME: Final[Values] = (*TEXT, "")
RANGE_END: Final[Values] = (None, 5, 1.5, True, [], bytearray(b"x"), Odd(), "\ud800")
KEY: Final[Values] = (*RANGE_END, "", b"")
CHOICE: Final[Values] = (5, True, [], {}, b"x", Odd(), "nonesuch", "")
SEQUENCE: Final[Values] = (None, 5, "x", b"x", {}, Odd(), [5], [None], ["x", Odd()], iter(()))
ASYNC: Final[Values] = (5, "x", Odd(), plain, generator, async_generator, print, dict, "x".upper)


def or_none(values: Values) -> Values:
    """Return those that are bad where None is allowed."""
    return [value for value in values if value is not None]


@dataclass(frozen=True)
class Call:
    """A call whose arguments are to be refused.

    Attributes:
        target: what is called.
        bad: for each parameter, values that must be refused; none where anything goes.
        good: arguments that are needed besides.
        options: what stands for ``**options``: a class whose annotations are the parameters.
    """

    target: Callable[..., Any]
    bad: Mapping[str, Values] = field(default_factory=dict)
    good: Mapping[str, Any] = field(default_factory=dict)
    options: type | None = None

    def missing(self) -> set[str]:
        """Return the parameters that are not in the table, and those in it that do not exist."""
        parameters = dict(inspect.signature(self.target).parameters)
        names = {name for name in parameters if name != "self"}
        if self.options is not None:
            names |= inspect.get_annotations(self.options).keys()
            names -= {name for name, each in parameters.items() if each.kind is each.VAR_KEYWORD}
        return names ^ self.bad.keys()

    async def wrong(self, *first: object) -> list[str]:
        """Make the call with each bad value; return what is wrong with how that ended.

        Args:
            first: arguments that go before the others, such as ``self``.
        """
        return [
            f"{self.target.__qualname__}({parameter}={_shown(value)}): {wrong}"
            for parameter, values in self.bad.items()
            for value in values
            if (wrong := await self._wrong(first, parameter, value)) is not None
        ]

    async def _wrong(self, first: tuple[object, ...], name: str, value: object) -> str | None:
        parameter = inspect.signature(self.target).parameters.get(name)
        arguments = {each: good for each, good in self.good.items() if each != name}
        if parameter is not None and parameter.kind is parameter.VAR_POSITIONAL:
            first = (*first, value)
        else:
            arguments[name] = value
        try:
            await _carry_out(self.target(*first, **arguments))
        except (TypeError, ValueError) as exc:
            poor = not 10 <= len(str(exc)) <= 1000
            return f"poor words: {str(exc)[:1000]!r}" if poor else None
        except Exception as exc:  # noqa: BLE001 # whatever it is, it is wrong
            return f"raised {exc!r}"
        return "was taken"


async def _carry_out(made: Any) -> None:
    """Await what was made, or enter and leave it, as it may be."""
    if inspect.isawaitable(made):
        await made
    elif hasattr(made, "__aenter__"):
        async with made:
            pass
    elif hasattr(made, "__enter__"):
        with made:
            pass


def _shown(value: object) -> str:
    try:
        return repr(value)[:60]
    except Exception:  # noqa: BLE001 # that is what is odd about it
        return type(value).__name__
