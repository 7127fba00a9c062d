"""Idempotence: the decision table, the window of five, the wrap of sequences, snapshots."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from logstore.errors import CorruptBatch, InvalidProducerEpoch, InvalidRecord, NotWritten, OutOfOrderSequence
from logstore.log.producers import EXPIRATION_MS, SEQUENCE_MAX, Producers, sequence_after
from logstore.log.recovery import replay_producers

NOW_MS = 1_700_000_000_000


def told(*batches: tuple[int, int, int]) -> Producers:
    """A `Producers` that noted (epoch, first sequence, count) of producer 7, offsets from 100."""
    producers, offset = Producers(), 100
    for epoch, first, count in batches:
        producers.record(7, epoch, first, count - 1, offset, NOW_MS)
        offset += count
    return producers


@pytest.mark.parametrize("epoch", [0, 5])
@pytest.mark.parametrize("sequence", [0, 3, SEQUENCE_MAX])
def test_an_unknown_producer_may_start_anywhere(epoch: int, sequence: int) -> None:
    assert Producers().decide(7, epoch, sequence, 2) is None


def test_the_decision_table() -> None:
    producers = told((3, 0, 10), (3, 10, 5))
    assert producers.decide(7, 3, 15, 0) is None
    retry = producers.decide(7, 3, 0, 9)
    assert retry is not None
    assert (retry.base_offset, retry.last_offset) == (100, 109)
    for first, delta in ((16, 0), (14, 0), (0, 8), (0, 10), (10, 3), (9, 5)):
        with pytest.raises(OutOfOrderSequence):
            producers.decide(7, 3, first, delta)
    with pytest.raises(InvalidProducerEpoch):
        producers.decide(7, 2, 15, 0)
    with pytest.raises(OutOfOrderSequence):
        producers.decide(7, 4, 15, 0)
    assert producers.decide(7, 4, 0, 0) is None
    for epoch, first in ((-1, 0), (0, -1)):
        with pytest.raises(InvalidRecord):
            producers.decide(8, epoch, first, 0)


def test_a_new_epoch_forgets_the_old_batches() -> None:
    producers = told((3, 0, 10), (4, 0, 1))
    assert producers.decide(7, 4, 1, 0) is None
    with pytest.raises(OutOfOrderSequence):
        producers.decide(7, 4, 0, 9)


def test_five_batches_are_remembered_and_no_more() -> None:
    producers = told(*((0, n, 1) for n in range(6)))
    assert all(producers.decide(7, 0, n, 0) is not None for n in range(1, 6))
    with pytest.raises(OutOfOrderSequence):
        producers.decide(7, 0, 0, 0)


def test_sequences_wrap_to_zero() -> None:
    assert sequence_after(SEQUENCE_MAX, 1) == 0
    producers = told((0, SEQUENCE_MAX - 1, 4))  # …46, …47, 0, 1
    assert producers.decide(7, 0, 2, 0) is None
    assert producers.decide(7, 0, SEQUENCE_MAX - 1, 3) is not None
    again = Producers.from_snapshot(producers.snapshot())
    assert again.decide(7, 0, SEQUENCE_MAX - 1, 3) is not None
    producers = told((0, SEQUENCE_MAX, 1))
    assert producers.decide(7, 0, 0, 0) is None


def test_undo_restores_what_was_before() -> None:
    producers = told((0, 0, 1))
    before = producers.entry(7)
    undo = producers.record(7, 0, 1, 0, 101, NOW_MS)
    producers.undo(7, undo)
    assert producers.entry(7) == before
    undo = producers.record(8, 0, 0, 0, 102, NOW_MS)
    producers.undo(8, undo)
    assert producers.entry(8) is None


def test_producers_expire() -> None:
    producers = told((0, 0, 1))
    assert producers.expire(NOW_MS + EXPIRATION_MS - 1) == 0
    assert producers.expire(NOW_MS + EXPIRATION_MS) == 1
    assert len(producers) == 0


def test_a_snapshot_brings_everything_back_and_is_kafkas_layout() -> None:
    producers = told(*((2, n, 1) for n in range(8)))
    producers.record(9, 0, 5, 3, 200, NOW_MS + 1)
    data = producers.snapshot()
    again = Producers.from_snapshot(data)
    assert dict(again.items()) == dict(producers.items())
    version, _, count = struct.unpack_from(">hIi", data)
    assert (version, count) == (1, 6)
    # the last entry of a producer is what Kafka keeps: id, epoch, last sequence, last offset, delta, timestamp, -1, -1
    assert struct.unpack_from(">qhiqiqiq", data, 10 + 4 * 46) == (7, 2, 7, 107, 0, NOW_MS, -1, -1)
    assert struct.unpack_from(">qhiqiqiq", data, 10 + 5 * 46) == (9, 0, 8, 203, 3, NOW_MS + 1, -1, -1)


def test_a_kafka_snapshot_without_batches_keeps_the_epoch() -> None:
    from crc32c import crc32c

    body = struct.pack(">i", 1) + struct.pack(">qhiqiqiq", 7, 3, -1, -1, 0, NOW_MS, 4, -1)
    producers = Producers.from_snapshot(struct.pack(">hI", 1, crc32c(body)) + body)
    with pytest.raises(InvalidProducerEpoch):
        producers.decide(7, 2, 0, 0)
    assert producers.decide(7, 3, 9, 0) is None


def test_every_damaged_byte_of_a_snapshot_is_found() -> None:
    data = told((0, 0, 1), (0, 1, 1)).snapshot()
    for position in range(len(data)):
        bad = bytearray(data)
        bad[position] ^= 1
        with pytest.raises(CorruptBatch):
            Producers.from_snapshot(bad)
    for size in range(len(data)):
        with pytest.raises(CorruptBatch):
            Producers.from_snapshot(data[:size])


# --- in a log ---------------------------------------------------------------------------------------------------------


def test_a_retry_gets_the_first_offsets_staged_or_written(harness: Any, encode: Any) -> None:
    log = harness.open()
    more = {"producer_id": 7, "producer_epoch": 0}
    first = log.append(encode(b"a", b"b", base_sequence=0, **more), now_ms=NOW_MS)
    again = log.append(encode(b"a", b"b", base_sequence=0, **more), now_ms=NOW_MS)
    assert (again.base_offset, again.last_offset, again.duplicate) == (0, 1, True)
    assert not first.duplicate
    log.write()
    assert harness.append(b"a", b"b", base_sequence=0, **more).duplicate
    assert not harness.append(b"c", base_sequence=2, **more).duplicate
    assert harness.values() == [b"a", b"b", b"c"]


def test_idempotent_batches_come_alone(harness: Any, encode: Any) -> None:
    log = harness.open()
    two = bytes(encode(b"a")) + bytes(encode(b"b", producer_id=7, producer_epoch=0, base_sequence=0))
    with pytest.raises(InvalidRecord):
        log.append(memoryview(bytearray(two)), now_ms=NOW_MS)
    assert log.log_end_offset == 0


def test_a_failed_write_takes_the_sequences_back(harness: Any, encode: Any) -> None:
    log = harness.open()
    more = {"producer_id": 7, "producer_epoch": 0}
    harness.append(b"a", base_sequence=0, **more)
    harness.files.room_bytes = 100
    for sequence in (1, 2):
        log.append(encode(b"x" * 50, base_sequence=sequence, **more), now_ms=NOW_MS)
    with pytest.raises(NotWritten):
        log.write()
    harness.files.room_bytes = None
    retry = harness.append(b"x" * 50, base_sequence=1, **more)
    assert (retry.base_offset, retry.duplicate) == (1, False)
    assert harness.values() == [b"a", b"x" * 50]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_snapshot_and_tail_equal_a_full_replay(harness: Any, clean: bool, seed: int) -> None:
    chance = random.Random(seed)
    harness.config = {"segment.bytes": "1024"}
    log = harness.open()
    sequences = dict.fromkeys(range(4), 0)
    for _ in range(60):
        producer_id, count = chance.randrange(4), chance.randint(1, 3)
        values = [b"v" * chance.randrange(80)] * count
        more = {"producer_id": producer_id, "producer_epoch": 0, "base_sequence": sequences[producer_id]}
        harness.append(*values, **more)
        sequences[producer_id] += count
    expected = dict(log._producers.items())
    log.close(clean=clean)
    again = harness.open(clean=clean)
    assert dict(again._producers.items()) == expected
    assert (again.recovery_report.replayed_batches == 0) == clean
    full = Producers()
    replay_producers(full, list(again._segments), 0, NOW_MS)
    assert dict(full.items()) == expected
    for name in harness.names(".snapshot"):
        (harness.directory / name).unlink()
    again.close(clean=False)
    assert dict(harness.open(clean=clean)._producers.items()) == expected


def test_stale_snapshots_are_removed(harness: Any) -> None:
    for _ in range(3):
        log = harness.open(clean=True)
        harness.append(b"a", producer_id=7, producer_epoch=0, base_sequence=log.high_watermark)
        log.close()
    harness.open(clean=True)
    assert harness.names(".snapshot") == [f"{3:020d}.snapshot"]
    (harness.directory / f"{9:020d}.snapshot").write_bytes(Producers().snapshot())
    harness.crash()
    log = harness.open()
    assert harness.names(".snapshot") == [f"{3:020d}.snapshot"]
    assert harness.append(b"a", producer_id=7, producer_epoch=0, base_sequence=2).duplicate
