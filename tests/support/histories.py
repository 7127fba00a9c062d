"""Random histories of one store on a simulated disk, held against a naive model.

Topics come and go; batches are appended, retried, written, flushed, rolled, read, looked up by time, deleted, left to
retention; the disk fills up, fails to sync, to cut, to rename; the process is killed and the power fails, also amid a
call and amid recovery; the store is closed and opened. What holds:

  * What was acknowledged durable is there after every crash, what was acknowledged written after every kill.
  * What is read is what was appended, byte for byte, in order, without a gap and with nothing made up. The log begins
    where retention or deletion was allowed to let it begin, and never before what was told durable.
  * An offset that was acknowledged durable is never given to another record.
  * A retry of one of the last five batches of a producer is answered with the offset of the first, also after recovery
    as far as those batches are still there; a gap in sequences is refused, the next batch never.
  * Recovery never refuses what the disk can leave: no partition is closed for damage.
  * A partition whose fsync failed takes no append until the store is opened again.
  * A topic is there wholly, with its id, options and number of partitions, or not at all.
  * After a clean close `segment verify` finds nothing to say about logs and indexes.

What a crash may do to appends nobody was told of as durable: keep them, or lose a tail of them. A batch refused because
the disk was full may be found after a crash that undid the truncation; its producer was told to retry.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from support.history_model import Batch, Partition, Producer, Sent, Topic, WatchedStore

from logstore.clock import SeededChance
from logstore.config import FlushPolicy
from logstore.errors import (
    DurabilityUnknown,
    InvalidProducerEpoch,
    LogstoreError,
    NotWritten,
    OffsetOutOfRange,
    OutOfOrderSequence,
)
from logstore.log.partition_log import PartitionLog
from logstore.record.records import encode_batch
from logstore.segment.verify import next_base_offsets, verify_segment
from logstore.testing.simdisk import PowerLost
from logstore.types import TimestampType

NOW_MS = 1_700_000_000_000
ROOT = "/data"
STEPS_MAX = 60
NAMES = ("a", "b", "c.d")
WINDOW = 5  # batches of a producer that are recognised


class Step(NamedTuple):
    name: str
    seed: int


def plan(seed: int) -> list[Step]:
    """The steps of the history `seed`. Each has a seed of its own, so that any of them can be left out."""
    chance = random.Random(seed)
    names = chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=chance.randint(5, STEPS_MAX))
    return [Step(name, chance.getrandbits(32)) for name in names]


def run(seed: int, steps: list[Step] | None = None) -> History:
    """One history from its seed. Raises whatever shows that something does not hold."""
    history = History(seed)
    try:
        for step in plan(seed) if steps is None else steps:
            history.step(step)
        history.finish()
    finally:
        history.commit.close()
    return history


def run_chunk(first: int, count: int) -> tuple[int, list[int]]:
    """`count` histories. Returns how often their stores were opened, and the seeds that failed."""
    opened, failed = 0, []
    for seed in range(first, first + count):
        try:
            opened += run(seed).recoveries
        except Exception:
            failed.append(seed)
    return opened, failed


def shrink(seed: int) -> list[Step]:
    """Steps of a failing history that still fail, as few as leaving out one after the other gives."""
    steps = plan(seed)
    size = len(steps)
    while size:
        for start in range(len(steps) - size, -1, -size):
            fewer = steps[:start] + steps[start + size :]
            try:
                run(seed, fewer)
            except Exception:
                steps = fewer
        size //= 2
    return steps


class History(WatchedStore):
    """A store that steps are done to; see the module's text."""

    # --- steps ------------------------------------------------------------------------------------------------------

    def step(self, step: Step) -> None:
        self.chance = random.Random(step.seed)
        self.disk.chance = SeededChance(step.seed)
        try:
            getattr(self, "do_" + step.name)()
        except PowerLost:
            assert self.disk.is_off
        if self.disk.is_off:
            self.fall(is_crash=self.chance.random() < 0.7)
        self.changing = None

    def finish(self) -> None:
        """Close cleanly, look at every file, open once more."""
        self.disk.heal()
        self.troubled = False
        for log, _ in self.logs():
            if log.failure is not None:
                self.fall(is_crash=False)
                break
        self.do_close()
        with tempfile.TemporaryDirectory() as name:
            self.disk.export(Path(name), ROOT)
            logs = [
                path
                for topic, facts in self.topics.items()
                for number in range(len(facts.partitions))
                for path in (Path(name) / f"{topic}-{number}").glob("*.log")
            ]
            for path, follower in next_base_offsets(logs).items():
                report = verify_segment(path, next_base_offset=follower)
                assert not report.damages, report.damages
                assert report.tail_bytes == 0, report

    def do_append(self) -> None:
        for _ in range(self.chance.choice((1, 1, 2, 4))):
            found = self.any_log()
            if found is not None:
                self.append(*found)

    def do_append_and_write(self) -> None:
        self.do_append()
        self.do_write()

    def append(self, log: PartitionLog, partition: Partition) -> None:
        kind = self.chance.choice(("plain", "plain", "many", "next", "next", "next", "retry", "gap", "epoch", "fenced"))
        if kind in ("plain", "many"):
            parts = [self.encode() for _ in range(1 if kind == "plain" else 3)]
            self.take(log, partition, parts)
            return
        producer_id = self.chance.choice([n for n in range(1, 99) if n not in partition.burnt][:2])
        mine = partition.of_producer(producer_id)
        if not mine:
            self.take(log, partition, [self.encode((producer_id, 0, 0))])
            return
        last = mine[-1]
        assert last.producer is not None
        _, epoch, sequence = last.producer
        following = sequence + len(last.stamps)
        is_known = last.base_offset >= partition.known_from
        if kind == "retry":
            self.retry(log, partition, self.chance.choice(mine[-WINDOW:]))
        elif kind == "gap" and is_known:
            self.refused(log, partition, (producer_id, epoch, following + 1), OutOfOrderSequence)
        elif kind == "fenced" and is_known and epoch:
            self.refused(log, partition, (producer_id, epoch - 1, following), InvalidProducerEpoch)
        elif kind == "epoch":
            self.take(log, partition, [self.encode((producer_id, epoch + 1, 0))])
        else:
            self.take(log, partition, [self.encode((producer_id, epoch, following))])

    def encode(self, producer: Producer | None = None) -> Sent:
        chance = self.chance
        size = chance.choice((0, 20, 100, 300, 300, 900)) if chance.random() < 0.95 else 5000
        stamps = tuple(
            self.clock.ms - chance.choice((0, 0, 3, 500, 90_000)) for _ in range(chance.choice((1, 1, 2, 5)))
        )
        records = [(ms, None, chance.randbytes(chance.randint(0, size)), ()) for ms in stamps]
        codec = chance.choice((1, 2, 3, 4)) if chance.random() < 0.03 else 0
        if producer is None:
            return bytes(encode_batch(records, codec=codec)), None, stamps
        made = encode_batch(
            records, codec=codec, producer_id=producer[0], producer_epoch=producer[1], base_sequence=producer[2]
        )
        return bytes(made), producer, stamps

    def take(self, log: PartitionLog, partition: Partition, parts: list[Sent]) -> None:
        """An append that must be taken, unless the disk or an earlier fsync failed."""
        sent = b"".join(data for data, _, _ in parts)
        records = memoryview(bytearray(sent))
        expected = log.log_end_offset
        was_read_only = log.failure is not None
        try:
            result = log.append(records, now_ms=self.clock.ms)
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or was_read_only
            for batch in self.as_stored(log, records, parts, expected):  # a roll may have written the first of several
                partition.staged.append(batch)
            self.settle(log, partition)
            return
        except PowerLost:
            partition.ghosts += self.as_stored(log, records, parts, expected)
            raise
        assert not was_read_only, "a read-only partition took an append"
        assert (result.base_offset, result.duplicate) == (expected, False)
        partition.staged += self.as_stored(log, records, parts, expected)
        assert (result.last_offset, log.log_end_offset) == (partition.staged[-1].last_offset, result.last_offset + 1)
        self.settle(log, partition)

    def as_stored(self, log: PartitionLog, records: memoryview, parts: list[Sent], offset: int) -> list[Batch]:
        stored: list[Batch] = []
        position = 0
        for part in parts:
            data, producer, stamps = part
            if log.config.message_timestamp_type is TimestampType.LOG_APPEND_TIME:
                stamps = (self.clock.ms,) * len(stamps)
            last = offset + len(stamps) - 1
            stored.append(Batch(offset, last, bytes(records[position : position + len(data)]), stamps, producer, part))
            position, offset = position + len(data), last + 1
        return stored

    def retry(self, log: PartitionLog, partition: Partition, batch: Batch) -> None:
        records = memoryview(bytearray(batch.sent[0]))
        try:
            result = log.append(records, now_ms=self.clock.ms)
        except LogstoreError as error:
            if batch.base_offset >= partition.known_from and log.failure is None:
                raise AssertionError(f"a retry was refused: {error}") from error
            self.settle(log, partition)
            return
        if result.duplicate:
            assert (result.base_offset, result.last_offset) == (batch.base_offset, batch.last_offset)
            return
        assert batch.base_offset < partition.known_from, "a retry was stored twice"
        assert batch.producer is not None
        partition.burnt.add(batch.producer[0])  # its earlier batches are forgotten, too: which of them is hard to say
        partition.staged += self.as_stored(log, records, [batch.sent], result.base_offset)
        self.settle(log, partition)

    def refused(self, log: PartitionLog, partition: Partition, producer: Producer, why: type[LogstoreError]) -> None:
        data, _, _ = self.encode(producer)
        try:
            log.append(memoryview(bytearray(data)), now_ms=self.clock.ms)
        except why:
            self.settle(log, partition)
            return
        raise AssertionError(f"{producer} was taken: expected {why.__name__}")

    def do_write(self) -> None:
        for log, partition in self.logs():
            self.write(log, partition)

    def write(self, log: PartitionLog, partition: Partition) -> bool:
        try:
            log.write()
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or log.failure is not None
            self.settle(log, partition)
            assert not partition.staged
            return False
        self.settle(log, partition)
        assert not partition.staged
        return True

    def do_commit(self) -> None:
        """A broker's turn: everything is written, some wait for the disk."""

        def acknowledged(partition: Partition, end: int) -> Callable[[LogstoreError | None], None]:
            def call(error: LogstoreError | None) -> None:
                if error is None:
                    partition.durable = max(partition.durable, end)
                else:
                    assert self.troubled or self.disk.is_off, error

            return call

        for log, partition in self.logs():
            if self.write(log, partition) and self.chance.random() < 0.7:
                if log.config.flush_policy is not FlushPolicy.ACKS:
                    self.commit.flush(log, partition.end, acknowledged(partition, partition.end))
                else:
                    self.commit.enlist(log, partition.end, acknowledged(partition, partition.end))
        self.commit.begin()
        self.commit.drain()

    def do_flush(self) -> None:
        found = self.any_log()
        if found is None:
            return
        log, partition = found
        try:
            durable = log.flush()
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or log.failure is not None or self.disk.is_off
            self.settle(log, partition)
            return
        self.settle(log, partition)
        assert durable == partition.end
        partition.durable = durable

    def do_read(self) -> None:
        for log, partition in self.logs():
            start, end = log.log_start_offset, log.high_watermark
            for _ in range(3):
                offset = self.chance.randint(start - 1, end + 1)
                if offset < 0:
                    continue
                self.read(log, partition, offset, self.chance.choice((1, 300, 2000, 1 << 20)))

    def read(self, log: PartitionLog, partition: Partition, offset: int, bytes_max: int) -> None:
        start, end = log.log_start_offset, partition.end
        try:
            result = log.read(offset, bytes_max)
        except OffsetOutOfRange:
            assert not start <= offset <= end
            return
        assert start <= offset <= end
        found = b"".join(bytes(piece.view()) for piece in result.slices)
        if offset == end:
            assert not found
            return
        index, sizes, whole = partition.at(offset), 0, b""
        for batch in partition.written[index:]:
            if sizes and sizes + len(batch.data) > bytes_max:
                break
            whole += batch.data
            sizes += len(batch.data)
        assert found, f"nothing is read at {offset} of {start}..{end}"
        assert whole.startswith(found), f"something else is read at {offset}"
        boundaries, position = set(), 0
        for batch in partition.written[index:]:
            position += len(batch.data)
            boundaries.add(position)
        assert len(found) in boundaries

    def do_look_up(self) -> None:
        for log, partition in self.logs():
            start = log.log_start_offset
            records = [
                (ms, batch.base_offset + n)
                for batch in partition.written
                for n, ms in enumerate(batch.stamps)
                if batch.base_offset + n >= start
            ]
            for _ in range(2):
                wanted = self.clock.ms - self.chance.choice((-1, 0, 1, 500, 60_000, 90_000, 10**9))
                expected = next(((ms, offset) for ms, offset in records if ms >= wanted), None)
                assert log.offset_for_time(wanted) == expected
            latest = max((ms for ms, _ in records), default=None)
            first = next(((ms, offset) for ms, offset in records if ms == latest), None)
            assert log.max_timestamp() == first

    def do_maintain(self) -> None:
        self.clock.ms += self.chance.choice((1, 1000, 20_000, 100_000, 400_000))
        self.store.retention_interval_ms = self.chance.choice((0, 0, 60_000))
        for log, partition in self.logs():
            partition.start_max = max(partition.start_max, self.droppable(log, partition))
        errors = self.store.maintain(self.clock.ms)
        self.commit.drain()
        # What failed must have a reason; a partition that is read-only says so each time.
        read_only = any(log.failure is not None for log, _ in self.logs())
        assert not errors or self.troubled or read_only or self.disk.is_off, errors
        for log, partition in self.logs():
            self.settle(log, partition)
            assert partition.start <= log.log_start_offset <= partition.start_max
            partition.start_is_doubtful |= bool(errors)
            partition.start = log.log_start_offset

    def droppable(self, log: PartitionLog, partition: Partition) -> int:
        """How far retention may move the start of the log now."""
        bound, config = partition.start, log.config
        batches = [*partition.written, *partition.staged]
        if config.retention_ms >= 0:
            for batch in batches:
                if max(batch.stamps) >= self.clock.ms - config.retention_ms:
                    break
                bound = max(bound, batch.last_offset + 1)
        if config.retention_bytes >= 0:
            left = 0
            for batch in reversed(batches):
                if left >= config.retention_bytes:
                    bound = max(bound, batch.last_offset + 1)
                    break
                left += len(batch.data)
        return bound

    def do_delete_records(self) -> None:
        found = self.any_log()
        if found is None:
            return
        log, partition = found
        offset = self.chance.randint(log.log_start_offset, log.high_watermark)
        partition.start_max = max(partition.start_max, offset)
        try:
            assert log.delete_records_before(offset) == max(offset, partition.start)
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or self.disk.is_off
            partition.start_is_doubtful = True
            return
        if offset > partition.start:
            partition.start = offset
            partition.start_durable = offset

    def do_checkpoint(self) -> None:
        try:
            self.store.checkpoint()
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or self.disk.is_off
            return
        for log, partition in self.logs():
            partition.start_durable = max(partition.start_durable, log.log_start_offset)

    # --- topics -----------------------------------------------------------------------------------------------------

    def random_config(self) -> dict[str, str]:
        chance = self.chance
        config = {"segment.bytes": str(chance.choice((1024, 1024, 2000, 5000, 1 << 20)))}
        config["index.interval.bytes"] = str(chance.choice((0, 100, 500, 4096)))
        for name, values in (
            ("segment.ms", (1000, 60_000)),
            ("retention.ms", (10_000, 300_000)),
            ("retention.bytes", (0, 1000, 4000)),
            ("file.delete.delay.ms", (0, 1000)),
            ("flush.messages", (1, 5)),
            ("flush.ms", (500,)),
            ("flush.policy", ("interval",)),
            ("message.timestamp.type", ("LogAppendTime",)),
            ("segment.index.bytes", (16, 48)),
        ):
            if chance.random() < 0.25:
                config[name] = str(chance.choice(values))
        return config

    def do_create(self) -> None:
        free = [name for name in NAMES if name not in self.topics]
        if not free:
            return
        name, count = self.chance.choice(free), self.chance.randint(1, 2)
        topic = Topic(UUID(int=self.chance.getrandbits(128)), self.random_config(), [Partition() for _ in range(count)])
        self.changing = name, None, topic
        try:
            self.store.create_topic(name, count, topic.config, topic.topic_id)
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or self.disk.is_off
            self.reopen_unless_off()
            return
        self.topics[name] = topic

    def do_add_partitions(self) -> None:
        small = [name for name, topic in self.topics.items() if len(topic.partitions) < 3]
        if not small:
            return
        name = self.chance.choice(small)
        before = self.topics[name]
        count = self.chance.randint(len(before.partitions) + 1, 3)
        more = [Partition() for _ in range(count - len(before.partitions))]
        after = Topic(before.topic_id, before.config, before.partitions + more)
        self.changing = name, before, after
        try:
            self.store.add_partitions(name, count)
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or self.disk.is_off
            self.reopen_unless_off()
            return
        self.topics[name] = after

    def do_delete(self) -> None:
        if not self.topics or self.chance.random() < 0.5:
            return
        name = self.chance.choice(list(self.topics))
        before = self.topics[name]
        self.changing = name, before, None
        try:
            self.store.delete_topic(name)
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or self.disk.is_off
            self.reopen_unless_off()
            return
        del self.topics[name]

    def do_set_config(self) -> None:
        if not self.topics:
            return
        name = self.chance.choice(list(self.topics))
        before = self.topics[name]
        after = Topic(before.topic_id, self.random_config(), before.partitions)
        self.changing = name, before, after
        try:
            self.store.set_config(name, after.config)
        except (NotWritten, DurabilityUnknown):
            assert self.troubled or self.disk.is_off
            self.reopen_unless_off()
            return
        self.topics[name] = after

    def reopen_unless_off(self) -> None:
        """After a change of topics that failed halfway, only the next start says what is."""
        if not self.disk.is_off:
            self.disk.heal()
            self.fall(is_crash=False)

    # --- faults -----------------------------------------------------------------------------------------------------

    def do_fill_disk(self) -> None:
        self.troubled = True
        self.disk.room_bytes = self.chance.choice((0, 10, 200, 1500))

    def do_break(self) -> None:
        self.troubled = True
        operation = self.chance.choice(("open", "write", "truncate", "rename", "fdatasync", "fdatasync", "fsync_dir"))
        self.disk.fail(operation)  # type: ignore[arg-type]  # one of its words

    def do_heal(self) -> None:
        self.disk.heal()

    def do_crash(self) -> None:
        self.fall(is_crash=True)

    def do_kill(self) -> None:
        self.fall(is_crash=False)

    def do_crash_soon(self) -> None:
        self.disk.lose_power_after(self.chance.randint(0, 25))

    def do_close(self) -> None:
        """Stop as told, and sometimes lose power after it."""
        faulty = self.troubled or any(log.failure is not None for log, _ in self.logs())
        self.commit.close()
        is_clean = self.store.close()
        if self.disk.is_off:
            return
        assert is_clean or faulty
        if is_clean:
            for topic in self.topics.values():
                for partition in topic.partitions:
                    partition.written += partition.staged
                    partition.staged = []
                    partition.durable = partition.end
                    partition.start_durable = partition.start
        self.fall(is_crash=self.chance.random() < 0.5)


WEIGHTS = {
    "append": 6,
    "append_and_write": 22,
    "write": 4,
    "commit": 10,
    "flush": 4,
    "read": 6,
    "look_up": 4,
    "maintain": 7,
    "delete_records": 3,
    "checkpoint": 3,
    "create": 6,
    "add_partitions": 1,
    "delete": 2,
    "set_config": 2,
    "fill_disk": 2,
    "break": 3,
    "heal": 3,
    "crash": 4,
    "kill": 3,
    "crash_soon": 4,
    "close": 3,
}
