"""Sparse indexes: Kafka's bytes, Kafka's rule for entries, look-ups against a naive model."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.segment.offset_index import OffsetIndex
from logstore.segment.time_index import TimeIndex
from logstore.segment.writer import IndexBuilder

BATCHES = st.lists(
    st.tuples(st.integers(61, 9000), st.integers(1, 50), st.integers(-1, 1000)), min_size=1, max_size=60
)  # size, offsets, largest timestamp


def build(batches: list[tuple[int, int, int]], interval_bytes: int) -> tuple[IndexBuilder, list[tuple[int, int, int]]]:
    """The indexes, and (position, last offset, timestamp) of every batch."""
    builder = IndexBuilder.empty(1000, interval_bytes)
    position, offset, laid = 0, 1000, []
    for size, count, timestamp_ms in batches:
        offset += count
        builder.add(position, offset - 1, timestamp_ms)
        laid.append((position, offset - 1, timestamp_ms))
        position += size
    builder.finish()
    return builder, laid


def test_the_bytes_are_kafkas() -> None:
    offsets, times = OffsetIndex(1000), TimeIndex(1000)
    offsets.append(1047, 16384)
    times.append(1_700_000_000_000, 1047)
    assert bytes(offsets.buffer) == bytes.fromhex("0000002f00004000")
    assert bytes(times.buffer) == bytes.fromhex("0000018bcfe568000000002f")


def test_an_entry_comes_when_more_than_the_interval_lies_between() -> None:
    builder, _ = build([(100, 1, -1)] * 10, interval_bytes=300)
    # batches start at 0, 100, …; 400 is the first start more than 300 after the last entry (none: 0), 800 the next
    assert [builder.offsets.entry(i) for i in range(len(builder.offsets))] == [(1004, 400), (1008, 800)]


@given(batches=BATCHES, interval_bytes=st.sampled_from([0, 100, 4096, 20_000]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_offset_look_ups_never_start_behind_the_batch(batches: list[tuple[int, int, int]], interval_bytes: int) -> None:
    builder, laid = build(batches, interval_bytes)
    starts = {position for position, _, _ in laid}
    index = OffsetIndex(1000, memoryview(bytes(builder.offsets.buffer)))
    assert index.is_plausible(laid[-1][0] + batches[-1][0])
    for wanted in range(1000, laid[-1][1] + 1):
        holder = next(position for position, last, _ in laid if last >= wanted)
        found = index.lookup(wanted)
        assert found in starts
        assert found <= holder
        assert holder - found <= interval_bytes + max(size for size, _, _ in batches)
    for limit in range(0, laid[-1][0] + 1, 97):
        found = index.floor_position(limit)
        assert found in starts
        assert found <= limit


@given(batches=BATCHES, interval_bytes=st.sampled_from([0, 100, 4096]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_time_look_ups_never_start_behind_the_batch(batches: list[tuple[int, int, int]], interval_bytes: int) -> None:
    builder, laid = build(batches, interval_bytes)
    index = TimeIndex(1000, memoryview(bytes(builder.times.buffer)))
    assert index.is_plausible(laid[-1][1] + 1)
    assert index.last()[0] == max(timestamp_ms for _, _, timestamp_ms in laid)
    for wanted in range(0, 1001, 13):
        holder = next((last for _, last, timestamp_ms in laid if timestamp_ms >= wanted), None)
        if holder is not None:
            assert index.lookup(wanted) <= holder


def test_damaged_files_are_not_plausible() -> None:
    builder, laid = build([(100, 2, n) for n in range(20)], interval_bytes=150)
    size = laid[-1][0] + 100
    good = bytes(builder.offsets.buffer)
    assert not OffsetIndex(1000, memoryview(good[:-1])).is_plausible(size)
    assert not OffsetIndex(1000, memoryview(good)).is_plausible(200)
    assert not OffsetIndex(1000, memoryview(good[:-8] + bytes(8))).is_plausible(size)
    times = bytes(builder.times.buffer)
    assert not TimeIndex(1000, memoryview(times[:-5])).is_plausible(1040)
    assert not TimeIndex(1000, memoryview(times[:-12] + bytes(12))).is_plausible(1040)
    assert not TimeIndex(1000, memoryview(times)).is_plausible(1001)
