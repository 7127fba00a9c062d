"""What a producer's batch may say of itself, by its header alone. Pure: checks, refusals with a reason, one stamp."""

from __future__ import annotations

import struct
from typing import Final

from crc32c import crc32c

from logstore.config import TopicConfig
from logstore.errors import (
    InvalidRecord,
    InvalidTimestamp,
    InvalidTransactionState,
    RecordTooLarge,
    UnsupportedFormat,
)
from logstore.record.batch import (
    ATTRIBUTES_POSITION,
    CRC_POSITION,
    LENGTH_PREFIX_BYTES,
    TIMESTAMP_TYPE_MASK,
    BatchHeader,
    HeaderFields,
)
from logstore.types import NO_TIMESTAMP, TimestampMs, TimestampType

CODEC_MAX: Final = 4
_MAX_TIMESTAMP_POSITION: Final = 35
_CODEC_AND_FLAGS: Final = 0xFFFF & ~TIMESTAMP_TYPE_MASK
_CREATE_TIME: Final = TimestampType.CREATE_TIME  # looking up an enum's member costs more than the checks around it
_CRC = struct.Struct(">I")
_ATTRIBUTES = struct.Struct(">h")
_TIMESTAMP = struct.Struct(">q")


def admit(header: HeaderFields, config: TopicConfig, now_ms: TimestampMs) -> None:
    """Refuse a batch the topic does not take. Source: Kafka's LogValidator, as far as the header goes.

    The timestamps checked are the first record's (against the past) and the largest (against the future).
    Raises: RecordTooLarge, InvalidRecord, InvalidTransactionState, UnsupportedFormat, InvalidTimestamp.
    """
    (_, length, _, _, _, attributes, last_offset_delta, base_timestamp_ms, max_timestamp_ms, _, _, _, count) = header
    if attributes & _CODEC_AND_FLAGS > CODEC_MAX or last_offset_delta + 1 != count:
        _refuse_attributes(BatchHeader._make(header))
    if length + LENGTH_PREFIX_BYTES > config.max_message_bytes:
        raise RecordTooLarge(
            f"a batch of {length + LENGTH_PREFIX_BYTES} bytes is above max.message.bytes={config.max_message_bytes}",
            hint="lower the producer's batch.size and max.request.size, or raise the topic's max.message.bytes",
        )
    if config.message_timestamp_type is _CREATE_TIME and (
        attributes & TIMESTAMP_TYPE_MASK
        or max_timestamp_ms - now_ms > config.message_timestamp_after_max_ms
        or now_ms - base_timestamp_ms > config.message_timestamp_before_max_ms
    ):
        _refuse_timestamp(BatchHeader._make(header), config, now_ms)


def _refuse_attributes(header: BatchHeader) -> None:
    if header.is_control:
        raise InvalidRecord("control batches are written by the broker alone")
    if header.is_transactional:
        raise InvalidTransactionState(
            f"producer {header.producer_id} sent a transactional batch outside a transaction",
            hint="leave transactional.id unset: idempotent batches are taken",
        )
    if header.codec > CODEC_MAX:
        raise UnsupportedFormat(f"codec {header.codec} is not known", hint="use gzip, snappy, lz4, zstd or none")
    if header.last_offset_delta + 1 != header.record_count:
        raise InvalidRecord(f"{header.record_count} records for offset deltas 0..{header.last_offset_delta}")
    raise InvalidRecord(f"attributes {header.attributes & 0xFFFF:#06x} are not known")


def _refuse_timestamp(header: BatchHeader, config: TopicConfig, now_ms: TimestampMs) -> None:
    if header.is_log_append_time:
        raise InvalidTimestamp("only the broker may mark timestamps as LogAppendTime")
    if header.max_timestamp_ms - now_ms > config.message_timestamp_after_max_ms:
        raise InvalidTimestamp(
            f"timestamp {header.max_timestamp_ms} is {header.max_timestamp_ms - now_ms} ms in the future",
            hint="check the producer's clock, or raise message.timestamp.after.max.ms",
        )
    if header.base_timestamp_ms != NO_TIMESTAMP:
        raise InvalidTimestamp(
            f"timestamp {header.base_timestamp_ms} is {now_ms - header.base_timestamp_ms} ms old",
            hint="check the producer's clock, or raise message.timestamp.before.max.ms",
        )


def stamp_append_time(records: memoryview, attributes: int, now_ms: TimestampMs) -> None:
    """Mark the batch as LogAppendTime and set its largest timestamp, which readers then give every record (KIP-32)."""
    _ATTRIBUTES.pack_into(records, ATTRIBUTES_POSITION, attributes | TIMESTAMP_TYPE_MASK)
    _TIMESTAMP.pack_into(records, _MAX_TIMESTAMP_POSITION, now_ms)
    _CRC.pack_into(records, CRC_POSITION, crc32c(records[ATTRIBUTES_POSITION:]))
