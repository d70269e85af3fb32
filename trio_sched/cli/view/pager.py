"""A pager for what is longer than a terminal, as git and man have it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from trio_sched.cli.output import drawn, is_live, terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["show_pages"]

_BY_DEFAULT: Final = "less -RFX"  # colours; it ends where all fits, and leaves the text there
_FOR_LESS: Final = "RFX"  # the same for a `less` in $PAGER, unless $LESS says otherwise


def show_pages(what: RenderableType, *, no_pager: bool = False) -> int:
    """Write it for people, in a pager if it is longer than the terminal.

    The pager is $PAGER, or `less`. There is none if standard input or output are no terminal.

    Args:
        what: is shown.
        no_pager: never show it in a pager.

    Returns:
        0, or the exit code if a signal has ended it.
    """
    console = terminal()
    text = drawn(what, console)
    words = [] if no_pager or not (sys.stdin.isatty() and is_live(console)) else _words()
    if words and text.count("\n") >= console.height:
        code = _page(text, words)
        if code is not None:
            return code
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def _words() -> list[str]:
    """Return the pager as words; none if there is to be none."""
    try:
        words = shlex.split(os.environ.get("PAGER", _BY_DEFAULT))
    except ValueError:  # a quotation mark is missing
        return []
    return [] if words == ["cat"] else words


def _page(text: str, words: list[str]) -> int | None:
    """Show it in this pager; return None if that cannot be started."""
    env = {"LESS": _FOR_LESS, **os.environ}
    try:
        pager = subprocess.Popen(words, stdin=subprocess.PIPE, env=env)  # noqa: S603 # the user's
    except OSError:
        return None
    with pager, _signals_left_to(pager) as codes:
        # It may end before it has read all, which `communicate` takes well.
        pager.communicate(text.encode(sys.stdout.encoding, "backslashreplace"))
    return codes[0] if codes else 0


@contextlib.contextmanager
def _signals_left_to(pager: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Let the pager have Ctrl-C for itself, and end it by SIGTERM, so that it tidies up.

    Yields:
        the exit code, if it was ended.
    """
    codes: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield codes  # no signal ever comes here
        return

    def end(number: int, _frame: object) -> None:
        codes.append(128 + number)
        pager.terminate()

    handlers: dict[signal.Signals, Any] = {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield codes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
