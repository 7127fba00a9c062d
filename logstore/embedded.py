"""The embedded library: topics in a directory, no server. `logstore.open` is the way in.

    with logstore.open("events") as store:
        orders = store.create_topic("orders", partitions=4)
        partition, offset = orders.append(b"placed", key=b"customer-7")
        for record in orders.read(partition):
            print(record.offset, record.value)

What `append` promises: when it returns, the record is in the page cache, readable by everyone and safe from the death
of this process. Safe from the death of the machine it is after `flush()`, after `close()` (hence after the `with`
block), or at once with `append(..., sync=True)`, which costs one fsync. Threads may share a store; processes may not:
the directory has one owner at a time, the library or a server.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Condition
from typing import Final, TypeAlias

from logstore.clock import Clock, SystemClock
from logstore.files import Files
from logstore.log.partition_log import PartitionLog
from logstore.partitioner import partition_for_key
from logstore.record.batch import check
from logstore.record.records import NewRecord, encode_batch, iter_records
from logstore.store import Store
from logstore.types import Header, Offset, Record, TimestampMs

BATCH_RECORDS_MAX: Final = 1000
BATCH_BYTES_MAX: Final = 512 << 10  # below the default max.message.bytes
_READ_BYTES: Final = 1 << 20

Item: TypeAlias = bytes | tuple[bytes | None, bytes | None]
"""What `append_many` takes: a value, or (key, value)."""


class LogStore:
    """An open data directory. Threads may share it. Close it, or use it as a context manager."""

    def __init__(self, path: str | os.PathLike[str], *, files: Files | None = None, clock: Clock | None = None) -> None:
        """Raises: DirectoryLocked if another process (or this one) has it open, NotWritten, DurabilityUnknown."""
        self._clock = clock or SystemClock()
        self._store = Store.open(path, files=files, clock=self._clock)
        self._changed = Condition()  # guards the store; notified by every append

    @property
    def path(self) -> str:
        return self._store.path

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None, *, exist_ok: bool = False
    ) -> Topic:
        """Args: `config`, Kafka's topic options, as `{"retention.ms": "7d"}`; `exist_ok`, take the one that is there.

        Raises: TopicExists, InvalidTopicName, InvalidPartitions, InvalidConfig.
        """
        with self._changed:
            if not (exist_ok and name in self._store.topics()):
                self._store.create_topic(name, partitions, config)
        return self.topic(name)

    def topic(self, name: str) -> Topic:
        """Raises `UnknownTopicOrPartition`."""
        with self._changed:
            return Topic(self._store, self._changed, self._clock, name, self._store.topic(name).partitions)

    def topics(self) -> list[str]:
        with self._changed:
            return list(self._store.topics())

    def delete_topic(self, name: str) -> None:
        """Raises `UnknownTopicOrPartition`."""
        with self._changed:
            self._store.delete_topic(name)
            self._changed.notify_all()

    def flush(self) -> None:
        """Make every append so far durable. Raises `DurabilityUnknown`: reopen then, recovery keeps what is whole."""
        with self._changed:
            for log in self._store.open_logs():
                log.flush()

    def maintain(self) -> None:
        """Apply retention and other chores now. A server does this by itself; the library only when told."""
        with self._changed:
            self._store.retention_interval_ms = 0
            errors = self._store.maintain(self._clock.now_ms())
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Flush and close. Raises `DurabilityUnknown` if something could not be made durable."""
        with self._changed:
            failures = [log for log in self._store.open_logs() if not log.close()]
            self._store.close()
            self._changed.notify_all()
        for log in failures:
            if log.failure is not None:
                raise log.failure

    def __enter__(self) -> LogStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LogStore {self._store.path!r}, {len(self._store.topics())} topics>"


class Topic:
    """One topic of an open store. Offsets count records, per partition, from 0."""

    def __init__(self, store: Store, changed: Condition, clock: Clock, name: str, partitions: int) -> None:
        """Use `LogStore.topic`."""
        self._store = store
        self._changed = changed
        self._clock = clock
        self.name = name
        self.partitions = partitions
        self._next_partition = 0

    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        timestamp_ms: TimestampMs | None = None,
        partition: int | None = None,
        *,
        sync: bool = False,
    ) -> tuple[int, Offset]:
        """Store one record; readable when this returns, durable as the module's text says.

        Args: `partition`, else the key's (murmur2, as every Kafka client places it), else the next in turn.
        Returns: (partition, offset). Raises: RecordTooLarge, InvalidTimestamp, NotWritten (nothing stored),
            DurabilityUnknown.
        """
        with self._changed:
            now_ms = self._clock.now_ms()
            where = self._place(key, partition)
            record = (now_ms if timestamp_ms is None else timestamp_ms, key, value, headers)
            offset = self._append(where, [record], now_ms)
            if sync:
                self._log(where).flush()
            self._changed.notify_all()
        return where, offset

    def append_many(self, items: Iterable[Item], *, partition: int | None = None, sync: bool = False) -> int:
        """Store values, or (key, value) pairs, in batches; far faster than one by one. Returns how many.

        Records of one partition keep their order. Not atomic: if it raises, a leading part may be stored.
        """
        count = 0
        waiting: dict[int, list[NewRecord]] = {}
        sizes: dict[int, int] = {}
        with self._changed:
            now_ms = self._clock.now_ms()
            for item in items:
                key, value = (None, item) if isinstance(item, bytes) else item
                where = self._place(key, partition)
                size_bytes = len(key or b"") + len(value or b"") + 32
                records = waiting.setdefault(where, [])
                if len(records) >= BATCH_RECORDS_MAX or (records and sizes[where] + size_bytes > BATCH_BYTES_MAX):
                    self._append(where, records, now_ms)
                    records.clear()
                sizes[where] = size_bytes + (sizes[where] if records else 0)
                records.append((now_ms, key, value, ()))
                count += 1
            for where, records in waiting.items():
                self._append(where, records, now_ms)
                if sync:
                    self._log(where).flush()
            self._changed.notify_all()
        return count

    def read(self, partition: int = 0, offset: Offset | None = None, limit: int | None = None) -> Iterator[Record]:
        """The records from `offset` (the oldest one if None) to the end as it is when reached, at most `limit`.

        Raises: OffsetOutOfRange, UnknownTopicOrPartition, CorruptBatch, at the first step.
        """
        return self._records(partition, offset, limit, wait_ms=0, poll_ms=0)

    def tail(
        self, partition: int = 0, offset: Offset | None = None, poll_ms: int = 1000, timeout_ms: int | None = None
    ) -> Iterator[Record]:
        """As `read`, but at the end wait for more; from the present end on if `offset` is None.

        Args: `timeout_ms`, end the iteration after so long without a record (None: never). `poll_ms`, how long one wait
            lasts at most; an append of this process ends it at once.
        """
        if offset is None:
            offset = self.end_offset(partition)
        return self._records(partition, offset, None, wait_ms=-1 if timeout_ms is None else timeout_ms, poll_ms=poll_ms)

    def start_offset(self, partition: int = 0) -> Offset:
        """Offset of the oldest record that is still there."""
        with self._changed:
            return self._log(partition).log_start_offset

    def end_offset(self, partition: int = 0) -> Offset:
        """Offset the next record will get."""
        with self._changed:
            return self._log(partition).high_watermark

    def offset_for_time(self, timestamp_ms: TimestampMs, partition: int = 0) -> Offset | None:
        """Offset of the first record at or after `timestamp_ms`, None if there is none."""
        with self._changed:
            found = self._log(partition).offset_for_time(timestamp_ms)
        return None if found is None else found.offset

    def _records(
        self, partition: int, offset: Offset | None, limit: int | None, *, wait_ms: int, poll_ms: int
    ) -> Iterator[Record]:
        """`wait_ms`: how long to wait at the end; 0 not at all, -1 for ever."""
        position = self.start_offset(partition) if offset is None else offset
        left = -1 if limit is None else limit
        while left:
            with self._changed:
                pieces = self._log(partition).read(position, _READ_BYTES).slices
                if not pieces and not self._wait(partition, position, wait_ms, poll_ms):
                    return
            for piece in pieces:
                view = piece.view()
                at = 0
                while at < len(view):
                    header = check(view, at)
                    for record in iter_records(view[at : at + header.size_bytes], header):
                        if record.offset >= position:
                            yield record
                            left -= 1
                            if not left:
                                return
                    at += header.size_bytes
                    position = header.last_offset + 1

    def _wait(self, partition: int, offset: Offset, wait_ms: int, poll_ms: int) -> bool:
        """Until there is a record at `offset`. False if there was none in time. The lock is held."""
        deadline_ms = self._clock.monotonic_ms() + wait_ms
        while self._log(partition).high_watermark <= offset:
            left_ms = poll_ms if wait_ms < 0 else min(poll_ms, deadline_ms - self._clock.monotonic_ms())
            if left_ms <= 0:
                return False
            self._changed.wait(left_ms / 1000)
        return True

    def _append(self, partition: int, records: Sequence[NewRecord], now_ms: TimestampMs) -> Offset:
        log = self._log(partition)
        result = log.append(memoryview(encode_batch(records)), now_ms=now_ms)
        log.write()
        return result.base_offset

    def _place(self, key: bytes | None, partition: int | None) -> int:
        if partition is not None:
            return partition
        if key is not None:
            return partition_for_key(key, self.partitions)
        self._next_partition = (self._next_partition + 1) % self.partitions
        return self._next_partition

    def _log(self, partition: int) -> PartitionLog:
        return self._store.log(self.name, partition)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}, {self.partitions} partitions>"
