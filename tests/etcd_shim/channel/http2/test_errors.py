"""Error codes (RFC 9113, 7), and what they come to."""

from __future__ import annotations

from h2.errors import ErrorCodes

from trio_sched.etcd_shim.channel.http2.errors import (
    ConnectionFault,
    ErrorCode,
    Fault,
    StreamFault,
    name_of,
)


def test_codes_are_those_of_h2() -> None:
    assert {code.name: int(code) for code in ErrorCode} == {c.name: int(c) for c in ErrorCodes}


def test_unknown_code_is_a_number() -> None:
    assert name_of(7) == "REFUSED_STREAM"
    assert name_of(0xBEEF) == "0xbeef"


def test_fault_names_its_section() -> None:
    for kind in (ConnectionFault, StreamFault):
        fault = kind(ErrorCode.PROTOCOL_ERROR, "6.9", "a window of 0")
        assert isinstance(fault, Fault)
        assert repr(fault) == "PROTOCOL_ERROR: a window of 0 (RFC 9113, 6.9)"
