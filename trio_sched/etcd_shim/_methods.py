"""The methods of stubs: what grpclib's are made of, without what grpclib's bring along.

The generated stubs use these in place of the classes of the same names in ``grpclib.client``, whose
import takes as long as half of Trio's: it brings asyncio, and grpclib's own HTTP/2. Type checkers
see grpclib's, and these do the same, on any channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from grpclib.const import Cardinality

__all__ = ["StreamStreamMethod", "UnaryStreamMethod", "UnaryUnaryMethod"]


class _Method:
    """A method that can be called on a channel.

    Args:
        channel: what carries calls.
        name: the method's path, such as ``/etcdserverpb.KV/Range``.
        request_type: protobuf class of requests.
        reply_type: protobuf class of replies.
    """

    __slots__ = ("_channel", "_name", "_reply_type", "_request_type")

    _cardinality: ClassVar[Cardinality]

    def __init__(
        self, channel: Any, name: str, request_type: type[Any], reply_type: type[Any]
    ) -> None:
        self._channel = channel
        self._name = name
        self._request_type = request_type
        self._reply_type = reply_type

    @property
    def name(self) -> str:
        """The method's path."""
        return self._name

    def open(
        self, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Any:
        """Return a call, to be entered with ``async with``; nothing is sent yet.

        Args:
            timeout: seconds until it fails.
            metadata: further headers.
        """
        return self._channel.request(
            self._name,
            self._cardinality,
            self._request_type,
            self._reply_type,
            timeout=timeout,
            metadata=metadata,
        )


class UnaryUnaryMethod(_Method):
    """A method with one request and one reply."""

    __slots__ = ()

    _cardinality = Cardinality.UNARY_UNARY

    async def __call__(
        self,
        message: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the reply. Arguments as for `open`."""
        async with self.open(timeout=timeout, metadata=metadata) as call:
            await call.send_message(message, end=True)
            return await call.recv_message()


class UnaryStreamMethod(_Method):
    """A method with one request and many replies, which is opened."""

    __slots__ = ()

    _cardinality = Cardinality.UNARY_STREAM


class StreamStreamMethod(_Method):
    """A method with many requests and many replies, which is opened."""

    __slots__ = ()

    _cardinality = Cardinality.STREAM_STREAM
