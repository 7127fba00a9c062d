"""Growing a segment: bytes in pieces the kernel likes, and the sparse index entries that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from logstore.files import Files
from logstore.segment.offset_index import OffsetIndex
from logstore.segment.time_index import TimeIndex
from logstore.types import NO_TIMESTAMP, Offset, Position, TimestampMs

PIECE_BYTES_MAX: Final = 64 << 10
"""Larger writes to a growing file were measured four times slower: the page cache takes large folios for them."""
PIECE_VIEWS_MAX: Final = 1024  # IOV_MAX


def write_pieces(files: Files, handle: int, views: Sequence[memoryview], position: Position, size_bytes: int) -> None:
    """Append `views` (together `size_bytes`) at `position` in pieces. Raises `NotWritten` with any part in the file."""
    if size_bytes <= PIECE_BYTES_MAX and len(views) <= PIECE_VIEWS_MAX:
        files.pwritev(handle, views, position, size_bytes)
        return
    piece: list[memoryview] = []
    room = PIECE_BYTES_MAX
    for view in views:
        while view:
            part, view = view[:room], view[room:]
            piece.append(part)
            room -= len(part)
            if room == 0 or len(piece) == PIECE_VIEWS_MAX:
                files.pwritev(handle, piece, position, PIECE_BYTES_MAX - room)
                position += PIECE_BYTES_MAX - room
                piece, room = [], PIECE_BYTES_MAX
    if piece:
        files.pwritev(handle, piece, position, PIECE_BYTES_MAX - room)


class IndexBuilder:
    """Both indexes of a segment that grows, and the largest timestamp in it. Told of every batch, in order."""

    __slots__ = ("indexed_position", "interval_bytes", "max_timestamp_ms", "max_timestamp_offset", "offsets", "times")

    def __init__(self, offsets: OffsetIndex, times: TimeIndex, interval_bytes: int) -> None:
        self.offsets = offsets
        self.times = times
        self.interval_bytes = interval_bytes
        self.indexed_position = offsets.entry(len(offsets) - 1)[1] if len(offsets) else 0
        self.max_timestamp_ms, self.max_timestamp_offset = times.last() if len(times) else (NO_TIMESTAMP, -1)

    @classmethod
    def empty(cls, base_offset: Offset, interval_bytes: int) -> IndexBuilder:
        return cls(OffsetIndex(base_offset), TimeIndex(base_offset), interval_bytes)

    def add(self, position: Position, last_offset: Offset, max_timestamp_ms: TimestampMs) -> None:
        """The batch that starts at `position`. Kafka's rule for entries: LogSegment.append."""
        if max_timestamp_ms > self.max_timestamp_ms:
            self.max_timestamp_ms = max_timestamp_ms
            self.max_timestamp_offset = last_offset
        if position - self.indexed_position > self.interval_bytes:
            self.offsets.append(last_offset, position)
            self.times.append(self.max_timestamp_ms, self.max_timestamp_offset)
            self.indexed_position = position

    def finish(self) -> None:
        """The last time entry, which holds the segment's largest timestamp. More batches may still follow."""
        self.times.append(self.max_timestamp_ms, self.max_timestamp_offset)
