"""The words every layer shares. A leaf: imports nothing of the house.

    log_start_offset <= last_stable_offset <= high_watermark <= log_end_offset

Ends are exclusive: `log_end_offset` is the offset the next record will get. An offset numbers a record in its
partition, a position a byte in a file; the two are never mixed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias

Offset: TypeAlias = int
Position: TypeAlias = int
TimestampMs: TypeAlias = int
Header: TypeAlias = tuple[str, bytes | None]
Buffer: TypeAlias = bytes | bytearray | memoryview

NO_TIMESTAMP: TimestampMs = -1
NO_PRODUCER_ID = -1
NO_PRODUCER_EPOCH = -1
NO_SEQUENCE = -1


class Isolation(IntEnum):
    """How far a reader may see: to the high watermark, or to the last stable offset (KIP-98)."""

    READ_UNCOMMITTED = 0
    READ_COMMITTED = 1


class TimestampType(IntEnum):
    """Whose clock stamped the records: the producer's, or this node's when it appended them (KIP-32)."""

    CREATE_TIME = 0
    LOG_APPEND_TIME = 1


class Record(NamedTuple):
    """One decoded record. `value is None` is a tombstone; `key is None` means no key."""

    offset: Offset
    timestamp_ms: TimestampMs
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class TopicPartition(NamedTuple):
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class TimestampedOffset(NamedTuple):
    """Answer of a look-up by time: the first record at or after the wanted timestamp."""

    timestamp_ms: TimestampMs
    offset: Offset
