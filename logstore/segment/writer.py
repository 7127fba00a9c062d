"""Growing a segment: bytes in pieces the kernel likes, and the sparse index entries that go with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from logstore.files import Files
from logstore.segment.offset_index import OffsetIndex
from logstore.segment.time_index import TimeIndex
from logstore.types import NO_TIMESTAMP, Offset, Position, TimestampMs

PIECE_BYTES_MAX: Final = 64 << 10  # of a view that has to be cut
PIECE_BYTES_END: Final = 128 << 10  # exclusive, for views that go together whole
"""Writes of 128 KiB and more to a growing file were measured four times slower: the page cache then takes large folios,
which must be found, and cleared by the host, in one go."""
PIECE_VIEWS_MAX: Final = 1024  # IOV_MAX

WrittenBatch: TypeAlias = tuple[int, Offset, TimestampMs]
"""Size in bytes, last offset, largest timestamp."""


def write_pieces(files: Files, handle: int, views: Sequence[memoryview], position: Position, size_bytes: int) -> None:
    """Append `views` (together `size_bytes`) at `position` in pieces. Raises `NotWritten` with any part in the file."""
    if size_bytes < PIECE_BYTES_END and len(views) <= PIECE_VIEWS_MAX:
        files.pwritev(handle, views, position, size_bytes)
        return
    piece: list[memoryview] = []
    piece_bytes = 0
    for view in views:
        if piece and (piece_bytes + len(view) >= PIECE_BYTES_END or len(piece) == PIECE_VIEWS_MAX):
            files.pwritev(handle, piece, position, piece_bytes)
            position += piece_bytes
            piece, piece_bytes = [], 0
        while len(view) >= PIECE_BYTES_END:
            files.pwritev(handle, (view[:PIECE_BYTES_MAX],), position, PIECE_BYTES_MAX)
            position += PIECE_BYTES_MAX
            view = view[PIECE_BYTES_MAX:]
        piece.append(view)
        piece_bytes += len(view)
    files.pwritev(handle, piece, position, piece_bytes)


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

    def add_all(self, position: Position, batches: Iterable[WrittenBatch]) -> Position:
        """As `add` for batches that lie end to end from `position` on. Returns where the last one ends."""
        for size_bytes, last_offset, max_timestamp_ms in batches:
            if max_timestamp_ms > self.max_timestamp_ms or position - self.indexed_position > self.interval_bytes:
                self.add(position, last_offset, max_timestamp_ms)
            position += size_bytes
        return position

    def finish(self) -> None:
        """The last time entry, which holds the segment's largest timestamp. More batches may still follow."""
        self.times.append(self.max_timestamp_ms, self.max_timestamp_offset)
