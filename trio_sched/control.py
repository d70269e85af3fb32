"""`Control`: the operator's hand on the wheel of a path.

What operators want lies in one key, ``PATH/control``. Each change is a read and a
write that holds only if there was no write in between; else both are done again. So
two operators never overwrite each other. Only the leader reads the key, no other host
acts on it; what it makes of it is in the decision that all hosts see.
"""

from __future__ import annotations

from collections.abc import Callable

from trio_sched._support.arguments import check_instance
from trio_sched._support.wall_time import wall_time
from trio_sched.etcd_shim import Compare, Get, Put
from trio_sched.etcd_shim.client import Client, check_client
from trio_sched.exceptions import HostNotFound
from trio_sched.model.control_state import ControlState, Note
from trio_sched.model.keys import PathKeys, check_hostname, check_path
from trio_sched.model.path_state import control_of
from trio_sched.model.records import check_max_count

__all__ = ["Control"]


class Control:
    """Steers the hosts of a path. A Go leader on the path takes no notice.

    Each method returns what is wanted then, once etcd has acknowledged it. Cancelled,
    it has been carried out or not.

    Args:
        client: an open client.
        path: what the hosts share.
        by: who the operator is, to be shown to others; None if that does not matter.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: `path` is not allowed; or, out of a method, an argument is not.
        EtcdError: out of each method, if etcd cannot be reached or refuses.
    """

    def __init__(self, client: Client, path: str, *, by: str | None = None) -> None:
        self._client = check_client(client)
        self._keys = PathKeys(check_path(path))
        self._by = "" if by is None else check_instance("by", by, str, "a str or None")

    async def read(self) -> ControlState:
        """Return what is wanted now."""
        state, _revision = await self._read()
        return state

    async def pause(self, why: str = "") -> ControlState:
        """Freeze decisions. A host that dies still loses its place; no host takes it."""
        note = self._note(why)
        return await self._change(lambda state, _: state.pause(note))

    async def resume(self) -> ControlState:
        """End what `pause` began."""
        return await self._change(lambda state, _: state.resume())

    async def drain(self, hostname: str, why: str = "") -> ControlState:
        """Let a host not be chosen any more; it stays known. It need not be there yet."""
        check_hostname(hostname)
        note = self._note(why)
        return await self._change(lambda state, _: state.drain(hostname, note))

    async def undrain(self, hostname: str) -> ControlState:
        """End what `drain` began."""
        check_hostname(hostname)
        return await self._change(lambda state, _: state.undrain(hostname))

    async def set_count(self, max_count: int | None, why: str = "") -> ControlState:
        """Say how many hosts may be chosen; None leaves it to the leader's option."""
        if max_count is not None:
            check_max_count(max_count)
        note = self._note(why)
        return await self._change(lambda state, _: state.set_count(max_count, note))

    async def evict(self, hostname: str, why: str = "") -> ControlState:
        """Let a host's place move elsewhere, once, if there is a host to take it.

        Raises:
            HostNotFound: no host of this name is there.
        """
        check_hostname(hostname)
        note = self._note(why)
        found = (await self._client.get(self._keys.host(hostname))).kv
        if found is None:
            raise HostNotFound(self._keys.path, hostname)
        lease = found.lease
        return await self._change(
            lambda state, revision: state.evict(hostname, revision=revision, lease=lease, note=note)
        )

    def _note(self, why: str) -> Note:
        return Note(self._by, wall_time(), check_instance("why", why, str, "a str"))

    async def _change(self, change: Callable[[ControlState, int], ControlState]) -> ControlState:
        """Write what `change` makes of what is there, as often as others come in between."""
        state, revision = await self._read()
        while True:
            wanted = change(state, revision)
            answer = await self._client.txn(
                [Compare.mod_revision(self._keys.control, "==", state.revision)],
                [Put(self._keys.control, wanted.encode())],
                [Get(self._keys.control)],
            )
            if answer.succeeded:
                return ControlState.decode(wanted.encode(), answer.revision)
            state, revision = control_of(answer.get(0).kv), answer.revision

    async def _read(self) -> tuple[ControlState, int]:
        found = await self._client.get(self._keys.control)
        return control_of(found.kv), found.revision
