"""What the standard library has, too, at the price of milliseconds and megabytes.

`signal` and `socket` make enums of their numbers, for which they load a dozen modules or two.
Beneath them are ``_signal`` and ``_socket``, which CPython and PyPy have.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs as much as all the rest
if TYPE_CHECKING:
    import signal as signals
    import socket as sockets
else:
    try:
        import _signal as signals
        import _socket as sockets
    except ImportError:  # another Python
        import signal as signals
        import socket as sockets

__all__ = ["quiet", "signals", "sockets"]


class quiet:  # noqa: N801 # as `contextlib.suppress` is named
    """Swallow errors of these kinds in a block: `contextlib.suppress`."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kinds)
