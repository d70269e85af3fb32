"""What the header blocks of an answer mean (RFC 9113, 8; gRPC over HTTP/2).

Theory of operation
-------------------
An answer is informational heads, a head, messages, and trailers that end the
stream; or, as gRPC's "Trailers-Only", a head with the status in it. So a block is
of one kind by itself. What it does depends on how far the answer is, and on
whether it ends the stream; anything else than this is malformed (8.1):

=============  =================  ===============  =====================
kind           no head yet        and it ends      the body, and it ends
=============  =================  ===============  =====================
INFORMATIONAL  IGNORE
HEAD           BEGIN              FINISH
STATUS         FINISH             FINISH
TRAILERS                                           FINISH
=============  =================  ===============  =====================

STATUS is a head with a gRPC status, or with the error that it is in its place. A
head that ends the stream ends the call without a status. ``content-length`` is not
looked at, as gRPC's messages carry their lengths.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Final, TypeAlias
from urllib.parse import unquote

from grpclib.const import Status

from trio_sched.etcd_shim.errors import EtcdError, RemoteProtocolError, again, rpc_error

__all__ = ["NO_STATUS", "BlockKind", "HeaderBlock", "Progress", "Step", "classify"]

NO_STATUS: Final = "the answer ended without a gRPC status"

# gRPC's http-grpc-status-mapping; all others are UNKNOWN.
_BY_HTTP_STATUS: Final = {
    b"400": Status.INTERNAL,
    b"401": Status.UNAUTHENTICATED,
    b"403": Status.PERMISSION_DENIED,
    b"404": Status.UNIMPLEMENTED,
    b"429": Status.UNAVAILABLE,
    b"502": Status.UNAVAILABLE,
    b"503": Status.UNAVAILABLE,
    b"504": Status.UNAVAILABLE,
}

_NAME: Final = re.compile(rb":?[!-9;-@\[-~]+")  # RFC 9113, 8.2.1: no upper case, no blanks
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z")  # 8.2.1
_CONNECTION_FIELDS: Final = frozenset(  # 8.2.2
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_CONTENT_TYPE: Final = re.compile(rb"(?is)application/grpc([+;].*)?")  # not -web


class BlockKind(enum.Enum):
    """What a header block is, by its fields alone."""

    INFORMATIONAL = "an informational head"
    HEAD = "a head"
    STATUS = "a head with a status"
    TRAILERS = "trailers"
    INVALID = "an invalid block"


class Progress(enum.IntEnum):
    """How far an answer is; the place of its first column in `_STEPS`."""

    NO_HEAD = 0
    BODY = 2


class Step(enum.Enum):
    """What a header block does to a call."""

    IGNORE = "nothing"
    BEGIN = "the answer begins"
    FINISH = "the call ends, by the block's error or well"
    MALFORMED = "the call ends by a stream error"  # 8.1.1


Steps: TypeAlias = tuple[Step, Step, Step, Step]  # goes on, ends; and the same in the body
_BAD: Final = Step.MALFORMED
_STEPS: Final[dict[BlockKind, Steps]] = {
    BlockKind.INFORMATIONAL: (Step.IGNORE, _BAD, _BAD, _BAD),
    BlockKind.HEAD: (Step.BEGIN, Step.FINISH, _BAD, _BAD),
    BlockKind.STATUS: (Step.FINISH, Step.FINISH, _BAD, _BAD),
    BlockKind.TRAILERS: (_BAD, _BAD, _BAD, Step.FINISH),
    BlockKind.INVALID: (_BAD, _BAD, _BAD, _BAD),
}


class HeaderBlock:
    """A block of fields, judged.

    Attributes:
        kind: what it is.
        steps: what it does; the place is a `Progress`, and one more if the stream ends.
        error: how a call ends that ends by it; None if well.
    """

    __slots__ = ("_error", "kind", "steps")

    def __init__(self, kind: BlockKind, error: EtcdError | None = None) -> None:
        self.kind: BlockKind = kind
        self.steps: Steps = _STEPS[kind]
        self._error = error

    @property
    def error(self) -> EtcdError | None:
        """A new one each time, as the block may come again."""
        return None if self._error is None else again(self._error)


def classify(fields: Sequence[tuple[bytes, bytes]]) -> HeaderBlock:
    """Return what a header block is."""
    wrong = _malformed(fields)
    by_name = dict(fields)
    codes = [value for name, value in fields if name == b"grpc-status"]
    if len(codes) > 1:  # gRPC joins a field's values, which no status is, then
        by_name[b"grpc-status"] = b",".join(codes)
    status = by_name.get(b":status")
    if wrong is None and status is not None and not _is_status(status):
        wrong = f"the HTTP status {status!r}"
    if wrong is not None:
        return HeaderBlock(BlockKind.INVALID, RemoteProtocolError(f"a malformed answer: {wrong}"))
    if status is None:
        return HeaderBlock(BlockKind.TRAILERS, _status_error(by_name))
    if status.startswith(b"1"):
        return HeaderBlock(BlockKind.INFORMATIONAL)
    if b"grpc-status" in by_name:
        return HeaderBlock(BlockKind.STATUS, _status_error(by_name))
    error = _head_error(status, by_name.get(b"content-type", b""))
    if error is not None:
        return HeaderBlock(BlockKind.STATUS, error)
    return HeaderBlock(BlockKind.HEAD, RemoteProtocolError(NO_STATUS))


def _malformed(fields: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return which rule for fields is broken, if one is (RFC 9113, 8.2 and 8.3)."""
    regular = False
    pseudo: set[bytes] = set()
    for name, value in fields:
        if not _NAME.fullmatch(name):
            return f"a field named {name[:40]!r}"
        # What gRPC says in words may end with a blank: its percent-encoding keeps blanks.
        if _BAD_VALUE.search(value.strip(b" ") if name == b"grpc-message" else value):
            return f"the value of {name!r}"
        if name in _CONNECTION_FIELDS:
            return f"the field {name!r}"
        if not name.startswith(b":"):
            regular = True
        elif name != b":status" or regular or name in pseudo:
            return f"the pseudo-header {name!r}"
        else:
            pseudo.add(name)
    return None


def _is_status(status: bytes) -> bool:
    """Whether it is one of HTTP/2; 101 is not (RFC 9113, 8.3.2 and 8.6)."""
    return len(status) == 3 and status.isdigit() and b"100" <= status <= b"599" and status != b"101"


def _head_error(status: bytes, content_type: bytes) -> EtcdError | None:
    """Return what is wrong with the head of an answer that has no gRPC status."""
    if status != b"200":
        words = f"HTTP status {status.decode('ascii')} instead of a gRPC answer"
        return rpc_error(_BY_HTTP_STATUS.get(status, Status.UNKNOWN), words)
    if not _CONTENT_TYPE.fullmatch(content_type):
        return RemoteProtocolError(f"an answer of type {content_type[:80]!r} instead of gRPC's")
    return None


def _status_error(fields: dict[bytes, bytes]) -> EtcdError | None:
    """Return the error that a call's trailers stand for; None for OK."""
    status = fields.get(b"grpc-status")
    if status == b"0":
        return None
    if status is None:
        return RemoteProtocolError(NO_STATUS)
    raw = fields.get(b"grpc-message", b"")
    words = unquote(raw.decode("utf-8", "replace"), errors="replace")
    try:
        return rpc_error(Status(int(status)), words)
    except ValueError:
        return rpc_error(Status.UNKNOWN, words or f"gRPC status {status!r}")
