"""What the standard library has, too, at the price of milliseconds for each command that begins.

`signal` makes enums of its numbers, for which it loads a dozen modules. Beneath it is ``_signal``,
which CPython and PyPy have built in.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs as much as all the rest
if TYPE_CHECKING:
    import signal as signals
else:
    try:
        import _signal as signals
    except ImportError:  # another Python
        import signal as signals

__all__ = ["quiet", "signals"]


class quiet:  # noqa: N801 # as `contextlib.suppress` is named
    """Swallow errors of these kinds in a block: `contextlib.suppress`."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kinds)
