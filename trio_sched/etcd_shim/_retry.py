"""Which calls may be sent again, and when.

A write whose answer was lost may have been carried out. Sending it again blindly
could do it twice, or undo what another client did in between. So it is sent again
only if the server certainly did nothing with it: it was refused before it was
handled, or the token was, or raft dropped it. Reads, and writes that come to the same when done
twice, are sent again after faults that another attempt, maybe with another
member, may not meet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from trio_sched._support.tracing import span_of_call
from trio_sched.etcd_shim._about import TRANSIENT
from trio_sched.etcd_shim._backoff import Backoff
from trio_sched.etcd_shim.errors import (
    AuthStoreChanged,
    ConnectionFailed,
    ConnectionLost,
    DeadlineExceeded,
    EtcdError,
    ProposalDropped,
    RemoteProtocolError,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    from trio_sched.etcd_shim.channel import Channel

__all__ = ["call"]

Req = TypeVar("Req")
Rep = TypeVar("Rep")

_MIN_TRIES: Final = 9  # with the backoff between them about five seconds
_MAX_ODD_ENDS: Final = (
    3  # of one call, by which a proxy may have ended it; it may be no gRPC at all
)
_MAX_REFRESHES: Final = 9  # of the token, for one call: one that lives a second may be late
_REFRESHES_AT_ONCE: Final = 3  # of them; before each other one there is a delay
_MAY_PASS: Final = (
    AuthStoreChanged,
    ConnectionFailed,
    ConnectionLost,
    DeadlineExceeded,
    ProposalDropped,
    RemoteProtocolError,
    Unauthenticated,
    Unavailable,
)


async def call(
    channel: Channel,
    method: Callable[[Req], Awaitable[Rep]],
    request: Req,
    *,
    repeatable: bool,
) -> Rep:
    """Carry out a call, and carry it out again if that is right.

    Args:
        channel: whose token it is.
        method: the stub's method.
        request: its argument.
        repeatable: True if it does no harm to carry it out twice.

    Raises:
        EtcdError: what the last attempt ended with.
    """
    channel.counts.calls += 1
    with span_of_call(method):
        token = channel.token
        try:
            return await method(request)
        except _MAY_PASS as exc:
            retry = _Retry(channel, repeatable=repeatable)
            await retry.prepare(exc, token)
        while True:
            channel.counts.retries += 1
            token = channel.token
            try:
                return await method(request)
            except _MAY_PASS as exc:
                await retry.prepare(exc, token)


class _Retry:
    """What is remembered between the attempts of one call."""

    def __init__(self, channel: Channel, *, repeatable: bool) -> None:
        self._channel = channel
        self._repeatable = repeatable
        self._backoff = Backoff(cap=1.0)
        self._tries_left = max(_MIN_TRIES, 2 * len(channel.endpoints)) - 1
        self._refreshes = 0
        self._odd_ends = 0

    async def prepare(self, error: EtcdError, token: str | None) -> None:
        """Get ready for another attempt, or raise `error`.

        Args:
            error: what the last attempt ended with.
            token: with which it was made.
        """
        if isinstance(error, (Unauthenticated, AuthStoreChanged)):
            self._refreshes += 1
            if self._refreshes > _MAX_REFRESHES:
                raise error
            if self._refreshes > _REFRESHES_AT_ONCE:
                await trio.sleep(self._backoff.next())
            if not await self._refresh_token(token):
                raise error
            return
        if not self._may_try_again(error):
            raise error
        await trio.sleep(self._backoff.next())

    async def _refresh_token(self, stale: str | None) -> bool:
        try:
            return await self._channel.refresh_token(stale)
        except TRANSIENT:
            return True  # another attempt will show, as the call itself was refused

    def _may_try_again(self, error: EtcdError) -> bool:
        if isinstance(error, ConnectionFailed):  # nothing was sent
            return self._channel.may_return()
        self._tries_left -= 1
        if isinstance(error, RemoteProtocolError):
            self._odd_ends += 1
            return self._repeatable and self._odd_ends <= _MAX_ODD_ENDS
        untouched = isinstance(error, ProposalDropped) or (
            isinstance(error, ConnectionLost) and not error.processed
        )
        return self._tries_left >= 0 and (self._repeatable or untouched)
