"""Idempotence: what each producer wrote last, so that a retry is recognised and a gap refused. Pure.

Per producer id: its epoch and its last five batches, because a client keeps at most five requests in flight. Entries
are immutable values, so that undoing an append is putting the old value back.

The snapshot, `<next offset, 20 digits>.snapshot`, big-endian, as Kafka writes it (ProducerStateManager):

    version i16 (1) · crc u32 (CRC32C of all behind it) · entry count i32 · entry…
    entry   producer id i64 · epoch i16 · last sequence i32 · last offset i64 · offset delta i32 · timestamp i64 ·
            coordinator epoch i32 (-1) · first offset of the open transaction i64 (-1: none)

Kafka keeps one batch per producer across a restart. Ours writes up to five entries of the same producer id, oldest
first: Kafka's reader lets the last one win and so sees its own state, ours gets the whole window back.
`timestamp` is when the producer was last heard of: the batch's largest timestamp, or the clock if that is later.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from crc32c import crc32c

from logstore.errors import CorruptBatch, InvalidProducerEpoch, InvalidRecord, OutOfOrderSequence
from logstore.types import Buffer, Offset, TimestampMs

BATCHES_KEPT: Final = 5  # max.in.flight.requests.per.connection of an idempotent client
SEQUENCE_MAX: Final = 2**31 - 1
EXPIRATION_MS: Final = 24 * 60 * 60 * 1000  # Kafka's producer.id.expiration.ms

SNAPSHOT_VERSION: Final = 1
_HEAD = struct.Struct(">hIi")
_ENTRY = struct.Struct(">qhiqiqiq")
assert _HEAD.size == 10
assert _ENTRY.size == 46
_CRC_END = 6


class BatchEntry(NamedTuple):
    """One batch a producer wrote. Sequences count records, wrap after 2^31-1 to 0, and are inclusive."""

    first_sequence: int
    last_sequence: int
    base_offset: Offset
    last_offset: Offset


class ProducerEntry(NamedTuple):
    epoch: int
    batches: tuple[BatchEntry, ...]  # oldest first, at most five, all of this epoch
    last_seen_ms: TimestampMs


def sequence_after(sequence: int, count: int) -> int:
    """`sequence` moved on by `count` records: after 2^31-1 comes 0."""
    return (sequence + count) & SEQUENCE_MAX


class Producers:
    """All producers of one partition."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[int, ProducerEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, producer_id: int) -> ProducerEntry | None:
        return self._entries.get(producer_id)

    def items(self) -> Iterable[tuple[int, ProducerEntry]]:
        return self._entries.items()

    def decide(self, producer_id: int, epoch: int, first_sequence: int, last_offset_delta: int) -> BatchEntry | None:
        """The batch stored earlier if this is a retry of it, None if it is the next one. Changes nothing.

        | producer           | sequence               | decision             |
        |--------------------|------------------------|----------------------|
        | not known          | any                    | next                 |
        | epoch older        | any                    | InvalidProducerEpoch |
        | epoch newer        | 0                      | next                 |
        | epoch newer        | other                  | OutOfOrderSequence   |
        | epoch same         | one of the last five   | that batch           |
        | epoch same         | last + 1 (or 2^31-1, 0)| next                 |
        | epoch same         | other                  | OutOfOrderSequence   |

        An unknown producer may start anywhere: its records may have left by retention (KIP-360).
        """
        if epoch < 0 or first_sequence < 0:
            raise InvalidRecord(
                f"producer {producer_id} sent epoch {epoch} and sequence {first_sequence}, both are >= 0"
            )
        known = self._entries.get(producer_id)
        if known is None:
            return None
        known_epoch, batches, _ = known
        if epoch == known_epoch and batches and first_sequence == (batches[-1][1] + 1) & SEQUENCE_MAX:
            return None  # nearly always: no need to look at the window
        if epoch < known.epoch:
            raise InvalidProducerEpoch(
                f"producer {producer_id} has epoch {epoch}, a newer instance has {known.epoch}",
                hint="this instance was replaced: stop it, or let it ask for a new epoch",
            )
        if epoch > known.epoch:
            if first_sequence:
                raise OutOfOrderSequence(f"producer {producer_id} begins epoch {epoch} at {first_sequence}, not at 0")
            return None
        last_sequence = sequence_after(first_sequence, last_offset_delta)
        for batch in known.batches:
            if batch.first_sequence == first_sequence and batch.last_sequence == last_sequence:
                return batch
        if known.batches:
            expected = sequence_after(known.batches[-1].last_sequence, 1)
            if first_sequence != expected:
                raise OutOfOrderSequence(
                    f"producer {producer_id} sent sequence {first_sequence} where {expected} comes next"
                )
        return None

    def record(
        self,
        producer_id: int,
        epoch: int,
        first_sequence: int,
        last_offset_delta: int,
        base_offset: Offset,
        now_ms: TimestampMs,
    ) -> ProducerEntry | None:
        """Note a batch that was decided to be the next one. Returns the entry before, for `undo`."""
        before = self._entries.get(producer_id)
        last_sequence = (first_sequence + last_offset_delta) & SEQUENCE_MAX
        batch = BatchEntry(first_sequence, last_sequence, base_offset, base_offset + last_offset_delta)
        batches = (*before[1][1 - BATCHES_KEPT :], batch) if before and before[0] == epoch else (batch,)
        self._entries[producer_id] = ProducerEntry(epoch, batches, now_ms)
        return before

    def undo(self, producer_id: int, before: ProducerEntry | None) -> None:
        """Take back the latest `record` of this producer."""
        if before is None:
            del self._entries[producer_id]
        else:
            self._entries[producer_id] = before

    def expire(self, now_ms: TimestampMs, expiration_ms: int = EXPIRATION_MS) -> int:
        """Forget producers not heard of for `expiration_ms`. Returns how many."""
        gone = [key for key, entry in self._entries.items() if now_ms - entry.last_seen_ms >= expiration_ms]
        for producer_id in gone:
            del self._entries[producer_id]
        return len(gone)

    def snapshot(self) -> bytes:
        entries = [
            _ENTRY.pack(
                producer_id,
                entry.epoch,
                batch.last_sequence,
                batch.last_offset,
                batch.last_offset - batch.base_offset,
                entry.last_seen_ms,
                -1,
                -1,
            )
            for producer_id, entry in self._entries.items()
            for batch in entry.batches
        ]
        body = struct.pack(">i", len(entries)) + b"".join(entries)
        return struct.pack(">hI", SNAPSHOT_VERSION, crc32c(body)) + body

    @classmethod
    def from_snapshot(cls, data: Buffer) -> Producers:
        """Read a snapshot, ours or Kafka's. Raises `CorruptBatch` if it is neither."""
        if len(data) < _HEAD.size:
            raise CorruptBatch(f"a producer snapshot of {len(data)} bytes is too short")
        version, crc, count = _HEAD.unpack_from(data)
        if version != SNAPSHOT_VERSION:
            raise CorruptBatch(f"a producer snapshot of version {version} is not known")
        if crc32c(memoryview(data)[_CRC_END:]) != crc:
            raise CorruptBatch("the CRC32C of a producer snapshot is wrong")
        if count < 0 or len(data) < _HEAD.size + count * _ENTRY.size:
            raise CorruptBatch(f"a producer snapshot of {len(data)} bytes cannot hold {count} entries")
        producers = cls()
        entries = producers._entries
        for index in range(count):
            producer_id, epoch, last_sequence, last_offset, delta, seen_ms, _, _ = _ENTRY.unpack_from(
                data, _HEAD.size + index * _ENTRY.size
            )
            batches: tuple[BatchEntry, ...] = ()
            before = entries.get(producer_id)
            if before is not None and before.epoch == epoch:
                batches = before.batches[1 - BATCHES_KEPT :]
            if last_offset >= 0:
                first_sequence = (last_sequence - delta) & SEQUENCE_MAX
                batches = (*batches, BatchEntry(first_sequence, last_sequence, last_offset - delta, last_offset))
            entries[producer_id] = ProducerEntry(epoch, batches, seen_ms)
        return producers
