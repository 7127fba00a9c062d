"""Offset index of one segment, `<base offset, 20 digits>.index`. Big-endian, as Kafka writes it.

    byte  0          4          8          12         16
          +----------+----------+----------+----------+--
          | delta    | position | delta    | position | ...
          +----------+----------+----------+----------+--
    delta     u32  last offset of a batch, minus the segment's base offset
    position  u32  byte at which that batch starts in the .log file

Both columns strictly increase. A batch gets an entry when more than `index.interval.bytes` bytes lie between its start
and the start of the batch indexed before it (or the start of the file). A look-up takes the greatest delta not above
the wanted one and hops over headers from there.
Example: base 1000, batch of offsets 1040..1047 at byte 16384 -> 00 00 00 2f 00 00 40 00.
Damage: no checksum, never the truth. After an unclean stop, or when short or unordered, it is rebuilt from the .log.
Source: Apache Kafka, OffsetIndex and LogSegment.append.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from logstore.types import Offset, Position

ENTRY = struct.Struct(">II")
assert ENTRY.size == 8
ENTRY_BYTES = ENTRY.size


class OffsetIndex:
    """Entries over one buffer in file layout: a growing bytearray while active, a read-only map once sealed."""

    __slots__ = ("_buffer", "_count", "base_offset")

    def __init__(self, base_offset: Offset, buffer: bytearray | memoryview | None = None) -> None:
        self.base_offset = base_offset
        self._buffer: bytearray | memoryview = bytearray() if buffer is None else buffer
        self._count = len(self._buffer) // ENTRY_BYTES

    def __len__(self) -> int:
        return self._count

    @property
    def buffer(self) -> bytearray | memoryview:
        """The entries as the file holds them."""
        return self._buffer

    def entry(self, index: int) -> tuple[Offset, Position]:
        delta, position = ENTRY.unpack_from(self._buffer, index * ENTRY_BYTES)
        return self.base_offset + delta, position

    def append(self, last_offset: Offset, position: Position) -> None:
        """Only while active. `last_offset` and `position` are above those of the last entry."""
        assert isinstance(self._buffer, bytearray), "a sealed index takes no entry"
        self._buffer += ENTRY.pack(last_offset - self.base_offset, position)
        self._count += 1

    def lookup(self, offset: Offset) -> Position:
        """Where to start hopping for `offset`: no batch that holds it starts before this position."""
        index = bisect_right(range(self._count), offset - self.base_offset, key=self._delta) - 1
        return self._position(index) if index >= 0 else 0

    def floor_position(self, limit: Position) -> Position:
        """The greatest indexed batch start not above `limit`, or 0."""
        index = bisect_right(range(self._count), limit, key=self._position) - 1
        return self._position(index) if index >= 0 else 0

    def is_plausible(self, log_size_bytes: int) -> bool:
        """Whether a file read back can be this segment's index: whole entries, ends in order, within the log."""
        if len(self._buffer) % ENTRY_BYTES:
            return False
        if self._count == 0:
            return True
        (first_delta, first_position), (last_delta, last_position) = (
            ENTRY.unpack_from(self._buffer, 0),
            ENTRY.unpack_from(self._buffer, len(self._buffer) - ENTRY_BYTES),
        )
        steps = self._count - 1
        return bool(
            first_position < log_size_bytes
            and last_position < log_size_bytes
            and last_position - first_position >= steps
            and last_delta - first_delta >= steps
        )

    def _delta(self, index: int) -> int:
        return ENTRY.unpack_from(self._buffer, index * ENTRY_BYTES)[0]  # type: ignore[no-any-return]  # struct's tuple

    def _position(self, index: int) -> Position:
        return ENTRY.unpack_from(self._buffer, index * ENTRY_BYTES)[1]  # type: ignore[no-any-return]  # struct's tuple
