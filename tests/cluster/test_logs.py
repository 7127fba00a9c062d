"""The log store of one node: what a turn collects is written together; fetches wait for bytes, time or an end."""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

import pytest

from cluster.logs import FetchAsk, FetchLimits, FetchPart
from cluster.pending import Pending
from logstore.errors import Closed, CorruptBatch, NotWritten, OffsetOutOfRange, UnknownTopicOrPartition
from logstore.record.batch import read_header
from logstore.record.records import encode_batch
from logstore.types import Isolation

LIMITS = FetchLimits(bytes_min=1, bytes_max=1 << 20, wait_ms_max=500, isolation=Isolation.READ_UNCOMMITTED)
IDS = (11, 12, 13)


def batch(value: bytes = b"v", count: int = 1, **more: Any) -> memoryview:
    return memoryview(encode_batch([(1_700_000_000_000, None, value, ())] * count, **more))


def ask(partition_id: int = 11, offset: int = 0, bytes_max: int = 1 << 20) -> list[FetchAsk]:
    return [FetchAsk(partition_id, offset, bytes_max)]


def base_offsets(parts: list[FetchPart]) -> list[int]:
    found = []
    for part in parts:
        for piece in part.slices:
            view, position = piece.view(), 0
            while position < len(view):
                header = read_header(view, position)
                found.append(header.base_offset)
                position += header.size_bytes
    return found


@pytest.fixture
def logs(bench: Any) -> Any:
    bench.store.create_topic("t", 3, {}, uuid.UUID(int=1))
    bench.logs.place_of = {each: ("t", index) for index, each in enumerate(IDS)}.get
    return bench.logs


def produced(logs: Any, value: bytes = b"v", count: int = 1, partition_id: int = 11) -> None:
    logs.append(partition_id, batch(value, count), durable=False)
    logs.end_of_turn()


def test_nothing_is_readable_or_answered_before_the_end_of_the_turn(logs: Any) -> None:
    first = logs.append(11, batch(count=3), durable=False)
    second = logs.append(11, batch(count=2), durable=False)
    other = logs.append(12, batch(), durable=False)
    assert not first.done
    assert logs.head(11).high_watermark == 0
    logs.end_of_turn()
    assert (first.result().base_offset, second.result().base_offset, other.result().base_offset) == (0, 3, 0)
    assert logs.head(11).high_watermark == 5


def test_a_refused_batch_harms_only_itself(logs: Any) -> None:
    good, bad = logs.append(11, batch(), durable=False), batch()
    bad[-1] ^= 1
    refused = logs.append(11, bad, durable=False)
    after = logs.append(11, batch(), durable=False)
    with pytest.raises(CorruptBatch):
        refused.result()
    logs.end_of_turn()
    assert (good.result().base_offset, after.result().base_offset) == (0, 1)


def test_a_durable_append_is_answered_by_the_group_commit(bench: Any, logs: Any) -> None:
    answer = logs.append(11, batch(), durable=True)
    logs.end_of_turn()
    assert not answer.done
    assert logs.head(11).high_watermark == 1, "readable before it is durable: the page cache is one copy, too"
    bench.settle()
    assert answer.result().base_offset == 0


def test_a_durable_duplicate_waits_for_the_fsync_of_the_first(bench: Any, logs: Any) -> None:
    sent = {"producer_id": 5, "producer_epoch": 0, "base_sequence": 0}
    first = logs.append(11, batch(**sent), durable=True)
    again = logs.append(11, batch(**sent), durable=True)
    logs.end_of_turn()
    assert not again.done
    bench.settle()
    assert first.result().base_offset == again.result().base_offset == 0
    assert again.result().duplicate
    assert logs.head(11).high_watermark == 1


async def test_flush_policy_os_answers_durable_appends_from_the_page_cache(logs: Any) -> None:
    await logs.set_config("t", {"flush.policy": "os"})
    answer = logs.append(11, batch(), durable=True)
    logs.end_of_turn()
    assert answer.result().base_offset == 0


def test_a_failed_write_fails_every_append_of_the_turn_and_leaves_the_offsets(bench: Any, logs: Any) -> None:
    answers = [logs.append(11, batch(), durable=False) for _ in range(3)]
    bench.files.full = True
    logs.end_of_turn()
    for answer in answers:
        with pytest.raises(NotWritten):
            answer.result()
    bench.files.full = False
    produced(logs)
    assert logs.head(11).high_watermark == 1


def test_appends_lost_by_a_roll_within_the_turn_are_told_before_their_offsets_are_used_again(
    bench: Any, logs: Any
) -> None:
    bench.store.set_config("t", {"segment.bytes": "1024"})
    first = logs.append(11, batch(b"a" * 700), durable=False)
    bench.files.full = True
    second = logs.append(11, batch(b"b" * 700), durable=False)  # a roll is due: the staged one must be written
    bench.files.full = False
    with pytest.raises(NotWritten):
        second.result()
    with pytest.raises(NotWritten):
        first.result()
    third = logs.append(11, batch(b"c" * 100), durable=False)
    logs.end_of_turn()
    assert third.result().base_offset == 0


@pytest.mark.parametrize("durable", [False, True])
def test_what_a_roll_within_the_turn_wrote_stands_when_the_rest_is_lost(bench: Any, logs: Any, durable: bool) -> None:
    bench.store.set_config("t", {"segment.bytes": "1024"})
    written = logs.append(11, batch(b"a" * 700), durable=durable)
    lost = logs.append(11, batch(b"b" * 700), durable=durable)  # rolled: the one before is in its file by now
    bench.files.full = True
    logs.end_of_turn()
    with pytest.raises(NotWritten):
        lost.result()
    bench.settle()
    assert written.result().base_offset == 0
    assert logs.head(11).high_watermark == 1


def test_the_partitions_of_a_turn_share_one_round_of_fsyncs(bench: Any, logs: Any) -> None:
    answers = [logs.append(partition_id, batch(), durable=True) for partition_id in IDS * 2]
    logs.end_of_turn()
    bench.settle()
    assert [answer.result().base_offset for answer in answers] == [0, 0, 0, 1, 1, 1]
    assert bench.group_commit.rounds == 1


def test_a_durable_duplicate_waits_for_the_fsync_of_its_turn(bench: Any, logs: Any) -> None:
    """Its own offsets may be durable already; those of the append before it are not."""
    first = [logs.append(11, batch(producer_id=1, producer_epoch=0, base_sequence=0), durable=True)]
    logs.end_of_turn()
    bench.settle()
    next_, again = (
        logs.append(11, batch(producer_id=1, producer_epoch=0, base_sequence=sequence), durable=True)
        for sequence in (1, 0)
    )
    logs.end_of_turn()
    assert not next_.done
    bench.settle()
    assert [each.result().base_offset for each in (*first, next_, again)] == [0, 1, 0]


def test_stage_answers_at_once_and_settles_at_the_end_of_the_turn(logs: Any) -> None:
    told: list[Any] = []
    result = logs.stage(11, batch(count=2), told.append, durable=False)
    assert (result.base_offset, result.last_offset, told) == (0, 1, [])
    bad = batch()
    bad[-1] ^= 1
    with pytest.raises(CorruptBatch):
        logs.stage(11, bad, told.append, durable=False)
    logs.end_of_turn()
    assert told == [None], "the refused one is never told again"


def test_a_fetch_answers_at_once_when_there_is_enough(logs: Any) -> None:
    produced(logs, count=4)
    parts = logs.fetch(ask(), LIMITS).result()
    assert base_offsets(parts) == [0]
    assert (parts[0].error, parts[0].high_watermark, parts[0].log_start_offset) == (None, 4, 0)


def test_a_fetch_at_the_end_waits_for_an_append(logs: Any) -> None:
    pending = logs.fetch(ask(), LIMITS)
    assert not pending.done
    produced(logs, partition_id=12)
    assert not pending.done
    produced(logs)
    assert base_offsets(pending.result()) == [0]
    assert logs.fetches_parked == 0


def test_a_fetch_for_many_bytes_waits_for_that_many(logs: Any) -> None:
    size = len(batch())
    pending = logs.fetch(ask(), LIMITS._replace(bytes_min=2 * size + 1))
    produced(logs)
    produced(logs)
    assert not pending.done
    produced(logs)
    assert base_offsets(pending.result()) == [0, 1, 2]


def test_a_fetch_whose_bytes_lie_beyond_its_limits_parks_again_until_its_time(bench: Any, logs: Any) -> None:
    size = len(batch())
    limits = LIMITS._replace(bytes_min=2 * size, bytes_max=size)
    pending = logs.fetch(ask(), limits)
    produced(logs)
    produced(logs)
    assert not pending.done
    bench.time.advance(499)
    assert not pending.done
    bench.time.advance(2)
    assert base_offsets(pending.result()) == [0]


def test_a_fetch_ends_at_its_deadline_empty(bench: Any, logs: Any) -> None:
    pending = logs.fetch(ask(), LIMITS)
    later = logs.fetch(ask(12), LIMITS._replace(wait_ms_max=900))
    bench.time.advance(501)
    assert base_offsets(pending.result()) == []
    assert not later.done
    bench.time.advance(400)
    assert later.done


def test_a_cancelled_fetch_is_forgotten(bench: Any, logs: Any) -> None:
    pending: Pending[list[FetchPart]] = logs.fetch(ask(), LIMITS)
    pending.cancel()
    assert logs.fetches_parked == 0
    produced(logs)
    bench.time.advance(1000)
    assert not pending.done


def test_an_error_is_told_at_once_and_for_its_partition_only(logs: Any) -> None:
    produced(logs)
    asks = [*ask(11, 0), *ask(12, 7), *ask(99, 0)]
    parts = logs.fetch(asks, LIMITS._replace(bytes_min=1 << 20)).result()
    assert parts[0].error is None
    assert base_offsets(parts[:1]) == [0]
    assert isinstance(parts[1].error, OffsetOutOfRange)
    assert isinstance(parts[2].error, UnknownTopicOrPartition)


def test_only_the_first_batch_of_a_fetch_may_exceed_its_limits(logs: Any) -> None:
    for partition_id in (11, 12):
        produced(logs, b"x" * 500, partition_id=partition_id)
        produced(logs, b"x" * 500, partition_id=partition_id)
    parts = logs.fetch([*ask(11, 0, 10), *ask(12, 0, 10)], LIMITS).result()
    assert [len(part.slices) for part in parts] == [1, 0]
    parts = logs.fetch([*ask(11), *ask(12)], LIMITS._replace(bytes_max=700)).result()
    assert base_offsets(parts) == [0]


async def test_a_deleted_topic_wakes_its_readers_with_the_reason(logs: Any) -> None:
    pending = logs.fetch(ask(12), LIMITS)
    logs.place_of = {}.get
    await logs.delete_topic("t", IDS)
    assert isinstance(pending.result()[0].error, UnknownTopicOrPartition)


async def test_file_work_goes_on_when_its_caller_is_cancelled_and_can_be_waited_for(
    bench: Any, logs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    make = bench.store._make_partitions

    def slow(*args: Any) -> None:
        begun.set()
        assert go_on.wait(10)
        make(*args)

    monkeypatch.setattr(bench.store, "_make_partitions", slow)
    caller = asyncio.ensure_future(logs.create_topic("late", uuid.UUID(int=8), 1, {}))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    drained = asyncio.ensure_future(logs.drain())
    await asyncio.sleep(0)
    assert caller.cancelling()
    assert not drained.done()
    go_on.set()
    await asyncio.wait_for(drained, 10)
    assert "late" in bench.store.topics()


def test_close_answers_what_is_parked_and_refuses_what_comes(logs: Any) -> None:
    pending = logs.fetch(ask(), LIMITS)
    logs.close()
    assert pending.done
    refused = logs.append(13, batch(), durable=False)
    with pytest.raises(Closed):
        refused.result()
