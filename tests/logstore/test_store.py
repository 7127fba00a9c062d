"""One data directory: owner, topics, clean and unclean stops, chores."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from logstore.checkpoints import LOG_START_FILE, decode_checkpoint, encode_checkpoint
from logstore.errors import (
    Closed,
    DamagedSegment,
    DirectoryLocked,
    InvalidConfig,
    InvalidPartitions,
    InvalidTopicName,
    NotWritten,
    OffsetOutOfRange,
    TopicExists,
    UnknownTopicOrPartition,
)
from logstore.log.group_commit import GroupCommit
from logstore.names import parse_partition_dir, retired_dir
from logstore.record.records import encode_batch
from logstore.store import Store, decode_topic_id, encode_topic_id
from logstore.types import TopicPartition

NOW_MS = 1_700_000_000_000
MARK = ".kafka_cleanshutdown"
ROOT = Path(__file__).resolve().parents[2]


def put(store: Store, encode: Any, *values: bytes, topic: str = "t", partition: int = 0) -> None:
    log = store.log(topic, partition)
    log.append(encode(*values), now_ms=NOW_MS)
    log.write()


def crash(store: Store) -> None:
    """The process dies: no mark, no checkpoint."""
    for log in store.open_logs():
        log.close(clean=False)
    store._lock.release()


def test_topics_survive_a_reopen(tmp_path: Path, clock: Any) -> None:
    topic_id = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
    with Store.open(tmp_path / "new" / "dir", clock=clock) as store:
        store.create_topic("a.b-1", 3, {"retention.ms": "1d"}, topic_id)
        store.create_topic("c")
        made = store.topics()
    with Store.open(tmp_path / "new" / "dir", clock=clock) as store:
        assert store.topics() == made
        assert store.topic("a.b-1") == ("a.b-1", topic_id, 3, {"retention.ms": "1d"})
        assert store.log("a.b-1", 2).config.retention_ms == 86_400_000
    metadata = (tmp_path / "new" / "dir" / "a.b-1-2" / "partition.metadata").read_text()
    assert metadata == "version: 0\ntopic_id: ABEiM0RVZneImaq7zN3u_w"


def test_bad_topics_are_refused(tmp_path: Path, clock: Any) -> None:
    with Store.open(tmp_path, clock=clock) as store:
        store.create_topic("my_topic")
        for name in ("", ".", "..", "a/b", "a b", "é", "x" * 250, "my.topic", "../up", "a\n"):
            with pytest.raises(InvalidTopicName):
                store.create_topic(name)
        with pytest.raises(TopicExists):
            store.create_topic("my_topic")
        for count in (0, -1, 10_001):
            with pytest.raises(InvalidPartitions):
                store.create_topic("other", count)
        with pytest.raises(InvalidConfig):
            store.create_topic("other", 1, {"retention.sm": "1"})
        with pytest.raises(UnknownTopicOrPartition):
            store.log("my_topic", 1)
        with pytest.raises(UnknownTopicOrPartition):
            store.log("other", 0)
        assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["my_topic-0"]
        store.create_topic("x" * 249)


def test_partitions_can_be_added_and_options_replaced(tmp_path: Path, clock: Any, encode: Any) -> None:
    with Store.open(tmp_path, clock=clock) as store:
        store.create_topic("t", 1, {"retention.ms": "5"})
        log = store.log("t", 0)
        assert store.add_partitions("t", 3).partitions == 3
        put(store, encode, b"x", partition=2)
        for count in (3, 2):
            with pytest.raises(InvalidPartitions):
                store.add_partitions("t", count)
        store.set_config("t", {"segment.bytes": "2048"})
        assert (log.config.segment_bytes, log.config.retention_ms) == (2048, 7 * 86_400_000)
        with pytest.raises(InvalidConfig):
            store.set_config("t", {"segment.bytes": "1"})
    with Store.open(tmp_path, clock=clock) as store:
        assert store.topic("t").partitions == 3
        assert store.topic("t").config == {"segment.bytes": "2048"}
        assert store.log("t", 2).high_watermark == 1


def test_a_deleted_topic_is_gone_and_its_offsets_are_not_inherited(tmp_path: Path, clock: Any, encode: Any) -> None:
    with Store.open(tmp_path, clock=clock) as store:
        store.create_topic("t", 2)
        put(store, encode, b"a", b"b")
        store.log("t", 0).flush()
        store.log("t", 0).delete_records_before(1)
        store.checkpoint()
        log = store.log("t", 0)
        store.delete_topic("t")
        assert store.topics() == {}
        with pytest.raises(Closed):
            log.append(encode(b"late"), now_ms=NOW_MS)
        retired = [p.name for p in tmp_path.iterdir() if p.is_dir()]
        assert all(re.fullmatch(r"t-[01]\.[0-9a-f]{32}-delete", name) for name in retired)
        assert len(retired) == 2
        store.create_topic("t")
        crash(store)
    with Store.open(tmp_path, clock=clock) as store:
        assert store.log("t", 0).log_start_offset == 0
        assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["t-0"]
        store.delete_topic("t")
        store.maintain(NOW_MS)
        assert any(p.is_dir() for p in tmp_path.iterdir())
        store.maintain(NOW_MS + 60_000)
        assert not any(p.is_dir() for p in tmp_path.iterdir())


@pytest.mark.parametrize("left", [[1, 2], [2]])
def test_half_a_topic_is_no_topic_and_is_moved_out_of_the_way(tmp_path: Path, clock: Any, left: list[int]) -> None:
    """What a crash amid create (partition 0 last) or delete (partition 0 first) leaves."""
    for partition in left:
        (tmp_path / f"t-{partition}").mkdir()
    with Store.open(tmp_path, clock=clock) as store:
        assert store.topics() == {}
        store.create_topic("t", 3)
    strays = [p.name for p in tmp_path.iterdir() if p.name.endswith("-stray")]
    assert len(strays) == len(left)
    with Store.open(tmp_path, clock=clock) as store:
        assert store.topic("t").partitions == 3


def test_a_clean_stop_leaves_a_mark_that_is_gone_after_the_start(tmp_path: Path, clock: Any, encode: Any) -> None:
    store = Store.open(tmp_path, clock=clock)
    store.create_topic("t", 2)
    put(store, encode, b"a")
    assert not (tmp_path / MARK).exists()
    assert store.close()
    assert (tmp_path / MARK).exists()
    assert decode_checkpoint((tmp_path / "recovery-point-offset-checkpoint").read_bytes()) == {("t", 0): 1}
    store = Store.open(tmp_path, clock=clock)
    assert store.was_clean
    assert not (tmp_path / MARK).exists()
    assert store.open_logs() == []
    assert store.log("t", 0).recovery_report.is_trivial
    crash(store)
    store = Store.open(tmp_path, clock=clock)
    assert not store.was_clean
    assert len(store.open_logs()) == 2
    assert store.log("t", 0).high_watermark == 1
    assert store.close()
    with pytest.raises(Closed):
        store.log("t", 0)


def test_a_damaged_partition_is_named_and_the_others_serve(tmp_path: Path, clock: Any, encode: Any) -> None:
    store = Store.open(tmp_path, clock=clock)
    store.create_topic("t", 2)
    for partition in (0, 1):
        put(store, encode, b"a", partition=partition)
        store.log("t", partition).flush()
    store.checkpoint()
    crash(store)
    path = tmp_path / "t-0" / f"{0:020d}.log"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    store = Store.open(tmp_path, clock=clock)
    assert list(store.damaged) == [("t", 0)]
    with pytest.raises(DamagedSegment, match=re.escape(str(path))):
        store.log("t", 0)
    assert store.log("t", 1).high_watermark == 1
    assert store.maintain(NOW_MS) == []
    assert not store.close()
    assert not (tmp_path / MARK).exists()
    assert path.read_bytes() == data


def test_records_deleted_by_offset_stay_deleted_after_a_crash(tmp_path: Path, clock: Any, encode: Any) -> None:
    store = Store.open(tmp_path, clock=clock)
    store.create_topic("t")
    put(store, encode, b"a", b"b", b"c")
    store.log("t", 0).delete_records_before(2)
    crash(store)
    with Store.open(tmp_path, clock=clock) as store:
        assert store.log("t", 0).log_start_offset == 2


def test_a_second_owner_in_this_process_is_refused(tmp_path: Path, clock: Any) -> None:
    import os

    with Store.open(tmp_path, clock=clock):
        with pytest.raises(DirectoryLocked) as caught:
            Store.open(tmp_path, clock=clock)
        assert caught.value.pid == os.getpid()
        assert str(os.getpid()) in str(caught.value)
    Store.open(tmp_path, clock=clock).close()


def test_a_second_process_is_refused_until_the_first_dies(tmp_path: Path, clock: Any) -> None:
    script = (
        "import sys\nfrom logstore.store import Store\n"
        "store = Store.open(sys.argv[1])\nprint('owned', flush=True)\nsys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"owned\n"
        with pytest.raises(DirectoryLocked) as caught:
            Store.open(tmp_path, clock=clock)
        assert caught.value.pid == child.pid
    finally:
        child.kill()
        child.communicate()
    with Store.open(tmp_path, clock=clock) as store:
        assert not store.was_clean


def test_maintain_flushes_retains_and_checkpoints(tmp_path: Path, clock: Any, encode: Any) -> None:
    with Store.open(tmp_path, clock=clock) as store:
        store.create_topic("t", 1, {"flush.ms": "1000", "retention.ms": "100000"})
        put(store, encode, b"a")
        log = store.log("t", 0)
        store.maintain(NOW_MS + 999)
        assert log.durable_offset == 0
        assert store.maintain(NOW_MS + 1000) == []
        assert log.durable_offset == 1
        assert not (tmp_path / "recovery-point-offset-checkpoint").exists()
        store.maintain(NOW_MS + 60_000)
        assert decode_checkpoint((tmp_path / "recovery-point-offset-checkpoint").read_bytes()) == {("t", 0): 1}
        store.maintain(NOW_MS + 300_000)
        assert log.log_start_offset == 1


def test_maintain_opens_what_nobody_asked_for(tmp_path: Path, clock: Any, encode: Any) -> None:
    with Store.open(tmp_path, clock=clock) as store:
        store.create_topic("t", 2, {"retention.ms": "1000"})
        put(store, encode, b"a", partition=1)
    with Store.open(tmp_path, clock=clock) as store:
        store.maintain(NOW_MS + 300_000)
        assert store.log("t", 1).log_start_offset == 1


def test_maintain_syncs_through_the_group_commit_if_there_is_one(tmp_path: Path, clock: Any, encode: Any) -> None:
    with Store.open(tmp_path, clock=clock) as store:
        store.group_commit = GroupCommit(lambda: None)
        store.create_topic("t", 1, {"flush.messages": "1"})
        put(store, encode, b"a")
        store.maintain(NOW_MS)
        store.group_commit.drain()
        assert store.log("t", 0).durable_offset == 1
        store.group_commit.close()


def test_a_directory_without_our_files_is_a_topic_with_defaults(tmp_path: Path, clock: Any) -> None:
    (tmp_path / "theirs-0").mkdir(parents=True)
    (tmp_path / "theirs-0" / "leader-epoch-checkpoint").write_text("0\n0\n")
    (tmp_path / "meta.properties").write_text("version=1\n")
    with Store.open(tmp_path, clock=clock) as store:
        topic = store.topic("theirs")
        assert (topic.partitions, topic.config) == (1, {})
    assert (tmp_path / "meta.properties").read_text() == "version=1\n"
    with Store.open(tmp_path, clock=clock) as store:
        assert store.topic("theirs").topic_id == topic.topic_id


def test_a_bad_option_file_is_named(tmp_path: Path, clock: Any) -> None:
    with Store.open(tmp_path, clock=clock) as store:
        store.create_topic("t")
    (tmp_path / "t-0" / "topic.config").write_text("retention.sm=5\n")
    with pytest.raises(InvalidConfig, match=r"topic\.config"):
        Store.open(tmp_path, clock=clock)
    (tmp_path / "t-0" / "topic.config").write_text("")
    Store.open(tmp_path, clock=clock).close()  # the lock was let go


def test_checkpoints_are_kafkas_and_bad_lines_are_left_out() -> None:
    offsets = {TopicPartition("b", 1): 5, TopicPartition("a", 0): 7}
    assert encode_checkpoint(offsets) == b"0\n2\na 0 7\nb 1 5\n"
    assert decode_checkpoint(encode_checkpoint(offsets)) == offsets
    assert decode_checkpoint(b"0\n3\na 0 7\nb x 5\nc 1\n\xff") == {("a", 0): 7}
    assert decode_checkpoint(b"") == {}
    assert decode_checkpoint(b"9\n1\na 0 7\n") == {}


def test_names_of_directories() -> None:
    assert parse_partition_dir("a-b-12") == ("a-b", 12)
    for name in ("a", "a-", "-1", "a-01", "a-1.00ff-delete", "a-1.00ff-stray", "a-x", "lost+found"):
        assert parse_partition_dir(name) is None
    retired = retired_dir(TopicPartition("x" * 249, 3), "f" * 32, "-delete")
    assert len(retired) == 255
    topic_id = uuid.UUID(int=2**127 + 12345)
    assert decode_topic_id(encode_topic_id(topic_id)) == topic_id
    assert len(encode_topic_id(topic_id)) == 22


def test_a_checkpoint_that_was_overtaken_is_not_written(tmp_path: Path) -> None:
    """Chores write it on another thread: a later one, by DeleteRecords say, must not be taken back."""
    with Store.open(tmp_path / "data") as store:
        store.create_topic("t")
        log = store.log("t", 0)
        log.append(memoryview(encode_batch([(1, None, b"v", ())] * 3)), now_ms=1)
        log.flush()
        slow = store._checkpointing()
        log.delete_records_before(2)
        told = (tmp_path / "data" / LOG_START_FILE).read_bytes()
        slow()
        assert (tmp_path / "data" / LOG_START_FILE).read_bytes() == told
        assert b"t 0 2" in told


def test_log_starts_that_cannot_be_saved_do_not_move(tmp_path: Path) -> None:
    with Store.open(tmp_path / "data") as store:
        store.create_topic("t", 2)
        logs = [store.log("t", index) for index in range(2)]
        for log in logs:
            log.append(memoryview(encode_batch([(1, None, b"v", ())] * 3)), now_ms=1)
            log.flush()
        steps = store.deleting_records({logs[0]: 2, logs[1]: 9})
        next(steps)
        with pytest.raises(StopIteration) as done:
            steps.throw(NotWritten("no space left"))
        assert {log: type(error) for log, error in done.value.value.items()} == {
            logs[0]: NotWritten,
            logs[1]: OffsetOutOfRange,
        }
        assert [log.log_start_offset for log in logs] == [0, 0]
