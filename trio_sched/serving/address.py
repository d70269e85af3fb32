"""Where to listen: loopback, unless it is said otherwise."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from typing import Final, Self

import trio

from trio_sched._support.arguments import check_text, shown

__all__ = ["Address", "CannotListen"]

_FORMS: Final = "PORT, HOST:PORT or [ADDRESS]:PORT"
_FORM: Final = re.compile(
    r"(?:(?:\[(?P<six>[\da-fA-F:.]+)\]|(?P<host>[\w.-]*)):)?(?P<port>[0-9]{1,5})"
)


class CannotListen(Exception):
    """The address is taken, is not one of this machine, or may not be used."""

    def __init__(self, address: Address, cause: OSError) -> None:
        number = cause.errno or 0  # that of a name without an address is none of the system's
        reason = os.strerror(number) if number in errno.errorcode else str(cause)
        super().__init__(f"cannot listen at {address}: {reason}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: a name or a numeric address of this machine.
        port: TCP port; 0 for one that is free.
        numeric: the addresses that it listens at; none as long as it does not.
    """

    host: str
    port: int
    numeric: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a text stands for; without a host, it is 127.0.0.1.

        Raises:
            TypeError: it is not a string.
            ValueError: it is not understood.
        """
        check_text("an address", text)
        found = _FORM.fullmatch(text)
        if found is None or int(found["port"]) > 65_535:
            raise ValueError(f"an address must be {_FORMS}, not {shown(text)}")
        if found["six"] is not None:
            from ipaddress import IPv6Address  # noqa: PLC0415 # few need it

            IPv6Address(found["six"])  # raises a ValueError that says what is wrong
        return cls(found["six"] or found["host"] or "127.0.0.1", int(found["port"]))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect to it; as far as its text says, till it listens."""
        return all(map(_is_loopback, self.numeric or (self.host,)))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    async def listen(self) -> tuple[Address, list[trio.SocketListener]]:
        """Listen there; return the address with the port that it is.

        Raises:
            CannotListen: the system does not let us.
        """
        try:
            listeners = await trio.open_tcp_listeners(self.port, host=self.host)
        except OSError as exc:
            raise CannotListen(self, exc) from exc
        names = [listener.socket.getsockname() for listener in listeners]
        return Address(self.host, names[0][1], tuple(name[0] for name in names)), listeners


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address  # noqa: PLC0415 # few need it

    try:
        found = ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
