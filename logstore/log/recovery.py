"""Opening one partition's directory: gather the facts, act on `recovery_plan`, say what was done.

The `.log` files are the only truth. Indexes and producer snapshots are derived from them: trusted after a clean stop,
else rebuilt. Files with other names are left alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from logstore.errors import CorruptBatch, DamagedSegment, UnsupportedFormat
from logstore.files import Files
from logstore.log.plans import RELATIVE_OFFSET_MAX
from logstore.log.producers import Producers
from logstore.log.recovery_plan import Check, Damage, Repair, plan_check, plan_repair
from logstore.record.batch import BatchHeader, check
from logstore.segment.offset_index import OffsetIndex
from logstore.segment.reader import OpenFiles, SegmentFile, hop
from logstore.segment.segment import (
    DELETED_SUFFIX,
    FILE_SUFFIXES,
    LOG_SUFFIX,
    OFFSET_INDEX_SUFFIX,
    SNAPSHOT_SUFFIX,
    TIME_INDEX_SUFFIX,
    Segment,
    base_offset_of,
    file_name,
)
from logstore.segment.time_index import TimeIndex
from logstore.segment.writer import IndexBuilder
from logstore.types import Offset, Position, TimestampMs

ASIDE_SUFFIX: Final = ".aside"
_SEARCH_BYTES_MAX: Final = 64 << 20
_REWRITE_BYTES: Final = 64 << 10
_LEFTOVER_SUFFIXES: Final = (DELETED_SUFFIX, ".tmp")


class RecoveryStep(NamedTuple):
    """One thing recovery did to one file."""

    path: str
    repair: Repair
    position: Position  # first byte taken away
    size_bytes: int  # bytes taken away
    why: str


@dataclass(slots=True)
class RecoveryReport:
    """What opening a partition took."""

    clean: bool
    scanned_bytes: int = 0
    replayed_batches: int = 0
    steps: list[RecoveryStep] = field(default_factory=list)

    @property
    def is_trivial(self) -> bool:
        """Whether the files were found as a clean close leaves them, so that saving them again adds nothing."""
        return self.clean and not (self.scanned_bytes or self.replayed_batches or self.steps)


class Recovered(NamedTuple):
    segments: list[Segment]  # the last one is active
    producers: Producers
    log_start_offset: Offset
    report: RecoveryReport


class Scan(NamedTuple):
    """The whole, valid batches at the beginning of a segment file."""

    builder: IndexBuilder
    size_bytes: int
    next_offset: Offset
    damage: Damage
    why: str


def scan(view: memoryview, base_offset: Offset, interval_bytes: int) -> Scan:
    """Check every batch of a segment: CRC, counts, and offsets that only grow. Stops at the first that is wrong.

    A gap between offsets is no damage: compaction leaves gaps.
    """
    builder = IndexBuilder.empty(base_offset, interval_bytes)
    position, next_offset, why = 0, base_offset, ""
    while position < len(view):
        try:
            header = check(view, position)
        except (CorruptBatch, UnsupportedFormat) as error:
            why = str(error)
            break
        if header.base_offset < next_offset:
            why = f"offset {header.base_offset} where {next_offset} comes next"
            break
        if header.last_offset - base_offset > RELATIVE_OFFSET_MAX:
            why = f"offset {header.last_offset} is too far from {base_offset}"
            break
        builder.add(position, header.last_offset, header.max_timestamp_ms)
        position += header.size_bytes
        next_offset = header.last_offset + 1
    if not why:
        return Scan(builder, position, next_offset, Damage.NONE, "")
    broken = _has_whole_batch(view, position + 1, next_offset)
    return Scan(builder, position, next_offset, Damage.BROKEN if broken else Damage.TORN, why)


def _has_whole_batch(view: memoryview, position: Position, next_offset: Offset) -> bool:
    """Whether a valid batch of a later offset starts within the next 64 MiB from `position` on.

    Its base offset shares its five high bytes with `next_offset`, unless 2^24 offsets lie between them.
    """
    head = re.compile(b"(?=" + re.escape(struct.pack(">q", next_offset)[:5]) + rb".{11}\x02)", re.DOTALL)
    for match in head.finditer(view[position : position + _SEARCH_BYTES_MAX]):
        with suppress(CorruptBatch, UnsupportedFormat):
            if check(view, position + match.start()).base_offset >= next_offset:
                return True
    return False


class Recovery:
    """Opens the directory of one partition, once."""

    def __init__(
        self,
        files: Files,
        open_files: OpenFiles,
        directory: str,
        *,
        clean: bool,
        recovery_point: Offset,
        log_start_offset: Offset,
        interval_bytes: int,
        compacts: bool,
        now_ms: TimestampMs,
    ) -> None:
        """`recovery_point`: everything below was fsynced. `log_start_offset`: 0 unless records were deleted.

        `compacts`: offsets may be missing between two segments.
        """
        self._files = files
        self._open_files = open_files
        self._directory = directory
        self._clean = clean
        self._recovery_point = recovery_point
        self._log_start_offset = log_start_offset
        self._interval_bytes = interval_bytes
        self._compacts = compacts
        self._now_ms = now_ms
        self._unsynced: list[SegmentFile] = []
        self._report = RecoveryReport(clean)

    def run(self) -> Recovered:
        """Raises `DamagedSegment` when fsynced records are damaged; then no file was changed."""
        names = self._files.listdir(self._directory)
        bases = sorted(base for name in names if (base := base_offset_of(name)) is not None)
        deleted: list[Offset] = []  # all their records were; a crash may have left only some of these segments
        while not self._clean and len(bases) > 1 and bases[1] <= self._log_start_offset:
            deleted.append(bases.pop(0))
        segments = self._segments(bases)
        for base in deleted:
            for suffix in (*FILE_SUFFIXES, SNAPSHOT_SUFFIX):
                self._files.remove(self._path(file_name(base, suffix)))
        for name in names:
            if name.endswith(_LEFTOVER_SUFFIXES):
                self._files.remove(self._path(name))
        if segments and segments[-1].next_offset < self._log_start_offset:
            self._set_aside(segments, "all its records were deleted")
            segments = []
        if not segments:
            segments = [self._segment(self._log_start_offset, 0, self._log_start_offset)]
            segments[0].activate()
            self._unsynced.append(segments[0].file)
        start = max(self._log_start_offset, segments[0].base_offset)
        snapshots = sorted(base for name in names if (base := base_offset_of(name, SNAPSHOT_SUFFIX)) is not None)
        producers = self._producers(segments, snapshots)
        for file in self._unsynced:
            file.sync()
        if self._unsynced:
            self._files.fsync_dir(self._directory)
        return Recovered(segments, producers, start, self._report)

    # --- segments ---------------------------------------------------------------------------------------------------

    def _segments(self, bases: list[Offset]) -> list[Segment]:
        segments: list[Segment] = []
        sizes = [self._files.size(self._path(file_name(base, LOG_SUFFIX))) for base in bases]
        for index, base in enumerate(bases):
            is_last = index == len(bases) - 1
            end = base if is_last else bases[index + 1]
            segment = self._segment(base, sizes[index], end)
            # An empty last segment may be one whose roll failed: then the one before went on beyond its base.
            is_bounded = index < len(bases) - 2 or sizes[-1] > 0
            what = plan_check(
                clean_stop=self._clean,
                is_last=is_last,
                ends_below_recovery_point=end <= self._recovery_point and is_bounded,
            )
            segments.append(segment)
            if what is Check.TAIL and self._open_tail(segment):
                continue
            if what is Check.DROP_INDEXES:
                self._drop_indexes(segment)
            elif what in (Check.SCAN, Check.TAIL):
                later = [self._segment(bases[n], sizes[n], bases[n]) for n in range(index + 1, len(bases))]
                if not self._scan(segment, later, is_last=is_last):
                    break
        return segments

    def _open_tail(self, segment: Segment) -> bool:
        """The active segment after a clean stop. False if its files do not add up."""
        if not segment.size_bytes:
            segment.activate()
            return True
        try:
            offsets = OffsetIndex(segment.base_offset, self._read_index(segment, OFFSET_INDEX_SUFFIX))
            times = TimeIndex(segment.base_offset, self._read_index(segment, TIME_INDEX_SUFFIX))
            if not offsets.is_plausible(segment.size_bytes):
                return False
            builder = IndexBuilder(offsets, times, self._interval_bytes)
            for batch in hop(segment.file, builder.indexed_position, segment.size_bytes):
                builder.add(batch.position, batch.last_offset, batch.max_timestamp_ms)
                segment.next_offset = batch.last_offset + 1
        except (FileNotFoundError, DamagedSegment):
            return False
        if not times.is_plausible(segment.next_offset):
            return False
        segment.activate(builder)
        return True

    def _read_index(self, segment: Segment, suffix: str) -> bytearray:
        return bytearray(self._files.read_file(self._path(file_name(segment.base_offset, suffix))))

    def _scan(self, segment: Segment, later: list[Segment], *, is_last: bool) -> bool:
        """Check the segment and repair it. True if the segments after it still follow."""
        view = segment.file.map()
        found = scan(view, segment.base_offset, self._interval_bytes)
        end = found.next_offset
        if found.damage is Damage.NONE:
            end = max(end, self._log_start_offset)  # what was deleted is not missed
            if is_last and end < self._recovery_point:
                found = found._replace(damage=Damage.SHORT, why="the file ends here")
            if later and self._is_gap(found.next_offset, later[0].base_offset):
                why = f"the file ends before offset {found.next_offset}, the next begins at {later[0].base_offset}"
                found = found._replace(damage=Damage.TORN, why=why)
        self._report.scanned_bytes += len(view)
        repair = plan_repair(found.damage, before_recovery_point=end < self._recovery_point, has_later=bool(later))
        if repair is Repair.REFUSE:
            raise DamagedSegment(
                f"{segment.path} is damaged at byte {found.size_bytes}, before offset {self._recovery_point} up to "
                f"which it was synced: {found.why}",
                path=segment.path,
                position=found.size_bytes,
                hint="nothing was changed; restore the file, or cut it with `logstore segment repair`",
            )
        taken = view[found.size_bytes :]
        if repair is not Repair.KEEP:
            self._report.steps.append(RecoveryStep(segment.path, repair, found.size_bytes, len(taken), found.why))
        if repair.saves:
            self._files.write_file(f"{segment.path}.{found.size_bytes}{ASIDE_SUFFIX}", taken)
        if repair.sets_later_aside:
            self._set_aside(later, "it follows a damaged segment")
        segment.size_bytes, segment.next_offset = found.size_bytes, found.next_offset
        segment.activate(found.builder)
        self._rewrite(segment, view)
        taken.release()
        view.release()  # nothing may be mapped beyond the end of a file that is about to be cut
        if repair is not Repair.KEEP:
            segment.cut_back()
        self._unsynced.append(segment.file)
        if is_last or repair is not Repair.KEEP:
            return False
        segment.seal()
        return True

    def _is_gap(self, end: Offset, next_base: Offset) -> bool:
        """Whether offsets are missing, or there twice, between a segment and the next, and nothing accounts for it."""
        return end > next_base or (end < next_base and not self._compacts)

    def _rewrite(self, segment: Segment, view: memoryview) -> None:
        """Write what is kept once more, as far as nobody vouches for it.

        If an fsync failed before the process ended, the page cache may hold bytes that the disk does not and that no
        later fsync writes: only a new write makes the pages dirty again.
        """
        position = segment.locate(self._recovery_point)
        while position is not None and position < segment.size_bytes:
            piece = bytes(view[position : min(position + _REWRITE_BYTES, segment.size_bytes)])
            self._files.pwritev(segment.file.handle, (piece,), position, len(piece))
            position += len(piece)

    def _set_aside(self, segments: list[Segment], why: str) -> None:
        for segment in segments:
            segment.release()
            self._drop_indexes(segment)
            self._files.rename(segment.path, segment.path + ASIDE_SUFFIX)
            self._report.steps.append(
                RecoveryStep(segment.path, Repair.TRUNCATE_SET_LATER_ASIDE, 0, segment.size_bytes, why)
            )

    def _drop_indexes(self, segment: Segment) -> None:
        for suffix in FILE_SUFFIXES[1:3]:
            self._files.remove(self._path(file_name(segment.base_offset, suffix)))

    def _segment(self, base_offset: Offset, size_bytes: int, next_offset: Offset) -> Segment:
        return Segment(
            self._files,
            self._open_files,
            self._directory,
            base_offset,
            size_bytes=size_bytes,
            next_offset=next_offset,
            interval_bytes=self._interval_bytes,
        )

    # --- producers --------------------------------------------------------------------------------------------------

    def _producers(self, segments: list[Segment], snapshots: list[Offset]) -> Producers:
        """The newest usable snapshot plus the batches after it; without one, all batches there are."""
        end = segments[-1].next_offset
        producers, replay_from = Producers(), segments[0].base_offset
        for offset in reversed(snapshots):
            path = self._path(file_name(offset, SNAPSHOT_SUFFIX))
            if not segments[0].base_offset <= offset <= end:
                # Of records that are no more, and others will get their offsets; or older than what was deleted.
                self._files.remove(path)
                continue
            try:
                producers, replay_from = Producers.from_snapshot(self._files.read_file(path)), offset
                break
            except CorruptBatch:
                self._files.remove(path)
        bases = {segment.base_offset for segment in segments}
        for offset in snapshots:
            if offset < replay_from and offset not in bases:  # of an earlier clean stop
                self._files.remove(self._path(file_name(offset, SNAPSHOT_SUFFIX)))
        producers.expire(self._now_ms)
        if replay_from < end:
            replay_producers(producers, segments, replay_from, self._now_ms, self._count)
        return producers

    def _count(self) -> None:
        self._report.replayed_batches += 1

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


def replay_producers(
    producers: Producers,
    segments: list[Segment],
    from_offset: Offset,
    now_ms: TimestampMs,
    on_batch: Callable[[], None] = lambda: None,
) -> None:
    """Note every idempotent batch that ends at or after `from_offset`, from headers alone."""
    for segment in segments:
        if segment.next_offset <= from_offset:
            continue
        position = segment.locate(from_offset) if segment.base_offset < from_offset else 0
        if position is None:
            continue
        for _, header in segment.headers(position):
            on_batch()
            note_producer(producers, header, now_ms)


def note_producer(producers: Producers, header: BatchHeader, now_ms: TimestampMs) -> None:
    if header.producer_id >= 0 and not header.is_control:
        producers.record(
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            header.last_offset_delta,
            header.base_offset,
            max(header.max_timestamp_ms, now_ms),
        )
