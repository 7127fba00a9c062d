"""Time index of one segment, `<base offset, 20 digits>.timeindex`. Big-endian, as Kafka writes it.

    byte  0                     8          12                    20         24
          +---------------------+----------+---------------------+----------+--
          | timestamp           | delta    | timestamp           | delta    | ...
          +---------------------+----------+---------------------+----------+--
    timestamp  i64  largest timestamp of the segment so far, ms since 1970
    delta      u32  last offset of the first batch that reached it, minus the segment's base offset

Timestamps strictly increase, deltas do not decrease. An entry is added with each offset index entry if the largest
timestamp grew since, and a last one when the segment is sealed, so that the last entry holds the segment's largest
timestamp. Any record later than an entry's timestamp lies in that entry's batch or after it.
Example: base 1000, largest timestamp 1700000000000 first reached by the batch that ends at 1047
-> 00 00 01 8b cf e5 68 00 00 00 00 2f.
Damage: as the offset index: rebuilt from the .log. Source: Apache Kafka, TimeIndex.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from logstore.types import NO_TIMESTAMP, Offset, TimestampMs

ENTRY = struct.Struct(">qI")
assert ENTRY.size == 12
ENTRY_BYTES = ENTRY.size


class TimeIndex:
    """Entries over one buffer in file layout: a growing bytearray while active, a read-only map once sealed."""

    __slots__ = ("_buffer", "_count", "_last_timestamp_ms", "base_offset")

    def __init__(self, base_offset: Offset, buffer: bytearray | memoryview | None = None) -> None:
        self.base_offset = base_offset
        self._buffer: bytearray | memoryview = bytearray() if buffer is None else buffer
        self._count = len(self._buffer) // ENTRY_BYTES
        self._last_timestamp_ms = self.last()[0]

    def __len__(self) -> int:
        return self._count

    @property
    def buffer(self) -> bytearray | memoryview:
        """The entries as the file holds them."""
        return self._buffer

    def entry(self, index: int) -> tuple[TimestampMs, Offset]:
        timestamp_ms, delta = ENTRY.unpack_from(self._buffer, index * ENTRY_BYTES)
        return timestamp_ms, self.base_offset + delta

    def last(self) -> tuple[TimestampMs, Offset]:
        """The largest timestamp and the last offset of its batch; `(-1, base offset)` when empty."""
        return self.entry(self._count - 1) if self._count else (NO_TIMESTAMP, self.base_offset)

    def append(self, timestamp_ms: TimestampMs, last_offset: Offset) -> None:
        """Only while active. Ignored unless `timestamp_ms` is above that of the last entry."""
        if timestamp_ms > self._last_timestamp_ms:
            assert isinstance(self._buffer, bytearray), "a sealed index takes no entry"
            self._buffer += ENTRY.pack(timestamp_ms, last_offset - self.base_offset)
            self._count += 1
            self._last_timestamp_ms = timestamp_ms

    def lookup(self, timestamp_ms: TimestampMs) -> Offset:
        """The last offset of a batch before which no record is as late as `timestamp_ms`; the base offset if none."""
        index = bisect_right(range(self._count), timestamp_ms, key=self._timestamp) - 1
        return self.entry(index)[1] if index >= 0 else self.base_offset

    def is_plausible(self, next_offset: Offset) -> bool:
        """Whether a file read back can be this segment's index: whole entries, ends in order, within the segment."""
        if len(self._buffer) % ENTRY_BYTES:
            return False
        if self._count == 0:
            return True
        (first_ms, first_offset), (last_ms, last_offset) = self.entry(0), self.last()
        return first_ms >= 0 and last_ms - first_ms >= self._count - 1 and first_offset <= last_offset < next_offset

    def _timestamp(self, index: int) -> TimestampMs:
        return ENTRY.unpack_from(self._buffer, index * ENTRY_BYTES)[0]  # type: ignore[no-any-return]  # struct's tuple
