"""Checks one segment offline: its `.log` batch by batch, and the indexes against it. Nothing is changed.

What is damage in the `.log` says `inspect`. An index that is missing is none: it is rebuilt when the log is opened.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from logstore.errors import LogstoreError
from logstore.record.batch import BatchHeader
from logstore.record.records import decode_batch
from logstore.segment import offset_index, time_index
from logstore.segment.inspect import (
    BASE_DIGITS,
    INDEX_SUFFIX,
    RELATIVE_OFFSET_MAX,
    TIME_INDEX_SUFFIX,
    FoundBatch,
    Pause,
    SegmentScan,
    Tail,
    base_offset_of,
)
from logstore.types import NO_TIMESTAMP, Offset, Position, TimestampMs

DAMAGES_MAX: Final = 100

_INDEX_HINT: Final = "delete the file: it is rebuilt when the log is opened, or by `logstore segment repair`"


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
    next_base_offset: Offset | None = None
    """Of the segment that follows, if one does."""
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
    def offset_max(self) -> Offset:
        """The highest offset the segment may hold."""
        most = self.base_offset + RELATIVE_OFFSET_MAX
        return most if self.next_base_offset is None else min(most, self.next_base_offset - 1)

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


def verify_segment(
    log_path: str | Path, *, deep: bool = False, next_base_offset: Offset | None = None, pause: Pause | None = None
) -> VerifyReport:
    """Everything that can be wrong with one segment: its `.log`, and its `.index` and `.timeindex` where there are.

    Checked of each batch: CRC32C, length, counts, offsets ascending from the base offset in the file's name; with
    `deep` also that every record decodes. `next_base_offset` of the segment that follows: offsets stay below it, and
    zeros at the end are damage. Of the offset index: entries ascend, point at the start of a batch and hold its last
    offset. Of the time index: entries ascend and name a batch that has this maximum timestamp, none before it a later
    one. Trailing zeros of an index are space allocated ahead. `pause` as in `SegmentScan`.
    Raises: InvalidRequest (the name is no segment's), OSError (the .log cannot be read). All else is in the report.
    """
    path = Path(log_path)
    base_offset = base_offset_of(path)
    report = VerifyReport(str(path), base_offset, next_base_offset, next_offset=base_offset)
    # Indexes first: a writer appends to the log before the index, so none of their entries may be ahead of the log.
    indexes = VerifyReport(str(path), base_offset)
    offsets = _OffsetIndexCheck(path.with_suffix(INDEX_SUFFIX), base_offset, indexes)
    times = _TimeIndexCheck(path.with_suffix(TIME_INDEX_SUFFIX), base_offset, indexes)
    scan, line = SegmentScan(path, pause), _Line(report, offsets, times)
    for batch in scan:
        line.add(batch, _undecodable(batch) if deep and not batch.problem else batch.problem)
    line.settle()
    _report_tail(report, scan)
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


def _report_tail(report: VerifyReport, scan: SegmentScan) -> None:
    report.size_bytes, report.tail, report.tail_bytes = scan.size_bytes, scan.tail, scan.size_bytes - scan.position
    if scan.tail is Tail.TORN:
        hint = "a write that did not finish: opening the log, or `logstore segment repair`, cuts it off"
        report.add(scan.path, scan.position, f"the last batch is cut, {report.tail_bytes} bytes are left of it", hint)
    elif scan.tail is Tail.UNREADABLE:
        hint = "restore the file from a copy; `logstore segment repair` keeps what is before"
        what = f"no batch begins here, nor in the {report.tail_bytes} bytes to the end"
        report.add(scan.path, scan.position, what, hint)
    elif scan.tail is Tail.ZEROS and report.next_base_offset is not None:
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
        elif header.last_offset > self._report.offset_max:
            self._leave_out(batch, f"offset {header.last_offset} where at most {self._report.offset_max} can be")
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


def next_base_offsets(logs: Iterable[Path]) -> dict[Path, Offset | None]:
    """For each of `logs`, the base offset of the segment that follows it in its directory, None for the last one."""
    found: dict[Path, Offset | None] = {}
    for directory, members in groupby(sorted(logs), key=lambda log: log.parent):
        bases = sorted(
            int(log.stem) for log in directory.glob("*.log") if len(log.stem) == BASE_DIGITS and log.stem.isdecimal()
        )
        for log in members:
            after = bisect_right(bases, base_offset_of(log))
            found[log] = bases[after] if after < len(bases) else None
    return found


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
