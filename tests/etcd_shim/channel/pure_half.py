"""Which pure half the tests run on: the one with the short way, unless they are told not to.

``nox -s plain`` sets ``PLAIN_CHANNEL``, and so runs all tests with every frame through h2.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

PLAIN = bool(os.environ.get("PLAIN_CHANNEL"))

if TYPE_CHECKING or PLAIN:
    from trio_sched.etcd_shim.channel._protocol import Protocol
else:
    from trio_sched.etcd_shim.channel._fast import FastProtocol as Protocol

__all__ = ["PLAIN", "Protocol"]
