"""Batches of real clients and brokers, each with the result other libraries decode it to."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path

import pytest

from logstore.errors import CorruptBatch, UnsupportedFormat
from logstore.record.batch import check
from logstore.record.compression import CODEC_NAMES
from logstore.record.control import EndMarker, MarkerType, parse_marker
from logstore.record.records import decode_batch

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT.parent / "shared" / "data" / "kafka-fixtures"
EXPECTED = FIXTURES / "decoded.jsonl"
OWN = ROOT / "tests" / "data" / "record-batches.jsonl"


@cache
def content(file: str) -> bytes:
    data = (FIXTURES / file).read_bytes()
    return bytes.fromhex(data.decode()) if file.endswith(".hex") else data


def cases() -> list[dict]:
    lines = OWN.read_text().splitlines() + (EXPECTED.read_text().splitlines() if EXPECTED.exists() else [])
    return [json.loads(line) for line in lines]


CASES = cases()
V2 = [case for case in CASES if case["magic"] == 2]
assert len(V2) >= 5


def batch_of(case: dict) -> memoryview:
    data = bytes.fromhex(case["hex"]) if "hex" in case else content(case["file"])
    return memoryview(data)[case["at"] : case["at"] + case["size"]]


@pytest.mark.parametrize("case", V2, ids=lambda case: f"{case['file']}@{case['at']}")
def test_every_v2_batch_is_what_others_say(case: dict):
    data = batch_of(case)
    header = check(data)
    assert header.size_bytes == case["size"]
    assert header.record_count == case["count"]
    for ours, theirs in (
        (header.base_offset, "base_offset"),
        (header.leader_epoch, "leader_epoch"),
        (header.crc, "crc"),
        (header.attributes, "attributes"),
        (header.last_offset_delta, "last_offset_delta"),
        (header.base_timestamp_ms, "base_timestamp"),
        (header.max_timestamp_ms, "max_timestamp"),
        (header.producer_id, "producer_id"),
        (header.producer_epoch, "producer_epoch"),
        (header.base_sequence, "base_sequence"),
        (CODEC_NAMES[header.codec], "codec"),
    ):
        assert ours == case[theirs], theirs
    if "records" not in case:
        with pytest.raises(CorruptBatch):
            decode_batch(data)
        return
    found = decode_batch(data)
    assert len(found) == len(case["records"])
    for ours, wanted in zip(found, case["records"], strict=True):
        assert ours.offset == wanted["offset"]
        # The list gives what the producer wrote; under log append time Kafka's readers take the batch's maximum.
        assert ours.timestamp_ms == (header.max_timestamp_ms if header.is_log_append_time else wanted["timestamp"])
        assert (None if ours.key is None else ours.key.hex()) == wanted["key_hex"]
        assert (-1 if ours.value is None else len(ours.value)) == (
            -1 if wanted["value_len"] is None else wanted["value_len"]
        )
        if "value_crc32" in wanted:
            assert zlib.crc32(ours.value or b"") == wanted["value_crc32"]
        else:
            assert (None if ours.value is None else ours.value.hex()) == wanted["value_hex"]
        headers = [[name.encode().hex(), None if value is None else value.hex()] for name, value in ours.headers]
        assert headers == wanted.get("headers_hex", [])


@pytest.mark.skipif(not EXPECTED.exists(), reason="the captured files are not beside the checkout")
def test_all_captured_formats_are_there_and_old_ones_are_refused_by_name():
    assert {case["codec"] for case in V2} == {"none", "gzip", "snappy", "lz4", "zstd"}
    for case in CASES:
        if case["magic"] < 2:
            with pytest.raises(UnsupportedFormat, match=f"v{case['magic']}"):
                check(batch_of(case))


@pytest.mark.skipif(not EXPECTED.exists(), reason="the captured files are not beside the checkout")
def test_captured_markers_are_read():
    def part(name: str) -> bytes:
        return (FIXTURES / "sarama" / f"control-record.{name}.bin").read_bytes()

    assert parse_marker(part("abortTxCtrlRecKey"), part("abortTxCtrlRecValue")) == EndMarker(MarkerType.ABORT, 10)
    assert parse_marker(part("commitTxCtrlRecKey"), part("commitTxCtrlRecValue")) == EndMarker(MarkerType.COMMIT, 15)
    assert parse_marker(part("unknownCtrlRecKey"), part("unknownCtrlRecValue")) is None


@pytest.mark.skipif(not EXPECTED.exists(), reason="the captured files are not beside the checkout")
def test_a_batch_whose_crc_was_never_right_is_refused():
    with pytest.raises(CorruptBatch, match="CRC32C"):
        check(memoryview(content("kafka-python/control_batch_data_v2.bin")))
