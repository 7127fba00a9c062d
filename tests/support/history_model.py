"""What a store should hold, as naively as can be said, and whether it does after a crash: for random histories."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from logstore.clock import SeededChance
from logstore.errors import DurabilityUnknown, NotWritten
from logstore.log.group_commit import GroupCommit
from logstore.log.partition_log import PartitionLog
from logstore.record.batch import check
from logstore.store import Store
from logstore.testing.simdisk import PowerLost, SimDisk

NOW_MS = 1_700_000_000_000
ROOT = "/data"

Producer = tuple[int, int, int]  # id, epoch, first sequence
Sent = tuple[bytes, Producer | None, tuple[int, ...]]  # a batch, its producer, the stamps of its records


class Batch(NamedTuple):
    base_offset: int
    last_offset: int
    data: bytes  # as stored
    stamps: tuple[int, ...]  # of its records, as stored
    producer: Producer | None
    sent: Sent


@dataclass
class Partition:
    """What one partition should be."""

    written: list[Batch] = field(default_factory=list)  # gapless; also those that left by retention
    staged: list[Batch] = field(default_factory=list)
    ghosts: list[Batch] = field(default_factory=list)  # refused or staged, but perhaps on the disk
    durable: int = 0
    start: int = 0  # as far as calls returned
    start_durable: int = 0
    start_max: int = 0  # how far a call that did not return may have moved it
    burnt: set[int] = field(default_factory=set)  # producers of whom nobody knows what the log knows
    start_is_doubtful: bool = False  # a call that moved it failed
    known_from: int = 0  # batches before are perhaps forgotten as those of their producers

    @property
    def end(self) -> int:
        return self.written[-1].last_offset + 1 if self.written else self.start

    def at(self, offset: int) -> int:
        """Index of the batch that holds `offset`."""
        return bisect_right(self.written, offset, key=lambda batch: batch.base_offset) - 1

    def of_producer(self, producer_id: int) -> list[Batch]:
        """Batches of its latest epoch, oldest first."""
        mine = [b for b in (*self.written, *self.staged) if b.producer and b.producer[0] == producer_id]
        return [b for b in mine if b.producer and mine[-1].producer and b.producer[1] == mine[-1].producer[1]]


@dataclass
class Topic:
    topic_id: UUID
    config: dict[str, str]
    partitions: list[Partition]

    @property
    def facts(self) -> tuple[UUID, dict[str, str], int]:
        return self.topic_id, self.config, len(self.partitions)


class _Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms


class WatchedStore:
    """One store, its disk, and what both should hold: at all times, and after a crash or a kill."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = _Clock()
        self.disk = SimDisk(SeededChance(seed), self.clock)
        self.topics: dict[str, Topic] = {}
        self.changing: tuple[str, Topic | None, Topic | None] | None = None  # amid a call: name, before, after
        self.troubled = False  # a fault was asked for, calls may fail
        self.recoveries = 0
        self.store: Store
        self.commit = GroupCommit(lambda: None)
        self.open()

    def open(self) -> None:
        self.commit = GroupCommit(lambda: None)
        self.store = Store.open(
            ROOT, files=self.disk, clock=self.clock, chance=SeededChance(self.chance.getrandbits(32))
        )
        self.store.group_commit = self.commit
        self.recoveries += 1

    def logs(self) -> Iterator[tuple[PartitionLog, Partition]]:
        for name, topic in list(self.topics.items()):
            for number, partition in enumerate(topic.partitions):
                try:
                    yield self.store.log(name, number), partition
                except (NotWritten, DurabilityUnknown):
                    assert self.troubled or self.disk.is_off

    def any_log(self) -> tuple[PartitionLog, Partition] | None:
        logs = list(self.logs())
        return self.chance.choice(logs) if logs else None

    def settle(self, log: PartitionLog, partition: Partition) -> None:
        """Sort what was staged into what is written, still staged, and refused."""
        staged, partition.staged = partition.staged, []
        for batch in staged:
            if batch.last_offset < log.high_watermark:
                partition.written.append(batch)
            elif batch.last_offset < log.log_end_offset:
                partition.staged.append(batch)
            else:
                partition.ghosts.append(batch)
        assert log.high_watermark == partition.end
        assert log.log_end_offset == (partition.staged[-1].last_offset + 1 if partition.staged else partition.end)

    def fall(self, *, is_crash: bool) -> None:
        """Crash or kill, as often as recovery itself is hit, and look at what is left."""
        self.commit.close()
        while True:
            if is_crash:
                self.disk.crash()
            else:
                self.disk.kill()
                self.disk.heal()
            self.check_lost(is_crash=is_crash)
            if self.chance.random() < 0.3:
                self.disk.lose_power_after(self.chance.randint(0, 30))
            try:
                self.open()
                self.disk.lose_power_after(10**9)
                break
            except PowerLost:
                pass
            except DurabilityUnknown:
                assert self.disk.is_off
            is_crash = self.chance.random() < 0.7
        self.disk.heal()
        self.troubled = False
        self.check_recovered()

    def check_lost(self, *, is_crash: bool) -> None:
        """A crash takes what is not durable off what must be found."""
        topics = list(self.topics.values())
        if self.changing is not None:
            topics += [topic for topic in self.changing[1:] if topic is not None]
        for topic in topics:
            for partition in topic.partitions:
                partition.ghosts += partition.staged
                partition.staged = []
                if is_crash:
                    kept = [batch for batch in partition.written if batch.last_offset < partition.durable]
                    partition.ghosts += partition.written[len(kept) :]
                    partition.written = kept
                if is_crash or partition.start_is_doubtful:
                    partition.start = partition.start_durable

    def check_recovered(self) -> None:
        assert not self.store.damaged, self.store.damaged
        if self.changing is not None:
            name, before, after = self.changing
            self.topics.pop(name, None)
            if name in self.store.topics():
                stored = self.store.topic(name)
                facts = stored.topic_id, dict(stored.config), stored.partitions
                match = [topic for topic in (before, after) if topic is not None and topic.facts == facts]
                assert match, f"topic {name} is {facts}, half of what it should be"
                self.topics[name] = match[0]
            else:
                assert before is None or after is None, f"topic {name} is gone"
            self.changing = None
        found = {
            name: (topic.topic_id, dict(topic.config), topic.partitions) for name, topic in self.store.topics().items()
        }
        assert found == {name: topic.facts for name, topic in self.topics.items()}
        for log, partition in self.logs():
            self.check_partition(log, partition)

    def check_partition(self, log: PartitionLog, partition: Partition) -> None:
        start, end = log.log_start_offset, log.high_watermark
        where = f"{log!r}, expected from {partition.start}, {partition.durable} durable, {partition.end} written"
        assert log.log_end_offset == log.durable_offset == end, where
        # It may begin later only if that takes nothing that had to be there: names of unsynced segments were lost.
        start_max = max(partition.start_max, partition.start)
        assert partition.start <= start <= start_max or partition.end <= start_max < start, where
        assert end >= max(partition.end, start), where
        data = b"".join(bytes(piece.view()) for piece in log.read(start, 1 << 30).slices)
        candidates: dict[int, list[Batch]] = {}
        for batch in (*partition.ghosts, *partition.written):
            candidates.setdefault(batch.base_offset, []).append(batch)
        sure = {batch.base_offset: batch for batch in partition.written}
        found: list[Batch] = []
        view, position, offset = memoryview(data), 0, start
        while position < len(view):
            header = check(view, position)
            stored = data[position : position + header.size_bytes]
            if found:
                assert header.base_offset == offset, f"{where}: {header.base_offset} follows {offset - 1}"
            else:
                assert header.base_offset <= offset <= header.last_offset, f"{where}: begins at {header.base_offset}"
            known = [batch for batch in candidates.get(header.base_offset, ()) if batch.data == stored]
            assert known, f"{where}: a batch nobody appended at {header.base_offset}"
            if header.base_offset in sure:
                assert sure[header.base_offset].data == stored, f"{where}: another batch at {header.base_offset}"
            found.append(known[0])
            position += header.size_bytes
            offset = header.last_offset + 1
        assert offset == end, f"{where}: ends at {offset}"
        first = found[0].base_offset if found else start
        partition.written = [batch for batch in partition.written if batch.last_offset < first] + found
        if not found and partition.written and partition.written[-1].last_offset + 1 != end:
            partition.ghosts += partition.written
            partition.written = []
        partition.burnt |= {b.producer[0] for b in partition.ghosts if b.producer and b.base_offset < start}
        partition.ghosts = []
        partition.start = partition.start_max = start
        partition.start_is_doubtful = False
        partition.durable = end
        partition.known_from = start
