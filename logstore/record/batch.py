"""RecordBatch v2: the 61-byte header as numbers over a buffer. Pure; no record is touched here.

    byte  0            8        12       16  17    21    23       27           35           43
          +------------+--------+--------+---+-----+-----+--------+------------+------------+--
          | base       | batch  | leader | m | crc | at- | last   | base       | max        |
          | offset     | length | epoch  | a |     | tri | offset | timestamp  | timestamp  |
          |            |        |        | g |     | but | delta  |            |            |
          +------------+--------+--------+---+-----+-----+--------+------------+------------+--
    byte  43           51    53       57       61
          +------------+-----+--------+--------+-----------
          | producer   | pro | base   | record | records …
          | id         | ep  | seq    | count  |
          +------------+-----+--------+--------+-----------

Big-endian. `batch length` counts the bytes after itself (size - 12). The CRC32C covers byte 21 to the end, so the base
offset and the leader epoch can be stamped without touching it. Source: Kafka protocol guide, "Record Batch" (KIP-98).
The whole page: docs/formats/record-batch.md.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from logstore.errors import CorruptBatch, UnsupportedFormat
from logstore.types import Buffer, Offset, TimestampMs

HEADER = struct.Struct(">qiibIhiqqqhii")
assert HEADER.size == 61
HEADER_BYTES = HEADER.size
LENGTH_PREFIX_BYTES = 12  # base offset and batch length: what `batch length` does not count
MAGIC_POSITION = 16
CRC_POSITION = 17
ATTRIBUTES_POSITION = 21  # the CRC covers everything from here on
MAGIC = 2

CODEC_MASK = 0x07
TIMESTAMP_TYPE_MASK = 0x08
TRANSACTIONAL_MASK = 0x10
CONTROL_MASK = 0x20
DELETE_HORIZON_MASK = 0x40

_BASE_OFFSET = struct.Struct(">q")
_LENGTH = struct.Struct(">i")


class BatchHeader(NamedTuple):
    """One batch header, field by field. `size_bytes` of the whole batch is `length + 12`."""

    base_offset: Offset
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp_ms: TimestampMs
    max_timestamp_ms: TimestampMs
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        return self.length + LENGTH_PREFIX_BYTES

    @property
    def last_offset(self) -> Offset:
        return self.base_offset + self.last_offset_delta

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL_MASK)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL_MASK)

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & TIMESTAMP_TYPE_MASK)


def read_header(buffer: Buffer, position: int = 0) -> BatchHeader:
    """The header at `position`, unchecked. Raises `CorruptBatch` when fewer than 61 bytes are left."""
    try:
        return BatchHeader._make(HEADER.unpack_from(buffer, position))
    except struct.error:
        raise CorruptBatch(f"{len(buffer) - position} bytes are too few for a batch header of {HEADER_BYTES}") from None


def stamp_offset(buffer: bytearray | memoryview, position: int, base_offset: Offset, leader_epoch: int) -> None:
    """Write the base offset and the leader epoch in place; both lie outside the CRC."""
    _BASE_OFFSET.pack_into(buffer, position, base_offset)
    _LENGTH.pack_into(buffer, position + LENGTH_PREFIX_BYTES, leader_epoch)


def check(buffer: memoryview, position: int = 0) -> BatchHeader:
    """The header of the batch at `position`, after the whole batch was found to be what its producer sent.

    Checked: the batch lies whole within `buffer`, magic 2, CRC32C over everything behind it, counts that agree
    (`last_offset_delta + 1 == record_count` unless compaction took records out, never negative). No record is decoded.
    Raises `CorruptBatch`, or `UnsupportedFormat` for another magic.
    """
    header = read_header(buffer, position)
    if header.magic != MAGIC:
        raise UnsupportedFormat(
            f"record format v{header.magic} is not taken", hint="produce RecordBatch v2 (any client since Kafka 0.11)"
        )
    end = position + header.size_bytes
    if header.size_bytes < HEADER_BYTES or end > len(buffer):
        raise CorruptBatch(f"batch of {header.size_bytes} bytes where {len(buffer) - position} are left")
    if crc32c(buffer[position + ATTRIBUTES_POSITION : end]) != header.crc:
        raise CorruptBatch(f"CRC32C of the batch at byte {position} is not {header.crc:#010x}")
    if header.last_offset_delta < 0 or not 0 <= header.record_count <= header.last_offset_delta + 1:
        raise CorruptBatch(f"{header.record_count} records for offset deltas 0..{header.last_offset_delta}")
    return header
