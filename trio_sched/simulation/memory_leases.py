"""The leases of an etcd in memory: which there are, until when, and what hangs on them.

Sans-I/O: the time comes in as a number, and to end a lease that has lapsed is up to the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from grpclib.const import Status

from trio_sched.etcd_shim.errors import rpc_error
from trio_sched.etcd_shim.lease import MAX_TTL

__all__ = ["LeaseState", "Leases"]

_MIN_TTL: Final = 2  # one and a half election timeouts, in whole seconds


@dataclass(slots=True)
class LeaseState:
    """A lease that lives.

    Attributes:
        id: its id.
        ttl: seconds that it was granted for.
        expiry: when it lapses.
        keys: that hang on it.
    """

    id: int
    ttl: int
    expiry: float
    keys: set[bytes] = field(default_factory=set)


class Leases:
    """All leases.

    Args:
        leases: to begin with.
        min_ttl: seconds that each is granted for at least.
    """

    def __init__(self, leases: Iterable[LeaseState] = (), *, min_ttl: int = _MIN_TTL) -> None:
        self._min_ttl = min_ttl
        self._leases = {lease.id: lease for lease in leases}

    def __iter__(self) -> Iterator[LeaseState]:
        return iter(self._leases.values())

    def __contains__(self, lease: int) -> bool:
        return lease in self._leases

    def copied(self) -> Leases:
        """Return leases of the same ids and keys, which then go their own way."""
        leases = [replace(lease, keys={*lease.keys}) for lease in self]
        return Leases(leases, min_ttl=self._min_ttl)

    def find(self, lease: int) -> LeaseState:
        """Return a lease.

        Raises:
            LeaseNotFound: there is none of this id.
        """
        found = self._leases.get(lease)
        if found is None:
            raise rpc_error(Status.NOT_FOUND, "etcdserver: requested lease not found")
        return found

    def grant(self, lease: int, ttl: int, now: float) -> LeaseState:
        """Grant a lease.

        Raises:
            LeaseExists: this id is granted already.
            OutOfRange: the TTL is too large.
        """
        if ttl > MAX_TTL:
            raise rpc_error(Status.OUT_OF_RANGE, "etcdserver: too large lease TTL")
        if lease in self._leases:
            raise rpc_error(Status.FAILED_PRECONDITION, "etcdserver: lease already exists")
        ttl = max(ttl, self._min_ttl)
        granted = LeaseState(lease, ttl, now + ttl)
        self._leases[lease] = granted
        return granted

    def renew(self, lease: int, now: float) -> int:
        """Renew a lease and return its TTL; 0 if there is none of this id."""
        found = self._leases.get(lease)
        if found is None:
            return 0
        found.expiry = now + found.ttl
        return found.ttl

    def remove(self, lease: int) -> Iterable[bytes]:
        """Forget a lease and return what hung on it.

        Raises:
            LeaseNotFound: there is none of this id.
        """
        keys = {*self.find(lease).keys}
        del self._leases[lease]
        return keys

    def extend(self, now: float) -> None:
        """Begin the time of all leases anew, as a raft leader does that has just been elected."""
        for lease in self._leases.values():
            lease.expiry = now + lease.ttl

    def attach(self, lease: int, key: bytes) -> None:
        """Hang a key on a lease; on none, if it is 0."""
        if lease:
            self._leases[lease].keys.add(key)

    def detach(self, lease: int, key: bytes) -> None:
        """Take a key off a lease."""
        if lease in self._leases:
            self._leases[lease].keys.discard(key)
