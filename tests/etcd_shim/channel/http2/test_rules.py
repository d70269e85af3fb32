"""The rules that bind a gRPC client, by section, each with the tests that show it is kept.

A bare section is one of RFC 9113. A test is named by its module, without ``test_``, and its name.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

RULES = [
    ("3.4", "the preface, with SETTINGS, is the first that we send", "sending preface_is_the_same"),
    ("3.4", "SETTINGS is the first frame that a server sends", "frames first_frame_is_settings"),
    ("3.4", "what is not HTTP/2 is found out at once", "garbage what_is_not_http2_is_found_out"),
    ("4.1", "unknown flags and the reserved bit are ignored", "frames unknown_flags_are_ignored"),
    ("4.1", "a reserved bit of a stream's id is ignored", "frames reserved_bit_is_ignored"),
    ("4.2", "frames over 16 KiB are a FRAME_SIZE_ERROR", "frames frame_over_16_kib"),
    ("4.2", "frames of 16 KiB are taken", "frames frame_of_16_kib"),
    ("4.2", "ours are no larger than the server allows", "windows frames_are_no_larger"),
    (
        "4.3",
        "a block is decoded even for a closed stream",
        "frames header_block_of_a_closed_stream",
    ),
    ("4.3", "what is not HPACK is a COMPRESSION_ERROR", "garbage broken_rules_are_a_typed_error"),
    ("4.3.1", "the table's size is what the server allows", "settings smallest_and_last_size"),
    ("5.1", "a frame of an idle stream ends the connection", "frames frame_of_an_idle_stream"),
    ("5.1", "frames of a closed stream are ignored", "frames frame_of_a_closed_stream_is_ignored"),
    (
        "5.1",
        "a stream goes from open by half-closed to closed",
        "streams stream_is_open_half_closed",
    ),
    ("5.1.1", "ids go up by two, and end", "frames ids_are_used_up"),
    ("5.1.2", "no more streams than the server takes", "settings how_many_calls"),
    ("5.2", "a slow reader of one stream stops no other", "windows breakage_5_slow_reader"),
    ("5.4.1", "a connection error is a GOAWAY with its code", "frames frame_of_another_length"),
    ("5.4.2", "a stream error ends that stream only", "streams update_of_a_streams_window_by_0"),
    ("5.5", "unknown frames are ignored", "frames unknown_frames_are_ignored"),
    ("5.5", "but not within a header block", "frames header_block_that_is_broken_off"),
    ("6.1", "DATA may be padded, and be all padding", "frames padding"),
    ("6.1", "more padding than frame is a PROTOCOL_ERROR", "frames more_padding_than_frame"),
    ("6.1", "DATA, and others, of stream 0 end the connection", "frames frame_of_stream_0"),
    ("6.2", "HEADERS may be padded and have a priority", "frames padding"),
    ("6.3", "PRIORITY means nothing, for any stream", "frames priority_means_nothing"),
    ("6.3", "PRIORITY of another length is a stream error", "frames priority_of_another_length"),
    ("6.4", "RST_STREAM of each code, unknown ones, too, ends a call", "frames reset_of_each_code"),
    ("6.4", "RST_STREAM has four bytes", "frames frame_of_another_length"),
    (
        "6.5",
        "SETTINGS are of stream 0, as are PING and GOAWAY",
        "frames frame_of_a_stream_that_must",
    ),
    ("6.5", "an acknowledgement is empty", "frames acknowledgement_with_a_payload"),
    ("6.5", "SETTINGS have a multiple of six bytes", "settings length_that_is_no_multiple"),
    (
        "6.5.2",
        "each value is in its bounds; no push from servers",
        "settings value_that_must_not_be",
    ),
    ("6.5.2", "unknown settings are ignored", "settings value_that_may_be"),
    ("6.5.3", "settings are applied in their order", "settings settings_are_applied_in"),
    ("6.5.3", "and acknowledged", "frames settings_and_pings_are_answered"),
    ("6.7", "PING is answered with its payload; an answer is not", "frames settings_and_pings"),
    ("6.7", "PING has eight bytes", "frames frame_of_another_length"),
    ("6.8", "after GOAWAY the calls below its id go on", "connection breakage_2_answers_still_due"),
    ("6.8", "GOAWAY twice: its id never rises", "frames goaway_twice"),
    ("6.9", "WINDOW_UPDATE of 0 is a stream error", "streams update_of_a_streams_window_by_0"),
    ("6.9", "or a connection error", "streams update_of_the_connections_window_by_0"),
    ("6.9.1", "both windows are kept", "windows both_windows_are_kept"),
    ("6.9.1", "a stream's window over 2**31 - 1", "streams overflow_of_a_streams_window"),
    ("6.9.1", "the connection's window over 2**31 - 1", "streams overflow_of_the_connections"),
    ("6.9.1", "a server that sends more than a stream's window", "streams more_than_the_streams"),
    ("6.9.1", "or than the connection's", "streams more_than_the_connections_window"),
    ("6.9.1", "dropped DATA and padding count", "streams what_is_dropped_counts"),
    ("6.9.2", "windows may become negative by SETTINGS", "settings windows_become_negative"),
    ("6.9.2", "a window of nothing", "windows initial_window_of_nothing"),
    (
        "6.9.2",
        "or overflow by SETTINGS, which ends the connection",
        "settings window_over_the_largest",
    ),
    ("6.10", "a block may be split anywhere", "frames header_block_split_anywhere"),
    ("6.10", "CONTINUATION of nothing, or of another stream", "frames continuation_of"),
    ("8.1", "informational heads may come before the head", "responses informational_heads"),
    ("8.1", "trailers end the stream; nothing comes after", "responses blocks_out_of_place"),
    ("8.1", "no DATA before the head", "responses data_before_the_head"),
    ("8.1", "RST_STREAM after the whole answer changes nothing", "frames reset_after_the_trailers"),
    ("8.1.1", "a malformed answer is a stream error", "responses malformed_head_ends_its_call"),
    ("8.2", "names and values are of the characters allowed", "responses malformed_head_ends_its"),
    ("8.3", ":status, once and first, and none in trailers", "responses malformed_trailers"),
    ("8.4", "PUSH_PROMISE is refused", "frames push_is_refused"),
    ("8.7", "REFUSED_STREAM: not believed, as HAProxy says it", "frames reset_of_each_code"),
    ("10.5", "PING and SETTINGS whose answers are not read", "bounds answers_that_are_not_read"),
    ("10.5", "empty DATA without end", "bounds empty_data"),
    ("10.5.1", "header blocks and CONTINUATION without end", "bounds endless_header_block"),
    ("10.5.1", "header lists that are too large", "bounds header_list_that_is_too_large"),
    ("RFC 7541, 4.2", "the smallest and the last size are said", "settings smallest_and_last_size"),
    ("RFC 7541, 4.3", "what left the table is not meant", "header_blocks breakage_8_what_left"),
    ("gRPC: requests", "headers, messages, END_STREAM", "calls unary_call"),
    (
        "gRPC: responses",
        "messages in any number of DATA frames",
        "messages any_bytes_give_the_same",
    ),
    ("gRPC: responses", "trailers only", "calls trailers_only"),
    ("gRPC: responses", "the end without a status", "responses end_without_a_status"),
    ("gRPC: responses", "the end within a message", "responses end_within_a_message"),
    ("gRPC: responses", "the content type is gRPC's", "responses content_type"),
    ("gRPC: responses", "grpc-message is percent-encoded", "calls percent_encoded_words"),
    ("gRPC: responses", "unknown statuses are UNKNOWN", "calls unknown_status"),
    ("gRPC: messages", "none is compressed, as none may be", "calls compressed_message"),
    ("gRPC: messages", "none is over the limit", "calls message_over_the_limit"),
    ("gRPC: HTTP status", "other answers, by the mapping", "responses http_status_is_mapped"),
    ("gRPC: HTTP status", "only without a gRPC status", "responses grpc_status_goes_before"),
    ("gRPC: errors", "a call that is cancelled is one CANCEL", "calls cancelled_call_is_one_reset"),
]

HERE = Path(__file__).parent
SOURCE = HERE.parents[3] / "trio_sched/etcd_shim/channel/http2"


@pytest.mark.parametrize(("section", "rule", "test"), RULES, ids=[f"{s} {r}" for s, r, _ in RULES])
def test_rule_has_its_test(section: str, rule: str, test: str) -> None:
    assert section
    assert rule
    module, name = test.split()
    names = vars(importlib.import_module(f"{__package__}.test_{module}"))
    assert any(each.startswith(f"test_{name}") and callable(names[each]) for each in names)


def test_each_section_that_the_code_names_is_in_the_table() -> None:
    sections = {section for section, _, _ in RULES}
    text = "".join(path.read_text() for path in SOURCE.glob("*.py"))
    named = set(re.findall(r'(?:ErrorCode\.|_)\w+, "([\d.]+)"', text))
    named |= set(re.findall(r'_PROTOCOL_ERROR, "([\d.]+)"', text))
    assert len(named) > 10
    assert named <= sections


def test_each_module_has_its_tests() -> None:
    for path in SOURCE.glob("[a-z]*.py"):
        assert (HERE / f"test_{path.stem}.py").is_file()
