"""What a channel stands on: byte streams to members, and the protocol that they carry.

There is one of each for real etcds, TCP or TLS or unix sockets, and HTTP/2; a simulation brings
its own.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from trio_sched.etcd_shim.channel._endpoint import (
    ByteStream,
    Endpoint,
    open_byte_stream,
    resolve,
)
from trio_sched.etcd_shim.channel._settings import Credentials
from trio_sched.etcd_shim.channel.http2 import Http2Connection, connection_preface

if TYPE_CHECKING:
    from trio_sched.etcd_shim.channel.http2.events import Event
    from trio_sched.etcd_shim.channel.http2.header_blocks import Field

__all__ = ["Access", "ClientProtocol", "NetworkTransport", "Transport", "send_preface"]


class ClientProtocol(Protocol):
    """A client's half of a protocol that carries calls, sans-I/O; see `Http2Connection`."""

    @property
    def max_calls(self) -> int:
        """How many calls the server takes at once."""
        ...

    @property
    def output_size(self) -> int:
        """How many bytes wait to be taken."""
        ...

    @property
    def held_back(self) -> bool:
        """Whether `resume` has more to send."""
        ...

    @property
    def awaits_answer(self) -> bool:
        """Whether a request is complete whose answer is not; asked on a network only."""
        ...

    def start(self) -> None:
        """Queue what the client says first."""
        ...

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the server and return what they mean. Never raises."""
        ...

    def receive_eof(self) -> list[Event]:
        """Take the end of the server's bytes."""
        ...

    def take_output(self) -> bytes:
        """Return the bytes that are to be sent."""
        ...

    def resume(self) -> list[Event]:
        """Go on with what was held back."""
        ...

    def open(self, headers: Sequence[Field]) -> int | None:
        """Begin a call and return its id; None if the connection takes no more."""
        ...

    def send(self, stream_id: int, payload: bytes, *, end: bool) -> bool:
        """Send a message; False if some of it waits for room."""
        ...

    def end(self, stream_id: int) -> bool:
        """End our half of a call; False if that waits for room."""
        ...

    def reset(self, stream_id: int) -> None:
        """End a call."""
        ...

    def consumed(self, stream_id: int, payload: bytes) -> None:
        """Note that a message was taken."""
        ...

    def ping(self, payload: bytes) -> None:
        """Ask the server whether it is there."""
        ...

    def close(self) -> None:
        """Say that this is the end."""
        ...


@dataclass(frozen=True)
class Access:
    """Where a channel connects to, and as which user. The password is in no repr.

    Attributes:
        endpoints: the members.
        credentials: user and password, if there are any.
        ssl_context: for ``https``, if one was given.
    """

    endpoints: tuple[Endpoint, ...]
    credentials: Credentials | None
    ssl_context: ssl.SSLContext | None


class Transport(ABC):
    """Opens byte streams, and says what they carry.

    Attributes:
        on_network: whether the members are outside, where no clock of tests reaches.
    """

    on_network: ClassVar[bool] = False

    @abstractmethod
    async def open_stream(
        self, endpoint: Endpoint, ssl_context: ssl.SSLContext | None
    ) -> ByteStream:
        """Connect to a member.

        Raises:
            OSError: it cannot be reached.
            trio.BrokenResourceError: the TLS handshake failed.
        """

    def resolves(self, _endpoint: Endpoint) -> bool:
        """Whether an endpoint stands for addresses, which `resolve` gives."""
        return False

    async def resolve(self, endpoint: Endpoint) -> list[Endpoint]:
        """Return an endpoint for each address; one or more.

        Raises:
            OSError: there is none.
            ValueError: nor can there be.
        """
        return [endpoint]

    @abstractmethod
    def protocol(self, max_message_size: int) -> ClientProtocol:
        """Return a protocol for one connection."""

    @abstractmethod
    def preface(self) -> bytes:
        """Return the first bytes of what `ClientProtocol.start` queues, to be sent at once."""


class NetworkTransport(Transport):
    """The network, and HTTP/2."""

    on_network = True

    async def open_stream(
        self, endpoint: Endpoint, ssl_context: ssl.SSLContext | None
    ) -> ByteStream:
        """Connect to a member; see `open_byte_stream`."""
        return await open_byte_stream(endpoint, ssl_context)

    def resolves(self, endpoint: Endpoint) -> bool:
        """Whether it holds a name, and not an address."""
        return endpoint.scheme != "unix" and endpoint.family is None

    async def resolve(self, endpoint: Endpoint) -> list[Endpoint]:
        """Ask the system's resolver; see `resolve`."""
        return await resolve(endpoint)

    def protocol(self, max_message_size: int) -> ClientProtocol:
        """Return a client's half of HTTP/2."""
        return Http2Connection(max_message_size=max_message_size)

    def preface(self) -> bytes:
        """Return the connection preface."""
        return connection_preface()


def send_preface(stream: ByteStream, preface: bytes) -> int:
    """Send the connection preface, to be answered meanwhile; return how much was sent."""
    try:
        return stream.send_nowait(preface)
    except OSError:
        stream.close()
        raise
