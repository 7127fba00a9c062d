"""One segment: `<base offset, 20 digits>.log`, its two indexes, and where a read begins and ends in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from logstore.errors import NotWritten
from logstore.files import Files
from logstore.record.batch import HEADER, HEADER_BYTES, BatchHeader, read_header
from logstore.segment.offset_index import OffsetIndex
from logstore.segment.reader import Hop, LogSlice, OpenFiles, SegmentFile, damaged, hop
from logstore.segment.time_index import TimeIndex
from logstore.segment.writer import IndexBuilder, WrittenBatch, write_pieces
from logstore.types import NO_TIMESTAMP, Offset, Position, TimestampMs

LOG_SUFFIX: Final = ".log"
OFFSET_INDEX_SUFFIX: Final = ".index"
TIME_INDEX_SUFFIX: Final = ".timeindex"
SNAPSHOT_SUFFIX: Final = ".snapshot"
DELETED_SUFFIX: Final = ".deleted"
FILE_SUFFIXES: Final = (LOG_SUFFIX, OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX, ".txnindex")

_HINTS_MAX: Final = 64
_INDEX_COPY_BYTES_MAX: Final = 64 << 10  # a map costs a file handle for as long as it lives


def file_name(base_offset: Offset, suffix: str) -> str:
    return f"{base_offset:020d}{suffix}"


def base_offset_of(name: str, suffix: str = LOG_SUFFIX) -> Offset | None:
    """The offset a file is named after, or None if it is no such file."""
    stem = name.removesuffix(suffix)
    return int(stem) if stem != name and len(stem) == 20 and stem.isdigit() else None


class Segment:
    """A sealed segment, or with `builder` the active one. Not thread-safe; `LogSlice`s taken from it are.

    `next_offset` is the end (exclusive) of its offsets, `size_bytes` what readers may see of the file.
    """

    __slots__ = (
        "_file", "_files", "_first_timestamp_ms", "_hints", "_interval_bytes", "_offsets", "_open_files", "_stem",
        "_times", "base_offset", "builder", "has_unsynced_indexes", "next_offset", "path", "size_bytes",
    )  # fmt: skip

    def __init__(
        self,
        files: Files,
        open_files: OpenFiles,
        directory: str,
        base_offset: Offset,
        *,
        size_bytes: int,
        next_offset: Offset,
        interval_bytes: int,
    ) -> None:
        self.base_offset = base_offset
        self.size_bytes = size_bytes
        self.next_offset = next_offset
        self.builder: IndexBuilder | None = None
        self._files = files
        self._open_files = open_files
        self._stem = f"{directory}/{base_offset:020d}"
        self.path = self._stem + LOG_SUFFIX
        self._interval_bytes = interval_bytes
        self._file: SegmentFile | None = None
        self._offsets: OffsetIndex | None = None
        self._times: TimeIndex | None = None
        self._first_timestamp_ms: TimestampMs | None = None
        self._hints: dict[Offset, Position] = {}
        self.has_unsynced_indexes = False

    @property
    def file(self) -> SegmentFile:
        return self._file or self._open_files.get(self.path)

    @property
    def is_sealed(self) -> bool:
        return self.builder is None

    @property
    def first_timestamp_ms(self) -> TimestampMs:
        """Largest timestamp of the first batch, -1 when empty or without one: what the roll by age counts from."""
        if self._first_timestamp_ms is None:
            if not self.size_bytes:
                return NO_TIMESTAMP
            self._first_timestamp_ms = read_header(self.file.pread(HEADER_BYTES, 0)).max_timestamp_ms
        return self._first_timestamp_ms

    @property
    def max_timestamp_ms(self) -> TimestampMs:
        """Largest timestamp in the segment, -1 if none has one."""
        return self.builder.max_timestamp_ms if self.builder is not None else self.times.last()[0]

    @property
    def index_entries(self) -> int:
        return len(self.offsets)

    # --- growing ----------------------------------------------------------------------------------------------------

    def activate(self, builder: IndexBuilder | None = None) -> None:
        """Open for appends. `builder` knows every batch that is there already; none for a new segment."""
        self._file = SegmentFile(self._files, self.path, create=True)
        self._open_files.forget(self.path)
        self.builder = builder or IndexBuilder.empty(self.base_offset, self._interval_bytes)
        self._offsets, self._times = self.builder.offsets, self.builder.times

    def write(self, views: Sequence[memoryview], size_bytes: int) -> None:
        """Put bytes behind the visible ones. Raises `NotWritten`; then `cut_back` before anything else."""
        assert self._file is not None, "a sealed segment takes no bytes"
        write_pieces(self._files, self._file.handle, views, self.size_bytes, size_bytes)

    def note(self, batches: Sequence[WrittenBatch]) -> None:
        """Make the batches written last, in their order, visible and index them."""
        assert self.builder is not None, "a sealed segment takes no batch"
        if self.size_bytes == 0:
            self._first_timestamp_ms = batches[0][2]
        self.size_bytes = self.builder.add_all(self.size_bytes, batches)
        self.next_offset = batches[-1][1] + 1

    def cut_back(self) -> None:
        """Drop written bytes that were not noted. Raises `NotWritten`."""
        assert self._file is not None, "a sealed segment is not cut"
        self._files.truncate(self._file.handle, self.size_bytes)

    def seal(self) -> SegmentFile:
        """No more appends; index files are written, not synced. Returns the file, which may still be unsynced."""
        assert self._file is not None, "sealed twice"
        file = self._file
        self.save_indexes()
        self.builder = self._file = self._offsets = self._times = None
        self._open_files.put(file)
        self._hints.clear()
        return file

    def save_indexes(self) -> None:
        """Write the active segment's indexes, not synced."""
        assert self.builder is not None, "a sealed segment's indexes are on disk"
        self.builder.finish()
        self._save(self.builder.offsets, self.builder.times)

    def sync_indexes(self) -> None:
        """Make saved index files durable, but for their names. Raises `DurabilityUnknown`."""
        if self.has_unsynced_indexes:
            for suffix in (OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX):
                SegmentFile(self._files, self._stem + suffix).sync()
            self.has_unsynced_indexes = False

    def _save(self, offsets: OffsetIndex, times: TimeIndex) -> None:
        self.has_unsynced_indexes = True
        self._files.write_file(self._stem + OFFSET_INDEX_SUFFIX, offsets.buffer, sync=False)
        self._files.write_file(self._stem + TIME_INDEX_SUFFIX, times.buffer, sync=False)

    def release(self) -> None:
        """Let go of the open file; readers that hold slices keep it."""
        self._file = self.builder = self._offsets = self._times = None
        self._open_files.forget(self.path)

    # --- indexes of a sealed segment --------------------------------------------------------------------------------

    @property
    def offsets(self) -> OffsetIndex:
        if self._offsets is None:
            self._load_indexes()
        assert self._offsets is not None
        return self._offsets

    @property
    def times(self) -> TimeIndex:
        if self._times is None:
            self._load_indexes()
        assert self._times is not None
        return self._times

    def _load_indexes(self) -> None:
        """Map the index files; rebuild both from the headers when one is missing or cannot be right."""
        with suppress(FileNotFoundError):
            offsets = OffsetIndex(self.base_offset, self._map(OFFSET_INDEX_SUFFIX))
            times = TimeIndex(self.base_offset, self._map(TIME_INDEX_SUFFIX))
            if offsets.is_plausible(self.size_bytes) and times.is_plausible(self.next_offset):
                self._offsets, self._times = offsets, times
                return
        builder = IndexBuilder.empty(self.base_offset, self._interval_bytes)
        for position, header in self.headers():
            builder.add(position, header.last_offset, header.max_timestamp_ms)
        builder.finish()
        self._offsets, self._times = builder.offsets, builder.times
        try:
            self._save(builder.offsets, builder.times)
        except NotWritten:  # a full disk is no reason not to read: the next start rebuilds them once more
            self.has_unsynced_indexes = False
            for suffix in (OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX):
                self._files.remove(self._stem + suffix)

    def _map(self, suffix: str) -> memoryview:
        path = self._stem + suffix
        if self._files.size(path) <= _INDEX_COPY_BYTES_MAX:
            return memoryview(self._files.read_file(path))
        return SegmentFile(self._files, path).map()

    def headers(self, position: Position = 0) -> Iterator[tuple[Position, BatchHeader]]:
        """Every batch header from `position` on, over a map of the file; bodies are not read.

        Raises `DamagedSegment` at the first header that cannot be one.
        """
        view, end = self.file.map(), self.size_bytes
        if len(view) < end:
            raise damaged(self.path, len(view), "the file is shorter than it was")
        while position < end:
            if end - position < HEADER_BYTES:
                raise damaged(self.path, position, "the file ends within a header")
            header = BatchHeader._make(HEADER.unpack_from(view, position))
            size_bytes = header.size_bytes
            if size_bytes < HEADER_BYTES or position + size_bytes > end or header.last_offset_delta < 0:
                raise damaged(self.path, position, "no batch header")
            yield position, header
            position += size_bytes

    # --- reading ----------------------------------------------------------------------------------------------------

    def locate(self, offset: Offset) -> Position | None:
        """Start of the first batch that ends at or after `offset`; None if there is none."""
        position = self._hints.get(offset)
        if position is not None:
            return position
        for batch in hop(self.file, self.offsets.lookup(offset), self.size_bytes):
            if batch.last_offset >= offset:
                return batch.position
        return None

    def slice(self, offset: Offset, bytes_max: int, *, min_one: bool) -> LogSlice | None:
        """Whole batches from the one that holds `offset`, up to `bytes_max` bytes but with `min_one` at least one.

        None when nothing here is at or after `offset`, or nothing fits.
        """
        start = self.locate(offset)
        if start is None:
            return None
        limit = start + bytes_max
        if limit >= self.size_bytes:
            end, next_offset = self.size_bytes, self.next_offset
        else:
            end, next_offset = self._cut(start, limit, min_one=min_one)
            if end == start:
                return None
        if len(self._hints) >= _HINTS_MAX:
            self._hints.clear()
        self._hints[next_offset] = end  # where a reader that goes on comes next
        return LogSlice(self.file, start, end - start, sealed=self.is_sealed)

    def _cut(self, start: Position, limit: Position, *, min_one: bool) -> tuple[Position, Offset]:
        """The last batch boundary not above `limit`, which lies within the segment, and the offset that follows it."""
        first = True
        for batch in hop(self.file, max(start, self.offsets.floor_position(limit)), self.size_bytes):
            end = batch.position + batch.size_bytes
            if end > limit:
                if min_one and batch.position == start and first:
                    return end, batch.last_offset + 1
                return batch.position, batch.base_offset
            first = False
        raise damaged(self.path, limit, "no batch crosses a byte in its middle")

    def batches(self, offset: Offset) -> Iterator[tuple[Hop, LogSlice]]:
        """One slice per batch, from the batch that holds `offset` on."""
        start = self.locate(offset)
        if start is not None:
            for batch in hop(self.file, start, self.size_bytes):
                yield batch, LogSlice(self.file, batch.position, batch.size_bytes, sealed=self.is_sealed)

    def find_time(self, timestamp_ms: TimestampMs, from_offset: Offset) -> Iterator[LogSlice]:
        """The batches at or after `from_offset` that hold a record at or after `timestamp_ms`, in order."""
        start = self.offsets.lookup(max(self.times.lookup(timestamp_ms), from_offset))
        for batch in hop(self.file, start, self.size_bytes):
            if batch.max_timestamp_ms >= timestamp_ms and batch.last_offset >= from_offset:
                yield LogSlice(self.file, batch.position, batch.size_bytes, sealed=self.is_sealed)
