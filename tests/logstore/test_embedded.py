"""The embedded library as its users meet it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import logstore
from logstore.embedded import LogStore
from logstore.errors import Closed, DirectoryLocked, DurabilityUnknown, OffsetOutOfRange, UnknownTopicOrPartition
from logstore.partitioner import partition_for_key

ROOT = Path(__file__).resolve().parents[2]


def test_append_and_read(tmp_path: Path) -> None:
    with logstore.open(tmp_path) as store:
        topic = store.create_topic("t", 3)
        placed = {key: topic.append(b"v-" + key, key=key, headers=[("h", b"1")]) for key in (b"a", b"b", b"c", b"d")}
        for key, (partition, offset) in placed.items():
            assert partition == partition_for_key(key, 3)
            (record,) = topic.read(partition, offset, limit=1)
            assert (record.offset, record.key, record.value, record.headers) == (
                offset, key, b"v-" + key, (("h", b"1"),),
            )  # fmt: skip
        assert {topic.append(b"x")[0] for _ in range(3)} == {0, 1, 2}
        assert topic.append(None, partition=1, timestamp_ms=5)[0] == 1
        assert store.topics() == ["t"]
    with logstore.open(tmp_path) as store:
        topic = store.topic("t")
        assert sum(topic.end_offset(p) for p in range(3)) == 8
        assert sum(1 for p in range(3) for _ in topic.read(p)) == 8


def test_append_many_keeps_the_order_within_a_partition(tmp_path: Path) -> None:
    with logstore.open(tmp_path) as store:
        topic = store.create_topic("t", 2)
        assert topic.append_many((b"k%d" % (n % 7), b"%d" % n) for n in range(5000)) == 5000
        for partition in (0, 1):
            numbers = [int(record.value or b"") for record in topic.read(partition)]
            assert numbers == sorted(numbers)
        large = [b"x" * 200_000] * 6
        assert topic.append_many(large, partition=0, sync=True) == 6
        assert [record.value for record in topic.read(0, topic.end_offset(0) - 6)] == large
        assert topic.append_many([]) == 0


def test_reads_have_bounds(tmp_path: Path) -> None:
    with logstore.open(tmp_path) as store:
        topic = store.create_topic("t")
        topic.append_many([b"%d" % n for n in range(10)])
        assert [record.offset for record in topic.read(offset=4, limit=3)] == [4, 5, 6]
        assert list(topic.read(limit=0)) == []
        assert list(topic.read(offset=10)) == []
        with pytest.raises(OffsetOutOfRange):
            next(topic.read(offset=11))
        with pytest.raises(UnknownTopicOrPartition):
            next(topic.read(5))
        with pytest.raises(UnknownTopicOrPartition):
            store.topic("other")
        assert topic.offset_for_time(0) == 0
        assert topic.offset_for_time(2**62) is None


def test_sync_makes_the_append_durable(tmp_path: Path) -> None:
    with logstore.open(tmp_path) as store:
        topic = store.create_topic("t")
        log = store._store.log("t", 0)
        topic.append(b"a")
        assert log.durable_offset == 0
        topic.append(b"b", sync=True)
        assert log.durable_offset == 2
        topic.append(b"c")
        store.flush()
        assert log.durable_offset == 3


def test_tail_follows_another_thread(tmp_path: Path) -> None:
    with logstore.open(tmp_path) as store:
        topic = store.create_topic("t")
        topic.append(b"old")
        tail = topic.tail(offset=1, poll_ms=60_000)
        seen: list[bytes | None] = []

        def follow() -> None:
            for record in tail:
                seen.append(record.value)
                if record.value == b"9":
                    return

        reader = Thread(target=follow)
        reader.start()
        for number in range(10):
            topic.append(b"%d" % number)
        reader.join(20)
        assert not reader.is_alive()
        assert seen == [b"%d" % number for number in range(10)]


def test_tail_ends_after_its_timeout_and_when_the_store_closes(tmp_path: Path) -> None:
    store = logstore.open(tmp_path)
    topic = store.create_topic("t")
    topic.append(b"old")
    assert list(topic.tail(timeout_ms=1)) == []
    assert [record.value for record in topic.tail(offset=0, timeout_ms=1)] == [b"old"]
    ended: list[object] = []

    def follow() -> None:
        try:
            next(topic.tail(poll_ms=60_000))
        except Closed as error:
            ended.append(error)

    reader = Thread(target=follow)
    reader.start()
    store.close()
    reader.join(20)
    assert len(ended) == 1


def test_one_owner(tmp_path: Path) -> None:
    with logstore.open(tmp_path), pytest.raises(DirectoryLocked):
        logstore.open(tmp_path)


def test_exist_ok_and_delete(tmp_path: Path) -> None:
    with logstore.open(tmp_path) as store:
        store.create_topic("t").append(b"a")
        assert store.create_topic("t", exist_ok=True).end_offset() == 1
        store.delete_topic("t")
        assert store.topics() == []


def test_close_tells_when_something_is_not_durable(tmp_path: Path) -> None:
    from logstore.files import OsFiles

    class NoSync(OsFiles):
        broken = False

        def fdatasync(self, handle: int) -> None:
            if self.broken:
                raise DurabilityUnknown("made to fail")
            super().fdatasync(handle)

    files = NoSync()
    store = LogStore(tmp_path, files=files)
    store.create_topic("t").append(b"a")
    files.broken = True
    with pytest.raises(DurabilityUnknown):
        store.close()
    with logstore.open(tmp_path) as store:
        assert [record.value for record in store.topic("t").read()] == [b"a"]


def test_retention_is_applied_when_told(tmp_path: Path, clock: Any) -> None:
    with LogStore(tmp_path, clock=clock) as store:
        topic = store.create_topic("t", config={"retention.ms": "1h"})
        topic.append(b"old")
        clock.advance(3_600_001)
        store.maintain()
        assert topic.start_offset() == topic.end_offset() == 1


def test_representations_stay_short(tmp_path: Path) -> None:
    with logstore.open(tmp_path) as store:
        for number in range(30):
            store.create_topic(f"topic{number}")
        assert repr(store) == f"<LogStore {str(tmp_path)!r}, 30 topics>"
        assert repr(store.topic("topic3")) == "<Topic 'topic3', 1 partitions>"


def test_importing_loads_nothing_heavy() -> None:
    script = (
        "import sys, logstore\n"
        "heavy = {'asyncio', 'crc32c', 'cramjam', 'lz4', 'logstore.store', 'uuid', 'mmap'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert logstore.Record(1, 2, None, b'v').value == b'v'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=30)
