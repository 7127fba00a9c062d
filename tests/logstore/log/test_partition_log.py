"""Append, write, roll, read and look up by time in one partition."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logstore.config import parse_topic_config
from logstore.errors import (
    Closed,
    CorruptBatch,
    InvalidRecord,
    InvalidTimestamp,
    InvalidTransactionState,
    OffsetOutOfRange,
    RecordTooLarge,
    UnsupportedFormat,
)
from logstore.record.batch import check, read_header
from logstore.record.records import decode_batch, encode_batch

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


def joined(result: Any) -> bytes:
    return b"".join(piece.view() for piece in result.slices)


def test_offsets_count_records_and_staged_bytes_are_not_readable(harness: Any, encode: Any) -> None:
    log = harness.open()
    first = log.append(encode(b"a", b"b"), now_ms=NOW_MS)
    second = log.append(encode(b"c"), now_ms=NOW_MS)
    assert (first.base_offset, first.last_offset, second.base_offset) == (0, 1, 2)
    assert first.log_append_time_ms == -1
    assert (log.high_watermark, log.log_end_offset, log.durable_offset) == (0, 3, 0)
    assert log.read(0, 1000).slices == []
    log.write()
    assert (log.high_watermark, log.log_end_offset, log.durable_offset) == (3, 3, 0)
    assert harness.values() == [b"a", b"b", b"c"]
    assert log.flush() == log.durable_offset == 3


def test_the_file_is_the_batches_end_to_end_with_offsets_stamped(harness: Any, encode: Any) -> None:
    log = harness.open()
    batches = [encode(b"a", b"b"), encode(b"c"), encode(b"d" * 200_000)]
    for batch in batches:
        log.append(batch, now_ms=NOW_MS)
    log.write()
    assert (harness.directory / f"{0:020d}.log").read_bytes() == b"".join(batches)
    assert [read_header(batch).base_offset for batch in batches] == [0, 2, 3]
    assert all(read_header(batch).leader_epoch == 0 for batch in batches)


def test_several_batches_in_one_append(harness: Any, encode: Any) -> None:
    log = harness.open()
    result = log.append(memoryview(bytearray(bytes(encode(b"a", b"b")) + bytes(encode(b"c")))), now_ms=NOW_MS)
    log.write()
    assert (result.base_offset, result.last_offset) == (0, 2)
    assert harness.values() == [b"a", b"b", b"c"]
    torn = memoryview(bytearray(bytes(encode(b"d")) + bytes(encode(b"e"))[:-1]))
    with pytest.raises(CorruptBatch):
        log.append(torn, now_ms=NOW_MS)
    assert log.log_end_offset == 3


def patched(batch: memoryview, position: int, layout: str, value: int) -> memoryview:
    """The batch with one field changed and a CRC that fits."""
    from crc32c import crc32c

    struct.pack_into(layout, batch, position, value)
    struct.pack_into(">I", batch, 17, crc32c(batch[21:]))
    return batch


@pytest.mark.parametrize(
    ("position", "layout", "value", "error"),
    [
        (21, ">h", 0x20, InvalidRecord),  # control
        (21, ">h", 0x10, InvalidTransactionState),  # transactional
        (21, ">h", 5, UnsupportedFormat),  # codec
        (21, ">h", -32768, InvalidRecord),  # an unknown flag
        (21, ">h", 0x08, InvalidTimestamp),  # LogAppendTime is not the producer's to say
        (23, ">i", 5, InvalidRecord),  # more offsets than records
        (23, ">i", -1, CorruptBatch),
        (57, ">i", -1, CorruptBatch),
        (43, ">q", 7, InvalidRecord),  # a producer id without epoch and sequence
        (35, ">q", NOW_MS + 3_600_001, InvalidTimestamp),
        (16, ">b", 1, UnsupportedFormat),
        (8, ">i", 10**6, CorruptBatch),
        (8, ">i", -5, CorruptBatch),
        (8, ">i", 48, CorruptBatch),
    ],
)
def test_a_bad_header_is_refused_and_leaves_nothing(
    harness: Any, encode: Any, position: int, layout: str, value: int, error: type[Exception]
) -> None:
    log = harness.open()
    with pytest.raises(error):
        log.append(patched(encode(b"a", b"b"), position, layout, value), now_ms=NOW_MS)
    assert log.log_end_offset == 0
    assert harness.append(b"next").base_offset == 0


def test_every_flipped_byte_behind_the_stamps_is_refused(harness: Any, encode: Any) -> None:
    log = harness.open()
    good = encode(b"value")
    stamped = set(range(8)) | set(range(12, 16))  # base offset and leader epoch are ours to set
    for position in set(range(len(good))) - stamped:
        bad = bytearray(good)
        bad[position] ^= 0x40
        with pytest.raises((CorruptBatch, UnsupportedFormat)):
            log.append(memoryview(bad), now_ms=NOW_MS)
    assert log.log_end_offset == 0


def test_limits_of_size_and_time(harness: Any, encode: Any) -> None:
    harness.config = {"max.message.bytes": "100", "message.timestamp.before.max.ms": "1000"}
    log = harness.open()
    with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes=100"):
        log.append(encode(b"x" * 100), now_ms=NOW_MS)
    with pytest.raises(InvalidTimestamp, match="1001 ms old"):
        log.append(encode(b"x", timestamp_ms=NOW_MS - 1001), now_ms=NOW_MS)
    log.append(encode(b"x", timestamp_ms=NOW_MS - 1000), now_ms=NOW_MS)
    log.append(encode(b"x", timestamp_ms=-1), now_ms=NOW_MS)
    log.config = parse_topic_config({})
    log.append(encode(b"x" * 100), now_ms=NOW_MS)


def test_log_append_time_replaces_the_timestamps(harness: Any) -> None:
    harness.config = {"message.timestamp.type": "LogAppendTime"}
    log = harness.open()
    result = harness.append(b"a", b"b", timestamp_ms=5, now_ms=NOW_MS)
    assert result.log_append_time_ms == NOW_MS
    assert [record.timestamp_ms for record in log.records(0)] == [NOW_MS, NOW_MS]
    header = check(log.read(0, 1000).slices[0].view())
    assert header.is_log_append_time
    assert header.base_timestamp_ms == 5


def test_rolls_by_size_and_reads_across_segments(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024"}
    log = harness.open()
    for number in range(20):
        harness.append(b"%03d" % number + b"x" * 297)
    names = harness.names(".log")
    assert len(names) == 10
    assert names[1] == f"{2:020d}.log"
    assert harness.names(".index") == [name.replace(".log", ".index") for name in names[:-1]]
    assert len(harness.values()) == 20
    assert len(joined(log.read(3, 10**6))) == log.size_bytes - 3 * (log.size_bytes // 20)
    assert len(log.read(3, 700).slices) == 1  # one batch is left in that segment, the next would not fit
    assert log.size_bytes == sum((harness.directory / name).stat().st_size for name in names)


def test_a_batch_above_the_segment_size_gets_its_own(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024"}
    harness.open()
    for size in (10, 5000, 10):
        harness.append(b"x" * size)
    assert len(harness.names(".log")) == 3


def test_rolls_by_age_of_the_timestamps_and_not_when_the_clock_steps_back(harness: Any) -> None:
    harness.config = {"segment.ms": "1000"}
    harness.open()
    harness.append(b"a", timestamp_ms=NOW_MS)
    harness.append(b"b", timestamp_ms=NOW_MS + 1000)
    harness.append(b"c", timestamp_ms=NOW_MS - DAY_MS)
    harness.append(b"d", timestamp_ms=NOW_MS, now_ms=NOW_MS - DAY_MS + 3_600_000 * 23)
    assert len(harness.names(".log")) == 1
    harness.append(b"e", timestamp_ms=NOW_MS + 1001)
    assert len(harness.names(".log")) == 2


def test_rolls_when_the_index_is_full(harness: Any) -> None:
    harness.config = {"segment.index.bytes": "48", "index.interval.bytes": "0"}
    log = harness.open()
    for number in range(13):
        harness.append(b"%d" % number)
    assert len(harness.names(".log")) > 2
    assert all((harness.directory / name).stat().st_size <= 48 for name in harness.names("index"))
    assert len(harness.values()) == 13
    assert log.high_watermark == 13


def test_reads_are_cut_at_whole_batches(harness: Any) -> None:
    harness.config = {"index.interval.bytes": "200", "segment.bytes": "4096"}
    log = harness.open()
    sizes = []
    for number in range(60):
        before = log.size_bytes
        harness.append(*[b"v" * (number % 7 * 30)] * (1 + number % 3))
        sizes.append(log.size_bytes - before)
    ends = [check(piece).last_offset for piece in split(joined(log.read(0, 10**9)))]
    for wanted in range(log.high_watermark):
        first = next(i for i, last in enumerate(ends) if last >= wanted)
        for bytes_max in (0, 1, 61, 150, 300, 1000, 5000, 10**9):
            got = split(joined(log.read(wanted, bytes_max)))
            assert [check(batch).last_offset for batch in got] == ends[first : first + len(got)]
            assert len(got) == 1 or sum(map(len, got)) <= bytes_max
            if len(got) < len(sizes) - first:  # it stopped because the next batch does not fit
                assert sum(map(len, got)) + sizes[first + len(got)] > bytes_max
    assert log.read(0, 10, min_one=False).slices == []
    assert log.read(log.high_watermark, 10**6).slices == []


def split(data: bytes) -> list[memoryview]:
    view, batches, position = memoryview(data), [], 0
    while position < len(view):
        size = read_header(view, position).size_bytes
        batches.append(view[position : position + size])
        position += size
    return batches


def test_reads_outside_the_log(harness: Any) -> None:
    log = harness.open()
    harness.append(b"a", b"b", b"c")
    for offset in (-1, 4):
        with pytest.raises(OffsetOutOfRange) as caught:
            log.read(offset, 100)
        assert (caught.value.log_start_offset, caught.value.log_end_offset) == (0, 3)
    log.delete_records_before(2)
    with pytest.raises(OffsetOutOfRange):
        log.read(1, 100)
    with pytest.raises(OffsetOutOfRange):
        log.delete_records_before(4)
    assert harness.values() == [b"c"]


def test_a_slice_outlives_its_segment(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024", "retention.bytes": "0", "file.delete.delay.ms": "0"}
    log = harness.open()
    for number in range(6):
        harness.append(b"%d" % number + b"x" * 500)
    held = log.read(0, 10**6).slices[0]
    large = list(log.read(0, 10**6).slices)
    assert log.retain(NOW_MS) > 0
    log.bury_dropped(NOW_MS)
    assert log.log_start_offset > 0
    assert f"{0:020d}.log" not in harness.names(".log")
    for path in log.take_doomed(NOW_MS):
        harness.files.remove(path)
    assert not harness.names(".deleted")
    assert decode_batch(held.view())[0].value.startswith(b"0")
    assert sum(piece.size_bytes for piece in large) == sum(len(piece.view()) for piece in large)


def test_a_large_slice_of_a_sealed_segment_is_a_map(harness: Any) -> None:
    harness.config = {"segment.bytes": "500000"}
    log = harness.open()
    for _ in range(3):
        harness.append(b"x" * 240_000)
    (piece, _) = log.read(0, 10**6).slices
    assert piece.size_bytes > 400_000
    assert bytes(piece.view()) == (harness.directory / f"{0:020d}.log").read_bytes()


@given(
    stamps=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=25),
    interval=st.sampled_from(["0", "100", "4096"]),
    reopen=st.sampled_from([None, "clean", "crash"]),
)
@settings(derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_look_ups_by_time_are_exact(
    tmp_path_factory: Any, harness: Any, stamps: list[list[int]], interval: str, reopen: str | None
) -> None:
    harness.directory = tmp_path_factory.mktemp("log")
    harness.config = {"index.interval.bytes": interval, "segment.bytes": "1024"}
    log = harness.open()
    for batch in stamps:
        data = encode_batch([(stamp, None, b"x" * 40, ()) for stamp in batch])
        log.append(memoryview(data), now_ms=NOW_MS)
        log.write()
    if reopen is not None:
        log.close(clean=reopen == "clean")
        log = harness.open(clean=reopen == "clean")
    flat = [stamp for batch in stamps for stamp in batch]
    for start in (0, len(flat) // 2):
        log.delete_records_before(start)
        for wanted in range(42):
            expected = next(((stamp, i) for i, stamp in enumerate(flat) if stamp >= wanted and i >= start), None)
            assert log.offset_for_time(wanted) == expected
    largest = log.max_timestamp()
    assert largest is not None
    log.close(clean=False)


def test_the_largest_timestamp_names_its_first_record(harness: Any) -> None:
    log = harness.open()
    assert log.max_timestamp() is None
    harness.append(b"a", timestamp_ms=-1)
    assert log.max_timestamp() is None
    for stamp in (5, 9, 9, 3):
        harness.append(b"a", timestamp_ms=stamp)
    assert log.max_timestamp() == (9, 2)


def test_a_closed_log_refuses(harness: Any, encode: Any) -> None:
    log = harness.open()
    assert log.close()
    assert log.close()
    with pytest.raises(Closed):
        log.append(encode(b"a"), now_ms=NOW_MS)
    with pytest.raises(Closed):
        log.read(0, 10)


def test_retention_by_time_takes_the_active_segment_too(harness: Any) -> None:
    harness.config = {"retention.ms": "1000", "segment.bytes": "1024", "file.delete.delay.ms": "500"}
    log = harness.open()
    for number in range(4):
        harness.append(b"x" * 900, timestamp_ms=NOW_MS + number)
    assert log.retain(NOW_MS + 1001) == 1
    assert log.log_start_offset == 1
    log.bury_dropped(NOW_MS + 1001)
    assert log.retain(NOW_MS + 1004) == 3
    assert not [name for name in harness.names(".deleted") if name.startswith(f"{1:020d}")], "not before it is told"
    log.bury_dropped(NOW_MS + 1004)
    assert (log.log_start_offset, log.high_watermark, log.size_bytes) == (4, 4, 0)
    assert harness.names(".deleted")
    assert log.take_doomed(NOW_MS + 1500) == []
    doomed = log.take_doomed(NOW_MS + 1600)
    assert sorted(path.rsplit("/", 1)[1] for path in doomed) == harness.names(".deleted")
    assert log.take_doomed(NOW_MS + 1600) == []
    assert harness.append(b"next").base_offset == 4


def test_records_deleted_by_offset_leave_with_their_segment_even_if_compacted(harness: Any) -> None:
    harness.config = {"cleanup.policy": "compact", "segment.bytes": "1024", "retention.ms": "0"}
    moved: list[int] = []
    log = harness.open(on_log_start_moved=lambda: moved.append(1))
    for _ in range(4):
        harness.append(b"x" * 900)
    assert log.retain(NOW_MS + DAY_MS) == 0
    assert log.delete_records_before(3) == 3
    assert log.delete_records_before(2) == 3
    assert moved == [1]
    assert log.retain(NOW_MS) == 3


def test_the_independent_checker_finds_nothing_wrong(harness: Any) -> None:
    """Log, offset index and time index as `segment.verify` reads them, entry by entry."""
    from logstore.segment.verify import verify_segment

    harness.config = {"segment.bytes": "4096", "index.interval.bytes": "300"}
    log = harness.open()
    for number in range(60):
        harness.append(*[b"v" * (number % 7 * 30)] * (1 + number % 3), timestamp_ms=NOW_MS + number * 37 % 11)
    assert log.close()
    names = harness.names(".log")
    assert len(names) > 2
    for name in names:
        report = verify_segment(harness.directory / name, deep=True)
        assert not report.damages, report.damages
        assert (harness.directory / name.replace(".log", ".index")).stat().st_size > 0
