"""Free loopback ports."""

from __future__ import annotations

import random
import socket
from pathlib import Path

__all__ = ["free_ports"]

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Ports on which no process listens at this moment; one may a moment later.

    They lie below the range from which the kernel takes ports for outgoing connections. Otherwise
    a client that keeps trying to reach a member that is down would, sooner or later, be given that
    very port as its own, and be connected to itself.
    """
    highest = _lowest_ephemeral()
    found: list[int] = []
    for port in random.sample(range(_LOWEST, highest), k=min(highest - _LOWEST, 50 * count)):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free loopback ports between {_LOWEST} and {highest}")


def _lowest_ephemeral() -> int:
    try:
        lowest = int(_EPHEMERAL.read_text().split()[0])
    except OSError:
        lowest = 32_768  # the default of Linux
    # Where nearly all ports are ephemeral there is no safe choice, so take any.
    return lowest if lowest >= _LOWEST + 1_000 else 60_999


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
