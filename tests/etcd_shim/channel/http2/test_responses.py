"""What header blocks mean: HTTP's rules (RFC 9113, 8), and gRPC's over HTTP/2."""

from __future__ import annotations

import pytest
from grpclib.const import Status

from tests.etcd_shim.channel.http2.talk import GRPC, OK, Fields, Talk
from trio_sched.etcd_shim.channel.http2 import frames as f
from trio_sched.etcd_shim.channel.http2.errors import ErrorCode
from trio_sched.etcd_shim.channel.http2.events import CallEnded
from trio_sched.etcd_shim.channel.http2.responses import BlockKind, Progress, Step, classify
from trio_sched.etcd_shim.errors import NotFound, RemoteProtocolError, RpcError

WHOLE = f.END_HEADERS | f.END_STREAM
MALFORMED = ErrorCode.PROTOCOL_ERROR


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_each_kind_has_a_step_for_each_state() -> None:
    blocks = {
        BlockKind.INFORMATIONAL: ((b":status", b"103"),),
        BlockKind.HEAD: GRPC,
        BlockKind.STATUS: (*GRPC, *OK),
        BlockKind.TRAILERS: OK,
        BlockKind.INVALID: ((b"X", b""),),
    }
    assert set(blocks) == set(BlockKind)
    for kind, fields in blocks.items():
        block = classify(fields)
        assert block.kind is kind
        body = block.steps[Progress.BODY :]
        assert body[0] is Step.MALFORMED
        assert (body[1] is Step.FINISH) == (kind is BlockKind.TRAILERS)
        ends = block.steps[Progress.NO_HEAD + 1]
        assert (ends is Step.FINISH) == (kind in (BlockKind.HEAD, BlockKind.STATUS))


def test_informational_heads_come_before_the_head(talk: Talk) -> None:
    call = talk.call()
    heads = b"".join(talk.head(call, ((b":status", code),)) for code in (b"100", b"103", b"199"))
    talk.expect_answer(heads + talk.answer(call), call)


BAD_HEADS: dict[str, Fields] = {
    "no :status": (GRPC[1],),
    "nothing": (),
    ":status twice": (GRPC[0], *GRPC),
    ":status last": GRPC[::-1],
    "another pseudo-header": (GRPC[0], (b":path", b"/"), GRPC[1]),
    ":status of words": ((b":status", b"fine"), GRPC[1]),
    ":status of two digits": ((b":status", b"20"), GRPC[1]),
    "101": ((b":status", b"101"),),
    "upper case": (*GRPC, (b"X-Upper", b"")),
    "a blank in a name": (*GRPC, (b"a b", b"")),
    "a name of nothing": (*GRPC, (b"", b"")),
    "a name beyond ASCII": (*GRPC, (b"\xe4", b"")),
    "NUL in a value": (*GRPC, (b"a", b"b\0c")),
    "a line's end in a value": (*GRPC, (b"a", b"b\r\nc")),
    "a blank before a value": (*GRPC, (b"a", b" b")),
    "a blank after a value": (*GRPC, (b"a", b"b\t")),
    "connection": (*GRPC, (b"connection", b"close")),
    "transfer-encoding": (*GRPC, (b"transfer-encoding", b"chunked")),
}


@pytest.mark.parametrize("fields", BAD_HEADS.values(), ids=BAD_HEADS)
@pytest.mark.parametrize("flags", [f.END_HEADERS, WHOLE])
def test_malformed_head_ends_its_call_only(talk: Talk, fields: Fields, flags: int) -> None:
    call, other = talk.call(), talk.call()
    error = talk.expect_end(talk.head(call, fields, flags), call, MALFORMED, others=(other,))
    assert isinstance(error, RemoteProtocolError)
    assert "8.1.1" in str(error)


def test_malformed_trailers(talk: Talk) -> None:
    for fields in ((*OK, (b"X", b"")), (*OK, GRPC[0]), ((b":status", b"103"), *OK)):
        call = talk.call()
        talk.client.receive(talk.head(call))
        talk.expect_end(talk.trailers(call, fields), call, MALFORMED)


def test_blocks_out_of_place(talk: Talk) -> None:
    informational = ((b":status", b"103"),)
    for before, fields, flags in (
        (GRPC, OK, f.END_HEADERS),  # trailers that do not end the stream
        (GRPC, GRPC, f.END_HEADERS),  # a second head
        (GRPC, GRPC, WHOLE),
        (GRPC, informational, f.END_HEADERS),
        (informational, informational, WHOLE),  # it ends the stream
        (informational, OK, WHOLE),  # trailers without a head
    ):
        call, other = talk.call(), talk.call()
        talk.client.receive(talk.head(call, before))
        talk.expect_end(talk.head(call, fields, flags), call, MALFORMED, others=(other,))


def test_data_before_the_head(talk: Talk) -> None:
    call, other = talk.call(), talk.call()
    talk.expect_end(talk.message(call), call, MALFORMED, others=(other,))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"400", Status.INTERNAL),
        (b"401", Status.UNAUTHENTICATED),
        (b"403", Status.PERMISSION_DENIED),
        (b"404", Status.UNIMPLEMENTED),
        (b"429", Status.UNAVAILABLE),
        (b"502", Status.UNAVAILABLE),
        (b"503", Status.UNAVAILABLE),
        (b"504", Status.UNAVAILABLE),
        (b"204", Status.UNKNOWN),
        (b"302", Status.UNKNOWN),
        (b"415", Status.UNKNOWN),
        (b"500", Status.UNKNOWN),
    ],
)
@pytest.mark.parametrize("flags", [f.END_HEADERS, WHOLE])
def test_http_status_is_mapped(talk: Talk, status: bytes, expected: Status, flags: int) -> None:
    call, other = talk.call(), talk.call()
    head = talk.head(call, ((b":status", status), (b"content-type", b"text/html")), flags)
    reset = ErrorCode.CANCEL if flags == f.END_HEADERS else None
    error = talk.expect_end(head, call, reset, others=(other,))
    assert isinstance(error, RpcError)
    assert error.status is expected
    assert status.decode() in error.message


def test_grpc_status_goes_before_the_http_status(talk: Talk) -> None:
    call = talk.call()
    head = talk.head(call, ((b":status", b"503"), (b"grpc-status", b"5")), WHOLE)
    assert isinstance(talk.expect_end(head, call, None), NotFound)


@pytest.mark.parametrize(
    ("content_type", "good"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc; charset=utf-8", True),
        (b"Application/gRPC", True),
        (b"application/grpc-web", False),
        (b"application/grpcx", False),
        (b"text/html", False),
        (b"", False),
    ],
)
def test_content_type(talk: Talk, content_type: bytes, good: bool) -> None:
    call = talk.call()
    head = talk.head(call, ((b":status", b"200"), (b"content-type", content_type)))
    if good:
        talk.expect_answer(head + talk.message(call) + talk.trailers(call), call)
    else:
        error = talk.expect_end(head, call, ErrorCode.CANCEL)
        assert isinstance(error, RemoteProtocolError)


def test_end_without_a_status(talk: Talk) -> None:
    for end in ("DATA", "empty DATA", "head", "trailers"):
        call, other = talk.call(), talk.call()
        if end == "head":
            data = talk.head(call, GRPC, WHOLE)
        elif end == "trailers":
            data = talk.head(call) + talk.trailers(call, ((b"x", b"y"),))
        else:
            body = b"" if end == "empty DATA" else b"\0\0\0\0\0"
            data = talk.head(call) + f.frame(f.DATA, f.END_STREAM, call, body)
        error = talk.expect_end(data, call, None, others=(other,))
        assert isinstance(error, RemoteProtocolError)
        assert "without a gRPC status" in str(error)


def test_end_within_a_message(talk: Talk) -> None:
    call = talk.call()
    part = talk.message(call)[:-2]
    part = (len(part) - 9).to_bytes(3) + part[3:]
    data = talk.head(call) + part + talk.trailers(call)
    assert isinstance(talk.expect_end(data, call, None), RemoteProtocolError)


def test_status_in_a_head_that_goes_on(talk: Talk) -> None:
    call = talk.call()
    head = talk.head(call, (*GRPC, (b"grpc-status", b"5")))
    assert isinstance(talk.expect_end(head, call, ErrorCode.CANCEL), NotFound)


def test_two_statuses_are_no_success(talk: Talk) -> None:
    call = talk.call()
    data = talk.head(call) + talk.trailers(call, ((b"grpc-status", b"5"), *OK))
    error = talk.expect_end(data, call, None)
    assert isinstance(error, RpcError)
    assert error.status is Status.UNKNOWN


def test_error_is_another_each_time(talk: Talk) -> None:
    first, second = talk.call(), talk.call()
    trailers = (b"grpc-status", b"5")
    events = talk.client.receive(
        b"".join(talk.head(call, (*GRPC, trailers), WHOLE) for call in (first, second))
    )
    errors = [event.error for event in events if isinstance(event, CallEnded)]
    assert errors[0] is not errors[1]
    assert str(errors[0]) == str(errors[1])
