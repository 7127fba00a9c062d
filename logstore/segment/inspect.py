"""Reads one segment's files as they lie, without opening a store: ours or Kafka's, whole, damaged or being written.

What a `.log` may end in has a name each (`Tail`). Only `torn` and `unreadable` are damage:

    clean       behind the last batch, or the file is empty
    zeros       nothing but zeros follows: space that was allocated ahead
    torn        the last batch is cut: a write that did not finish before the process or the machine died
    unreadable  bytes that are no batch, and no batch is found behind them

A batch whose bytes are damaged but whose length leads on is reported and stepped over. Where that is damaged, too, the
file is searched for the next batch: a header that can be one, an offset that is still to come, and the right CRC. A
record may hold a whole batch as its value, so what is found inside a batch that lost its length is a guess, no proof.
The files are read, not mapped: a map whose file is trimmed by its writer meanwhile would kill this process with SIGBUS.
Page: docs/formats/segment.md.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from crc32c import crc32c

from logstore.errors import CorruptBatch, DamagedSegment, InvalidRequest, UnsupportedFormat
from logstore.record.batch import (
    ATTRIBUTES_POSITION,
    HEADER_BYTES,
    LENGTH_PREFIX_BYTES,
    MAGIC,
    MAGIC_POSITION,
    OFFSET_MAX,
    BatchHeader,
    check,
    read_header,
)
from logstore.types import Offset, Position

LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
TIME_INDEX_SUFFIX: Final = ".timeindex"

BASE_DIGITS: Final = 20
RELATIVE_OFFSET_MAX: Final = 2**31 - 1
_WINDOW_BYTES: Final = 256 << 10
_WHOLE_BYTES_MAX: Final = 16 << 20  # a batch above is only loaded after its CRC was found right, piece by piece
_OLD_MESSAGE_BYTES_MIN: Final = 26  # format v0: 12 + CRC, magic, attributes, two lengths
_SEARCH_ROUNDS_MAX: Final = 16  # times the file's size that a search may checksum: hostile bytes look like headers
_LOOKS: Final = 3  # at anything that looks wrong, before it is called damage
_HEADER_LIKE: Final = re.compile(rb"(?=[\x00-\x7f].{7}[\x00-\x7f].{7}\x02.{4}\x00[\x00-\x7f][\x00-\x7f])", re.DOTALL)
"""At a byte where signs, magic and attributes are as in every batch header: one byte in 2^20 of noise."""


Pause: TypeAlias = Callable[[], object]
"""Lets a writer finish what it is at: some milliseconds are enough."""


class Tail(StrEnum):
    """How a `.log` ends; see the head of this module."""

    CLEAN = "clean"
    ZEROS = "zeros"
    TORN = "torn"
    UNREADABLE = "unreadable"


class FoundBatch(NamedTuple):
    """One batch as found. `data` is empty and `header` None where they could not be read; `problem` says why."""

    position: Position
    size_bytes: int
    header: BatchHeader | None
    data: memoryview
    problem: str = ""
    is_old_format: bool = False
    """Sound, but of a format from before Kafka 0.11, which nothing here reads."""


def base_offset_of(path: Path) -> Offset:
    """The base offset in a segment file's name. Raises `InvalidRequest` when it is not 20 digits."""
    digits = path.name.partition(".")[0]
    if len(digits) != BASE_DIGITS or not (digits.isascii() and digits.isdigit()):
        raise InvalidRequest(f"{path.name} is no segment", hint="its name must begin with the base offset in 20 digits")
    return int(digits)


def iter_batches(path: str | Path) -> Iterator[tuple[Position, BatchHeader]]:
    """(position, header) of every whole v2 batch of a `.log`, in order; CRCs are checked.

    Ends at a torn tail or a tail of zeros. Raises `DamagedSegment` at the first damaged batch, `OSError` when the file
    cannot be read.
    """
    scan = SegmentScan(path)
    for batch in scan:
        if batch.header is None or batch.problem:
            raise DamagedSegment(batch.problem, path=str(path), position=batch.position)
        yield batch.position, batch.header
    if scan.tail is Tail.UNREADABLE:
        raise DamagedSegment("no batch begins here", path=str(path), position=scan.position)


class SegmentScan:
    """One pass over a `.log`, batch by batch. When it is over, `tail`, `position` and `size_bytes` hold its end.

    Anything wrong is looked at again, after a `pause` if one is given: a batch may be half written at this instant.
    """

    def __init__(self, path: str | Path, pause: Pause | None = None) -> None:
        self.path = Path(path)
        self._pause = pause
        self.position: Position = 0
        self.size_bytes = 0
        self.tail = Tail.CLEAN
        self._window = memoryview(b"")
        self._window_start = 0
        self._offset_floor: Offset = 0  # offsets still to come are in these bounds
        self._offset_max: Offset = OFFSET_MAX
        with suppress(InvalidRequest):
            self._bound_offsets(base_offset_of(self.path))
        self._search_bytes_left = 0

    def __iter__(self) -> Iterator[FoundBatch]:
        with FileIO(self.path, "r") as file:
            self.size_bytes = file.seek(0, SEEK_END)
            self._search_bytes_left = _SEARCH_ROUNDS_MAX * self.size_bytes
            looks_left = _LOOKS
            while True:
                batch, tail = self._next(file)
                if tail in (Tail.TORN, Tail.UNREADABLE) or (batch is not None and batch.problem):
                    looks_left -= 1
                    if looks_left:  # its writer may be at these bytes right now: the last look counts
                        self._look_again(file)
                        continue
                    batch, tail = self._beyond_damage(file, batch, tail)
                if batch is None:
                    self.tail = tail
                    return
                yield batch
                looks_left = _LOOKS
                self.position += batch.size_bytes
                if batch.header is not None and not batch.problem:
                    self._bound_offsets(batch.header.last_offset + 1)

    def _next(self, file: FileIO) -> tuple[FoundBatch | None, Tail]:
        """The batch at `position`, or None and how the file ends there."""
        position, left = self.position, self.size_bytes - self.position
        if left <= 0:
            return None, Tail.CLEAN
        head = self._view(file, position, HEADER_BYTES)
        if not any(head):
            return None, Tail.ZEROS if self._only_zeros(file, position) else Tail.UNREADABLE
        if len(head) <= MAGIC_POSITION:
            return None, Tail.TORN
        magic = head[MAGIC_POSITION]
        size_bytes = int.from_bytes(head[8:LENGTH_PREFIX_BYTES], "big", signed=True) + LENGTH_PREFIX_BYTES
        if magic > MAGIC or size_bytes < (HEADER_BYTES if magic == MAGIC else _OLD_MESSAGE_BYTES_MIN):
            return None, Tail.UNREADABLE
        if size_bytes > left:
            return None, Tail.TORN
        if magic != MAGIC:
            return self._old_message(file, position, size_bytes, magic)
        header = read_header(head)
        if size_bytes > _WHOLE_BYTES_MAX and self._crc(file, position, size_bytes) != header.crc:
            return FoundBatch(position, size_bytes, header, memoryview(b""), "CRC32C is wrong"), Tail.CLEAN
        data = self._view(file, position, size_bytes)
        if len(data) < size_bytes:  # trimmed since its size was taken
            return None, Tail.TORN
        try:
            check(data)
        except (CorruptBatch, UnsupportedFormat) as error:
            return FoundBatch(position, size_bytes, header, data, str(error)), Tail.CLEAN
        return FoundBatch(position, size_bytes, header, data), Tail.CLEAN

    def _old_message(
        self, file: FileIO, position: Position, size_bytes: int, magic: int
    ) -> tuple[FoundBatch | None, Tail]:
        """A message of format v0 or v1 if its own checksum says so, else a batch whose magic is damaged."""
        data = self._view(file, position, size_bytes) if size_bytes <= _WHOLE_BYTES_MAX else memoryview(b"")
        if not data or zlib.crc32(data[MAGIC_POSITION:]) != int.from_bytes(data[12:MAGIC_POSITION], "big"):
            return None, Tail.UNREADABLE
        old = f"record format v{magic}, which brokers wrote before Kafka 0.11"
        return FoundBatch(position, size_bytes, None, memoryview(b""), old, is_old_format=True), Tail.CLEAN

    # --- finding the next batch ---------------------------------------------------------------------------------------

    def _beyond_damage(self, file: FileIO, batch: FoundBatch | None, tail: Tail) -> tuple[FoundBatch | None, Tail]:
        """`batch` if its length leads on, else all bytes up to the next sound batch, else None and the tail."""
        if batch is not None and (batch.is_old_format or self._leads_on(file, self.position + batch.size_bytes)):
            return batch, Tail.CLEAN
        found = self._search(file, self.position + 1)
        if found is None:
            return None, tail if batch is None else Tail.UNREADABLE
        why = batch.problem if batch is not None else "no batch begins here"
        size_bytes = found - self.position
        problem = f"{why}; the next one begins {size_bytes} bytes on, at byte {found}"
        return FoundBatch(self.position, size_bytes, None, memoryview(b""), problem), Tail.CLEAN

    def _leads_on(self, file: FileIO, position: Position) -> bool:
        """Whether the file may go on at `position`: it ends there, or zeros or a likely header follow."""
        head = self._view(file, position, HEADER_BYTES)
        if len(head) < HEADER_BYTES:
            return not any(head)
        return self._is_likely(head) or (not any(head) and self._only_zeros(file, position))

    def _is_likely(self, head: memoryview) -> bool:
        header = read_header(head)
        return (
            header.magic == MAGIC
            and header.size_bytes >= HEADER_BYTES
            and self._offset_floor <= header.base_offset <= self._offset_max
            and 0 <= header.attributes < 0x80
            and 0 <= header.record_count <= header.last_offset_delta + 1
        )

    def _search(self, file: FileIO, position: Position) -> Position | None:
        """Where the next sound batch begins, from `position` on."""
        while self.size_bytes - position >= HEADER_BYTES and self._search_bytes_left > 0:
            window = self._view(file, position, min(_WINDOW_BYTES, self.size_bytes - position))
            if len(window) < HEADER_BYTES:
                return None
            for match in _HEADER_LIKE.finditer(window, 0, len(window)):
                at = match.start()
                head = window[at : at + HEADER_BYTES]
                if len(head) == HEADER_BYTES and self._is_likely(head) and self._is_sound(file, position + at):
                    return position + at
            position += len(window) - HEADER_BYTES + 1
        return None

    def _is_sound(self, file: FileIO, position: Position) -> bool:
        header = read_header(self._view(file, position, HEADER_BYTES))
        if header.size_bytes > self.size_bytes - position:
            return False
        self._search_bytes_left -= header.size_bytes
        return self._crc(file, position, header.size_bytes) == header.crc

    def _bound_offsets(self, next_offset: Offset) -> None:
        self._offset_floor = next_offset
        self._offset_max = min(next_offset + RELATIVE_OFFSET_MAX, OFFSET_MAX)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _view(self, file: FileIO, position: Position, size_bytes: int) -> memoryview:
        """Up to `size_bytes` at `position`, fewer only at the end of the file."""
        start = position - self._window_start
        if start < 0 or start + size_bytes > len(self._window):
            file.seek(position)
            wanted = max(size_bytes, _WINDOW_BYTES)
            data = file.read(wanted) or b""
            while len(data) < size_bytes and (more := file.read(wanted - len(data))):
                data += more
            self._window, self._window_start, start = memoryview(data), position, 0
        return self._window[start : start + size_bytes]

    def _look_again(self, file: FileIO) -> None:
        if self._pause is not None:
            self._pause()
        self.size_bytes, self._window = file.seek(0, SEEK_END), memoryview(b"")

    def _only_zeros(self, file: FileIO, position: Position) -> bool:
        file.seek(position)
        while chunk := file.read(_WINDOW_BYTES):
            if chunk.count(0) != len(chunk):
                return False
        return True

    def _crc(self, file: FileIO, position: Position, size_bytes: int) -> int:
        crc, end = 0, position + size_bytes
        at = position + ATTRIBUTES_POSITION
        file.seek(at)
        while at < end and (chunk := file.read(min(_WINDOW_BYTES, end - at))):
            crc = crc32c(chunk, crc)
            at += len(chunk)
        return crc
