"""The batch header: checked against every single flipped bit, stamped in place, hopped over."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptBatch, UnsupportedFormat
from logstore.record import batch
from logstore.record.compression import Codec
from logstore.record.records import decode_batch, encode_batch
from logstore.testing import batches

ONE = encode_batch([(1000, b"k", b"v", ()), (2000, None, b"w" * 40, [("h", b"x")])])


def repaired(data: bytes) -> bytearray:
    """`data` with the CRC it should have."""
    fixed = bytearray(data)
    struct.pack_into(">I", fixed, batch.CRC_POSITION, crc32c(fixed[batch.ATTRIBUTES_POSITION :]))
    return fixed


def with_field(field: str, value: int) -> bytearray:
    header = batch.read_header(ONE)._replace(**{field: value})
    return repaired(batch.HEADER.pack(*header) + ONE[batch.HEADER_BYTES :])


def test_a_good_batch_passes_at_any_position():
    header = batch.check(memoryview(b"??" + ONE + b"more"), 2)
    assert (header.record_count, header.last_offset_delta, header.max_timestamp_ms) == (2, 1, 2000)
    assert header.size_bytes == len(ONE)


def test_every_flipped_bit_is_found_unless_it_lies_outside_the_crc():
    for bit in range(len(ONE) * 8):
        byte = bit // 8
        flipped = bytearray(ONE)
        flipped[byte] ^= 1 << bit % 8
        if byte < 8 or 12 <= byte < 16:  # base offset, leader epoch
            if byte == 0 and bit == 7:
                continue  # a negative base offset: overwritten by whoever appends
            assert batch.check(memoryview(flipped)).record_count == 2
            assert len(decode_batch(flipped)) == 2
        else:
            with pytest.raises(UnsupportedFormat if byte == batch.MAGIC_POSITION else CorruptBatch):
                batch.check(memoryview(flipped))


@pytest.mark.parametrize("cut", range(len(ONE)))
def test_a_cut_batch_is_refused(cut: int):
    with pytest.raises(CorruptBatch):
        batch.check(memoryview(ONE)[:cut])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length", -1),
        ("length", -(2**31)),
        ("length", 48),
        ("length", 2**31 - 1),
        ("last_offset_delta", -1),
        ("last_offset_delta", 0),
        ("record_count", -1),
        ("record_count", 3),
        ("base_offset", 2**63 - 1),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(field: str, value: int):
    with pytest.raises(CorruptBatch):
        batch.check(memoryview(with_field(field, value)))


def test_old_formats_are_named_even_when_shorter_than_a_v2_header():
    message_v1 = struct.pack(">qiIbbqii", 0, 22, 0, 1, 0, 0, -1, -1)
    with pytest.raises(UnsupportedFormat, match="v1"):
        batch.check(memoryview(message_v1))


def test_stamping_offset_and_epoch_leaves_the_crc_right():
    stamped = bytearray(b"__" + ONE)
    batch.stamp_offset(stamped, 2, 2**40, 7)
    header = batch.check(memoryview(stamped), 2)
    assert (header.base_offset, header.leader_epoch, header.last_offset) == (2**40, 7, 2**40 + 1)


@pytest.mark.parametrize("codec", Codec)
def test_log_append_time_replaces_every_timestamp(codec: Codec):
    first, second = batches.batch(1, codec=codec, count=5), batches.batch(2, base_offset=5, codec=codec)
    joined = first + second
    batch.stamp_log_append_time(joined, 0, 123_456)
    assert [r.timestamp_ms for r in decode_batch(joined)] == [123_456] * 5
    assert joined[len(first) :] == second
    view = memoryview(joined)
    batch.stamp_log_append_time(view, len(first), -1)
    assert batch.check(view, len(first)).max_timestamp_ms == -1
    del view
    joined.append(0)  # no buffer export was left behind


def test_headers_are_hopped_over_up_to_the_cut():
    made = list(batches.log(3, 6, base_offset=100))
    joined = b"".join(made)
    found = list(batch.iter_headers(joined))
    assert [header.size_bytes for _, header in found] == [len(one) for one in made]
    assert [position for position, _ in found] == [sum(map(len, made[:n])) for n in range(6)]
    assert found[0][1].base_offset == 100
    for cut in (0, 1, 60, len(joined) - 1):
        whole = [position for position, header in found if position + header.size_bytes <= cut]
        assert [position for position, _ in batch.iter_headers(joined, 0, cut)] == whole
    assert list(batch.iter_headers(memoryview(joined), found[4][0])) == found[4:]


def test_hopping_never_stands_still():
    for length in (-12, 0, 48, -(2**31)):
        with pytest.raises(CorruptBatch):
            list(batch.iter_headers(ONE + with_field("length", length)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=130))
def test_any_bytes_are_refused_or_pass_but_nothing_else(data: bytes):
    try:
        batch.check(memoryview(data))
    except (CorruptBatch, UnsupportedFormat):
        return
    raise AssertionError("random bytes passed a CRC")
