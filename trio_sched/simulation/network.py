"""A network in memory: byte streams between hosts and members, and what becomes of them.

Each connection has two directions. Bytes travel for a random time, and arrive in their order; those
of different connections overtake each other. A direction can be held, which is silence; and a
connection can be cut, which both ends notice, or refused.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable, Mapping
from random import Random
from typing import ClassVar, Final, Protocol, TypeAlias

import trio

from trio_sched._support.tasks import Wakeup
from trio_sched.etcd_shim.channel import ByteStream, ClientProtocol, Endpoint, Transport
from trio_sched.simulation.memory_cluster import Cluster, Member
from trio_sched.simulation.memory_server import ServerSession
from trio_sched.simulation.memory_wire import MemoryProtocol
from trio_sched.simulation.timeline import Timeline

__all__ = ["MakeSession", "MemoryTransport", "Network", "Path", "Session"]

_NO_DELAY: Final = (0.0, 0.0)


class Session(Protocol):
    """A member's half of a connection; see `ServerSession`."""

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        ...

    def close(self) -> None:
        """Forget all of it, as the connection is gone."""
        ...


MakeSession: TypeAlias = Callable[[Member, Callable[[bytes], None], Callable[[], None]], Session]
"""Takes the member, what takes bytes for the client, and what ends the connection."""


class _Direction:
    """One way of a connection: bytes, in their order, to a sink; None is their end."""

    def __init__(self, network: Network, sink: Callable[[bytes | None], None]) -> None:
        self._network = network
        self._sink = sink
        self._last = 0.0  # when the last of them arrives
        self._held: list[bytes | None] | None = None

    def send(self, data: bytes | None) -> None:
        """Send bytes on their way."""
        if self._held is not None:
            self._held.append(data)
            return
        delay = self._network.delay()
        if delay is None:
            self._sink(data)
            return
        timeline = self._network.timeline
        self._last = max(self._last, timeline.now + delay)
        timeline.at(self._last, self._arrive, data)

    def _arrive(self, data: bytes | None) -> None:
        if self._held is not None:
            self._held.append(data)
        else:
            self._sink(data)

    def hold(self) -> None:
        """Let nothing arrive."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Let arrive what was held, and what comes then."""
        held, self._held = self._held or [], None
        for data in held:
            self._arrive(data)


class _MemoryByteStream(ByteStream):
    """A client's end of a connection."""

    __slots__ = ("_chunks", "_ended", "_link", "_reset", "_wakeup")

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._chunks: list[bytes] = []
        self._wakeup = Wakeup()
        self._ended = self._reset = False

    def send_nowait(self, data: bytes) -> int:
        """Send all of it: there is always room."""
        if self._reset:
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        if data:
            self._link.up.send(data)
        return len(data)

    async def send_all(self, data: bytes) -> None:
        """Send all of it."""
        await trio.lowlevel.checkpoint()
        self.send_nowait(data)

    async def receive_some(self) -> bytes:
        """Wait for bytes and return them."""
        if self._chunks or self._ended or self._reset:
            await trio.lowlevel.checkpoint()
        while not (self._chunks or self._ended or self._reset):
            await self._wakeup.wait()
        if self._reset:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data

    def close(self) -> None:
        """Close it: the member learns it when all before has arrived."""
        self._reset = True
        self._link.up.send(None)

    def arrive(self, data: bytes | None) -> None:
        """Take bytes from the member; None if it ended the connection."""
        if data is None:
            self._ended = True
        else:
            self._chunks.append(data)
        self._wakeup.notify()

    def break_off(self) -> None:
        """Let the connection be reset."""
        self._reset = True
        self._wakeup.notify()


class _Link:
    """A connection."""

    def __init__(
        self, network: Network, path: Path, member: Member, make_session: MakeSession
    ) -> None:
        self._path = path
        self.stream = _MemoryByteStream(self)
        self.up = _Direction(network, self._take)
        self.down = _Direction(network, self.stream.arrive)
        if path.held_up:
            self.up.hold()
        if path.held_down:
            self.down.hold()
        path.links[self] = None
        self._session = make_session(member, self.down.send, self._hang_up)

    def _take(self, data: bytes | None) -> None:
        if data is None:
            self._path.links.pop(self, None)
            self._session.close()
        else:
            self._session.receive(data)

    def _hang_up(self) -> None:
        self._path.links.pop(self, None)
        self.down.send(None)

    def cut(self) -> None:
        """Let both ends learn that the connection is gone; what was on its way is lost."""
        self._path.links.pop(self, None)
        self.up.hold()
        self.down.hold()
        self._session.close()
        self.stream.break_off()

    def kill(self) -> None:
        """Let the member learn that the client is gone; nothing of what it still does matters."""
        self._path.links.pop(self, None)
        self.up.hold()
        self.down.hold()
        self._session.close()


class Path:
    """Between a host and a member: all connections, and what holds for new ones.

    Attributes:
        refused: whether new connections are refused.
        held_up: whether bytes to the member are held.
        held_down: whether bytes from the member are held.
        links: the connections that are open.
    """

    def __init__(self) -> None:
        self.refused: bool = False
        self.held_up: bool = False
        self.held_down: bool = False
        self.links: dict[_Link, None] = {}

    def hold(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing arrive, one way or both, on connections that are open or to be made."""
        self.held_up, self.held_down = self.held_up or up, self.held_down or down
        for link in self.links:
            if up:
                link.up.hold()
            if down:
                link.down.hold()

    def release(self) -> None:
        """Let arrive what was held."""
        self.held_up = self.held_down = False
        for link in [*self.links]:
            link.up.release()
            link.down.release()

    def admit(self) -> None:
        """Let connections be made again."""
        self.refused = False

    def cut(self) -> None:
        """Cut all connections."""
        for link in [*self.links]:
            link.cut()

    def kill(self) -> None:
        """Let the host be gone: members see its connections end, and it makes no new ones."""
        self.refused = True
        for link in [*self.links]:
            link.kill()


class Network:
    """Hosts, members and the paths between them.

    Args:
        cluster: whose members there are.
        delay: seconds that bytes travel for, at least and at most.
        chance: picks it.
    """

    def __init__(
        self,
        cluster: Cluster,
        delay: tuple[float, float] = _NO_DELAY,
        chance: Random | None = None,
    ) -> None:
        self.timeline: Timeline = cluster.timeline
        self._members = {member.url: member for member in cluster.members}
        self._delay = delay
        self._chance = chance or cluster.chance
        self._paths: dict[tuple[str, str], Path] = {}

    def delay(self) -> float | None:
        """Return how long the next bytes travel, in seconds; None if they are there at once."""
        return self._chance.uniform(*self._delay) if self._delay[1] else None

    def path(self, host: str, member: Member) -> Path:
        """Return what is between a host and a member."""
        return self._paths.setdefault((host, member.name), Path())

    def paths(self, host: str) -> Mapping[str, Path]:
        """Return what is between a host and each member."""
        return {member.name: self.path(host, member) for member in self._members.values()}

    async def connect(self, host: str, url: str, make_session: MakeSession) -> ByteStream:
        """Connect a host to a member.

        Args:
            host: where the client is.
            url: of the member.
            make_session: makes the member's half of the connection.

        Raises:
            OSError: nothing listens there.
        """
        member = self._members.get(url)
        await trio.sleep(2 * (self.delay() or 0.0))
        if member is None:
            raise OSError(errno.ENOENT, f"no member of this etcd: {url}")
        path = self.path(host, member)
        if path.refused or not member.up:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return _Link(self, path, member, make_session).stream


class MemoryTransport(Transport):
    """Connects a host to the members of an etcd in memory.

    Attributes:
        make_session: makes the member's half of a connection.
    """

    make_session: ClassVar[MakeSession] = ServerSession

    def __init__(self, network: Network, host: str) -> None:
        self._network = network
        self._host = host

    async def open_stream(
        self, endpoint: Endpoint, ssl_context: ssl.SSLContext | None
    ) -> ByteStream:
        """Connect to a member."""
        del ssl_context  # what never leaves the process needs none
        return await self._network.connect(self._host, endpoint.url, type(self).make_session)

    def protocol(self, max_message_size: int) -> ClientProtocol:
        """Return a client's half of what is spoken here."""
        del max_message_size  # an etcd in memory has no answers that are too large for it
        return MemoryProtocol()

    def preface(self) -> bytes:
        """Return nothing: the member begins."""
        return b""
