"""The bytes of every partition behind one interface: `LogStore`, and `LocalLogStore` over this node's own directory.

Above this line a partition is a number and an offset is unknown until the append's answer is in; below it are files.
`append` fixes the order and returns at once; nothing is readable or acknowledged before `end_of_turn`, which writes
what one turn of the loop has collected, one system call a partition, and hands `acks=all` answers to the group commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar
from uuid import UUID

from cluster.pending import Pending
from cluster.scheduler import Scheduler, Timer
from cluster.waits import Waiter, Waits
from logstore.clock import Clock
from logstore.errors import Closed, LogstoreError, UnknownTopicOrPartition
from logstore.log.group_commit import GroupCommit
from logstore.log.partition_log import AppendResult, PartitionLog
from logstore.segment.reader import LogSlice
from logstore.store import Steps, Store
from logstore.types import Isolation, Offset, TimestampedOffset, TimestampMs

Settle: TypeAlias = Callable[[LogstoreError | None], None]

T = TypeVar("T")


class FetchAsk(NamedTuple):
    """Whole batches of one partition from `offset` on; `bytes_max` is soft (KIP-74)."""

    partition_id: int
    offset: Offset
    bytes_max: int


class FetchLimits(NamedTuple):
    """Answer when `bytes_min` are there or after `wait_ms_max`; `bytes_max` over all partitions is soft."""

    bytes_min: int
    bytes_max: int
    wait_ms_max: int
    isolation: Isolation


class FetchPart(NamedTuple):
    """What one partition answered: slices of its files in offset order, or the error that stood in the way."""

    error: LogstoreError | None
    slices: Sequence[LogSlice]
    size_bytes: int
    log_start_offset: Offset
    last_stable_offset: Offset
    high_watermark: Offset


class Head(NamedTuple):
    """Where a partition begins and ends, and how many bytes it holds."""

    log_start_offset: Offset
    last_stable_offset: Offset
    high_watermark: Offset
    size_bytes: int


class LogStore(Protocol):
    """All that the node knows of storage."""

    def append(self, partition_id: int, records: memoryview, *, durable: bool) -> Pending[AppendResult]: ...

    def stage(self, partition_id: int, records: memoryview, settle: Settle, *, durable: bool) -> AppendResult: ...

    def end_of_turn(self) -> None: ...

    def fetch(self, asks: Sequence[FetchAsk], limits: FetchLimits) -> Pending[list[FetchPart]]: ...

    def head(self, partition_id: int) -> Head: ...

    def offset_for_time(self, partition_id: int, timestamp_ms: TimestampMs) -> TimestampedOffset | None: ...

    def max_timestamp(self, partition_id: int) -> TimestampedOffset | None: ...

    async def delete_records(self, cuts: Mapping[int, Offset]) -> dict[int, Offset | LogstoreError]: ...


class LocalLogStore:
    """`LogStore` over the partition logs of one `Store`. Call it on the loop's thread only."""

    def __init__(
        self, store: Store, group_commit: GroupCommit, clock: Clock, scheduler: Scheduler, waits: Waits | None = None
    ) -> None:
        self._store = store
        self._group_commit = group_commit
        self._clock = clock
        self._scheduler = scheduler
        self._waits = waits or Waits()
        self._logs: dict[int, PartitionLog] = {}
        self.place_of: Callable[[int], tuple[str, int] | None] = lambda _: None
        """Topic and index of an internal partition id, None if it is not here. Set by the node, which has the image."""
        self._staged: dict[int, _Staged] = {}
        self._now_ms: TimestampMs = 0  # of the turn
        self._working: set[asyncio.Future[Any]] = set()
        self._timer: Timer | None = None
        self._timer_ms: TimestampMs | None = None
        self._closed = False

    # --- topics: their files are made and removed on another thread ---------------------------------------------------

    async def create_topic(self, topic: str, topic_id: UUID, partitions: int, config: Mapping[str, str]) -> None:
        """Make the files of a topic. Calls about one topic must not overlap; nor may those below."""
        await self._beside(self._store.creating_topic(topic, partitions, config, topic_id))

    async def add_partitions(self, topic: str, partitions: int) -> None:
        """Make the files of a topic that grows to `partitions`."""
        await self._beside(self._store.adding_partitions(topic, partitions))

    async def set_config(self, topic: str, config: Mapping[str, str]) -> None:
        await self._beside(self._store.setting_config(topic, config))

    async def delete_topic(self, topic: str, partition_ids: Sequence[int]) -> None:
        """Forget the partitions, wake their readers (they are told the topic is gone), remove the files."""
        for partition_id in partition_ids:
            self._logs.pop(partition_id, None)
        self._wake(self._waits.changed(partition_ids))
        await self._beside(self._store.deleting_topic(topic))

    async def maintain(self) -> list[LogstoreError]:
        """The store's chores, once. Returns what went wrong, for the operator."""
        return await self._beside(self._store.maintaining(self._clock.now_ms()))

    async def drain(self) -> None:
        """Wait for the file work that is under way: it would meet the end of the store, or its next owner."""
        while self._working:
            await asyncio.wait(self._working)

    async def _beside(self, steps: Steps[T]) -> T:
        """Carry out an operation of the store beside the loop; to its end, even if the caller is cancelled."""
        work = asyncio.ensure_future(_in_thread(steps))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        return await asyncio.shield(work)

    # --- append ------------------------------------------------------------------------------------------------------

    def append(self, partition_id: int, records: memoryview, *, durable: bool) -> Pending[AppendResult]:
        """Take whole batches, laid end to end, for one partition; nothing is copied before `end_of_turn`.

        `records` is stamped in place and must stay as it is until `end_of_turn`. `durable` asks for the answer only
        after an fsync (`acks=all`), if the topic's `flush.policy` is `acks`.
        Errors of the answer: those of `PartitionLog.append`, `NotWritten`, `DurabilityUnknown`.
        """
        answer: Pending[AppendResult] = Pending()

        def settle(error: LogstoreError | None) -> None:
            if error is None:
                answer.resolve(result)
            else:
                answer.fail(error)

        try:
            result = self.stage(partition_id, records, settle, durable=durable)
        except LogstoreError as error:
            answer.fail(error)
        return answer

    def stage(self, partition_id: int, records: memoryview, settle: Settle, *, durable: bool) -> AppendResult:
        """`append` for who makes do with less: the result at once, and a call of `settle` when it holds.

        `settle(None)` comes from `end_of_turn`, or later if `durable`; with the error if the result never will hold.
        Raises, and then never calls `settle`: what `PartitionLog.append` raises; then nothing was taken.
        """
        if not self._staged:
            self._now_ms = self._clock.now_ms()  # once a turn
        try:
            log = self._logs.get(partition_id) or self._log(partition_id)
            result = log.append(records, now_ms=self._now_ms)
        except LogstoreError as error:
            self._fail_lost(partition_id, error)
            raise
        staged = self._staged.get(partition_id)
        if staged is None:
            staged = self._staged[partition_id] = _Staged(log)
        (staged.durable if durable else staged.answers).append((result.last_offset, settle))
        staged.size_bytes += len(records)
        return result

    def end_of_turn(self) -> None:
        """Write what was appended since the last call, settle what needs no fsync, wake who waited for the bytes."""
        if not self._staged:
            return
        staged_of, self._staged = self._staged, {}
        for partition_id, staged in staged_of.items():
            log = staged.log
            try:
                log.write()
            except LogstoreError as error:
                # A roll within the turn may have written the first of them before the write failed: those stand.
                staged.fail_from(log.high_watermark, error)
            if staged.durable:
                # One for all: a round of fsyncs covers everything written before it begins.
                end_offset = max([last_offset for last_offset, _ in staged.durable]) + 1
                self._group_commit.enlist(log, end_offset, staged.settle_durable)
            for _, settle in staged.answers:
                settle(None)
            self._wake(self._waits.appended(partition_id, staged.size_bytes))
        self._group_commit.begin()

    def _fail_lost(self, partition_id: int, error: LogstoreError) -> None:
        """A roll that was due may have failed to write what this turn had staged before: tell those now.

        Later appends of the turn may get the same offsets, after which nothing would tell the two apart.
        """
        staged = self._staged.get(partition_id)
        if staged is not None:
            staged.fail_from(staged.log.log_end_offset, error)

    # --- read --------------------------------------------------------------------------------------------------------

    def fetch(self, asks: Sequence[FetchAsk], limits: FetchLimits) -> Pending[list[FetchPart]]:
        """Read now if there is enough, or an error to tell; else when enough was appended or the time is up."""
        answer: Pending[list[FetchPart]] = Pending()
        parts, size_bytes, failed = self._read(asks, limits)
        if size_bytes >= limits.bytes_min or failed or limits.wait_ms_max <= 0 or not asks or self._closed:
            answer.resolve(parts)
            return answer
        deadline_ms = self._clock.monotonic_ms() + limits.wait_ms_max
        self._park(asks, limits, limits.bytes_min - size_bytes, deadline_ms, answer)
        return answer

    def _park(
        self,
        asks: Sequence[FetchAsk],
        limits: FetchLimits,
        bytes_missing: int,
        deadline_ms: TimestampMs,
        answer: Pending[list[FetchPart]],
    ) -> None:
        def wake() -> None:
            if answer.done:
                return  # cancelled: the client is gone
            parts, size_bytes, failed = self._read(asks, limits)
            missing = limits.bytes_min - size_bytes
            if missing <= 0 or failed or self._closed or self._clock.monotonic_ms() >= deadline_ms:
                answer.resolve(parts)
            else:  # the bytes counted lay beyond a limit of the fetch
                self._park(asks, limits, missing, deadline_ms, answer)

        waiter = Waiter(tuple(ask.partition_id for ask in asks), bytes_missing, deadline_ms, wake)
        answer.on_cancel(lambda: self._waits.cancel(waiter))
        self._waits.park(waiter)
        self._arm()

    def _read(self, asks: Sequence[FetchAsk], limits: FetchLimits) -> tuple[list[FetchPart], int, bool]:
        parts: list[FetchPart] = []
        left = limits.bytes_max
        total = 0
        failed = False
        for ask in asks:
            try:
                log = self._logs.get(ask.partition_id) or self._log(ask.partition_id)
                # KIP-74: the first batch of the first partition that has one goes out even above the limit.
                got = log.read(
                    ask.offset, max(0, min(ask.bytes_max, left)), isolation=limits.isolation, min_one=total == 0
                )
            except LogstoreError as error:
                failed = True
                parts.append(FetchPart(error, (), 0, -1, -1, -1))
                continue
            size_bytes = sum(each.size_bytes for each in got.slices)
            left -= size_bytes
            total += size_bytes
            parts.append(
                FetchPart(
                    None, got.slices, size_bytes, got.log_start_offset, got.last_stable_offset, got.high_watermark
                )
            )
        return parts, total, failed

    def head(self, partition_id: int) -> Head:
        log = self._log(partition_id)
        return Head(log.log_start_offset, log.last_stable_offset, log.high_watermark, log.size_bytes)

    def offset_for_time(self, partition_id: int, timestamp_ms: TimestampMs) -> TimestampedOffset | None:
        """The first record with this timestamp or a later one; None when there is none."""
        return self._log(partition_id).offset_for_time(timestamp_ms)

    def max_timestamp(self, partition_id: int) -> TimestampedOffset | None:
        """The record with the largest timestamp (KIP-734); None when the log is empty."""
        return self._log(partition_id).max_timestamp()

    async def delete_records(self, cuts: Mapping[int, Offset]) -> dict[int, Offset | LogstoreError]:
        """Move log start offsets up to `cuts` (-1: the high watermark). Returns the new ones, durable, or the errors.

        One checkpoint, written beside the loop, for all.
        """
        results: dict[int, Offset | LogstoreError] = {}
        logs: dict[int, PartitionLog] = {}
        for partition_id in cuts:
            try:
                logs[partition_id] = self._log(partition_id)
            except LogstoreError as error:
                results[partition_id] = error
        wanted = {log: log.high_watermark if cuts[each] == -1 else cuts[each] for each, log in logs.items()}
        refused = await self._beside(self._store.deleting_records(wanted)) if wanted else {}
        return results | {each: refused.get(log, log.log_start_offset) for each, log in logs.items()}

    # --- time and end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Answer every parked fetch with what there is. The store itself is closed by whoever opened it."""
        self._closed = True
        self.end_of_turn()
        self._wake(self._waits.everyone())
        if self._timer is not None:
            self._timer.cancel()

    @property
    def fetches_parked(self) -> int:
        return len(self._waits)

    def _log(self, partition_id: int) -> PartitionLog:
        log = self._logs.get(partition_id)
        if log is None:
            if self._closed:
                raise Closed("this node is shutting down", hint="reconnect and retry")
            place = self.place_of(partition_id)
            if place is None:
                raise UnknownTopicOrPartition(f"partition {partition_id} is not here")
            log = self._logs[partition_id] = self._store.log(*place)
        return log

    def _wake(self, waiters: Sequence[Waiter]) -> None:
        for waiter in waiters:
            waiter.wake()

    def _arm(self) -> None:
        deadline_ms = self._waits.next_deadline_ms()
        if deadline_ms is None or (self._timer_ms is not None and self._timer_ms <= deadline_ms):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = deadline_ms
        self._timer = self._scheduler.call_at_ms(deadline_ms, self._expire)

    def _expire(self) -> None:
        self._timer = self._timer_ms = None
        self._wake(self._waits.expired(self._clock.monotonic_ms()))
        self._arm()


class _Staged:
    """What one turn has appended to one log."""

    __slots__ = ("answers", "durable", "log", "size_bytes")

    def __init__(self, log: PartitionLog) -> None:
        self.log = log
        self.size_bytes = 0
        self.answers: list[tuple[Offset, Settle]] = []  # by the last offset of each append
        self.durable: list[tuple[Offset, Settle]] = []  # those that wait for an fsync, too

    def fail_from(self, offset: Offset, error: LogstoreError) -> None:
        """Tell every append from `offset` on that it failed, and forget it."""
        failed = [entry for entry in self.answers + self.durable if entry[0] >= offset]
        self.answers = [entry for entry in self.answers if entry[0] < offset]
        self.durable = [entry for entry in self.durable if entry[0] < offset]
        for _, settle in failed:
            settle(error)

    def settle_durable(self, error: LogstoreError | None) -> None:
        for _, settle in self.durable:
            settle(error)


async def _in_thread(steps: Steps[T]) -> T:
    """Carry out an operation of the store, its file work on another thread, the rest on the loop's."""
    try:
        work = next(steps)
        while True:
            try:
                await asyncio.to_thread(work)
            except LogstoreError as error:
                work = steps.throw(error)
            else:
                work = next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
