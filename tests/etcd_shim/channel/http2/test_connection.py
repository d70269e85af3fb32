"""The pure half of a connection: how many calls it takes, and how it ends."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import SettingsFrame

from tests.etcd_shim.channel.h2_peer import REQUEST, Peer, Wire, call_headers
from trio_sched.etcd_shim.channel.http2.events import (
    CallEnded,
    ConnectionBroken,
    Event,
    GoAway,
    Message,
)
from trio_sched.etcd_shim.errors import ConnectionLost

CANCEL = int(ErrorCodes.CANCEL)


def ended_well(events: list[Event], call: int) -> bool:
    (end,) = (e for e in events if isinstance(e, CallEnded) and e.stream_id == call)
    return end.error is None


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.exchange()
    return wire


# ---- how many calls ----------------------------------------------------------


def test_breakage_7_cautious_until_settings_arrive() -> None:
    wire = Wire(peer=Peer({SettingCodes.MAX_CONCURRENT_STREAMS: 3}))
    assert wire.client.max_calls == 100
    wire.exchange()
    assert wire.client.max_calls == 3


def test_no_limit_if_settings_name_none(wire: Wire) -> None:
    assert wire.client.max_calls > 2**31


def test_breakage_6_stream_ids_used_up(wire: Wire) -> None:
    wire.client._last_stream_id = 2**31 - 3
    call = wire.call(b"the last")
    assert call == 2**31 - 1
    assert wire.client.open(REQUEST) is None
    wire.peer.answer(call, b"is answered")
    assert Message(call, b"is answered") in wire.exchange()
    assert wire.client.open_calls == 0


def test_breakage_8_header_table_changes_size_under_way(wire: Wire) -> None:
    for size in (4096, 0, 100, 65536):
        wire.peer.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
        wire.exchange()
        for path in (b"/first", b"/second", b"/first"):
            call = wire.client.open(call_headers(path))
            assert call is not None
            wire.client.send(call, b"", end=True)
            wire.exchange()
            assert wire.peer.requests[call].headers[b":path"] == path
            wire.peer.answer(call)
            assert ended_well(wire.exchange(), call)


# ---- the connection ends ---------------------------------------------------------


def test_breakage_2_answers_still_due_arrive_after_goaway(wire: Wire) -> None:
    below, above = wire.call(b"below"), wire.call(b"above")
    wire.peer.goaway(below, ErrorCodes.NO_ERROR, b"bye")
    wire.peer.accept(below)
    (goaway,) = wire.exchange()
    assert goaway == GoAway(below, int(ErrorCodes.NO_ERROR), b"bye")
    wire.peer.message(below, b"still due")
    wire.peer.finish(below)
    events = wire.exchange()
    assert Message(below, b"still due") in events
    assert ended_well(events, below)
    assert wire.client.open_calls == 1
    wire.client.reset(above)
    wire.exchange()
    assert wire.peer.resets == [(above, CANCEL)]


def test_breakage_2_goaway_keeps_what_is_to_be_sent() -> None:
    wire = Wire(peer=Peer(gives_windows=False))
    wire.exchange()
    call = wire.call(bytes(100_000))
    wire.peer.goaway(call)
    wire.exchange()
    wire.peer.give(call, 100_000)
    wire.exchange()
    assert wire.peer.requests[call].messages == [bytes(100_000)]
    assert wire.peer.requests[call].ended


def test_goaway_for_too_many_pings(wire: Wire) -> None:
    wire.peer.goaway(0, ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings")
    wire.peer.goaway(0, ErrorCodes.ENHANCE_YOUR_CALM)
    wire.peer.goaway(0, 0xBEEF, b"something else")
    goaways = wire.exchange()
    assert [isinstance(event, GoAway) and event.too_many_pings for event in goaways] == [
        True,
        False,
        False,
    ]
    assert isinstance(goaways[2], GoAway)
    assert goaways[2].error_code == 0xBEEF


def test_end_of_the_bytes(wire: Wire) -> None:
    wire.call()
    (event,) = wire.client.receive_eof()
    assert isinstance(event, ConnectionBroken)
    assert isinstance(event.error, ConnectionLost)
    assert wire.client.receive_eof() == wire.client.receive(b"more") == []


def test_events_of_the_good_bytes_come_before_the_break(wire: Wire) -> None:
    call = wire.call()
    wire.peer.answer(call, b"good")
    wire.peer.raw(SettingsFrame(0, {SettingCodes.MAX_FRAME_SIZE: 1}))
    events = wire.exchange()
    assert [type(event) for event in events] == [Message, CallEnded, ConnectionBroken]
    wire.peer.raw_bytes(b"more")
    assert wire.exchange() == []
