"""What random histories on the simulated disk once brought to light, each as the shortest story that shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from logstore.clock import SeededChance
from logstore.errors import DurabilityUnknown, NotWritten
from logstore.log.partition_log import PartitionLog
from logstore.store import Store
from logstore.testing.simdisk import PowerLost, SimDisk

NOW_MS = 1_700_000_000_000
SEEDS = range(40)
SMALL = {"segment.bytes": "1024"}
STEPS_OF_A_CALL = 40  # no call of these stories does more to the disk


def start(disk: SimDisk, clock: Any) -> Store:
    return Store.open("/data", files=disk, clock=clock, chance=SeededChance(disk.operations))


def append(log: PartitionLog, encode: Callable[..., memoryview], *values: bytes, **more: Any) -> None:
    log.append(encode(*values, **more), now_ms=NOW_MS)
    log.write()


def values(log: PartitionLog) -> list[bytes | None]:
    return [record.value for record in log.records(log.log_start_offset)]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_data_directory_itself_survives(seed: int, clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(seed), clock)
    store = start(disk, clock)
    store.create_topic("t")
    append(store.log("t", 0), encode, b"durable")
    store.log("t", 0).flush()
    disk.crash()
    assert values(start(disk, clock).log("t", 0)) == [b"durable"]


@pytest.mark.parametrize("call", ["create", "add", "delete"])
@pytest.mark.parametrize("is_crash", [True, False])
def test_a_topic_changes_wholly_or_not_at_all(call: str, is_crash: bool, clock: Any) -> None:
    seen = set()
    for seed in range(6 * STEPS_OF_A_CALL):
        disk = SimDisk(SeededChance(seed), clock)
        store = start(disk, clock)
        if call != "create":
            store.create_topic("t", 2, SMALL)
        disk.lose_power_after(seed % STEPS_OF_A_CALL)
        with suppress(PowerLost, DurabilityUnknown):
            if call == "create":
                store.create_topic("t", 3, SMALL)
            elif call == "add":
                store.add_partitions("t", 4)
            else:
                store.delete_topic("t")
        disk.crash() if is_crash else disk.kill()
        topic = start(disk, clock).topics().get("t")
        assert topic is None or topic.config == SMALL
        seen.add(topic and topic.partitions)
    assert seen == {"create": {None, 3}, "add": {2, 4}, "delete": {None, 2}}[call]


def test_a_topic_found_after_a_kill_is_there_for_good(clock: Any, encode: Any) -> None:
    for seed in range(6 * STEPS_OF_A_CALL):
        disk = SimDisk(SeededChance(seed), clock)
        store = start(disk, clock)
        disk.lose_power_after(seed % STEPS_OF_A_CALL)
        with suppress(PowerLost, DurabilityUnknown):
            store.create_topic("t")
        disk.kill()
        store = start(disk, clock)
        if "t" in store.topics():
            append(store.log("t", 0), encode, b"durable")
            store.log("t", 0).flush()
            disk.crash()
            assert values(start(disk, clock).log("t", 0)) == [b"durable"]


def test_a_topic_inherits_nothing_from_one_whose_deletion_was_cut_short(clock: Any, encode: Any) -> None:
    for seed in range(6 * STEPS_OF_A_CALL):
        disk = SimDisk(SeededChance(seed), clock)
        store = start(disk, clock)
        store.create_topic("t", 2)
        for number in (0, 1):
            append(store.log("t", number), encode, b"a", b"b", b"c")
            store.log("t", number).flush()
            store.log("t", number).delete_records_before(2)
        disk.lose_power_after(seed % STEPS_OF_A_CALL)
        with suppress(PowerLost, DurabilityUnknown):
            store.delete_topic("t")
        disk.crash()
        store = start(disk, clock)
        if "t" in store.topics():
            continue
        store.create_topic("t", 1)
        append(store.log("t", 0), encode, b"new")
        disk.kill()
        store = start(disk, clock)
        assert store.topic("t").partitions == 1
        assert values(store.log("t", 0)) == [b"new"]
        assert store.log("t", 0).high_watermark == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_no_gap_opens_between_unsynced_segments(seed: int, clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(seed), clock)
    store = start(disk, clock)
    store.create_topic("t", 1, SMALL)
    log = store.log("t", 0)
    for number in range(8):
        append(log, encode, b"%d" % number * 400)
    disk.crash()
    log = start(disk, clock).log("t", 0)
    found = values(log)
    assert found == [b"%d" % number * 400 for number in range(len(found))]
    assert len(found) == log.high_watermark


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crash_amid_recovery_opens_no_gap_either(seed: int, clock: Any, encode: Any) -> None:
    for steps in range(4, 24):
        disk = SimDisk(SeededChance(seed), clock)
        store = start(disk, clock)
        store.create_topic("t", 1, SMALL)
        for number in range(8):
            append(store.log("t", 0), encode, b"%d" % number * 400)
        disk.crash()
        disk.lose_power_after(steps)
        with suppress(PowerLost, DurabilityUnknown):
            start(disk, clock)
        disk.crash()
        log = start(disk, clock).log("t", 0)
        assert [value[:1] for value in values(log) if value] == [b"%d" % n for n in range(log.high_watermark)]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_recovery_keeps_after_a_failed_sync_it_writes_again(seed: int, clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(seed), clock)
    store = start(disk, clock)
    store.create_topic("t")
    log = store.log("t", 0)
    append(log, encode, b"x" * 3000)
    disk.fail("fdatasync")
    with pytest.raises(DurabilityUnknown):
        log.flush()
    disk.kill()
    log = start(disk, clock).log("t", 0)
    assert log.durable_offset == 1
    disk.crash()
    assert values(start(disk, clock).log("t", 0)) == [b"x" * 3000]


@pytest.mark.parametrize("seed", SEEDS)
def test_retention_leaves_neither_gaps_nor_old_offsets(seed: int, clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(seed), clock)
    store = start(disk, clock)
    store.create_topic("t", 1, SMALL | {"retention.ms": "1000"})
    log = store.log("t", 0)
    for _ in range(6):
        append(log, encode, b"x" * 900)
    log.flush()
    if seed % 2:
        append(log, encode, b"kept" * 200, timestamp_ms=NOW_MS + 5000)
        log.flush()
    store.retention_interval_ms = 0
    disk.room_bytes = 0 if seed % 4 == 1 else None  # the new log start cannot be written down
    store.maintain(NOW_MS + 4000)
    assert log.log_start_offset == 6
    disk.crash()
    store = start(disk, clock)
    assert not store.damaged
    log = store.log("t", 0)
    found = values(log)
    assert log.high_watermark == 6 + seed % 2
    assert len(found) == log.high_watermark - log.log_start_offset
    assert log.log_start_offset == 6 or seed % 4 == 1


def test_retention_leaves_staged_batches_alone(clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(0), clock)
    store = start(disk, clock)
    store.create_topic("t", 1, {"retention.ms": "1000"})
    log = store.log("t", 0)
    append(log, encode, b"old")
    log.append(encode(b"new", timestamp_ms=NOW_MS + 5000), now_ms=NOW_MS + 5000)
    store.retention_interval_ms = 0
    store.maintain(NOW_MS + 5000)
    log.write()
    assert values(log)[-1] == b"new"


def test_a_second_attempt_to_delete_records_is_not_told_that_the_first_was_durable(clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(0), clock)
    store = start(disk, clock)
    store.create_topic("t")
    log = store.log("t", 0)
    append(log, encode, b"a", b"b")
    disk.room_bytes = 0
    for _ in range(2):
        with pytest.raises(NotWritten):
            log.delete_records_before(1)
        assert log.log_start_offset == 0
    disk.heal()
    assert log.delete_records_before(1) == 1
    disk.crash()
    assert start(disk, clock).log("t", 0).log_start_offset == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_an_open_that_failed_to_sync_is_done_again(seed: int, clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(seed), clock)
    start(disk, clock).close()
    store = start(disk, clock)
    store.create_topic("t")
    disk.fail("fsync_dir")
    with pytest.raises(DurabilityUnknown):
        store.log("t", 0)
    append(store.log("t", 0), encode, b"durable")
    store.log("t", 0).flush()
    disk.crash()
    assert values(start(disk, clock).log("t", 0)) == [b"durable"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_segment_whose_roll_failed_does_not_come_back(seed: int, checkpoints: bool, clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(seed), clock)
    store = start(disk, clock)
    store.create_topic("t", 1, SMALL)
    log = store.log("t", 0)
    append(log, encode, b"a" * 700)
    log.flush()
    if checkpoints:
        store.checkpoint()
    disk.fail("rename")
    with pytest.raises(NotWritten):
        log.append(encode(b"b" * 900), now_ms=NOW_MS)
    append(log, encode, b"c")
    durable = 1
    if seed % 2:
        durable = log.flush()
        store.checkpoint()
        append(log, encode, b"d" * 900)  # a roll that succeeds, of which nothing is synced
    disk.crash()
    store = start(disk, clock)
    assert not store.damaged
    log = store.log("t", 0)
    assert durable <= log.high_watermark <= 3
    assert values(log) == [b"a" * 700, b"c", b"d" * 900][: log.high_watermark]


def test_a_log_that_cannot_be_opened_does_not_stop_the_chores_of_the_others(clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(0), clock)
    store = start(disk, clock)
    store.create_topic("t", 2, {"flush.ms": "10"})
    log = store.log("t", 1)
    append(log, encode, b"x")
    disk.fail("open")  # of the first segment of partition 0, which nobody asked for yet
    assert [type(error) for error in store.maintain(NOW_MS + 1000)] == [NotWritten]
    assert log.durable_offset == 1
    assert store.maintain(NOW_MS + 1000) == []


def test_a_full_disk_does_not_keep_readers_from_a_log_without_indexes(clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(0), clock)
    store = start(disk, clock)
    store.create_topic("t", 1, SMALL)
    for number in range(4):
        append(store.log("t", 0), encode, b"%d" % number * 900)
    store.close()
    for name in disk.listdir("/data/t-0"):
        if name.endswith("index"):
            disk.remove(f"/data/t-0/{name}")
    log = start(disk, clock).log("t", 0)
    disk.room_bytes = 0
    assert len(values(log)) == 4
    disk.heal()
    assert log.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_producers_are_not_taken_from_a_snapshot_older_than_the_log(seed: int, clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(seed), clock)
    store = start(disk, clock)
    store.create_topic("t", 1, SMALL | {"retention.ms": "1000"})
    log = store.log("t", 0)
    for sequence in range(6):
        append(log, encode, b"x" * 900, producer_id=7, producer_epoch=0, base_sequence=sequence)
    log.flush()
    store.retention_interval_ms = 0
    store.maintain(NOW_MS + 4000)
    disk.crash()
    log = start(disk, clock).log("t", 0)
    append(log, encode, b"next", producer_id=7, producer_epoch=0, base_sequence=6)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dropped_segment_that_comes_back_alone_says_nothing_of_producers(seed: int, clock: Any, encode: Any) -> None:
    disk = SimDisk(SeededChance(seed), clock)
    store = start(disk, clock)
    store.create_topic("t", 1, SMALL | {"retention.ms": "1000"})
    log = store.log("t", 0)
    for sequence in range(6):
        append(log, encode, b"x" * 900, producer_id=7, producer_epoch=0, base_sequence=sequence)
    log.flush()
    store.retention_interval_ms = 0
    store.maintain(NOW_MS + 4000)
    disk.remove(f"/data/t-0/{6:020d}.snapshot")
    disk.crash()
    log = start(disk, clock).log("t", 0)
    append(log, encode, b"next", producer_id=7, producer_epoch=0, base_sequence=6)
    assert values(log) == [b"next"]
