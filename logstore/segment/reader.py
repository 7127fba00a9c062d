"""Reading segment files: handles that live as long as someone reads, slices to hand out, and hops over headers."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from logstore.errors import DamagedSegment
from logstore.files import Files
from logstore.record.batch import HEADER_BYTES, LENGTH_PREFIX_BYTES
from logstore.types import Offset, Position, TimestampMs

HOP = struct.Struct(">qi11xi8xq")  # base offset, batch length, last offset delta, max timestamp
assert HOP.size == 43

_BLOCK_BYTES: Final = 4096 + HEADER_BYTES  # about what lies between two index entries
_COPY_BYTES_MAX: Final = 256 << 10  # a smaller view is cheaper copied than mapped


class SegmentFile:
    """One open file. Closed when its last holder lets go, so a slice outlives the deletion of its file."""

    __slots__ = ("_files", "handle", "path")

    def __init__(self, files: Files, path: str, *, create: bool = False) -> None:
        self._files = files
        self.path = path
        self.handle = -1  # what __del__ finds when open raises
        self.handle = files.open(path, create=create)

    def pread(self, size_bytes: int, position: Position) -> bytes:
        return self._files.pread(self.handle, size_bytes, position)

    def map(self) -> memoryview:
        return self._files.map(self.handle)

    def sync(self) -> None:
        self._files.fdatasync(self.handle)

    def __del__(self) -> None:
        if self.handle >= 0:
            self._files.close(self.handle)


class OpenFiles:
    """The sealed segments' files most lately read, shared by all logs of a store so that handles stay few."""

    def __init__(self, files: Files, limit: int = 256) -> None:
        self._files = files
        self._limit = limit
        self._held: OrderedDict[str, SegmentFile] = OrderedDict()

    def get(self, path: str) -> SegmentFile:
        file = self._held.get(path)
        if file is None:
            file = SegmentFile(self._files, path)
            self.put(file)
        else:
            self._held.move_to_end(path)
        return file

    def put(self, file: SegmentFile) -> None:
        self._held[file.path] = file
        if len(self._held) > self._limit:
            self._held.popitem(last=False)

    def forget(self, path: str) -> None:
        self._held.pop(path, None)


class LogSlice:
    """Whole batches of one segment file, end to end; for `os.sendfile(out, fileno, position, size_bytes)` or a view.

    Keeps the file open while it lives.
    """

    __slots__ = ("_file", "_sealed", "position", "size_bytes")

    def __init__(self, file: SegmentFile, position: Position, size_bytes: int, *, sealed: bool) -> None:
        self._file = file
        self._sealed = sealed
        self.position = position
        self.size_bytes = size_bytes

    @property
    def fileno(self) -> int:
        return self._file.handle

    def view(self) -> memoryview:
        """The bytes: a map of a sealed segment, a copy of a small slice or of one whose file still grows."""
        if self._sealed and self.size_bytes > _COPY_BYTES_MAX:
            return self._file.map()[self.position : self.position + self.size_bytes]
        data = self._file.pread(self.size_bytes, self.position)
        if len(data) != self.size_bytes:
            raise damaged(self._file.path, self.position + len(data), "the file ends within a batch")
        return memoryview(data)

    def __repr__(self) -> str:
        return f"LogSlice({self._file.path!r}, position={self.position}, size_bytes={self.size_bytes})"


class Hop(NamedTuple):
    """What one hop learns of a batch."""

    position: Position
    size_bytes: int
    base_offset: Offset
    last_offset: Offset
    max_timestamp_ms: TimestampMs


def hop(file: SegmentFile, position: Position, end: Position) -> Iterator[Hop]:
    """The batches from `position` to `end`, both batch boundaries; only headers are read, in blocks of 4 KiB.

    Raises `DamagedSegment` at the first header that cannot be one.
    """
    block, block_position = b"", position
    while position < end:
        at = position - block_position
        if at + HOP.size > len(block):
            block, block_position, at = file.pread(_BLOCK_BYTES, position), position, 0
            if len(block) < HOP.size:
                raise damaged(file.path, position, "the file ends within a header")
        base_offset, length, last_offset_delta, max_timestamp_ms = HOP.unpack_from(block, at)
        size_bytes = length + LENGTH_PREFIX_BYTES
        if size_bytes < HEADER_BYTES or position + size_bytes > end or last_offset_delta < 0:
            raise damaged(file.path, position, "no batch header")
        yield Hop(position, size_bytes, base_offset, base_offset + last_offset_delta, max_timestamp_ms)
        position += size_bytes


def damaged(path: str, position: Position, what: str) -> DamagedSegment:
    return DamagedSegment(
        f"{path} is damaged at byte {position}: {what}",
        path=path,
        position=position,
        hint="stop the server and run `logstore segment verify` on the file",
    )
