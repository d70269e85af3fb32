"""The errors of trio_sched, except those of the etcd client.

.. code-block:: text

    TrioSchedError                  every error of ours
    ├── EtcdError                   whatever went wrong with etcd or on the way
    │                               to it; the tree goes on in
    │                               trio_sched.etcd_shim.errors
    ├── EndOfResults                the block was left, there is no next decision
    ├── HostNotFound                no host of this name has joined
    ├── HostnameInUse               another live process has joined by this name
    ├── SessionLost                 the lease, or one of the keys under it, is gone
    ├── SlotLost                    a slot is gone, so what it guards was not done
    └── StrategyError               a strategy raised, or chose what it may not

Bad arguments are ``ValueError`` or ``TypeError``, before anything is sent.
"""

from __future__ import annotations

__all__ = [
    "EndOfResults",
    "HostNotFound",
    "HostnameInUse",
    "SessionLost",
    "SlotLost",
    "StrategyError",
    "TrioSchedError",
]


class TrioSchedError(Exception):
    """Base of every error that trio_sched raises of its own."""


class EndOfResults(TrioSchedError):
    """`Result.next` was called after the ``schedule()`` block had been left."""


class HostNotFound(TrioSchedError):
    """No host of this name has joined the path.

    Attributes:
        path: the path.
        hostname: the name in question.
    """

    def __init__(self, path: str, hostname: str) -> None:
        super().__init__(f"no host {hostname!r} has joined {path!r}")
        self.path = path
        self.hostname = hostname


class HostnameInUse(TrioSchedError):
    """Another live process has joined the path under the same host name.

    Attributes:
        path: the path that both want to join.
        hostname: the name in question.
        lease: id of the lease that holds the name.
    """

    def __init__(self, path: str, hostname: str, lease: int) -> None:
        super().__init__(
            f"host name {hostname!r} is in use under {path!r}: "
            f"lease {lease:x} holds it and is being renewed"
        )
        self.path = path
        self.hostname = hostname
        self.lease = lease


class SessionLost(TrioSchedError):
    """A session is over before its block was left.

    Attributes:
        lease: id of the lease.
        reason: one short clause in plain words.
    """

    def __init__(self, lease: int, reason: str) -> None:
        super().__init__(f"session under lease {lease:x} is lost: {reason}")
        self.lease = lease
        self.reason = reason


class SlotLost(TrioSchedError):
    """A slot is gone, so a transaction that it guards did nothing. See `Slot.txn`.

    Attributes:
        key: of the slot, in etcd.
        token: its create_revision, which the key had while we held it.
    """

    def __init__(self, key: bytes, token: int) -> None:
        super().__init__(
            f"slot {key.decode(errors='replace')} with token {token} is lost: "
            "its key is gone, or another host's"
        )
        self.key = key
        self.token = token


class StrategyError(TrioSchedError):
    """A strategy raised, or its choice broke the rules. The cause is attached.

    Attributes:
        strategy: name of the strategy.
        reason: one short clause in plain words.
    """

    def __init__(self, strategy: str, reason: str) -> None:
        super().__init__(f"strategy {strategy!r}: {reason}")
        self.strategy = strategy
        self.reason = reason
