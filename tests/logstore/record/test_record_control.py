"""Markers that end a transaction."""

from __future__ import annotations

import struct

import pytest

from logstore.errors import CorruptBatch, InvalidRecord
from logstore.record import batch
from logstore.record.control import (
    EndMarker,
    MarkerType,
    build_key,
    build_value,
    decode_marker_batch,
    encode_marker_batch,
    parse_key,
    parse_marker,
)
from logstore.record.records import decode_batch, encode_batch


def test_the_bytes_are_kafkas():
    assert build_key(MarkerType.ABORT) == bytes.fromhex("0000 0000")
    assert build_key(MarkerType.COMMIT) == bytes.fromhex("0000 0001")
    assert build_value(10) == bytes.fromhex("0000 0000000a")


@pytest.mark.parametrize("kind", MarkerType)
def test_a_marker_batch_comes_back(kind: MarkerType):
    marker = EndMarker(kind, 2**31 - 1)
    made = encode_marker_batch(marker, producer_id=9, producer_epoch=4, timestamp_ms=77)
    header = batch.check(memoryview(made))
    assert header.is_control
    assert header.is_transactional
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (9, 4, -1)
    assert decode_marker_batch(made) == marker
    (record,) = decode_batch(made)
    assert parse_marker(record.key, record.value) == marker


def test_later_versions_and_other_types_are_read_past():
    assert parse_marker(struct.pack(">hhq", 3, 1, 5), struct.pack(">hiq", 3, 8, 5)) == EndMarker(MarkerType.COMMIT, 8)
    assert parse_marker(struct.pack(">hh", 0, 128), None) is None
    assert parse_key(struct.pack(">hh", 0, 128)) == 128
    assert decode_marker_batch(encode_batch([(0, struct.pack(">hh", 0, 2), b"", ())], control=True)) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, build_value(0)),
        (b"", build_value(0)),
        (b"\0\0\0", build_value(0)),
        (struct.pack(">hh", -1, 0), build_value(0)),
        (build_key(MarkerType.ABORT), None),
        (build_key(MarkerType.ABORT), b"\0" * 5),
        (build_key(MarkerType.ABORT), struct.pack(">hi", -1, 0)),
    ],
)
def test_hostile_markers_are_refused(key: bytes | None, value: bytes | None):
    with pytest.raises(CorruptBatch):
        parse_marker(key, value)


def test_an_epoch_beyond_32_bits_is_refused():
    with pytest.raises(InvalidRecord):
        encode_marker_batch(EndMarker(MarkerType.ABORT, 2**31), producer_id=1, producer_epoch=0, timestamp_ms=0)
