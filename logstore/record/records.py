"""The records inside a RecordBatch v2: build a batch, and iterate one. Pure.

    record   length varint · attributes i8 (0) · timestamp delta varlong · offset delta varint ·
             key length varint (-1: none) · key · value length varint (-1: none) · value ·
             header count varint · (key length varint · key · value length varint (-1: none) · value)…
    varint   zigzag, base 128, least group first: 0 -> 00, -1 -> 01, 1 -> 02, 64 -> 80 01

Speed comes from a table of the varints 0..8191 (all of one and two bytes), one `bytes.join` per batch, and two ways to
decode: runs of records of equal shape at once (`runs`), all others one by one, varints of one and two bytes in place.
That checks little while it reads: every step goes forward, a read behind the end is an IndexError, and after each
record the position must be exactly where its length said.
Source: Kafka protocol guide, "Record"; KIP-98. The whole page: docs/formats/record-batch.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Final, TypeAlias

from crc32c import crc32c

from logstore.errors import CorruptBatch, InvalidRecord, RecordTooLarge
from logstore.record.batch import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    CONTROL_MASK,
    CRC_POSITION,
    DELETE_HORIZON_MASK,
    HEADER,
    HEADER_BYTES,
    LENGTH_PREFIX_BYTES,
    MAGIC,
    TIMESTAMP_TYPE_MASK,
    TRANSACTIONAL_MASK,
    BatchHeader,
    check,
)
from logstore.record.compression import DECOMPRESSED_BYTES_MAX, compress, decompress
from logstore.record.runs import RUN_MIN, run_at
from logstore.types import (
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    NO_TIMESTAMP,
    Buffer,
    Header,
    Offset,
    Record,
    TimestampMs,
    TimestampType,
)

NewRecord: TypeAlias = tuple[TimestampMs, Buffer | None, Buffer | None, Sequence[Header]]
"""(timestamp, key, value, headers) of a record that has no offset yet."""

BATCH_BYTES_MAX: Final = 2**31 - 1

_INT32_MAX: Final = 2**31 - 1
_UINT32_MAX: Final = 2**32 - 1
_UINT64_MAX: Final = 2**64 - 1
_CRC = struct.Struct(">I")
_HEADER_HOLE: Final = bytes(HEADER_BYTES)


def zigzag(number: int) -> bytes:
    """`number` (any i64) as the varint a record holds it as, 1 to 10 bytes."""
    rest = (number << 1) ^ (number >> 63)
    if not 0 <= rest <= _UINT64_MAX:
        raise InvalidRecord(f"{number} does not fit 64 bits")
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_TABLE_SIZE: Final = 8192  # 2 * 8191 is the largest zigzag of two bytes
_VARINTS: Final = tuple(zigzag(number) for number in range(_TABLE_SIZE))
_NULL: Final = zigzag(-1)
_STARTS: Final = tuple(b"\x00" + varint for varint in _VARINTS)  # attributes 0, timestamp delta


def _varint(number: int) -> bytes:
    return _VARINTS[number] if 0 <= number < _TABLE_SIZE else zigzag(number)


# --- build -----------------------------------------------------------------------------------------------------------


def encode_batch(
    records: Sequence[NewRecord],
    *,
    codec: int = 0,
    level: int | None = None,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_PRODUCER_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    transactional: bool = False,
    control: bool = False,
    timestamp_type: TimestampType = TimestampType.CREATE_TIME,
) -> bytearray:
    """One batch of base offset 0 and leader epoch 0, its CRC set, ready to append or send.

    Args: `records`, at least one; `codec` and `level` as in `compression.compress`.
    Raises: InvalidRecord (no record, a number off its bounds), RecordTooLarge (2 GiB), UnsupportedFormat (codec).
    """
    if not records:
        raise InvalidRecord("a batch needs at least one record")
    attributes = (
        codec
        | (TIMESTAMP_TYPE_MASK if timestamp_type else 0)
        | (TRANSACTIONAL_MASK if transactional else 0)
        | (CONTROL_MASK if control else 0)
    )
    base_timestamp_ms = records[0][0]
    parts, max_timestamp_ms = _encode_records(records, base_timestamp_ms)
    last_delta, record_count = len(records) - 1, len(records)
    header = (
        0, 0, 0, MAGIC, 0, attributes, last_delta, base_timestamp_ms, max_timestamp_ms,
        producer_id, producer_epoch, base_sequence, record_count,
    )  # fmt: skip
    return _assemble(header, parts, level)


def rebuild_batch(
    header: BatchHeader,
    records: Iterable[Record],
    *,
    codec: int | None = None,
    delete_horizon_ms: TimestampMs | None = None,
) -> bytearray:
    """The batch of `header` with only `records` left in it, at their old offsets: what compaction writes.

    Base offset, last offset, producer fields and flags stay, so that no offset is handed out twice and a producer's
    last sequence survives; the maximum timestamp is taken anew. `records` may be empty. `codec` None keeps the codec.
    `delete_horizon_ms` sets the time from which tombstones and markers may go (KIP-534), kept as base timestamp.
    Raises: InvalidRecord when an offset is outside the batch or not ascending; otherwise as `encode_batch`.
    """
    kept = list(records)
    attributes = header.attributes
    if codec is not None:
        attributes = attributes & ~CODEC_MASK | codec
    base_timestamp_ms = header.base_timestamp_ms
    if delete_horizon_ms is not None:
        attributes |= DELETE_HORIZON_MASK
        base_timestamp_ms = delete_horizon_ms
    expected = header.base_offset
    parts: list[Buffer] = [_HEADER_HOLE]
    for record in kept:
        if not expected <= record.offset <= header.last_offset:
            raise InvalidRecord(f"offset {record.offset} where {expected}..{header.last_offset} is wanted")
        expected = record.offset + 1
        head = b"\x00" + _varint(record.timestamp_ms - base_timestamp_ms) + _varint(record.offset - header.base_offset)
        _append_record(parts, head, record.key, record.value, record.headers)
    max_timestamp_ms = max((record.timestamp_ms for record in kept), default=NO_TIMESTAMP)
    if header.is_log_append_time:
        max_timestamp_ms = header.max_timestamp_ms
    return _assemble(
        header._replace(
            attributes=attributes,
            base_timestamp_ms=base_timestamp_ms,
            max_timestamp_ms=max_timestamp_ms,
            record_count=len(kept),
        ),
        parts,
        None,
    )


def _encode_records(records: Sequence[NewRecord], base_timestamp_ms: TimestampMs) -> tuple[list[Buffer], TimestampMs]:
    """The pieces of a batch, a hole for its header first, and the maximum timestamp."""
    varints, table_size = _VARINTS, _TABLE_SIZE
    parts: list[Buffer] = [_HEADER_HOLE]
    max_timestamp_ms = timestamp_ms_before = base_timestamp_ms
    start = _STARTS[0]  # attributes and timestamp delta
    for offset_delta, (timestamp_ms, key, value, headers) in enumerate(records):
        if timestamp_ms != timestamp_ms_before:
            timestamp_ms_before = timestamp_ms
            delta_ms = timestamp_ms - base_timestamp_ms
            start = _STARTS[delta_ms] if 0 <= delta_ms < table_size else b"\x00" + zigzag(delta_ms)
            if timestamp_ms > max_timestamp_ms:
                max_timestamp_ms = timestamp_ms
        if not headers and key is not None and value is not None:
            key_length, value_length = len(key), len(value)
            length = key_length + value_length + len(start) + 4
            if offset_delta > 63:
                length += 1
            if key_length > 63:
                length += 1
            if value_length > 63:
                length += 1
            if length < table_size > offset_delta:  # every varint in it is in the table, too
                parts += (
                    varints[length], start, varints[offset_delta],
                    varints[key_length], key, varints[value_length], value, b"\x00",
                )  # fmt: skip
                continue
        elif not headers and key is None and value is not None:  # most records that come over HTTP
            value_length = len(value)
            length = value_length + len(start) + 4 + (offset_delta > 63) + (value_length > 63)
            if length < table_size > offset_delta:
                parts += (
                    varints[length], start, varints[offset_delta], _NULL, varints[value_length], value, b"\x00",
                )  # fmt: skip
                continue
        _append_record(parts, start + _varint(offset_delta), key, value, headers)
    return parts, max_timestamp_ms


def _append_record(
    parts: list[Buffer], head: bytes, key: Buffer | None, value: Buffer | None, headers: Sequence[Header]
) -> None:
    """Any record, at length. `head` is attributes, timestamp delta and offset delta."""
    fields: list[Buffer] = [head]
    for field in (key, value):
        fields += (_NULL,) if field is None else (_varint(len(field)), field)
    fields.append(_varint(len(headers)))
    for name, content in headers:
        name_bytes = name.encode("utf-8", "surrogateescape")
        fields += (_varint(len(name_bytes)), name_bytes)
        fields += (_NULL,) if content is None else (_varint(len(content)), content)
    parts.append(_varint(sum(map(len, fields))))
    parts += fields


def _assemble(header: tuple[int, ...], parts: list[Buffer], level: int | None) -> bytearray:
    """`parts` (a hole for the header, then the records) joined and compressed, under `header` with length and CRC.

    `header` has the fields of a `BatchHeader`, and need not be one: to build one costs as much as a small batch.
    """
    base_offset, _, *rest = header
    codec = header[5] & CODEC_MASK
    if codec:
        body = compress(codec, b"".join(parts[1:]), level)
        batch = bytearray().join((_HEADER_HOLE, body))
    else:
        batch = bytearray().join(parts)
    if len(batch) > BATCH_BYTES_MAX:
        raise RecordTooLarge(f"a batch of {len(batch)} bytes", hint=f"at most {BATCH_BYTES_MAX} fit the format")
    try:
        HEADER.pack_into(batch, 0, base_offset, len(batch) - LENGTH_PREFIX_BYTES, *rest)
    except struct.error as error:
        raise InvalidRecord(f"a field of the batch header is off its bounds: {error}") from None
    with memoryview(batch) as view:
        _CRC.pack_into(batch, CRC_POSITION, crc32c(view[ATTRIBUTES_POSITION:]))
    return batch


# --- iterate ---------------------------------------------------------------------------------------------------------

_Fields: TypeAlias = tuple[Offset, TimestampMs, bytes | None, bytes | None, tuple[Header, ...]]

_new_record: Callable[[_Fields], Record] = partial(tuple.__new__, Record)  # skips the argument count that _make checks


def iter_records(
    batch: Buffer, header: BatchHeader | None = None, *, bytes_max: int = DECOMPRESSED_BYTES_MAX
) -> Iterator[Record]:
    """As `decode_batch`: everything is decoded, and raised, before the first record comes."""
    return iter(decode_batch(batch, header, bytes_max=bytes_max))


def decode_batch(
    batch: Buffer, header: BatchHeader | None = None, *, bytes_max: int = DECOMPRESSED_BYTES_MAX
) -> list[Record]:
    """The records of the batch that `batch` begins with, in offset order, copied out of it.

    Args: `header`, when the caller has checked the batch already (`batch.check`); without it CRC and counts are
        checked first. `bytes_max`, bound of the decompressed body.
    Returns: absolute offsets. Under log append time every record has the batch's maximum timestamp. A header key that
        is not UTF-8 keeps its bytes as surrogate escapes.
    Raises: CorruptBatch (with the byte, counted in the decompressed body), RecordTooLarge (a bomb), UnsupportedFormat.
    """
    view = memoryview(batch)
    if header is None:
        header = check(view)
    size_bytes = header.length + LENGTH_PREFIX_BYTES
    if not HEADER_BYTES <= size_bytes <= len(view):
        raise CorruptBatch(f"batch of {size_bytes} bytes where {len(view)} are left")
    body = decompress(header.codec, view[HEADER_BYTES:size_bytes], bytes_max)
    return _decode_records(header, body)


def _decode_records(header: BatchHeader, body: bytes) -> list[Record]:
    base_offset, base_timestamp_ms = header.base_offset, header.base_timestamp_ms
    records: list[Record] = []
    position, delta, left = 0, 0, header.record_count
    singly = RUN_MIN  # records to read one by one where no run begins
    while left > 0:
        run = run_at(body, position, delta, left, base_timestamp_ms) if left >= RUN_MIN else None
        if run is None:
            fields, position, delta = _fields_at(body, position, delta, min(singly, left), header)
            left -= len(fields)
            records += map(_new_record, fields)
            singly *= 2  # the more the records vary, the less often is a run looked for
        else:
            found, position, timestamps, keys, values = run
            offsets = range(base_offset + delta, base_offset + delta + found)
            records += map(_new_record, zip(offsets, timestamps, keys, values, repeat(())))
            delta += found
            left -= found
    if position != len(body):
        raise _damaged(position, f"{len(body) - position} bytes are left after {header.record_count} records")
    if delta > header.last_offset_delta + 1:
        raise _damaged(position, f"the last offset delta is {delta - 1}, above {header.last_offset_delta}")
    if header.is_log_append_time:
        append_time_ms = header.max_timestamp_ms
        return [record._replace(timestamp_ms=append_time_ms) for record in records]
    return records


def _fields_at(
    body: bytes, position: int, next_delta: int, count: int, header: BatchHeader
) -> tuple[list[_Fields], int, int]:
    """The fields of `count` records from `position` on, the position after them, and the next offset delta.

    A loop that is long on purpose: a call per varint would halve its speed.
    """
    size, start = len(body), position
    base_offset, base_timestamp_ms = header.base_offset, header.base_timestamp_ms
    expected = next_delta << 1  # deltas are compared before unzigzag
    timestamp_before, timestamp_ms = 0, base_timestamp_ms
    records: list[_Fields] = []
    append = records.append
    try:
        for _ in range(count):
            start = position
            number = body[position]
            if number < 0x80:
                position += 1
            elif (high := body[position + 1]) < 0x80:
                number += (high << 7) - 0x80
                position += 2
            else:
                number, position = _varint_at(body, position)
            end = position + (number >> 1)
            if number & 1 or end > size:
                raise _damaged(start, "a record's length is beyond the body")

            timestamp = body[position + 1]  # behind the attributes, of which none is defined
            if timestamp < 0x80:
                position += 2
            elif (high := body[position + 2]) < 0x80:
                timestamp += (high << 7) - 0x80
                position += 3
            else:
                timestamp, position = _varint_at(body, position + 1, _UINT64_MAX)
            if timestamp != timestamp_before:
                timestamp_before = timestamp
                timestamp_ms = base_timestamp_ms + ((timestamp >> 1) ^ -(timestamp & 1))

            delta = body[position]
            if delta < 0x80:
                position += 1
            elif (high := body[position + 1]) < 0x80:
                delta += (high << 7) - 0x80
                position += 2
            else:
                delta, position = _varint_at(body, position)
            if delta != expected and (delta & 1 or delta < expected):
                raise _damaged(start, "offset deltas do not ascend")
            expected = delta + 2

            number = body[position]
            if number < 0x80:
                position += 1
            else:
                number, position = _varint_at(body, position)
            key: bytes | None = None
            if not number & 1:
                key = body[position : (position := position + (number >> 1))]
            elif number != 1:
                raise _damaged(start, "a key's length is negative")

            number = body[position]
            if number < 0x80:
                position += 1
            elif (high := body[position + 1]) < 0x80:
                number += (high << 7) - 0x80
                position += 2
            else:
                number, position = _varint_at(body, position)
            value: bytes | None = None
            if not number & 1:
                value = body[position : (position := position + (number >> 1))]
            elif number != 1:
                raise _damaged(start, "a value's length is negative")

            headers: tuple[Header, ...] = ()
            if body[position]:
                headers, position = _headers_at(body, position, end)
            else:
                position += 1
            if position != end:
                raise _damaged(start, f"a record's fields end at byte {position}, its length says {end}")
            append((base_offset + (delta >> 1), timestamp_ms, key, value, headers))
    except IndexError:
        raise _damaged(start, "a record is cut") from None
    return records, position, expected >> 1


def _varint_at(body: bytes, position: int, number_max: int = _UINT32_MAX) -> tuple[int, int]:
    """The unsigned number of the varint at `position`, not yet unzigzagged, and the position after it."""
    start, number, shift = position, 0, 0
    while True:
        byte = body[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if number > number_max or shift > 63:
            raise _damaged(start, f"a varint is beyond {number_max.bit_length()} bits")
        if byte < 0x80:
            return number, position
        shift += 7


def _headers_at(body: bytes, position: int, end: int) -> tuple[tuple[Header, ...], int]:
    start = position
    number, position = _varint_at(body, position)
    # A header takes two bytes at least, so a count that fits bounds the loop by the bytes that came.
    if number & 1 or number > end - position:
        raise _damaged(start, f"{(number >> 1) ^ -(number & 1)} headers in {end - position} bytes")
    headers: list[Header] = []
    for _ in range(number >> 1):
        length, position = _varint_at(body, position)
        after = position + (length >> 1)
        if length & 1 or after > end:
            raise _damaged(position, "a header key's length is beyond the record")
        name = body[position:after].decode("utf-8", "surrogateescape")
        length, position = _varint_at(body, after)
        after = position if length & 1 else position + (length >> 1)
        if (length & 1 and length != 1) or after > end:
            raise _damaged(position, "a header value's length is beyond the record")
        headers.append((name, None if length & 1 else body[position:after]))
        position = after
    return tuple(headers), position


def _damaged(position: int, what: str) -> CorruptBatch:
    return CorruptBatch(f"{what} (byte {position} of the batch's records)")
