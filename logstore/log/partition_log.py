"""One partition: append, write, flush, read. Single writer, synchronous, no thread of its own.

    log_start_offset <= last_stable_offset <= high_watermark <= log_end_offset

An append goes through three stages, each a call of its own, so that a broker can take many requests in one loop turn,
write them at once, and wait for the disk elsewhere:

    append   validated, numbered, staged: counts in log_end_offset, nobody can read it, its buffer is still the caller's
    write    in the page cache: below the high watermark, readable, survives the death of the process
    flush    fsynced: below durable_offset, survives the death of the machine

One node holds the only copy, so what is written is committed: the high watermark is the end of the written bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from logstore.clock import Chance
from logstore.config import TopicConfig
from logstore.errors import (
    Closed,
    CorruptBatch,
    DurabilityUnknown,
    InvalidRecord,
    LogstoreError,
    OffsetOutOfRange,
    RecordTooLarge,
    UnsupportedFormat,
)
from logstore.files import Files
from logstore.log.admission import admit, stamp_append_time
from logstore.log.flush import FlushTicket
from logstore.log.plans import RollLimits, SegmentFacts, count_to_drop, roll_limits, should_roll, should_roll_idle
from logstore.log.producers import ProducerEntry, Producers
from logstore.log.recovery import Recovered, Recovery, RecoveryReport
from logstore.log.retention import Graveyard
from logstore.record.batch import (
    LENGTH_PREFIX_BYTES,
    BatchHeader,
    HeaderFields,
    check,
    checked_fields,
    stamp_start,
)
from logstore.segment.reader import LogSlice, OpenFiles, SegmentFile
from logstore.segment.segment import LOG_SUFFIX, SNAPSHOT_SUFFIX, Segment, file_name
from logstore.segment.segments import Segments
from logstore.segment.writer import WrittenBatch
from logstore.types import (
    NO_TIMESTAMP,
    Isolation,
    Offset,
    Record,
    TimestampedOffset,
    TimestampMs,
    TimestampType,
    TopicPartition,
)

_LOG_APPEND_TIME: Final = TimestampType.LOG_APPEND_TIME
LEADER_EPOCH: Final = 0  # one node holds a partition; nothing is truncated while serving


class AppendResult(NamedTuple):
    base_offset: Offset
    last_offset: Offset
    log_append_time_ms: TimestampMs  # -1 unless the topic's timestamps are LogAppendTime
    log_start_offset: Offset
    duplicate: bool  # these are the offsets of an earlier append of the same batch


class ReadResult(NamedTuple):
    slices: list[LogSlice]  # in offset order; the first may begin below the wanted offset: callers skip
    high_watermark: Offset
    log_start_offset: Offset
    last_stable_offset: Offset


class PartitionLog:
    """See the module's text. Every method is for one thread, the owner's; `LogSlice`s may travel."""

    @classmethod
    def open(
        cls,
        files: Files,
        directory: str,
        topic_partition: TopicPartition,
        config: TopicConfig,
        *,
        now_ms: TimestampMs,
        clean: bool = False,
        recovery_point: Offset = 0,
        log_start_offset: Offset = 0,
        open_files: OpenFiles | None = None,
        chance: Chance | None = None,
        on_log_start_moved: Callable[[], None] = lambda: None,
    ) -> PartitionLog:
        """Recover what is in `directory` (which exists) and open it for appends.

        Args: `clean`, the last owner closed it cleanly. `recovery_point`, everything below was fsynced.
            `log_start_offset`, as last checkpointed. `on_log_start_moved`, called when records were deleted by offset:
            checkpoint it before anyone is told. `chance`, for `segment.jitter.ms`.
        Raises: DamagedSegment (fsynced records are damaged), NotWritten, DurabilityUnknown.
        """
        open_files = open_files or OpenFiles(files)
        recovery = Recovery(
            files,
            open_files,
            directory,
            clean=clean,
            recovery_point=recovery_point,
            log_start_offset=log_start_offset,
            interval_bytes=config.index_interval_bytes,
            compacts="compact" in config.cleanup_policy,
            now_ms=now_ms,
        )
        log = cls(files, open_files, directory, topic_partition, config, recovery.run(), now_ms)
        log._chance = chance
        log._on_log_start_moved = on_log_start_moved
        return log

    def __init__(
        self,
        files: Files,
        open_files: OpenFiles,
        directory: str,
        topic_partition: TopicPartition,
        config: TopicConfig,
        recovered: Recovered,
        now_ms: TimestampMs,
    ) -> None:
        """Use `open`."""
        self.topic_partition = topic_partition
        self.config = config  # replaceable at any time
        self.recovery_report: RecoveryReport = recovered.report
        self.appended_batches = self.appended_bytes = 0
        self._files = files
        self._open_files = open_files
        self._directory = directory
        self._chance: Chance | None = None
        self._on_log_start_moved: Callable[[], None] = lambda: None

        self._segments = Segments(recovered.segments)
        self._active = self._segments.active
        self._opened_ms = now_ms  # when the active segment was opened
        self._jitter_ms = 0
        self._limits = self._roll_limits()
        self._limits_config = config
        self._index_entries = self._active.index_entries
        self._producers: Producers = recovered.producers
        self.log_start_offset: Offset = recovered.log_start_offset
        self.log_end_offset: Offset = self._active.next_offset  # includes staged batches
        self.durable_offset: Offset = self._active.next_offset  # everything below was fsynced

        self._staged: list[memoryview] = []  # between append and write, one batch each
        self._staged_ends: list[WrittenBatch] = []  # what the segment must know of each
        self._staged_undo: list[tuple[Offset, int, ProducerEntry | None]] = []  # base offset, producer, entry before
        self._staged_bytes = 0
        self._rolled: list[tuple[SegmentFile, Offset]] = []  # sealed, maybe unsynced; with the end of their offsets
        self._rolls = self._dir_synced_rolls = 0
        self._unflushed_since_ms: TimestampMs | None = None
        self._saved_offset = self._active.next_offset if recovered.report.is_trivial else -1
        self._failure: LogstoreError | None = None
        self._dropped: list[Segment] = []  # out of the log, still with their names
        self._graveyard = Graveyard(files)
        self._closed = False

    @property
    def high_watermark(self) -> Offset:
        """End (exclusive) of what is written, hence readable."""
        return self._active.next_offset

    @property
    def last_stable_offset(self) -> Offset:
        return self._active.next_offset

    @property
    def size_bytes(self) -> int:
        return self._segments.size_bytes

    @property
    def failure(self) -> LogstoreError | None:
        """Why this log is read-only until it is opened again; None while it is not."""
        return self._failure

    # --- append -----------------------------------------------------------------------------------------------------

    def append(self, records: memoryview, *, now_ms: TimestampMs) -> AppendResult:
        """Validate and stage whole batches laid end to end, normally one; nothing is copied and no record is read.

        Args: `records`, writable, not to be touched by anyone else until `write`: the base offset and, for
            LogAppendTime, the timestamps are stamped into it.
        Returns: the offsets the batches have if the next `write` succeeds, or have had all along if `duplicate`.
        Raises: nothing of this call is staged then. CorruptBatch, UnsupportedFormat, RecordTooLarge, InvalidRecord,
            InvalidTimestamp, OutOfOrderSequence, InvalidProducerEpoch, InvalidTransactionState: the batch is refused.
            NotWritten: a new segment was due and what is staged could not be written, see `write`.
            DurabilityUnknown: read-only since an fsync failed. Closed.
        """
        header = checked_fields(records)
        if header[1] + LENGTH_PREFIX_BYTES == len(records):
            return self._append_one(records, header, now_ms)
        return self._append_many(records, now_ms)

    def _append_one(self, records: memoryview, header: HeaderFields, now_ms: TimestampMs) -> AppendResult:
        config = self.config
        admit(header, config, now_ms)
        _, length, _, _, _, attributes, last_delta, _, max_timestamp_ms, producer_id, epoch, sequence, _ = header
        size_bytes = length + LENGTH_PREFIX_BYTES
        log_append_time_ms = NO_TIMESTAMP
        if config.message_timestamp_type is _LOG_APPEND_TIME:
            max_timestamp_ms = log_append_time_ms = now_ms
        if producer_id >= 0:
            earlier = self._producers.decide(producer_id, epoch, sequence, last_delta)
            if earlier is not None:
                return AppendResult(
                    earlier.base_offset, earlier.last_offset, log_append_time_ms, self.log_start_offset, True
                )
        if self._failure is not None or self._closed:
            self._refuse_append()
        base_offset = self.log_end_offset
        last_offset = base_offset + last_delta
        if config is not self._limits_config:
            self._limits, self._limits_config = self._roll_limits(), config
        held_bytes = self._active.size_bytes + self._staged_bytes
        if should_roll(
            self._limits,
            held_bytes,
            self._index_entries + len(self._staged),
            size_bytes,
            last_offset,
            max_timestamp_ms,
            now_ms,
        ):
            self.write()
            self._roll(now_ms)
        if producer_id >= 0:
            seen_ms = max(max_timestamp_ms, now_ms)
            before = self._producers.record(producer_id, epoch, sequence, last_delta, base_offset, seen_ms)
            self._staged_undo.append((base_offset, producer_id, before))
        if log_append_time_ms >= 0:
            stamp_append_time(records, attributes, log_append_time_ms)
        stamp_start(records, base_offset, length, LEADER_EPOCH)
        self._staged.append(records)
        self._staged_ends.append((size_bytes, last_offset, max_timestamp_ms))
        self._staged_bytes += size_bytes
        self.log_end_offset = last_offset + 1
        if self._unflushed_since_ms is None:
            self._unflushed_since_ms = now_ms
        return AppendResult(base_offset, last_offset, log_append_time_ms, self.log_start_offset, False)

    def _append_many(self, records: memoryview, now_ms: TimestampMs) -> AppendResult:
        """Several batches, all or none. Those of idempotent producers come alone, as in Kafka."""
        batches: list[tuple[memoryview, HeaderFields]] = []
        position = 0
        while position < len(records):
            header = check(records, position)
            if header.producer_id >= 0:
                raise InvalidRecord("an idempotent producer's batch comes alone", hint="send one batch per partition")
            admit(header, self.config, now_ms)
            batches.append((records[position : position + header.size_bytes], header))
            position += header.size_bytes
        results: list[AppendResult] = []
        try:
            results.extend(self._append_one(view, header, now_ms) for view, header in batches)
        except LogstoreError:
            if results:  # a roll may have written the first of them: those stay
                self._unstage(sum(1 for _, last_offset, _ in self._staged_ends if last_offset < results[0].base_offset))
            raise
        return results[0]._replace(last_offset=results[-1].last_offset)

    def _refuse_append(self) -> None:
        if self._closed:
            raise Closed(f"{self.topic_partition} is closed")
        raise DurabilityUnknown(
            f"{self.topic_partition} is read-only: {self._failure}", hint="restart: recovery keeps what is whole"
        )

    def _roll_limits(self) -> RollLimits:
        return roll_limits(
            self.config,
            base_offset=self._active.base_offset,
            first_timestamp_ms=self._active.first_timestamp_ms,
            opened_ms=self._opened_ms,
            jitter_ms=self._jitter_ms,
        )

    def _roll(self, now_ms: TimestampMs) -> None:
        """Seal the active segment and begin the next. Nothing is staged. Raises `NotWritten`; then nothing changed."""
        end_offset = self._active.next_offset
        segment = Segment(
            self._files,
            self._open_files,
            self._directory,
            end_offset,
            size_bytes=0,
            next_offset=end_offset,
            interval_bytes=self.config.index_interval_bytes,
        )
        sealed = self._active
        try:
            segment.activate()
            self._files.write_file(self._path(SNAPSHOT_SUFFIX, end_offset), self._producers.snapshot(), sync=False)
            self._rolled.append((sealed.seal(), end_offset))
        except LogstoreError:
            segment.release()
            for suffix in (LOG_SUFFIX, SNAPSHOT_SUFFIX):  # else appends to the old segment would overlap with it
                self._files.remove(self._path(suffix, end_offset))
            self._rolls += 1  # that they are gone must be durable before what is appended instead
            raise
        self._segments.add(segment)
        self._active = segment
        self._rolls += 1
        self._opened_ms = now_ms
        jitter_ms_max = min(self.config.segment_jitter_ms, self.config.segment_ms)
        self._jitter_ms = self._chance.below(jitter_ms_max + 1) if self._chance and jitter_ms_max else 0
        self._limits = self._roll_limits()
        self._index_entries = 0

    # --- write ------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Put everything staged into the page cache: one system call below 128 KiB. Then it is readable.

        Raises `NotWritten`: nothing that was staged is stored, offsets and producers are as they were before. An append
        of which a roll was due may have written what was staged before it: an append stands if and only if its
        `last_offset` is below `high_watermark`. `DurabilityUnknown`: the log is read-only.
        """
        staged = self._staged
        if not staged:
            return
        active = self._active
        try:
            if self._failure is not None:
                self._refuse_append()
            active.write(staged, self._staged_bytes)
        except Exception:
            self._unstage(0)
            self._cut_back()
            raise
        is_first = not active.size_bytes
        active.note(self._staged_ends)
        self._index_entries = active.index_entries
        if is_first:
            self._limits = self._roll_limits()  # the age counts from the first batch
        self.appended_batches += len(staged)
        self.appended_bytes += self._staged_bytes
        self._staged_bytes = 0
        staged.clear()
        self._staged_ends.clear()
        self._staged_undo.clear()

    def _unstage(self, keep: int) -> None:
        """Take back every staged batch but the first `keep`, latest first."""
        for view in self._staged[keep:]:
            self._staged_bytes -= len(view)
        del self._staged[keep:], self._staged_ends[keep:]
        self.log_end_offset = self._staged_ends[-1][1] + 1 if keep else self._active.next_offset
        while self._staged_undo and self._staged_undo[-1][0] >= self.log_end_offset:
            _, producer_id, before = self._staged_undo.pop()
            self._producers.undo(producer_id, before)

    def _cut_back(self) -> None:
        """Remove what a failed write may have left behind the visible bytes."""
        try:
            self._active.cut_back()
        except LogstoreError as error:
            self._failure = error  # a torn tail stays: only recovery may write behind it

    # --- flush ------------------------------------------------------------------------------------------------------

    def begin_flush(self) -> FlushTicket | None:
        """Everything written but not known to be synced; None when there is nothing.

        Tickets may overlap: each covers all that is unsynced when it begins.
        """
        end_offset = self._active.next_offset
        unsynced_dir = self._rolls != self._dir_synced_rolls
        if end_offset == self.durable_offset and not unsynced_dir:
            return None
        files = [file for file, _ in self._rolled]
        files.append(self._active.file)
        self._unflushed_since_ms = None
        return FlushTicket(self._files, files, self._directory if unsynced_dir else None, end_offset, self._rolls)

    def finish_flush(self, ticket: FlushTicket) -> Offset:
        """Take in what a ticket's `sync` achieved. Returns `durable_offset`.

        Raises `DurabilityUnknown` if it failed: the kernel may have dropped the unsynced pages, a later success would
        prove nothing, so the log is read-only from here on.
        """
        if ticket.error is not None:
            self._failure = self._failure or ticket.error
        if self._failure is not None:
            raise DurabilityUnknown(
                f"{self.topic_partition} is not synced beyond offset {self.durable_offset}: {self._failure}",
                hint="restart: recovery keeps what is whole",
            )
        self.durable_offset = max(self.durable_offset, ticket.end_offset)
        self._dir_synced_rolls = max(self._dir_synced_rolls, ticket.rolls)
        if self._rolled:
            self._rolled = [item for item in self._rolled if item[1] > ticket.end_offset]
        return self.durable_offset

    def flush(self) -> Offset:
        """Write and sync everything, here and now. Returns `durable_offset`. Raises as `write` and `finish_flush`."""
        self.write()
        ticket = self.begin_flush()
        if ticket is None:
            return self.durable_offset
        ticket.sync()
        return self.finish_flush(ticket)

    def flush_due(self, now_ms: TimestampMs) -> bool:
        """Whether `flush.messages` or `flush.ms` ask for a flush now."""
        unflushed = self._active.next_offset - self.durable_offset
        if unflushed <= 0:
            return False
        since_ms = self._unflushed_since_ms
        return unflushed >= self.config.flush_messages or (
            since_ms is not None and now_ms - since_ms >= self.config.flush_ms
        )

    # --- read -------------------------------------------------------------------------------------------------------

    def read(
        self,
        offset: Offset,
        bytes_max: int,
        *,
        isolation: Isolation = Isolation.READ_UNCOMMITTED,
        min_one: bool = True,
    ) -> ReadResult:
        """Whole batches holding `offset` and the records after it, up to `bytes_max` bytes in all.

        Args: `isolation` changes nothing yet: without transactions the last stable offset is the high watermark.
            `min_one`, return the first batch even if it alone is larger: its consumer would hang otherwise (KIP-74).
        Returns: slices, one per segment touched; empty at the end of the log.
        Raises: OffsetOutOfRange outside log_start_offset..high_watermark; DamagedSegment.
        """
        if self._closed:
            raise Closed(f"{self.topic_partition} is closed")
        end = self._active.next_offset
        slices: list[LogSlice] = []
        if not self.log_start_offset <= offset <= end:
            raise OffsetOutOfRange(
                f"offset {offset} is not in {self.log_start_offset}..{end} of {self.topic_partition}",
                log_start_offset=self.log_start_offset,
                log_end_offset=end,
            )
        if offset < end:
            segments = self._segments
            for index in range(segments.floor(offset), len(segments)):
                segment = segments[index]
                piece = segment.slice(offset, bytes_max, min_one=min_one and not slices)
                if piece is None:
                    if segment.locate(offset) is not None:
                        break  # its next batch does not fit
                    continue  # compaction left nothing at or after `offset` in it
                slices.append(piece)
                bytes_max -= piece.size_bytes
                if bytes_max <= 0 or piece.position + piece.size_bytes < segment.size_bytes:
                    break
        return ReadResult(slices, end, self.log_start_offset, end)

    def records(self, offset: Offset) -> Iterator[Record]:
        """Every record from `offset` to the end, decoded. For small jobs; brokers hand out slices."""
        while slices := self.read(offset, 1 << 20).slices:
            for piece in slices:
                view, position = piece.view(), 0
                while position < len(view):
                    header = check(view, position)
                    batch = view[position : position + header.size_bytes]
                    yield from (record for record in decode_records(batch, header) if record.offset >= offset)
                    position += header.size_bytes
                    offset = header.last_offset + 1

    def offset_for_time(self, timestamp_ms: TimestampMs) -> TimestampedOffset | None:
        """The first record, by offset, whose timestamp is at or after `timestamp_ms`; None if there is none.

        Exact to the record: one batch is decoded. Of a batch whose producer packed what nobody can decode, the first
        offset is answered: it must not keep everyone from the rest. Raises CorruptBatch, DamagedSegment.
        """
        for segment in self._segments:
            if segment.next_offset <= self.log_start_offset or segment.max_timestamp_ms < timestamp_ms:
                continue
            for piece in segment.find_time(timestamp_ms, self.log_start_offset):
                view = piece.view()
                header = check(view)
                try:
                    for record in decode_records(view, header):
                        if record.timestamp_ms >= timestamp_ms and record.offset >= self.log_start_offset:
                            return TimestampedOffset(record.timestamp_ms, record.offset)
                except (CorruptBatch, RecordTooLarge, UnsupportedFormat):
                    return TimestampedOffset(header.max_timestamp_ms, max(header.base_offset, self.log_start_offset))
        return None

    def max_timestamp(self) -> TimestampedOffset | None:
        """The record with the largest timestamp, the first of them; None if no record has a timestamp."""
        latest_ms = max(self._max_timestamp_of(segment) for segment in self._segments)
        return self.offset_for_time(latest_ms) if latest_ms >= 0 else None

    def _max_timestamp_of(self, segment: Segment) -> TimestampMs:
        """Largest timestamp from the log start offset on; the index knows it unless that lies in the middle."""
        start = self.log_start_offset
        if segment.base_offset >= start:
            return segment.max_timestamp_ms
        latest_ms = NO_TIMESTAMP
        for header, piece in segment.batches(start):
            if header.base_offset >= start:
                latest_ms = max(latest_ms, header.max_timestamp_ms)
            else:
                records = decode_records(piece.view())
                latest_ms = max(latest_ms, *(r.timestamp_ms for r in records if r.offset >= start))
        return latest_ms

    # --- deletion ---------------------------------------------------------------------------------------------------

    def delete_records_before(self, offset: Offset) -> Offset:
        """Move the log start offset up to `offset`; segments that hold nothing else leave at the next `retain`.

        Returns the log start offset. Raises OffsetOutOfRange above the high watermark.
        """
        if offset < 0 or offset > self.high_watermark:
            raise OffsetOutOfRange(
                f"offset {offset} is not in 0..{self.high_watermark} of {self.topic_partition}",
                log_start_offset=self.log_start_offset,
                log_end_offset=self.high_watermark,
            )
        before = self.log_start_offset
        if offset > before:
            self.log_start_offset = offset
            try:
                self._on_log_start_moved()
            except LogstoreError:
                self.log_start_offset = before  # or a second try would be told that it is done
                raise
        return self.log_start_offset

    def take_doomed(self, now_ms: TimestampMs) -> list[str]:
        """Files that left the log long enough ago: whoever takes them removes them, on any thread."""
        return self._graveyard.take_due(now_ms)

    def retain(self, now_ms: TimestampMs) -> int:
        """Seal the active segment if it is old, drop what retention drops.

        Returns the number of dropped segments: if any, make `log_start_offset` durable, then `bury_dropped`. The other
        way round, a crash could bring back some of them with a gap behind. Raises `NotWritten`.
        """
        self._producers.expire(now_ms)
        active, config = self._active, self.config
        segments = self._segments
        count = count_to_drop(
            [SegmentFacts(segment.next_offset, segment.size_bytes) for segment in segments],
            lambda index: self._age_mark_ms(segments[index]),
            config,
            log_start_offset=self.log_start_offset,
            now_ms=now_ms,
        )
        is_old = should_roll_idle(
            config,
            size_bytes=active.size_bytes,
            opened_ms=self._opened_ms,
            jitter_ms=self._jitter_ms,
            now_ms=now_ms,
        )
        if self._failure is None and not self._staged and (is_old or count == len(segments)):
            self._roll(now_ms)
        dropped = segments.drop_first(min(count, len(segments) - 1))
        if dropped:
            self.log_start_offset = max(self.log_start_offset, segments[0].base_offset)
        self._dropped += dropped
        return len(self._dropped)

    def bury_dropped(self, now_ms: TimestampMs, *, one_by_one: bool = False) -> None:
        """Rename the files of dropped segments; `take_doomed` hands them out after `file.delete.delay.ms`.

        Args: `one_by_one`, `log_start_offset` could not be made durable: sync the directory before each, oldest first.
        Raises: NotWritten, DurabilityUnknown.
        """
        due_ms = now_ms + self.config.file_delete_delay_ms
        while self._dropped:
            if one_by_one:
                self._files.fsync_dir(self._directory)
            self._graveyard.bury(self._directory, self._dropped[0], due_ms)
            del self._dropped[0]

    def _age_mark_ms(self, segment: Segment) -> TimestampMs:
        latest_ms = segment.max_timestamp_ms
        return latest_ms if latest_ms >= 0 else self._files.modified_ms(segment.path)

    # --- close ------------------------------------------------------------------------------------------------------

    def close(self, *, clean: bool = True) -> bool:
        """Flush, save indexes and producer state, let go of the files. Returns whether a reopen may trust them.

        With `clean=False` nothing is written: as after a crash, except that staged batches are dropped.
        """
        if self._closed:
            return self._failure is None
        try:
            if clean and self._failure is None:
                self.flush()
                self._save()
        except LogstoreError as error:
            self._failure = self._failure or error
        self._closed = True
        self._unstage(0)
        for segment in self._segments:
            segment.release()
        return clean and self._failure is None

    def _save(self) -> None:
        """Make indexes and producer state durable, so that a reopen need not look at the log."""
        if self._saved_offset == self._active.next_offset and not any(s.has_unsynced_indexes for s in self._segments):
            return
        snapshot = self._path(SNAPSHOT_SUFFIX, self._active.next_offset)
        self._active.save_indexes()
        self._files.write_file(snapshot, self._producers.snapshot(), sync=False)
        for segment in self._segments:
            segment.sync_indexes()
        SegmentFile(self._files, snapshot).sync()
        self._files.fsync_dir(self._directory)

    def _path(self, suffix: str, base_offset: Offset) -> str:
        return f"{self._directory}/{file_name(base_offset, suffix)}"

    def __repr__(self) -> str:
        return (
            f"PartitionLog({str(self.topic_partition)!r}, {self.log_start_offset}..{self.high_watermark}, "
            f"durable to {self.durable_offset}, {len(self._segments)} segments, {self.size_bytes} bytes)"
        )


def decode_records(batch: memoryview, header: BatchHeader | None = None) -> Iterator[Record]:
    """`iter_records`, whose codecs are loaded when first needed."""
    from logstore.record.records import iter_records

    return iter_records(batch, header)
