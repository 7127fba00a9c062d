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
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from crc32c import crc32c

from logstore.errors import CorruptBatch, UnsupportedFormat
from logstore.types import Buffer, Offset, Position, TimestampMs

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

MAX_TIMESTAMP_POSITION = 35
OFFSET_MAX = 2**63 - 1

_START = struct.Struct(">qii")  # base offset, batch length, leader epoch
_BASE_OFFSET = struct.Struct(">q")
_LENGTH = struct.Struct(">i")
assert _START.size == MAGIC_POSITION
_CRC_AND_ATTRIBUTES = struct.Struct(">Ih")
_MAX_TIMESTAMP = struct.Struct(">q")


HeaderFields: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
"""The fields of a `BatchHeader` in their order."""


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


def stamp_start(buffer: bytearray | memoryview, base_offset: Offset, length: int, leader_epoch: int) -> None:
    """`stamp_offset` at the start of `buffer` in one call, for who knows the batch length, which lies between."""
    _START.pack_into(buffer, 0, base_offset, length, leader_epoch)


def stamp_log_append_time(buffer: bytearray | memoryview, position: int, now_ms: TimestampMs) -> None:
    """Make every record of the batch at `position` bear the time `now_ms`, in place, and set the CRC anew.

    Only the timestamp type and the maximum timestamp change: readers take it for each record (KIP-32). The batch must
    have passed `check`; the cost is one CRC over it.
    """
    header = read_header(buffer, position)
    _MAX_TIMESTAMP.pack_into(buffer, position + MAX_TIMESTAMP_POSITION, now_ms)
    attributes = header.attributes | TIMESTAMP_TYPE_MASK
    _CRC_AND_ATTRIBUTES.pack_into(buffer, position + CRC_POSITION, 0, attributes)
    with memoryview(buffer) as view:
        crc = crc32c(view[position + ATTRIBUTES_POSITION : position + header.size_bytes])
    _CRC_AND_ATTRIBUTES.pack_into(buffer, position + CRC_POSITION, crc, attributes)


def iter_headers(
    buffer: Buffer, position: Position = 0, end: Position | None = None
) -> Iterator[tuple[Position, BatchHeader]]:
    """(position, header) of each whole batch in `buffer[position:end]`, hopping by their lengths; nothing is checked
    but the lengths.

    Ends before a batch that is cut by `end`. Raises `CorruptBatch` for a length below that of a header.
    """
    end = len(buffer) if end is None else min(end, len(buffer))
    while end - position >= HEADER_BYTES:
        header = read_header(buffer, position)
        if header.size_bytes < HEADER_BYTES:
            raise CorruptBatch(f"batch of {header.size_bytes} bytes at byte {position}")
        if header.size_bytes > end - position:
            return
        yield position, header
        position += header.size_bytes


def check(buffer: memoryview, position: int = 0) -> BatchHeader:
    """The header of the batch at `position`, after the whole batch was found to be what its producer sent.

    Checked: the batch lies whole within `buffer`, magic 2, CRC32C over everything behind it, counts that agree
    (`last_offset_delta + 1 == record_count` unless compaction took records out, never negative), and a last offset
    below 2^63. No record is decoded.
    Raises `CorruptBatch`, or `UnsupportedFormat` for another magic.
    """
    return BatchHeader._make(checked_fields(buffer, position))


def checked_fields(buffer: memoryview, position: int = 0) -> HeaderFields:
    """As `check`, but the header is a bare tuple: on the hot path a `BatchHeader` costs as much as the checks."""
    left = len(buffer) - position
    if left > MAGIC_POSITION and (magic := buffer[position + MAGIC_POSITION]) != MAGIC:
        raise UnsupportedFormat(
            f"record format v{magic} is not taken", hint="produce RecordBatch v2 (any client since Kafka 0.11)"
        )
    if left < HEADER_BYTES:
        raise CorruptBatch(f"{left} bytes are too few for a batch header of {HEADER_BYTES}")
    header: HeaderFields = HEADER.unpack_from(buffer, position)
    base_offset, length, _, _, crc, _, last_offset_delta, _, _, _, _, _, record_count = header
    size_bytes = length + LENGTH_PREFIX_BYTES
    if not HEADER_BYTES <= size_bytes <= left:
        raise CorruptBatch(f"batch of {size_bytes} bytes where {left} are left")
    if crc32c(buffer[position + ATTRIBUTES_POSITION : position + size_bytes]) != crc:
        raise CorruptBatch(f"CRC32C of the batch at byte {position} is not {crc:#010x}")
    if last_offset_delta < 0 or not 0 <= record_count <= last_offset_delta + 1:
        raise CorruptBatch(f"{record_count} records for offset deltas 0..{last_offset_delta}")
    if base_offset + last_offset_delta > OFFSET_MAX:
        raise CorruptBatch(f"base offset {base_offset} leaves no room for {last_offset_delta} more")
    return header
