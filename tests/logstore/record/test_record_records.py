"""Records: built and read as two other libraries do, and no hostile byte gets further than `CorruptBatch`."""

from __future__ import annotations

import random
import struct
import time
import warnings

import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptBatch, InvalidRecord, RecordTooLarge, UnsupportedFormat
from logstore.record import batch
from logstore.record.compression import Codec
from logstore.record.records import decode_batch, encode_batch, iter_records, rebuild_batch, zigzag
from logstore.record.runs import RUN_MIN, run_at
from logstore.testing import batches
from logstore.types import Record, TimestampType

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its resources the old way
    from kafka.record.memory_records import MemoryRecords

INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(-1, 2**45)
BYTES = st.none() | st.binary(max_size=80) | st.binary(min_size=60, max_size=70) | st.just(b"y" * 9000)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3)
RECORDS_SINCE_1970 = st.lists(  # aiokafka writes -1 as "now"
    st.tuples(st.integers(0, 2**45), BYTES, BYTES, HEADERS), min_size=1, max_size=80
)
RECORDS = st.lists(st.tuples(TIMES, BYTES, BYTES, HEADERS), min_size=1, max_size=80)


def sealed(body: bytes, count: int = 1, **fields: int) -> bytearray:
    """A batch with a right header and CRC around `body`, whatever that holds."""
    header = batch.read_header(encode_batch([(0, None, None, ())]))._replace(
        length=len(body) + 49, record_count=count, last_offset_delta=max(count - 1, 0), **fields
    )
    made = bytearray(batch.HEADER.pack(*header) + body)
    struct.pack_into(">I", made, batch.CRC_POSITION, crc32c(made[batch.ATTRIBUTES_POSITION :]))
    return made


def record(*fields: bytes, length: int | None = None) -> bytes:
    body = b"".join(fields)
    return zigzag(len(body) if length is None else length) + body


def test_a_batch_worked_out_by_hand():
    made = encode_batch([(5, b"k", b"v", [("h", b"x")])])
    assert made[61:] == bytes.fromhex("18 00 00 00 02 6b 02 76 02 02 68 02 78")
    assert decode_batch(made) == [Record(0, 5, b"k", b"v", (("h", b"x"),))]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(RECORDS, st.sampled_from(list(Codec)))
def test_what_is_built_comes_back(records, codec):
    made = encode_batch(records, codec=codec)
    batch.stamp_offset(made, 0, 1000, 3)
    wanted = [Record(1000 + n, t, k, v, tuple(h)) for n, (t, k, v, h) in enumerate(records)]
    assert decode_batch(made) == wanted
    assert list(iter_records(memoryview(made), batch.check(memoryview(made)))) == wanted
    header = batch.read_header(made)
    assert header.max_timestamp_ms == max(r[0] for r in records)
    assert header.base_timestamp_ms == records[0][0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(RECORDS_SINCE_1970)
def test_aiokafka_writes_the_same_bytes(records):
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10**9)
    for offset, (timestamp_ms, key, value, headers) in enumerate(records):
        assert builder.append(offset, timestamp_ms, key, value, headers) is not None
    theirs, ours = bytes(builder.build()), bytes(encode_batch(records))
    assert ours[batch.HEADER_BYTES :] == theirs[batch.HEADER_BYTES :]
    assert ours[21:43] == theirs[21:43]  # attributes, deltas, timestamps


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("seed", range(4))
def test_aiokafka_and_kafka_python_read_the_same_records(codec: Codec, seed: int):
    made = bytes(batches.batch(seed, base_offset=77, codec=codec))
    ours = decode_batch(made)
    theirs = DefaultRecordBatch(bytearray(made))
    assert theirs.validate_crc()
    assert [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in theirs] == [tuple(r) for r in ours]
    if codec in (Codec.SNAPPY, Codec.ZSTD):
        return  # kafka-python needs libraries for them that are not in the test environment
    others = [r for found in MemoryRecords(made) for r in found]
    assert [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in others] == [tuple(r) for r in ours]


def test_more_records_than_the_table_of_varints_holds():
    records = [(n, b"%d" % n, b"v", ()) for n in range(20_000)]
    found = decode_batch(encode_batch(records))
    assert [(r.offset, r.timestamp_ms, r.key) for r in found] == [(n, n, b"%d" % n) for n in range(20_000)]


@pytest.mark.parametrize("size", [0, 1, 62, 63, 64, 65, 8180, 8185, 8190, 8191, 8192, 8193, 1 << 20, (1 << 20) + 1])
def test_sizes_around_every_varint_boundary(size: int):
    for key, value in ((b"k" * size, b"v"), (b"k", b"v" * size), (None, b"v" * size), (b"k" * size, None)):
        (found,) = decode_batch(encode_batch([(0, key, value, ())]))
        assert (found.key, found.value) == (key, value)


RUNS = st.lists(
    st.tuples(
        st.integers(1, 150),  # records
        st.sampled_from((None, 0, 1, 8, 63, 64)),  # bytes of each key
        st.sampled_from((None, 0, 5, 63, 64, 100, 9000)),  # and value
        st.sampled_from((0, 1, -1, 70, -70, 5000, -5000, 10**6, 2**40)),  # ms from run to run
        st.sampled_from((0, 0, 1, -1, 40)),  # ms from record to record
        st.sampled_from(((), (("h", b"x"),))),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(RUNS, st.booleans())
def test_runs_of_equal_records_come_back(shapes, log_append_time):
    now_ms, records = 10**12, []
    for count, key_bytes, value_bytes, jump_ms, step_ms, headers in shapes:
        now_ms += jump_ms
        for n in range(count):
            now_ms += step_ms
            key = None if key_bytes is None else (b"%d" % n * key_bytes)[:key_bytes]
            value = None if value_bytes is None else bytes([n]) * value_bytes
            records.append((now_ms, key, value, headers))
    made = encode_batch(records, timestamp_type=TimestampType(log_append_time))
    batch.stamp_offset(made, 0, 10**9, 0)
    time_ms = max(record[0] for record in records) if log_append_time else None
    assert decode_batch(made) == [Record(10**9 + n, time_ms or t, k, v, h) for n, (t, k, v, h) in enumerate(records)]


def test_a_run_is_decoded_at_once():
    """So that the tests above do test it, and records that break a run by one byte are left out of it."""
    body = bytes(encode_batch([(n // 10, b"%08d" % n, b"v" * 100, ()) for n in range(200)])[batch.HEADER_BYTES :])
    found = run_at(body, 0, 0, 200, 0)
    assert found is not None
    assert found[0] == 64
    assert list(found[3]) == [b"%08d" % n for n in range(64)]
    assert run_at(body, found[1], 64, 136, 0)[0] == 136
    assert run_at(body, 0, 0, RUN_MIN, 0)[0] == RUN_MIN
    assert run_at(body, 0, 0, RUN_MIN - 1, 0) is None
    assert run_at(body, 0, 1, 200, 0) is None


@pytest.mark.parametrize("step_ms", [0, 1, 300, -300])
def test_a_run_with_any_byte_changed_is_read_as_one_by_one(step_ms: int, monkeypatch: pytest.MonkeyPatch):
    """The two decoders agree on every batch, right or wrong."""
    good = encode_batch([(9000 + n * step_ms, b"key", b"v" * 5, ()) for n in range(20)])[batch.HEADER_BYTES :]
    made = []
    for at in range(len(good)):
        for mask in (0x01, 0x02, 0x7F, 0x80):
            body = bytearray(good)
            body[at] ^= mask
            made.append(sealed(bytes(body), 20, base_timestamp_ms=9000))
    with_runs = [outcome(one) for one in made]
    assert any(found is None for found in with_runs)
    assert any(found is not None for found in with_runs)
    monkeypatch.setattr("logstore.record.records.run_at", lambda *_: None)
    assert [outcome(one) for one in made] == with_runs


def outcome(made: bytearray) -> list[Record] | None:
    try:
        return decode_batch(made)
    except CorruptBatch:
        return None


def test_many_short_runs_cost_no_more_than_a_few_times_one_long():
    """Lengths that change after every run: the look ahead is bounded, or this would take minutes."""
    records = [(0, b"k", b"v" * (n // 13 % 2), ()) for n in range(200_000)]
    made = encode_batch(records)
    began = time.process_time()
    assert len(decode_batch(made)) == 200_000
    assert time.process_time() - began < 10


@settings(max_examples=100, deadline=None, derandomize=True)
@given(INT64)
def test_zigzag_is_read_back_as_a_timestamp_delta(number: int):
    assert len(zigzag(number)) <= 10
    made = sealed(record(b"\0", zigzag(number), b"\0", b"\1", b"\1", b"\0"), base_timestamp_ms=0)
    assert decode_batch(made)[0].timestamp_ms == number


def test_zigzag_refuses_what_no_int64_holds():
    for number in (2**63, -(2**63) - 1):
        with pytest.raises(InvalidRecord):
            zigzag(number)


def test_the_header_says_what_the_caller_said():
    made = encode_batch(
        [(9, b"", b"", ())],
        codec=Codec.ZSTD,
        producer_id=2**40,
        producer_epoch=5,
        base_sequence=2**31 - 1,
        transactional=True,
        control=True,
        timestamp_type=TimestampType.LOG_APPEND_TIME,
    )
    header = batch.check(memoryview(made))
    assert header.is_transactional
    assert header.is_control
    assert header.is_log_append_time
    assert (header.codec, header.producer_id, header.producer_epoch) == (4, 2**40, 5)
    assert (header.base_sequence, header.base_offset, header.leader_epoch) == (2**31 - 1, 0, 0)


def test_what_fits_no_batch_is_refused():
    with pytest.raises(InvalidRecord):
        encode_batch([])
    with pytest.raises(InvalidRecord):
        encode_batch([(0, b"", b"", ())], producer_epoch=40_000)
    with pytest.raises(InvalidRecord):
        encode_batch([(2**63, b"", b"", ())])
    with pytest.raises(UnsupportedFormat):
        encode_batch([(0, b"", b"", ())], codec=5)


def test_a_header_key_that_is_not_utf8_survives():
    made = sealed(record(b"\0\0\0", b"\1", b"\1", b"\2", zigzag(2), b"\xff\xfe", b"\1"))
    (found,) = decode_batch(made)
    again = encode_batch([(found.timestamp_ms, found.key, found.value, found.headers)])
    assert again[61:] == made[61:]


NULL_FIELDS = (b"\0", b"\0", b"\0", b"\1", b"\1", b"\0")
HOSTILE = {
    "no bytes": (b"", 1),
    "a length that is cut": (b"\x80", 1),
    "a length that is cut after two bytes": (b"\x80\x80", 1),
    "a negative length": (b"\x01" + b"\0" * 9, 1),
    "a length beyond the body": (record(*NULL_FIELDS, length=7), 1),
    "a length beyond the body by far": (zigzag(2**31 - 1) + b"\0" * 6, 1),
    "a length shorter than its fields": (record(*NULL_FIELDS, length=5) + b"\0", 1),
    "a length that never ends": (b"\xff" * 20, 1),
    "a varint of six bytes": (b"\x8c\x80\x80\x80\x80\x10" + b"".join(NULL_FIELDS), 1),
    "a timestamp of eleven bytes": (record(b"\0", b"\xff" * 10 + b"\x01", b"\0\1\1\0"), 1),
    "a timestamp beyond 64 bits": (record(b"\0", b"\xff" * 9 + b"\x02", b"\0\1\1\0"), 1),
    "an offset delta below zero": (record(b"\0\0", zigzag(-1), b"\1\1\0"), 1),
    "an offset delta above the last": (record(b"\0\0", zigzag(1), b"\1\1\0"), 1),
    "an offset delta twice": (record(*NULL_FIELDS) * 2, 2),
    "a key of length -2": (record(b"\0\0\0", zigzag(-2), b"\1\0"), 1),
    "a value of length -2": (record(b"\0\0\0\1", zigzag(-2), b"\0"), 1),
    "a key beyond the record": (record(b"\0\0\0", zigzag(5000), b"\1\0"), 1),
    "a key that takes the next record": (record(b"\0\0\0", zigzag(9), b"\1\0") + record(*NULL_FIELDS), 2),
    "a value beyond the record": (record(b"\0\0\0\1", zigzag(2**31 - 1), b"\0"), 1),
    "a negative header count": (record(b"\0\0\0\1\1", zigzag(-1)), 1),
    "two thousand million headers": (record(b"\0\0\0\1\1", zigzag(2**31 - 1)), 1),
    "a header count above what is there": (record(b"\0\0\0\1\1", zigzag(2), b"\0\1"), 1),
    "a header key of length -1": (record(b"\0\0\0\1\1\2", b"\1", b"\1"), 1),
    "a header key beyond the record": (record(b"\0\0\0\1\1\2", zigzag(9), b"\1"), 1),
    "a header value of length -2": (record(b"\0\0\0\1\1\2\0", zigzag(-2)), 1),
    "a header value beyond the record": (record(b"\0\0\0\1\1\2\0", zigzag(9)), 1),
    "bytes left over": (record(*NULL_FIELDS) + b"\0", 1),
    "fewer records than said": (record(*NULL_FIELDS), 2),
    "records where none is said": (record(*NULL_FIELDS), 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_records_are_refused_with_the_byte(name: str):
    body, count = HOSTILE[name]
    with pytest.raises(CorruptBatch, match=r"byte \d+ of the batch's records"):
        decode_batch(sealed(body, count))


def test_the_position_is_that_of_the_damage():
    good = record(*NULL_FIELDS)
    bad = record(b"\0\0", zigzag(1), zigzag(-2), b"\1\0")
    with pytest.raises(CorruptBatch, match=f"byte {len(good)} of"):
        decode_batch(sealed(good + bad, 2))


def test_a_varint_longer_than_needed_is_read_as_the_java_client_does():
    made = sealed(record(b"\0", b"\x80\x00", b"\x80\x80\x00", b"\x82\x00", b"k", b"\x82\x80\x00", b"v", b"\x80\x00"))
    assert decode_batch(made) == [Record(0, 0, b"k", b"v")]


@pytest.mark.parametrize("seed", range(6))
def test_mutated_bodies_under_a_right_crc_decode_or_are_corrupt(seed: int):
    print(f"seed {seed}")
    chance = random.Random(seed)
    good = batches.batch(seed, count=12, codec=0 if seed % 2 else None)
    for _ in range(400):
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(batch.HEADER_BYTES, len(data))] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
            )
        struct.pack_into(">I", data, batch.CRC_POSITION, crc32c(data[batch.ATTRIBUTES_POSITION :]))
        try:
            found = decode_batch(data, bytes_max=1 << 20)
        except (CorruptBatch, RecordTooLarge):
            continue
        assert len(found) == 12
        assert [r.offset for r in found] == sorted({r.offset for r in found})
        assert found[-1].offset <= batch.read_header(data).last_offset


def test_a_bomb_inside_a_batch_is_stopped():
    for codec in list(Codec)[1:]:
        made = encode_batch([(0, None, bytes(3_000_000), ())], codec=codec)
        with pytest.raises(RecordTooLarge):
            decode_batch(made, bytes_max=1_000_000)


def test_a_header_that_is_not_this_batch_s_is_refused():
    made = encode_batch([(0, b"k", b"v", ())])
    for length in (-5, 48, len(made) - 11):
        with pytest.raises(CorruptBatch):
            decode_batch(made, batch.read_header(made)._replace(length=length))


@pytest.mark.parametrize("codec", Codec)
def test_compaction_keeps_offsets_and_flags(codec: Codec):
    made = encode_batch(batches.records(9, 30), codec=codec, producer_id=4, producer_epoch=1, base_sequence=8)
    batch.stamp_offset(made, 0, 500, 2)
    header, found = batch.check(memoryview(made)), decode_batch(made)
    kept = [r for r in found if r.offset % 3 == 1]
    smaller = rebuild_batch(header, kept)
    after = batch.check(memoryview(smaller))
    assert decode_batch(smaller) == kept
    assert (after.base_offset, after.last_offset, after.leader_epoch) == (500, 529, 2)
    assert (after.producer_id, after.base_sequence, after.codec) == (4, 8, codec)
    assert after.max_timestamp_ms == max(r.timestamp_ms for r in kept)
    horizon = rebuild_batch(header, kept, codec=0, delete_horizon_ms=1_800_000_000_000)
    assert decode_batch(horizon) == kept
    assert batch.read_header(horizon).base_timestamp_ms == 1_800_000_000_000
    assert batch.read_header(horizon).attributes & batch.DELETE_HORIZON_MASK
    empty = rebuild_batch(header, [])
    assert decode_batch(empty) == []
    assert batch.read_header(empty).last_offset == 529


def test_compaction_refuses_records_of_another_batch():
    header = batch.read_header(encode_batch(batches.records(9, 3)))
    for offsets in ((3,), (-1,), (1, 1), (2, 1)):
        with pytest.raises(InvalidRecord):
            rebuild_batch(header, [Record(offset, 0, None, None) for offset in offsets])


def test_compaction_keeps_log_append_time():
    made = encode_batch(batches.records(9, 3))
    batch.stamp_log_append_time(made, 0, 42)
    kept = decode_batch(made)[:1]
    assert decode_batch(rebuild_batch(batch.read_header(made), kept)) == kept
