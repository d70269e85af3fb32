"""The signals that are passed on to the child."""

from __future__ import annotations

import signal

__all__ = ["handled_signals", "parse_on_lost"]

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def handled_signals() -> tuple[signal.Signals, ...]:
    """Return those to listen to: not what was ignored when we were started.

    ``nohup`` ignores SIGHUP, and a shell that runs us in the background may ignore
    SIGINT and SIGQUIT; the child inherits that, too.
    """
    return tuple(number for number in _PASSED_ON if signal.getsignal(number) != signal.SIG_IGN)


def parse_on_lost(text: str) -> signal.Signals:
    """Return the signal that ``term`` or ``signal:NAME`` stands for.

    Raises:
        ValueError: it stands for none.
    """
    kind, _, name = text.partition(":")
    name = "TERM" if text == "term" else name.upper().removeprefix("SIG")
    found = getattr(signal, f"SIG{name}", None) if text == "term" or kind == "signal" else None
    if not isinstance(found, signal.Signals):
        raise ValueError(  # noqa: TRY004 # it is about what the text says
            f"{text!r} is neither 'term' nor 'signal:NAME', as in 'signal:USR1'"
        )
    return found
