"""Reads one segment's files as they lie, without opening a store: ours or Kafka's, whole, damaged or being written.

What a `.log` may end in has a name each (`Tail`). Only `torn` and `unreadable` are damage:

    clean       behind the last batch, or the file is empty
    zeros       nothing but zeros follows: space that was allocated ahead
    torn        the last batch is cut: a write that did not finish before the process or the machine died
    unreadable  bytes that are no batch, and no batch is found behind them

A batch whose bytes are damaged but whose length leads on is reported and stepped over. Where the length is damaged, too,
the file is searched for the next batch: a header that can be one, an offset that is still to come, and the right CRC. A
record may hold a whole batch as its value, so what is found inside a batch that lost its length is a good guess, no proof.
An index that is missing is no damage: it is rebuilt when the log is opened. The files are read, not mapped: a map whose
file is trimmed by its writer meanwhile would kill this process with SIGBUS. Page: docs/formats/segment.md.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from crc32c import crc32c

from logstore.errors import CorruptBatch, DamagedSegment, InvalidRequest, LogstoreError, UnsupportedFormat
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
from logstore.record.records import decode_batch
from logstore.segment import offset_index, time_index
from logstore.types import NO_TIMESTAMP, Offset, Position, TimestampMs

LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
TIME_INDEX_SUFFIX: Final = ".timeindex"
DAMAGES_MAX: Final = 100

_BASE_DIGITS: Final = 20
_RELATIVE_OFFSET_MAX: Final = 2**31 - 1
_WINDOW_BYTES: Final = 256 << 10
_WHOLE_BYTES_MAX: Final = 16 << 20  # a batch above is only loaded after its CRC was found right, piece by piece
_OLD_MESSAGE_BYTES_MIN: Final = 26  # format v0: 12 + CRC, magic, attributes, two lengths
_SEARCH_ROUNDS_MAX: Final = (
    16  # times the file's size is checksummed at most in search of batches: bytes may be hostile
)
_LOOKS: Final = 3  # at anything that looks wrong, before it is called damage
_INDEX_HINT: Final = "delete the file: it is rebuilt when the log is opened, or by `logstore segment repair`"

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


class Damage(NamedTuple):
    """One thing wrong: where, what, and what to do about it."""

    path: str
    position: Position
    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.path} byte {self.position}: {self.what} ({self.hint})"


class Extent(NamedTuple):
    """Sound batches that follow each other without a byte between."""

    position: Position
    end: Position
    base_offset: Offset
    next_offset: Offset
    batches: int
    records: int


@dataclass(slots=True)
class VerifyReport:
    """What `verify_segment` found. `batches`, `records` and what follows count sound batches, by their headers."""

    path: str
    base_offset: Offset
    size_bytes: int = 0
    batches: int = 0
    records: int = 0
    next_offset: Offset = 0
    max_timestamp_ms: TimestampMs = NO_TIMESTAMP
    tail: Tail = Tail.CLEAN
    tail_bytes: int = 0
    damage_count: int = 0
    damages: list[Damage] = field(default_factory=list)
    """The first `DAMAGES_MAX` of them, the log's in its order, then the indexes'."""
    notes: list[str] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    old_batches: int = 0
    indexes_to_build: list[str] = field(default_factory=list)
    """Suffixes of the index files that are missing or damaged."""

    @property
    def ok(self) -> bool:
        return self.damage_count == 0

    def add(self, path: Path, position: Position, what: str, hint: str) -> None:
        self.damage_count += 1
        if len(self.damages) < DAMAGES_MAX:
            self.damages.append(Damage(str(path), position, what, hint))

    def count(self, batch: FoundBatch, header: BatchHeader) -> None:
        """Take in the next sound batch."""
        self.batches += 1
        self.records += header.record_count
        self.next_offset = header.last_offset + 1
        self.max_timestamp_ms = max(self.max_timestamp_ms, header.max_timestamp_ms)
        new = Extent(
            batch.position, batch.position + batch.size_bytes, header.base_offset, self.next_offset, 1,
            header.record_count,
        )  # fmt: skip
        if self.extents and (last := self.extents[-1]).end == new.position:
            self.extents[-1] = Extent(
                last.position, new.end, last.base_offset, new.next_offset, last.batches + 1, last.records + new.records
            )
        else:
            self.extents.append(new)


def base_offset_of(path: Path) -> Offset:
    """The base offset in a segment file's name. Raises `InvalidRequest` when it is not 20 digits."""
    digits = path.name.partition(".")[0]
    if len(digits) != _BASE_DIGITS or not (digits.isascii() and digits.isdigit()):
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
                if at + HEADER_BYTES <= len(window) and self._is_likely(window[at : at + HEADER_BYTES]):
                    if self._is_sound(file, position + at):
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
        self._offset_max = min(next_offset + _RELATIVE_OFFSET_MAX, OFFSET_MAX)

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


def verify_segment(
    log_path: str | Path, *, deep: bool = False, sealed: bool = False, pause: Pause | None = None
) -> VerifyReport:
    """Everything that can be wrong with one segment: its `.log`, and its `.index` and `.timeindex` where there are.

    Checked of each batch: CRC32C, length, counts, offsets ascending from the base offset in the file's name; with
    `deep` also that every record decodes. `sealed`: another segment follows, so zeros at the end are damage. Of the
    offset index: entries ascend, point at the start of a batch and hold its last offset. Of the time index: entries
    ascend and name a batch that has this maximum timestamp, none before it a later one. Trailing zeros of an index are
    space allocated ahead. `pause` as in `SegmentScan`.
    Raises: InvalidRequest (the name is no segment's), OSError (the .log cannot be read). All else is in the report.
    """
    path = Path(log_path)
    base_offset = base_offset_of(path)
    report = VerifyReport(str(path), base_offset, next_offset=base_offset)
    # Indexes first: a writer appends to the log before the index, so none of their entries may be ahead of the log.
    indexes = VerifyReport(str(path), base_offset)
    offsets = _OffsetIndexCheck(path.with_suffix(INDEX_SUFFIX), base_offset, indexes)
    times = _TimeIndexCheck(path.with_suffix(TIME_INDEX_SUFFIX), base_offset, indexes)
    scan, line = SegmentScan(path, pause), _Line(report, offsets, times)
    for batch in scan:
        line.add(batch, _undecodable(batch) if deep and not batch.problem else batch.problem)
    line.settle()
    _report_tail(report, scan, sealed=sealed)
    if not line.gap and scan.tail is not Tail.UNREADABLE:
        offsets.finish(scan.position)
        times.finish(report.next_offset)
    report.indexes_to_build = [
        one.path.suffix for one in (offsets, times) if one.is_damaged or (one.is_missing and report.batches)
    ]
    report.damage_count += indexes.damage_count
    report.damages = (report.damages + indexes.damages)[:DAMAGES_MAX]
    report.notes += indexes.notes
    return report


def _report_tail(report: VerifyReport, scan: SegmentScan, *, sealed: bool) -> None:
    report.size_bytes, report.tail, report.tail_bytes = scan.size_bytes, scan.tail, scan.size_bytes - scan.position
    if scan.tail is Tail.TORN:
        hint = "a write that did not finish: opening the log, or `logstore segment repair`, cuts it off"
        report.add(scan.path, scan.position, f"the last batch is cut, {report.tail_bytes} bytes are left of it", hint)
    elif scan.tail is Tail.UNREADABLE:
        hint = "restore the file from a copy; `logstore segment repair` keeps what is before"
        what = f"no batch begins here, nor in the {report.tail_bytes} bytes to the end"
        report.add(scan.path, scan.position, what, hint)
    elif scan.tail is Tail.ZEROS and sealed:
        hint = "`logstore segment repair` cuts them off"
        report.add(scan.path, scan.position, f"{report.tail_bytes} zeros end a segment that another one follows", hint)


class _Line:
    """Puts the batches of one scan in line: sound ones into the report and past the indexes, in the order of offsets.

    The latest one waits for its successor. A batch that jumps ahead, and whose successor fits without it, has a damaged
    base offset (no CRC covers that); else of two that overlap, the later is the damaged one.
    """

    def __init__(self, report: VerifyReport, offsets: _OffsetIndexCheck, times: _TimeIndexCheck) -> None:
        self.gap = False  # whether damaged batches lie behind the last sound one
        self._report, self._offsets, self._times = report, offsets, times
        self._waiting: tuple[FoundBatch, BatchHeader] | None = None

    def add(self, batch: FoundBatch, problem: str) -> None:
        header = batch.header
        if header is None or problem:
            self._report.old_batches += batch.is_old_format
            self._leave_out(batch, problem)
        elif header.last_offset - self._report.base_offset > _RELATIVE_OFFSET_MAX:
            base_offset = self._report.base_offset
            self._leave_out(
                batch, f"offset {header.last_offset} is too far from the segment's base offset {base_offset}"
            )
        else:
            if self._waiting is not None:
                ahead, jumped = self._waiting
                if self._report.next_offset <= header.base_offset <= jumped.last_offset and (
                    self._report.next_offset < jumped.base_offset
                ):
                    self._waiting = None
                    what = f"offsets {jumped.base_offset}..{jumped.last_offset}, but {header.base_offset} follows"
                    self._leave_out(ahead, what)
            self.settle()
            wanted = self._report.next_offset
            if header.base_offset < wanted:
                what = f"offsets {header.base_offset}..{header.last_offset} where {wanted} or later is wanted"
                self._leave_out(batch, what)
            else:
                self._waiting = batch, header

    def settle(self) -> None:
        """The batch that waits is sound."""
        if self._waiting is not None:
            batch, header = self._waiting
            self._waiting = None
            self._report.count(batch, header)
            self._offsets.batch(batch.position, header.last_offset, self.gap)
            self._times.batch(header, self.gap)
            self.gap = False

    def _leave_out(self, batch: FoundBatch, what: str) -> None:
        self.settle()
        self.gap = True
        self._report.add(Path(self._report.path), batch.position, what, _lost(batch))


def _undecodable(batch: FoundBatch) -> str:
    try:
        decode_batch(batch.data, batch.header)
    except LogstoreError as error:
        return str(error)
    return ""


def _lost(batch: FoundBatch) -> str:
    if batch.is_old_format:
        return "let a Kafka before 4.0 convert it"
    hint = "restore the file from a copy; `logstore segment repair` keeps the batches before and behind"
    if batch.header is None:
        return hint
    return f"offsets {batch.header.base_offset}..{batch.header.last_offset} as its header says; {hint}"


class _IndexCheck:
    """The entries of one index file, walked in step with the sound batches of the log.

    `gap` says that damaged batches lie before the one at hand: entries for those are passed over.
    """

    entry = offset_index.ENTRY
    what = "offset index"
    second_step = 1  # how much the second column grows at least

    def __init__(self, path: Path, base_offset: Offset, report: VerifyReport) -> None:
        self.path, self.base_offset, self.report = path, base_offset, report
        self._next = 0
        self.is_missing = self.is_damaged = False
        try:
            data = path.read_bytes()
        except OSError as error:
            data = b""
            self.is_missing = True
            why = "missing" if isinstance(error, FileNotFoundError) else error.strerror
            report.notes.append(f"{path.name}: {why}; rebuilt on opening the log")
        used = data.rstrip(b"\0")
        count = min(-(-len(used) // self.entry.size), len(data) // self.entry.size)
        if len(used) > count * self.entry.size:
            self.is_damaged = True
            report.add(path, count * self.entry.size, "the last entry is cut", _INDEX_HINT)
        self._entries: list[tuple[int, int]] = list(self.entry.iter_unpack(data[: count * self.entry.size]))
        for number in range(1, count):
            (a, b), (c, d) = self._entries[number - 1 : number + 1]
            if c <= a or d < b + self.second_step:
                self.damage(number, f"({c}, {d}) does not ascend from ({a}, {b})")
                del self._entries[number:]
                break

    def damage(self, number: int, what: str) -> None:
        self.is_damaged = True
        self.report.add(self.path, number * self.entry.size, f"{self.what} entry {number} {what}", _INDEX_HINT)


class _OffsetIndexCheck(_IndexCheck):
    def batch(self, position: Position, last_offset: Offset, gap: bool) -> None:
        while self._next < len(self._entries) and self._entries[self._next][1] <= position:
            relative, at = self._entries[self._next]
            if at < position:
                if not gap:
                    self.damage(self._next, f"points at byte {at}, where no batch begins")
            elif self.base_offset + relative != last_offset:
                self.damage(
                    self._next, f"says {self.base_offset + relative}, the batch at byte {at} ends at {last_offset}"
                )
            self._next += 1

    def finish(self, end: Position) -> None:
        for number in range(self._next, len(self._entries)):
            self.damage(number, f"points at byte {self._entries[number][1]}, the log ends at {end}")


class _TimeIndexCheck(_IndexCheck):
    entry = time_index.ENTRY
    what = "time index"
    second_step = 0

    def __init__(self, path: Path, base_offset: Offset, report: VerifyReport) -> None:
        super().__init__(path, base_offset, report)
        self._max_before_ms = NO_TIMESTAMP

    def batch(self, header: BatchHeader, gap: bool) -> None:
        while self._next < len(self._entries):
            timestamp_ms, relative = self._entries[self._next]
            offset = self.base_offset + relative
            if offset > header.last_offset:
                break
            if offset < header.base_offset:
                if not gap:
                    self.damage(self._next, f"names offset {offset}, which no batch holds")
            elif timestamp_ms != header.max_timestamp_ms:
                self.damage(
                    self._next,
                    f"says timestamp {timestamp_ms}, the batch with offset {offset} has {header.max_timestamp_ms}",
                )
            elif self._max_before_ms > timestamp_ms:
                self.damage(self._next, f"says timestamp {timestamp_ms}, an earlier batch has {self._max_before_ms}")
            self._next += 1
        self._max_before_ms = max(self._max_before_ms, header.max_timestamp_ms)

    def finish(self, next_offset: Offset) -> None:
        for number in range(self._next, len(self._entries)):
            offset = self.base_offset + self._entries[number][1]
            self.damage(number, f"names offset {offset}, the log ends at {next_offset}")
